//! The whole product on one machine, with nothing set up.

mod catalog;
mod product;
