//! The rules, as plain structs over ports. A service exists where there is a rule; what only
//! reads goes to the port itself.

mod api_keys;
mod identities;
mod linking;
mod providers;
mod return_urls;
mod single_sign_on;
mod tasks;
mod tokens;

pub use api_keys::*;
pub use identities::*;
pub use linking::*;
pub use providers::*;
pub use return_urls::*;
pub use single_sign_on::*;
pub use tasks::*;
pub use tokens::*;
