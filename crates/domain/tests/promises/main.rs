
mod linking;
mod providers;
mod refresh;
mod revocations;
mod world;
