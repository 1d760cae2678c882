//! The rules, as plain structs over ports. A service exists where there is a rule; what only
//! reads goes to the port itself.

mod api_keys;
mod device_linking;
mod forecasts;
mod identities;
mod key_rotation;
mod ledger;
mod linking;
mod logouts;
mod providers;
mod return_urls;
mod revocations;
mod scheduler;
mod single_sign_on;
mod tasks;
mod tokens;
mod transfers;
mod vending;
mod webhooks;

pub use api_keys::*;
pub use device_linking::*;
pub use forecasts::*;
pub use identities::*;
pub use key_rotation::*;
pub use ledger::*;
pub use linking::*;
pub use logouts::*;
pub use providers::*;
pub use return_urls::*;
pub use revocations::*;
pub use scheduler::*;
pub use single_sign_on::*;
pub use tasks::*;
pub use tokens::*;
pub use transfers::*;
pub use vending::*;
pub use webhooks::*;
