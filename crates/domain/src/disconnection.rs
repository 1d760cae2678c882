//! Whether an account may be unlinked, or is its user's last way in.

use crate::identity::text_form;

/// Where a user's account lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdentityCategory {
    /// An [`Identity`](crate::identity::Identity).
    Global,
    /// An [`AuthIdentity`](crate::auth_identity::AuthIdentity): single sign-on.
    Org,
}

/// Whether a user may unlink an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnection {
    /// Yes.
    CanDisconnect,
    /// No: the user could not sign in any more.
    NeededForGlobalAuth,
    /// No: the organization lets nobody in who has linked no account.
    NeededForOrgAuth,
}

text_form!(IdentityCategory: Global = "global-identity", Org = "org-identity");
text_form!(Disconnection:
    CanDisconnect = "can_disconnect",
    NeededForGlobalAuth = "needed_for_global_auth",
    NeededForOrgAuth = "needed_for_org_auth",
);

/// The ways in that a user has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaysIn {
    /// Whether the user has a usable password; only the product knows.
    pub has_password: bool,
    /// How many identities the user has at providers that [users sign in
    /// with](crate::identity_provider::ProviderOptions::login), whatever their status.
    pub login_identities: u64,
}

impl WaysIn {
    /// Whether one of the user's identities may go. Accounts for an organization's single sign-on
    /// are no way in to the rest of the product, and do not count.
    #[must_use]
    pub fn without_identity(self, is_login: bool) -> Disconnection {
        if !is_login || self.has_password || self.login_identities > 1 {
            Disconnection::CanDisconnect
        } else {
            Disconnection::NeededForGlobalAuth
        }
    }

    /// Whether one of the user's accounts for single sign-on may go. What the organization asks
    /// for comes first.
    #[must_use]
    pub fn without_auth_identity(self, allow_unlinked: bool) -> Disconnection {
        if !allow_unlinked {
            Disconnection::NeededForOrgAuth
        } else if self.has_password || self.login_identities > 0 {
            Disconnection::CanDisconnect
        } else {
            Disconnection::NeededForGlobalAuth
        }
    }
}

/// What keeps a user's last way in while something is unlinked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Nothing: an operator takes it away, whatever it is.
    Off,
    /// The rules of [`WaysIn`], on the rows as they are while they are locked.
    LastWayIn {
        /// Whether the user has a usable password.
        has_password: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::{Disconnection::*, *};

    /// Password, login identities → with and without a login provider; with and without
    /// `allow_unlinked`.
    #[test]
    fn the_organization_comes_before_the_last_way_in() {
        for (has_password, login_identities, login, allowing) in [
            (false, 0, NeededForGlobalAuth, NeededForGlobalAuth),
            (false, 1, NeededForGlobalAuth, CanDisconnect),
            (false, 2, CanDisconnect, CanDisconnect),
            (true, 0, CanDisconnect, CanDisconnect),
            (true, 1, CanDisconnect, CanDisconnect),
        ] {
            let ways = WaysIn { has_password, login_identities };
            assert_eq!(ways.without_identity(true), login, "{ways:?}");
            assert_eq!(ways.without_identity(false), CanDisconnect, "{ways:?}");
            assert_eq!(ways.without_auth_identity(true), allowing, "{ways:?}");
            assert_eq!(ways.without_auth_identity(false), NeededForOrgAuth, "{ways:?}");
        }
    }
}
