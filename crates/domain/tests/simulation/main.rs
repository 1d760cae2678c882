//! The deterministic simulation of the token service, a few thousand worlds of it.

mod sim;
