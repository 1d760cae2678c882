//! What handlers read out of a request. Whatever does not fit is refused with the name of what
//! did not.

mod conditional;
mod json;
mod path;
mod query;
mod values;

pub(crate) use conditional::*;
pub(crate) use json::*;
pub(crate) use path::*;
pub(crate) use query::*;
pub(crate) use values::*;
