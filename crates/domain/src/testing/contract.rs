//! What every store must do, one function per promise of the [ports](crate::ports).
//!
//! Each takes an empty store and panics when the promise is broken; its name is the promise.
//! [`contract_tests!`](crate::contract_tests) makes a test of each.
//!
//! Nothing is asked of the store's clock but that it runs: what must be over has no length at
//! all, what must last lasts for minutes, and nothing measures how fast a store is.

mod api_keys;
mod archive;
mod auth_identities;
mod auth_providers;
mod changes;
mod credentials;
mod device_links;
mod disconnection;
mod event_log;
mod identities;
mod identity_lists;
mod identity_providers;
mod leases;
mod ledger;
mod link_sessions;
mod linking;
mod linking_sessions;
mod logouts;
mod organization_identities;
mod refresh_schedule;
mod revocations;
mod transfers;
mod vending;
mod webhooks;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, SubsecRound as _, Utc};

use self::link_sessions::{claim, live_session, pending_link, sign_in, status, used_trip, waiting};
pub use self::{
    api_keys::*, archive::*, auth_identities::*, auth_providers::*, changes::*, credentials::*,
    device_links::*, disconnection::*, event_log::*, identities::*, identity_lists::*,
    identity_providers::*, leases::*, ledger::*, link_sessions::*, linking::*, linking_sessions::*,
    logouts::*, organization_identities::*, refresh_schedule::*, revocations::*, transfers::*,
    vending::*, webhooks::*,
};
use super::{RunningClock, fixtures};
use crate::{
    event::{Event, EventKind},
    identity::{Identity, InvalidReason},
    ids::{IdentityId, ProviderId, RevocationId},
    page::PageRequest,
    ports::{
        ApiKeyRepository, Archive, AuthIdentityRepository, AuthProviderRepository, Clock as _,
        CredentialsRepository, DeviceLinkRepository, EventFilter, EventLog, Forecast,
        IdentityProviderRepository, IdentityRepository, Lease, LeaseOutcome, LedgerRepository,
        Link, LinkOutcome, LinkSessionRepository, LogoutRepository, NewIdentityProvider,
        OrganizationIdentityRepository, RefreshEnd, RefreshSchedule, RevocationRepository,
        StoredCredentials, TransferRepository, Unlink, UnlinkOutcome, VendingRepository,
        WebhookRepository,
    },
};

/// Everything that an adapter keeps.
pub trait Store:
    ApiKeyRepository
    + Archive
    + AuthIdentityRepository
    + AuthProviderRepository
    + CredentialsRepository
    + DeviceLinkRepository
    + EventLog
    + Forecast
    + IdentityProviderRepository
    + IdentityRepository
    + LedgerRepository
    + LinkSessionRepository
    + LogoutRepository
    + OrganizationIdentityRepository
    + RefreshSchedule
    + RevocationRepository
    + TransferRepository
    + VendingRepository
    + WebhookRepository
    + 'static
{
}

impl<T> Store for T where
    T: ApiKeyRepository
        + Archive
        + AuthIdentityRepository
        + AuthProviderRepository
        + CredentialsRepository
        + DeviceLinkRepository
        + EventLog
        + Forecast
        + IdentityProviderRepository
        + IdentityRepository
        + LedgerRepository
        + LinkSessionRepository
        + LogoutRepository
        + OrganizationIdentityRepository
        + RefreshSchedule
        + RevocationRepository
        + TransferRepository
        + VendingRepository
        + WebhookRepository
        + 'static
{
}

/// The ports one by one, as several have methods of the same name.
impl dyn Store {
    /// The API keys.
    #[must_use]
    pub fn api_keys(&self) -> &dyn ApiKeyRepository {
        self
    }

    /// Everything at once.
    #[must_use]
    pub fn archive(&self) -> &dyn Archive {
        self
    }

    /// The accounts for single sign-on.
    #[must_use]
    pub fn auth_identities(&self) -> &dyn AuthIdentityRepository {
        self
    }

    /// How organizations sign in.
    #[must_use]
    pub fn auth_providers(&self) -> &dyn AuthProviderRepository {
        self
    }

    /// Which identities organizations use.
    #[must_use]
    pub fn organization_identities(&self) -> &dyn OrganizationIdentityRepository {
        self
    }

    /// The credentials and their leases.
    #[must_use]
    pub fn credentials(&self) -> &dyn CredentialsRepository {
        self
    }

    /// The events.
    #[must_use]
    pub fn events(&self) -> &dyn EventLog {
        self
    }

    /// The provider instances.
    #[must_use]
    pub fn providers(&self) -> &dyn IdentityProviderRepository {
        self
    }

    /// The identities.
    #[must_use]
    pub fn identities(&self) -> &dyn IdentityRepository {
        self
    }

    /// The link sessions.
    #[must_use]
    pub fn sessions(&self) -> &dyn LinkSessionRepository {
        self
    }

    /// The device links.
    #[must_use]
    pub fn device_links(&self) -> &dyn DeviceLinkRepository {
        self
    }

    /// Providers' word that they ended sessions.
    #[must_use]
    pub fn logouts(&self) -> &dyn LogoutRepository {
        self
    }

    /// When credentials are refreshed with nobody asking.
    #[must_use]
    pub fn refresh_schedule(&self) -> &dyn RefreshSchedule {
        self
    }

    /// Which identities die when.
    #[must_use]
    pub fn forecast(&self) -> &dyn Forecast {
        self
    }

    /// The queue of revocations.
    #[must_use]
    pub fn revocations(&self) -> &dyn RevocationRepository {
        self
    }

    /// The transfers.
    #[must_use]
    pub fn transfers(&self) -> &dyn TransferRepository {
        self
    }

    /// Who was handed which token.
    #[must_use]
    pub fn ledger(&self) -> &dyn LedgerRepository {
        self
    }

    /// What is frozen.
    #[must_use]
    pub fn vending(&self) -> &dyn VendingRepository {
        self
    }

    /// The webhook endpoints and their deliveries.
    #[must_use]
    pub fn webhooks(&self) -> &dyn WebhookRepository {
        self
    }
}

/// Longer than any test runs.
const LONG: Duration = Duration::from_mins(10);
/// Long enough for whatever is not meant to wait, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Every row that a case makes.
const ALL: PageRequest = PageRequest { limit: 200, after: None };

/// The machine's time, as precise as databases are.
fn now() -> DateTime<Utc> {
    RunningClock.now().trunc_subsecs(6)
}

/// A provider instance of this name.
async fn provider(store: &Arc<dyn Store>, name: &str) -> ProviderId {
    let new = NewIdentityProvider {
        external_id: Some(name.to_owned()),
        ..fixtures::new_identity_provider()
    };
    store.providers().insert(&new, &fixtures::ACTOR).await.unwrap().id
}

/// The same of this type.
async fn provider_of_type(store: &Arc<dyn Store>, provider_type: &str, name: &str) -> ProviderId {
    let new = NewIdentityProvider {
        provider_type: provider_type.to_owned(),
        external_id: Some(name.to_owned()),
        ..fixtures::new_identity_provider()
    };
    store.providers().insert(&new, &fixtures::ACTOR).await.unwrap().id
}

/// A link of this user and account, with the credentials of every fixture.
fn link(provider_id: ProviderId, user: &str, account: &str) -> Link {
    Link {
        provider_id,
        owner: fixtures::owner(user),
        external_id: fixtures::external_id(account),
        ..fixtures::link()
    }
}

/// What becomes of a link that nothing stands in the way of.
async fn linked(store: &Arc<dyn Store>, link: &Link) -> Identity {
    match store.identities().link(link).await.unwrap() {
        LinkOutcome::Created(it)
        | LinkOutcome::Updated(it)
        | LinkOutcome::Rebound(it)
        | LinkOutcome::SignedIn(it) => it,
        refused => panic!("{refused:?}"),
    }
}

/// An identity with credentials, at a provider of its own.
async fn identity(store: &Arc<dyn Store>) -> Identity {
    let provider = provider(store, "the identity's").await;
    linked(store, &link(provider, "user-1", "account-1")).await
}

/// Removes a link, whatever it leaves: what went, if it was there.
async fn unlink(store: &Arc<dyn Store>, id: IdentityId) -> Option<Identity> {
    unlinked(store, &Unlink::unguarded(id, &fixtures::ACTOR)).await.map(|(identity, _)| identity)
}

/// The same, and its grant waits to be ended.
async fn unlink_revoking(
    store: &Arc<dyn Store>,
    id: IdentityId,
) -> Option<(Identity, Option<RevocationId>)> {
    unlinked(store, &Unlink::unguarded(id, &fixtures::ACTOR).revoking()).await
}

async fn unlinked(
    store: &Arc<dyn Store>,
    unlink: &Unlink,
) -> Option<(Identity, Option<RevocationId>)> {
    match store.identities().unlink(unlink).await.unwrap() {
        UnlinkOutcome::Unlinked(identity, revocation) => Some((identity, revocation)),
        UnlinkOutcome::Absent => None,
        kept @ UnlinkOutcome::Needed(_) => panic!("{kept:?}"),
    }
}

/// The lease on the credentials as they are, for as long as a test runs.
async fn lease(store: &Arc<dyn Store>, id: IdentityId) -> Lease {
    lease_for(store, id, LONG).await
}

/// The lease on the credentials as they are.
async fn lease_for(store: &Arc<dyn Store>, id: IdentityId, time: Duration) -> Lease {
    let generation = store.credentials().find(id).await.unwrap().unwrap().generation;
    match store.credentials().take_lease(id, generation, "replica-1", time).await.unwrap() {
        LeaseOutcome::Taken(lease, _) => lease,
        refused => panic!("{refused:?}"),
    }
}

/// The credentials of an identity that is there.
async fn credentials_of(store: &Arc<dyn Store>, id: IdentityId) -> StoredCredentials {
    store.credentials().find(id).await.unwrap().unwrap()
}

/// The provider refused the refresh token.
fn end_invalid() -> RefreshEnd {
    RefreshEnd::Invalid { reason: InvalidReason::GrantRejected, detail: "invalid_grant".into() }
}

/// Every event so far, but those of setting up providers.
async fn events(store: &Arc<dyn Store>) -> Vec<Event> {
    let (mut events, mut page) = (Vec::new(), ALL);
    loop {
        let read = store.events().list(&EventFilter::default(), page).await.unwrap();
        events.extend(read.items);
        let Some(after) = read.next else { break };
        page.after = Some(after);
    }
    events.retain(|it| it.about != EventKind::ProviderCreated);
    events
}

/// What every event so far is about, but those of setting up providers.
async fn kinds(store: &Arc<dyn Store>) -> Vec<EventKind> {
    events(store).await.into_iter().map(|it| it.about).collect()
}

/// Runs all of them at once and answers what became of each.
async fn race<T, F>(count: usize, act: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let racers: Vec<_> = (0..count).map(|racer| tokio::spawn(act(racer))).collect();
    let mut results = Vec::with_capacity(count);
    for racer in racers {
        results.push(racer.await.unwrap());
    }
    results
}

/// Makes one test of each promise in [`testing::contract`](crate::testing::contract).
///
/// It takes a future of an empty store and of what must outlive it (a temporary directory, a
/// database server; `()` for nothing), and is expanded once in a module of a test:
///
/// ```
/// # mod contract {
/// use symbolon_domain::testing::MemoryStore;
///
/// async fn empty_store() -> (MemoryStore, ()) {
///     (MemoryStore::default(), ())
/// }
///
/// symbolon_domain::contract_tests!(empty_store());
/// # }
/// ```
///
/// The crate that expands it needs `tokio` with `macros` and `rt-multi-thread`.
#[macro_export]
macro_rules! contract_tests {
    ($empty_store:expr) => {
        $crate::contract_tests!(@each $empty_store;
            // archive
            what_was_imported_comes_out_again
            an_import_again_changes_nothing
            an_endpoint_is_known_again_whatever_its_address
            a_row_whose_id_is_taken_gets_a_new_one
            a_row_that_cannot_be_taken_is_refused_with_its_reason
            records_of_a_batch_are_judged_one_after_the_other
            ids_that_are_given_out_later_are_greater
            an_import_tells_of_what_it_created
            a_dry_run_answers_the_same_and_keeps_nothing
            an_export_is_in_order_and_without_secrets_unless_asked
            an_export_is_of_one_moment
            what_was_under_way_is_delivered_again
            a_text_with_a_nul_character_is_refused
            an_event_keeps_its_id_or_is_refused
            racing_imports_create_each_row_once
            // linking
            a_link_follows_the_table
            several_accounts_stay_when_only_one_is_allowed
            of_racing_accounts_of_one_user_all_are_kept_where_several_are_allowed
            an_option_that_is_taken_back_holds_for_racing_links
            racing_links_rewrite_a_legacy_name_once
            a_linked_account_is_found_as_it_was_linked
            names_are_compared_character_by_character
            a_link_at_no_provider_is_not_found
            a_link_updated_in_place_merges_its_data
            a_link_updated_in_place_renews_the_credentials
            a_link_without_credentials_leaves_those_that_are_there
            a_rebound_row_keeps_only_its_id
            a_row_rebound_without_credentials_has_none
            a_link_makes_an_invalid_identity_valid
            a_link_of_an_invalid_identity_keeps_none_of_its_tokens
            new_credentials_clear_back_off_and_doubt
            a_refresh_token_that_stays_stays_in_doubt
            a_refresh_token_that_stays_and_is_on_its_way_stays_leased
            of_racing_links_of_one_account_one_user_gets_it
            of_racing_links_of_one_user_one_account_is_kept
            crossing_takeovers_leave_whole_rows
            // linking_sessions
            a_link_completes_its_session_once
            an_update_and_a_rebinding_complete_the_session_too
            a_link_without_the_code_changes_nothing
            a_refused_link_leaves_its_session_waiting
            a_sign_in_completes_its_session
            a_sign_in_of_nobody_can_be_completed_with_a_user
            of_racing_completions_one_is_done
            of_racing_completions_of_one_account_one_user_gets_it
            of_a_completion_and_a_failure_one_happens
            the_organization_of_the_session_is_on_record
            // identities
            an_identity_that_is_not_there_is_absent
            new_data_replaces_the_old
            an_update_for_another_version_changes_nothing
            of_racing_updates_for_one_version_one_is_done
            credentials_with_new_data_go_over_the_old_ones
            credentials_with_new_data_make_an_invalid_identity_valid
            unlinking_leaves_nothing
            of_racing_unlinks_one_finds_it
            an_unlinked_account_can_be_linked_again
            // identity_lists
            each_condition_narrows_the_list
            all_conditions_hold_together
            an_empty_list_of_names_means_none
            accounts_named_as_their_provider_can_be_left_out
            pages_go_on_in_id_order_to_the_end
            pages_are_stable_while_rows_come_and_go
            pages_are_stable_under_concurrent_links_and_unlinks
            // credentials
            credentials_of_nobody_are_absent
            credentials_come_back_as_they_went_in
            the_generation_is_0_while_there_never_were_credentials
            credentials_of_an_invalid_identity_are_read_with_the_reason
            waiting_comes_back_after_a_commit
            waiting_comes_back_after_a_release
            waiting_comes_back_when_the_lease_ran_out
            waiting_comes_back_at_once_when_nobody_holds_the_lease
            waiting_ends_without_a_change
            // leases
            of_racing_takers_one_gets_the_lease
            a_lease_that_somebody_holds_is_held
            with_a_lease_comes_what_is_there
            a_lease_on_another_generation_has_moved
            the_lease_of_an_invalid_identity_has_moved
            a_lease_that_ran_out_is_taken_and_its_old_holder_fenced_off
            of_racing_takers_of_a_lease_that_ran_out_one_gets_it
            a_lease_that_ran_out_writes_while_nobody_came_after
            sendings_are_counted_and_seen_by_the_next_holder
            a_repeated_recording_counts_once
            a_sending_is_not_recorded_when_it_is_too_late_for_it
            a_released_lease_takes_back_what_was_not_sent
            a_recording_after_the_release_counts_nothing
            a_later_holder_that_sent_nothing_gives_way_to_an_answer
            a_commit_stores_the_next_generation
            a_commit_stores_the_credentials_as_they_are
            a_repeated_commit_is_done_and_changes_nothing
            racing_tries_of_one_commit_are_one_commit
            a_write_after_the_unlink_finds_it_gone
            a_failed_refresh_keeps_the_generation_and_backs_off
            an_answer_ends_the_doubt_about_its_own_sending_alone
            a_refresh_that_ends_for_good_makes_the_identity_invalid
            a_repeated_end_is_done_and_changes_nothing
            a_released_lease_is_free
            data_written_during_a_lease_survives_the_commit
            new_credentials_supersede_the_lease
            new_credentials_win_whenever_they_come
            of_many_refreshes_at_once_each_is_kept_as_its_own
            // link_sessions
            a_session_is_found_by_id_and_token
            a_session_that_is_not_there_is_absent
            the_token_of_a_session_is_taken_once
            a_trip_belongs_to_the_browser_that_began_it
            of_racing_browsers_one_begins_the_trip
            a_trip_begun_again_replaces_the_one_before
            finding_a_session_by_its_state_does_not_use_it_up
            of_racing_callbacks_one_gets_the_proof
            a_session_waits_only_after_its_trip_and_once
            of_racing_codes_one_opens_the_session
            what_waits_is_found_by_whoever_has_the_code
            a_failed_session_drops_what_it_held
            a_session_that_comes_too_late_is_expired
            a_session_that_ran_out_is_expired_everywhere
            expiring_counts_what_has_run_out_once
            a_session_stands_in_nobodys_way
            // device_links
            a_device_link_is_found_as_it_was_inserted
            a_device_link_that_is_not_there_is_absent
            a_claimed_device_link_is_nobody_elses_until_it_is_given_back
            of_racing_claims_one_polls_each_device_link
            a_claim_of_a_device_link_that_ran_out_is_anothers
            a_device_link_that_failed_drops_its_code_and_tells_why
            a_link_ends_its_device_link
            a_device_link_of_an_organization_links_for_it
            a_grant_that_comes_when_its_device_link_is_over_waits_for_its_revocation
            a_link_of_an_older_claim_links_nothing
            a_device_link_that_ran_out_is_expired_everywhere
            another_authority_ends_the_device_links_of_its_provider
            // logouts
            a_logout_tells_of_every_link_of_the_account_and_of_no_other
            a_logout_of_an_account_that_nobody_linked_is_taken_and_tells_nobody
            a_logout_of_a_session_alone_tells_of_every_account_that_began_with_it
            a_session_that_ended_is_not_remembered
            a_logout_token_counts_once_until_it_is_forgotten
            of_racing_logouts_with_one_token_one_is_taken
            a_logout_makes_credentials_due_that_may_have_ended_with_it
            // identity_providers
            a_provider_is_found_as_it_was_inserted
            the_secrets_of_a_provider_come_back_as_they_went_in
            a_provider_that_is_not_there_is_absent
            type_and_external_id_are_unique
            of_racing_inserts_of_one_key_one_is_kept
            a_key_without_an_external_id_means_the_instance_without_one
            providers_are_listed_by_type_and_external_id
            an_update_replaces_configuration_and_secrets
            a_provider_update_for_another_version_changes_nothing
            of_racing_provider_updates_for_one_version_one_is_done
            that_a_provider_names_itself_is_remembered
            an_update_of_the_authority_forgets_what_was_learned_of_the_old_one
            an_update_of_the_authority_is_refused_while_there_are_identities
            a_link_that_races_with_an_update_of_the_authority_is_refused_or_refuses_it
            a_provider_is_deleted_with_its_identities_only_when_asked
            the_key_of_a_deleted_provider_is_free
            a_link_that_races_with_a_deletion_leaves_no_orphan
            // refresh_schedule
            what_was_linked_is_planned_and_claimed_when_its_time_has_come
            what_cannot_be_refreshed_is_never_due
            a_claimed_refresh_is_nobody_elses_until_it_is_given_back_or_runs_out
            of_racing_claims_one_gets_each_refresh
            a_commit_plans_the_next_refresh
            a_failed_refresh_is_due_when_its_back_off_is_over
            what_has_gone_or_changed_is_not_due
            no_more_is_claimed_than_the_rate_of_the_instance
            nothing_is_claimed_at_an_instance_that_is_paused
            what_may_still_be_in_time_comes_first_and_the_rest_is_not_forgotten
            organizations_take_turns
            the_end_of_a_refresh_token_is_kept_and_planned_for
            a_forecast_knows_who_dies_when_and_why
            // revocations
            an_unlinked_grant_waits_for_its_revocation
            nothing_is_queued_for_an_identity_without_credentials
            a_claimed_revocation_is_nobody_elses
            of_racing_claims_one_gets_the_revocation
            a_claim_that_ran_out_is_claimed_again_and_its_old_holder_fenced_off
            a_revocation_that_ended_is_over
            a_revocation_that_is_put_off_is_not_due
            what_is_due_longest_is_claimed_first
            a_grant_can_be_queued_when_its_identity_is_gone
            a_deleted_provider_leaves_what_its_revocations_need
            a_row_rebound_without_credentials_gives_up_its_grant
            // transfers
            a_transfer_changes_the_user_and_nothing_else
            a_refresh_under_way_survives_a_transfer
            a_transfer_of_a_user_takes_all_that_is_theirs
            an_identity_is_not_moved_where_the_user_has_another
            a_transfer_of_nobody_or_to_the_same_user_does_nothing
            several_accounts_are_moved_where_they_are_allowed
            an_undone_transfer_gives_back_what_it_can
            a_transfer_is_undone_once
            transfers_are_listed_by_user
            of_a_transfer_and_an_unlink_both_are_whole
            of_a_transfer_and_a_link_of_its_place_one_happens
            of_racing_transfers_of_one_identity_each_is_whole
            crossing_transfers_of_two_users_end
            // event_log
            an_event_is_found_as_it_was_appended
            events_are_found_by_what_they_concern
            events_come_in_pages
            of_events_that_tell_the_same_turn_one_is_added
            no_event_is_lost_in_a_race
            a_reader_who_goes_on_after_the_last_event_misses_none
            the_record_outlives_the_identity
            // api_keys
            an_api_key_is_found_by_its_hash
            the_hash_of_an_api_key_is_taken_once
            revoking_an_api_key_again_changes_nothing
            api_keys_are_listed_revoked_ones_too
            // auth_providers
            an_organization_has_one_single_sign_on
            a_single_sign_on_that_is_not_there_is_absent
            a_single_sign_on_is_changed_for_its_version
            single_sign_ons_are_listed_by_organization_and_provider
            a_single_sign_on_takes_its_accounts_along
            a_provider_that_organizations_sign_in_with_is_in_use
            // auth_identities
            an_account_for_single_sign_on_follows_the_table
            a_single_sign_on_finds_the_account_by_name_and_by_legacy_name
            proving_an_account_again_renews_it
            the_credentials_of_an_account_come_back_as_they_went_in
            a_single_sign_on_completes_its_session
            a_single_sign_on_of_nobody_can_be_completed_with_a_user
            a_single_sign_on_without_the_code_changes_nothing
            of_racing_single_sign_on_links_of_one_account_one_user_gets_it
            an_account_for_single_sign_on_is_changed
            accounts_for_single_sign_on_are_listed
            an_account_for_single_sign_on_that_goes_gives_up_its_grant
            an_account_for_single_sign_on_that_is_rebound_gives_up_its_grant
            a_users_accounts_for_an_organization_go_together
            // disconnection
            an_organizations_demand_comes_before_the_last_way_in
            login_identities_are_counted_over_providers
            what_is_needed_stays_and_what_is_anothers_is_absent
            of_racing_unlinks_of_the_last_two_ways_in_one_is_refused
            // organization_identities
            an_organization_uses_an_identity_once
            uses_are_listed_by_provider_type
            a_use_ends_and_the_identity_stays
            a_use_goes_with_its_identity
            a_link_for_an_organization_is_used_by_it
            // changes
            every_change_of_an_identity_tells_before_and_after
            every_change_of_a_provider_or_key_tells_before_and_after
            // ledger
            the_salt_of_the_ledger_is_made_once
            hand_outs_are_found_by_identity_and_by_token
            hand_outs_to_one_recipient_add_up
            old_hand_outs_are_forgotten
            // vending
            what_is_read_to_hand_out_a_token_is_all_of_it
            each_freeze_stands_against_what_it_names_and_nothing_else
            a_freeze_is_begun_once_and_lifted_once
            only_keys_and_providers_that_are_there_are_frozen
            of_racing_freezes_one_is_on_record
            freezes_are_listed_in_id_order
            // webhooks
            a_webhook_endpoint_is_found_as_it_was_inserted
            a_webhook_endpoint_is_changed_and_removed
            a_webhook_secret_is_rotated
            each_event_becomes_one_delivery
            of_racing_claims_each_delivery_goes_to_one
            a_claim_that_ran_out_is_anothers
            deliveries_of_one_identity_come_in_order
            giving_up_is_told_once
            what_was_given_up_is_replayed
            deliveries_that_arrived_are_forgotten
        );
    };
    (@each $empty_store:expr; $($promise:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $promise() {
            let (store, _outlives_it) = $empty_store.await;
            let store: ::std::sync::Arc<dyn $crate::testing::contract::Store> =
                ::std::sync::Arc::new(store);
            $crate::testing::contract::$promise(&store).await;
        }
    )*};
}

#[cfg(test)]
mod tests {
    /// A promise that the macro does not name would never be checked.
    #[test]
    fn every_promise_is_in_the_macro() {
        let list = include_str!("contract.rs");
        let ports = [
            include_str!("contract/api_keys.rs"),
            include_str!("contract/archive.rs"),
            include_str!("contract/auth_identities.rs"),
            include_str!("contract/auth_providers.rs"),
            include_str!("contract/disconnection.rs"),
            include_str!("contract/changes.rs"),
            include_str!("contract/credentials.rs"),
            include_str!("contract/device_links.rs"),
            include_str!("contract/event_log.rs"),
            include_str!("contract/identities.rs"),
            include_str!("contract/identity_lists.rs"),
            include_str!("contract/identity_providers.rs"),
            include_str!("contract/leases.rs"),
            include_str!("contract/ledger.rs"),
            include_str!("contract/link_sessions.rs"),
            include_str!("contract/linking.rs"),
            include_str!("contract/linking_sessions.rs"),
            include_str!("contract/logouts.rs"),
            include_str!("contract/organization_identities.rs"),
            include_str!("contract/refresh_schedule.rs"),
            include_str!("contract/revocations.rs"),
            include_str!("contract/transfers.rs"),
            include_str!("contract/vending.rs"),
            include_str!("contract/webhooks.rs"),
        ];
        assert_eq!(ports.len(), list.lines().filter(|it| it.starts_with("mod ")).count() - 1);
        for port in ports {
            let promises = port.lines().filter_map(|it| it.strip_prefix("pub async fn "));
            for promise in promises.map(|it| it.split('(').next().unwrap()) {
                assert!(list.lines().any(|it| it.trim() == promise), "{promise}");
            }
        }
    }
}
