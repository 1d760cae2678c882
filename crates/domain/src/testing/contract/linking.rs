//! [`link`](crate::ports::IdentityRepository::link), but for its sessions.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::json;

use super::{
    ALL, LONG, Store, credentials_of, end_invalid, events, identity, kinds, lease, link, linked,
    provider, race,
};
use crate::{
    credentials::Credentials,
    event::EventKind,
    identity::{Identity, IdentityFilter, IdentityStatus},
    identity_provider::ProviderOptions,
    ids::ProviderId,
    ports::{
        DataOutcome, DataUpdate, Lease, LeaseOutcome, LeasedWrite, Link, LinkOutcome, LinkOwner,
        NewIdentityProvider, ProviderUpdate, RefreshEnd, RepositoryError, Taken,
    },
    secret::Secret,
    testing::fixtures,
};

/// Every link of the account `a` to the user `u`, and every sign-in with it: the rules of
/// [`link`](crate::ports::IdentityRepository::link) and of `docs/linking.md`.
///
/// - `mode`: whether the provider allows one account per user (`single`) or several; `*` is both.
/// - `there`: user and account of the rows before, numbered from 0.
/// - `asked`: the account, `a~old` with `old` for its legacy name; `*` is with and without reattach.
/// - `left`: number, user, account and tokens of each row afterwards. Row 0 began with the access
///   token `a0` and the refresh token `r0`; the link brings the access token `A` and no refresh
///   token, so `A+r0` is a refresh token that was kept.
/// - `queued`: whose refresh tokens wait for revocation.
const TABLE: &str = "
mode     | there         | asked            | becomes       | left                                | events                   | queued
*        |               | a *              | created       | 0:u/a=A                             | linked                   |
*        | w/c           | a *              | created       | 0:w/c=a0+r0 1:u/a=A                 | linked                   |
*        | u/a           | a *              | updated 0     | 0:u/a=A+r0                          | relinked                 |
single   | u/b           | a                | taken user    | 0:u/b=a0+r0                         |                          |
single   | u/b           | a reattach       | rebound 0     | 0:u/a=A                             | rebound queued           | r0
several  | u/b           | a *              | created       | 0:u/b=a0+r0 1:u/a=A                 | linked                   |
*        | v/a           | a                | taken account | 0:v/a=a0+r0                         |                          |
*        | v/a           | a reattach       | rebound 0     | 0:u/a=A                             | rebound                  |
*        | u/b v/a       | a                | taken account | 0:u/b=a0+r0 1:v/a=a1+r1             |                          |
single   | u/b v/a       | a reattach       | rebound 0     | 0:u/a=A                             | unlinked rebound queued  | r0
single   | v/a u/b       | a reattach       | rebound 1     | 1:u/a=A                             | unlinked rebound queued  | r1
single   | u/b v/a w/c   | a reattach       | rebound 0     | 0:u/a=A 2:w/c=a2+r2                 | unlinked rebound queued  | r0
several  | u/b v/a       | a reattach       | rebound 1     | 0:u/b=a0+r0 1:u/a=A                 | rebound                  |
several  | u/a u/b       | a *              | updated 0     | 0:u/a=A+r0 1:u/b=a1+r1              | relinked                 |

*        |               | a~old *          | created       | 0:u/a=A                             | linked                   |
*        | u/a           | a~old *          | updated 0     | 0:u/a=A+r0                          | relinked                 |
*        | u/old         | a~old *          | updated 0     | 0:u/a=A+r0                          | relinked                 |
single   | u/b           | a~old            | taken user    | 0:u/b=a0+r0                         |                          |
single   | u/b           | a~old reattach   | rebound 0     | 0:u/a=A                             | rebound queued           | r0
several  | u/b           | a~old *          | created       | 0:u/b=a0+r0 1:u/a=A                 | linked                   |
*        | v/a           | a~old            | taken account | 0:v/a=a0+r0                         |                          |
*        | v/a           | a~old reattach   | rebound 0     | 0:u/a=A                             | rebound                  |
*        | v/old         | a~old            | taken account | 0:v/old=a0+r0                       |                          |
*        | v/old         | a~old reattach   | rebound 0     | 0:u/a=A                             | rebound                  |
*        | u/b v/a       | a~old            | taken account | 0:u/b=a0+r0 1:v/a=a1+r1             |                          |
single   | u/b v/a       | a~old reattach   | rebound 0     | 0:u/a=A                             | unlinked rebound queued  | r0
*        | u/b v/old     | a~old            | taken account | 0:u/b=a0+r0 1:v/old=a1+r1           |                          |
single   | u/b v/old     | a~old reattach   | rebound 0     | 0:u/a=A                             | unlinked rebound queued  | r0
several  | u/b v/old     | a~old reattach   | rebound 1     | 0:u/b=a0+r0 1:u/a=A                 | rebound                  |
*        | u/old v/a     | a~old            | taken account | 0:u/old=a0+r0 1:v/a=a1+r1           |                          |
single   | u/old v/a     | a~old reattach   | rebound 0     | 0:u/a=A                             | unlinked rebound         |
several  | u/old v/a     | a~old reattach   | rebound 1     | 0:u/old=a0+r0 1:u/a=A               | rebound                  |
*        | u/a v/old     | a~old *          | updated 0     | 0:u/a=A+r0 1:v/old=a1+r1            | relinked                 |
several  | u/old u/a     | a~old *          | updated 1     | 0:u/old=a0+r0 1:u/a=A+r1            | relinked                 |

*        |               | sign in a *      | nobody        |                                     |                          |
*        | u/b           | sign in a *      | nobody        | 0:u/b=a0+r0                         |                          |
*        | v/a           | sign in a *      | signed in 0   | 0:v/a=A+r0                          | signed_in                |
*        |               | sign in a~old *  | nobody        |                                     |                          |
*        | v/old         | sign in a~old *  | signed in 0   | 0:v/a=A+r0                          | signed_in                |
*        | v/old u/a     | sign in a~old *  | signed in 1   | 0:v/old=a0+r0 1:u/a=A+r1            | signed_in                |
";

/// One line of the table, for one mode.
struct Case<'a> {
    line: &'a str,
    several: bool,
    there: Vec<(&'a str, &'a str)>,
    asked: Asked<'a>,
    becomes: &'a str,
    left: &'a str,
    events: &'a str,
    queued: &'a str,
}

#[derive(Clone, Copy)]
struct Asked<'a> {
    signs_in: bool,
    account: &'a str,
    legacy: Option<&'a str>,
    reattach: bool,
}

fn cases() -> Vec<Case<'static>> {
    let mut cases = Vec::new();
    for line in TABLE.lines().skip(2).filter(|it| !it.is_empty()) {
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        let [mode, there, asked, becomes, left, events, queued] = columns.as_slice() else {
            panic!("seven columns: {line}");
        };
        let there: Vec<_> =
            there.split_whitespace().map(|it| it.split_once('/').unwrap()).collect();
        let (signs_in, rest) = match asked.strip_prefix("sign in ") {
            Some(rest) => (true, rest),
            None => (false, *asked),
        };
        let (names, how) = rest.split_once(' ').unwrap_or((rest, ""));
        let (account, legacy) = match names.split_once('~') {
            Some((account, legacy)) => (account, Some(legacy)),
            None => (names, None),
        };
        let reattach: &[bool] = match how {
            "" => &[false],
            "reattach" => &[true],
            "*" => &[false, true],
            other => panic!("{other}"),
        };
        let several: &[bool] = match *mode {
            "single" => &[false],
            "several" => &[true],
            "*" => &[false, true],
            other => panic!("{other}"),
        };
        for (&several, &reattach) in
            several.iter().flat_map(|it| reattach.iter().map(move |r| (it, r)))
        {
            let asked = Asked { signs_in, account, legacy, reattach };
            let there = there.clone();
            cases.push(Case { line, several, there, asked, becomes, left, events, queued });
        }
    }
    cases
}

/// The credentials that row number so began with.
fn first_credentials(number: usize) -> Credentials {
    Credentials {
        access_token: Some(Secret::new(format!("a{number}"))),
        refresh_token: Some(Secret::new(format!("r{number}"))),
        ..fixtures::credentials()
    }
}

fn tokens(credentials: &Credentials) -> String {
    let tokens = [&credentials.access_token, &credentials.refresh_token];
    tokens.into_iter().flatten().map(Secret::expose).collect::<Vec<_>>().join("+")
}

async fn check(store: &Arc<dyn Store>, number: usize, case: &Case<'_>) {
    let name = format!("case {number}");
    let provider = provider_for(store, &name, case.several).await;
    let mut before = Vec::new();
    for (user, account) in &case.there {
        let credentials = Some(first_credentials(before.len()));
        let asked = Link { credentials, ..link(provider, user, account) };
        before.push(linked(store, &asked).await);
    }
    let told = events(store).await.len();

    let Asked { signs_in, account, legacy, reattach } = case.asked;
    let asked = Link {
        owner: if signs_in { LinkOwner::Whoever } else { fixtures::owner("u") },
        legacy_id: legacy.map(fixtures::external_id),
        credentials: Some(Credentials {
            access_token: Some(Secret::new("A")),
            ..Credentials::default()
        }),
        reattach,
        ..link(provider, "u", account)
    };
    let outcome = store.identities().link(&asked).await.unwrap();

    let number_of = |it: &Identity| before.iter().position(|row| row.id == it.id);
    let (becomes, row) = match outcome {
        LinkOutcome::Created(it) => ("created".to_owned(), Some(it)),
        LinkOutcome::Updated(it) => (format!("updated {}", number_of(&it).unwrap()), Some(it)),
        LinkOutcome::Rebound(it) => (format!("rebound {}", number_of(&it).unwrap()), Some(it)),
        LinkOutcome::SignedIn(it) => (format!("signed in {}", number_of(&it).unwrap()), Some(it)),
        LinkOutcome::NobodyLinked => ("nobody".to_owned(), None),
        LinkOutcome::Taken(Taken::Account) => ("taken account".to_owned(), None),
        LinkOutcome::Taken(Taken::User) => ("taken user".to_owned(), None),
        LinkOutcome::SessionUsed => panic!("no case has a session"),
    };
    let after = identities_at(store, provider).await;
    let mut left = Vec::new();
    for it in &after {
        let stored = credentials_of(store, it.id).await.credentials.unwrap();
        let number = number_of(it).unwrap_or(before.len());
        left.push(format!("{number}:{}/{}={}", it.user_id, it.external_id, tokens(&stored)));
    }
    let mut told: Vec<_> = events(store)
        .await
        .split_off(told)
        .iter()
        .map(|it| it.about.as_str().trim_start_matches("identity.").to_owned())
        .map(|it| it.replace("grant.revocation_queued", "queued"))
        .collect();
    told.sort();
    let mut meant: Vec<_> = case.events.split_whitespace().collect();
    meant.sort_unstable();
    let mut queued = Vec::new();
    for claimed in store.revocations().claim_due(100, LONG).await.unwrap() {
        let credentials = claimed.grant.unwrap().credentials;
        queued.push(credentials.refresh_token.unwrap().expose().to_owned());
    }
    let mode = if case.several { "several" } else { "single" };
    assert_eq!(
        [&becomes, &left.join(" "), &told.join(" "), &queued.join(" ")],
        [case.becomes, case.left, &meant.join(" "), case.queued],
        "{mode}, reattach {reattach}: {}",
        case.line
    );
    match row {
        Some(row) => assert!(after.contains(&row), "the row is answered as it is: {}", case.line),
        None => assert_eq!(after, before, "nothing is changed: {}", case.line),
    }
}

/// A provider where a user may have one account, or several.
pub(super) async fn provider_for(store: &Arc<dyn Store>, name: &str, several: bool) -> ProviderId {
    let new = NewIdentityProvider {
        external_id: Some(name.to_owned()),
        options: ProviderOptions { multiple_accounts: several, ..ProviderOptions::default() },
        ..fixtures::new_identity_provider()
    };
    store.providers().insert(&new, &fixtures::ACTOR).await.unwrap().id
}

async fn identities_at(store: &Arc<dyn Store>, provider: ProviderId) -> Vec<Identity> {
    let filter = IdentityFilter { provider_id: Some(provider), ..IdentityFilter::default() };
    store.identities().list(&filter, ALL).await.unwrap().items
}

/// A link and a sign-in follow the table: what becomes of it, which rows keep their ids, who owns
/// what afterwards, what is told, and which credentials are there and which are to be revoked.
pub async fn a_link_follows_the_table(store: &Arc<dyn Store>) {
    for (number, case) in cases().iter().enumerate() {
        check(store, number, case).await;
    }
}

/// Allows several accounts of one user, or one.
async fn allow_several(store: &Arc<dyn Store>, id: ProviderId, several: bool) {
    let (provider, secrets) = store.providers().find_with_secrets(id).await.unwrap().unwrap();
    let update = ProviderUpdate {
        options: ProviderOptions { multiple_accounts: several, ..provider.options },
        ..fixtures::provider_update(id, provider.version, &provider.config, &secrets)
    };
    store.providers().update(&update, &fixtures::ACTOR).await.unwrap().unwrap();
}

/// Accounts that were linked while several were allowed stay when only one is: they are renewed
/// and unlinked as ever, another one is refused, and with reattach the first by id is rebound.
pub async fn several_accounts_stay_when_only_one_is_allowed(store: &Arc<dyn Store>) {
    let provider = provider_for(store, "p", false).await;
    let mut rows = vec![linked(store, &link(provider, "u", "a")).await];
    allow_several(store, provider, true).await;
    for account in ["b", "c"] {
        rows.push(linked(store, &link(provider, "u", account)).await);
    }
    allow_several(store, provider, false).await;

    let refused = store.identities().link(&link(provider, "u", "d")).await.unwrap();
    assert_eq!(refused, LinkOutcome::Taken(Taken::User));
    for row in &rows {
        assert_eq!(linked(store, &link_of(row)).await.id, row.id);
    }
    for (account, first) in [("d", 0), ("e", 0)] {
        let asked = Link { reattach: true, ..link(provider, "u", account) };
        let outcome = store.identities().link(&asked).await.unwrap();
        let LinkOutcome::Rebound(it) = outcome else { panic!("{outcome:?}") };
        assert_eq!((it.id, it.external_id.as_str()), (rows[first].id, account));
    }
    super::unlink(store, rows[0].id).await;
    let asked = Link { reattach: true, ..link(provider, "u", "f") };
    assert_eq!(linked(store, &asked).await.id, rows[1].id);
    let left: Vec<_> = identities_at(store, provider).await;
    let left: Vec<_> = left.iter().map(|it| (it.id, it.external_id.as_str())).collect();
    assert_eq!(left, [(rows[1].id, "f"), (rows[2].id, "c")]);
}

/// Racing links of different accounts of one user are all kept where several are allowed, and one
/// of them where one is.
pub async fn of_racing_accounts_of_one_user_all_are_kept_where_several_are_allowed(
    store: &Arc<dyn Store>,
) {
    let provider = provider_for(store, "p", true).await;
    let outcomes = race(64, |racer| {
        let (store, account) = (store.clone(), format!("account-{}", racer / 2));
        async move { store.identities().link(&link(provider, "u", &account)).await.unwrap() }
    })
    .await;
    let created = outcomes.iter().filter(|it| matches!(it, LinkOutcome::Created(_))).count();
    let updated = outcomes.iter().filter(|it| matches!(it, LinkOutcome::Updated(_))).count();
    assert_eq!((created, updated), (32, 32), "{outcomes:?}");
    assert_eq!(identities_at(store, provider).await.len(), 32);
}

/// Of links that race with the option's being taken back, none comes through after it besides the
/// first.
pub async fn an_option_that_is_taken_back_holds_for_racing_links(store: &Arc<dyn Store>) {
    for round in 0..8 {
        let provider = provider_for(store, &format!("round {round}"), true).await;
        let taking_back = {
            let store = store.clone();
            tokio::spawn(async move {
                allow_several(&store, provider, false).await;
                let page = identities_at(&store, provider).await;
                (page.len(), page.first().map(|it| it.id))
            })
        };
        race(8, |racer| {
            let (store, account) = (store.clone(), format!("account-{racer}"));
            async move { store.identities().link(&link(provider, "u", &account)).await.unwrap() }
        })
        .await;
        let (then, _) = taking_back.await.unwrap();
        let now = identities_at(store, provider).await.len();
        assert!(now <= then.max(1), "{then} were there when it was taken back, and now {now}");
    }
}

/// Of racing links that rewrite a legacy name, all find the one row.
pub async fn racing_links_rewrite_a_legacy_name_once(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let first = linked(store, &link(provider, "u", "old")).await;
    let outcomes = race(16, |_| {
        let store = store.clone();
        let legacy_id = Some(fixtures::external_id("old"));
        let asked = Link { legacy_id, ..link(provider, "u", "a") };
        async move { store.identities().link(&asked).await.unwrap() }
    })
    .await;
    let updated = |it: &LinkOutcome| matches!(it, LinkOutcome::Updated(row) if row.id == first.id);
    assert!(outcomes.iter().all(updated), "{outcomes:?}");
    let rows = identities_at(store, provider).await;
    assert_eq!((rows.len(), rows[0].external_id.as_str(), rows[0].version), (1, "a", 17));
}

/// A linked account is found as it was linked: valid, in its first version, dated to the
/// microsecond, and told of.
pub async fn a_linked_account_is_found_as_it_was_linked(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let asked = link(provider, "user-1", "account-1");
    let before = super::now();
    let identity = linked(store, &asked).await;
    assert_eq!(
        identity,
        Identity {
            id: identity.id,
            idp_id: provider,
            date_verified: identity.date_verified,
            date_added: identity.date_verified,
            ..fixtures::identity()
        }
    );
    assert_eq!(identity.date_added.timestamp_subsec_nanos() % 1000, 0);
    // A store may be on another machine, whose clock is a little off.
    assert!((identity.date_added - before).num_minutes().abs() < 5, "{}", identity.date_added);
    assert_eq!(store.identities().find(identity.id).await.unwrap().as_ref(), Some(&identity));

    let told = events(store).await;
    let [event] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(event.about, EventKind::IdentityLinked);
    assert_eq!(event.actor, asked.actor);
    assert_eq!(event.identity_id, Some(identity.id));
    assert_eq!(event.provider_id, Some(provider));
    assert_eq!(event.user_id.as_ref(), Some(&identity.user_id));
}

/// Names are compared character by character, and may have 255 characters of any kind.
pub async fn names_are_compared_character_by_character(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let long = "\u{1d11e}".repeat(255);
    let names = ["a", "A", "a ", "ä", "a\u{308}", "%", "_", "1", "01", "'", &long];
    for name in names {
        let outcome = store.identities().link(&link(provider, name, name)).await.unwrap();
        let LinkOutcome::Created(identity) = outcome else { panic!("{name:?}: {outcome:?}") };
        assert_eq!((identity.user_id.as_str(), identity.external_id.as_str()), (name, name));
    }
    for name in names {
        let external_id = Some(fixtures::external_id(name));
        let filter = IdentityFilter { external_id, ..IdentityFilter::default() };
        let found = store.identities().list(&filter, ALL).await.unwrap().items;
        assert_eq!(found.len(), 1, "{name:?}: {found:?}");
        assert_eq!(found[0].user_id.as_str(), name);
    }
}

/// A link at a provider that is not there is not found, and leaves nothing.
pub async fn a_link_at_no_provider_is_not_found(store: &Arc<dyn Store>) {
    let nowhere = ProviderId(4_711);
    let refused = store.identities().link(&link(nowhere, "u", "a")).await;
    assert!(matches!(refused, Err(RepositoryError::NotFound)), "{refused:?}");
    assert_eq!(identities_at(store, nowhere).await, []);
    assert_eq!(kinds(store).await, []);
}

/// A link updated in place keeps id and `date_added`, puts the keys of its data over the old
/// ones, and raises the version by one.
pub async fn a_link_updated_in_place_merges_its_data(store: &Arc<dyn Store>) {
    let first = identity(store).await;
    let asked = Link {
        data: fixtures::object(json!({ "name": "Grace", "rank": { "n": 1 } })),
        scopes: vec!["profile".into()],
        ..link(first.idp_id, "user-1", "account-1")
    };
    let second = linked(store, &asked).await;
    assert!(first.date_verified <= second.date_verified);
    assert_eq!(
        second,
        Identity {
            data: fixtures::object(json!({ "name": "Grace", "rank": { "n": 1 } })),
            scopes: vec!["profile".into()],
            date_verified: second.date_verified,
            version: 2,
            ..first
        }
    );
    let silent =
        Link { data: fixtures::object(json!({ "more": null })), scopes: Vec::new(), ..asked };
    let third = linked(store, &silent).await;
    let merged = json!({ "name": "Grace", "rank": { "n": 1 }, "more": null });
    assert_eq!(third.data, fixtures::object(merged));
    assert_eq!(third.scopes, ["profile"], "they stay where the link names none");
    assert_eq!(third.version, 3);
}

/// A link updated in place keeps the refresh token that was not sent again, and never an old
/// expiry.
pub async fn a_link_updated_in_place_renews_the_credentials(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let answer = Credentials {
        access_token: Some(Secret::new("access-2")),
        obtained_at: Some(fixtures::NOW),
        ..Credentials::default()
    };
    let asked = Link { credentials: Some(answer.clone()), ..link_of(&identity) };
    let renewed = linked(store, &asked).await;

    let stored = credentials_of(store, identity.id).await;
    assert_eq!(stored.credentials, Some(fixtures::credentials().renewed_by(answer)));
    assert_eq!(stored.generation, 2);
    assert_eq!(renewed.expires_at, None);
}

/// A link updated in place without credentials leaves those that are there alone.
pub async fn a_link_without_credentials_leaves_those_that_are_there(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let before = credentials_of(store, identity.id).await;
    let again = linked(store, &Link { credentials: None, ..link_of(&identity) }).await;
    assert_eq!(credentials_of(store, identity.id).await, before);
    assert_eq!(again.expires_at, identity.expires_at);
}

/// A rebound row keeps id and `date_added`; data, scopes and credentials are replaced, and the
/// event has the previous user and account.
pub async fn a_rebound_row_keeps_only_its_id(store: &Arc<dyn Store>) {
    let first = identity(store).await;
    let answer =
        Credentials { access_token: Some(Secret::new("access-2")), ..Credentials::default() };
    let asked = Link {
        data: fixtures::object(json!({ "rank": 1 })),
        scopes: Vec::new(),
        credentials: Some(answer.clone()),
        reattach: true,
        ..link(first.idp_id, "user-2", "account-1")
    };
    let second = linked(store, &asked).await;
    assert_eq!(
        second,
        Identity {
            user_id: fixtures::user("user-2"),
            data: asked.data.clone(),
            scopes: Vec::new(),
            expires_at: None,
            date_verified: second.date_verified,
            version: 2,
            ..first.clone()
        }
    );
    let stored = credentials_of(store, first.id).await;
    assert_eq!(stored.credentials, Some(answer), "nothing of the old ones is left");
    assert_eq!(stored.generation, 2);

    let event = events(store).await.pop().unwrap();
    assert_eq!(event.about, EventKind::IdentityRebound);
    assert_eq!(event.user_id, Some(second.user_id));
    assert_eq!(event.detail["previous_user_id"], "user-1");
    assert_eq!(event.detail["previous_external_id"], "account-1");
}

/// A row rebound without credentials has none, and that is a new generation.
pub async fn a_row_rebound_without_credentials_has_none(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let asked =
        Link { credentials: None, reattach: true, ..link(identity.idp_id, "user-1", "account-2") };
    let rebound = linked(store, &asked).await;
    assert_eq!((rebound.id, rebound.expires_at), (identity.id, None));
    let stored = credentials_of(store, identity.id).await;
    assert_eq!((stored.credentials, stored.generation), (None, 2));
}

/// A link and a sign-in make an invalid identity valid.
pub async fn a_link_makes_an_invalid_identity_valid(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let again = link_of(&identity);
    let sign_in = Link { owner: LinkOwner::Whoever, ..again.clone() };
    for link in [again, sign_in] {
        let held = lease(store, identity.id).await;
        store.credentials().end(&held, &end_invalid()).await.unwrap();
        let invalid = store.identities().find(identity.id).await.unwrap().unwrap();
        assert_eq!(invalid.status, IdentityStatus::Invalid);

        let valid = linked(store, &link).await;
        assert_eq!((valid.status, &valid.invalid), (IdentityStatus::Valid, &None));
        let stored = credentials_of(store, identity.id).await;
        assert_eq!((stored.status, stored.invalid), (IdentityStatus::Valid, None));
    }
}

/// A link of an invalid identity keeps none of the tokens that made it so: without credentials
/// there are none afterwards, and new ones are not put over the dead; that is a new generation.
/// So are credentials that come with new data.
pub async fn a_link_of_an_invalid_identity_keeps_none_of_its_tokens(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let answer = Credentials { refresh_token: None, id_token: None, ..fixtures::credentials() };
    let bare = Link { credentials: None, ..link_of(&identity) };
    let with_answer = Link { credentials: Some(answer.clone()), ..link_of(&identity) };
    let data = DataUpdate {
        id: identity.id,
        credentials: Some(answer.clone()),
        if_version: None,
        ..fixtures::data_update()
    };
    let invalidated = async || {
        linked(store, &link_of(&identity)).await;
        let held = lease(store, identity.id).await;
        store.credentials().end(&held, &end_invalid()).await.unwrap();
        held.generation
    };
    let assert_left = async |expected: Option<&Credentials>, generation| {
        let valid = store.identities().find(identity.id).await.unwrap().unwrap();
        assert_eq!((valid.status, valid.invalid), (IdentityStatus::Valid, None));
        assert_eq!(valid.expires_at, expected.and_then(|it| it.expires_at));
        let stored = credentials_of(store, identity.id).await;
        assert_eq!((stored.credentials.as_ref(), stored.generation), (expected, generation));
    };

    let generation = invalidated().await;
    linked(store, &bare).await;
    assert_left(None, generation + 1).await;

    let generation = invalidated().await;
    linked(store, &with_answer).await;
    assert_left(Some(&answer), generation + 1).await;

    let generation = invalidated().await;
    let updated = store.identities().update_data(&data).await.unwrap();
    assert!(matches!(updated, DataOutcome::Updated(_)), "{updated:?}");
    assert_left(Some(&answer), generation + 1).await;
}

/// New credentials clear back-off and doubt.
pub async fn new_credentials_clear_back_off_and_doubt(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let held = lease(store, identity.id).await;
    store.credentials().record_sending(&held, Duration::ZERO).await.unwrap();
    let failed = RefreshEnd::Failed { back_off: fixtures::back_off(), answered: false };
    store.credentials().end(&held, &failed).await.unwrap();
    assert_eq!(credentials_of(store, identity.id).await.back_off, Some(fixtures::back_off()));

    linked(store, &link_of(&identity)).await;

    assert_eq!(credentials_of(store, identity.id).await.back_off, None);
    let next = lease(store, identity.id).await;
    assert_eq!((next.generation, next.unanswered), (2, 0));
    assert!(next.attempt > held.attempt, "{next:?} after {held:?}");
}

/// A refresh token that stays, as the new link brought none, stays in doubt.
pub async fn a_refresh_token_that_stays_stays_in_doubt(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let held = lease(store, identity.id).await;
    store.credentials().record_sending(&held, Duration::ZERO).await.unwrap();
    let credentials = Credentials { refresh_token: None, ..fixtures::credentials() };

    let end = RefreshEnd::Failed { back_off: fixtures::back_off(), answered: false };
    store.credentials().end(&Lease { unanswered: 1, ..held }, &end).await.unwrap();

    linked(store, &Link { credentials: Some(credentials), ..link_of(&identity) }).await;

    let stored = credentials_of(store, identity.id).await.credentials.unwrap();
    assert_eq!(stored.refresh_token, fixtures::credentials().refresh_token);
    let next = lease(store, identity.id).await;
    assert_eq!((next.generation, next.unanswered), (2, 1));
}

/// A refresh token that stays, as the new link brought none, and that may be on its way, is not
/// sent by anybody else before the lease of its sender is over; and what it brings is taken, under
/// the credentials of the link. Where nothing was sent, or the link brought a refresh token, the
/// lease ends with the link.
pub async fn a_refresh_token_that_stays_and_is_on_its_way_stays_leased(store: &Arc<dyn Store>) {
    let credentials = store.credentials();
    let provider = provider(store, "p").await;
    for (user, sent, stays) in [("u", true, true), ("v", false, true), ("w", true, false)] {
        let identity = linked(store, &link(provider, user, user)).await;
        let mut held = lease(store, identity.id).await;
        if sent {
            credentials.record_sending(&held, Duration::ZERO).await.unwrap();
            held.unanswered += 1;
        }
        let refresh_token = fixtures::credentials().refresh_token.filter(|_| !stays);
        let answer = Credentials { refresh_token, ..fixtures::credentials() };
        linked(store, &Link { credentials: Some(answer), ..link_of(&identity) }).await;

        let taken = credentials.take_lease(identity.id, 2, "replica-2", LONG).await.unwrap();
        if !(sent && stays) {
            assert!(matches!(taken, LeaseOutcome::Taken(..)), "{user}: {taken:?}");
            continue;
        }
        assert_eq!(taken, LeaseOutcome::Held, "{user}");
        let again = credentials.record_sending(&held, Duration::ZERO).await.unwrap();
        assert_eq!(again, LeasedWrite::Superseded);
        let old = credentials.commit(&held, &fixtures::credentials()).await.unwrap();
        assert_eq!(old, LeasedWrite::Superseded);
        let held = Lease { generation: 2, ..held };
        let new = credentials.commit(&held, &fixtures::credentials()).await.unwrap();
        assert_eq!(new, LeasedWrite::Done);
        assert_eq!(credentials_of(store, identity.id).await.generation, 3);
    }
}

/// Of racing links of one account to different users, exactly one is kept.
pub async fn of_racing_links_of_one_account_one_user_gets_it(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let outcomes = race(64, |racer| {
        let (store, user) = (store.clone(), format!("user-{}", racer % 2));
        async move { store.identities().link(&link(provider, &user, "a")).await.unwrap() }
    })
    .await;

    let rows = identities_at(store, provider).await;
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    let (mut created, mut updated, mut taken) = (0, 0, 0);
    for outcome in outcomes {
        match outcome {
            LinkOutcome::Created(it) if it.user_id == row.user_id => created += 1,
            LinkOutcome::Updated(it) if it.user_id == row.user_id => updated += 1,
            LinkOutcome::Taken(Taken::Account) => taken += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((created, updated, taken), (1, 31, 32));
    assert_eq!(row.version, 32, "no update is lost");
    assert_eq!(kinds(store).await.len(), 32, "refused ones are not told of");
}

/// Of racing links of one user to different accounts, exactly one is kept.
pub async fn of_racing_links_of_one_user_one_account_is_kept(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let outcomes = race(64, |racer| {
        let (store, account) = (store.clone(), format!("account-{racer}"));
        async move { store.identities().link(&link(provider, "u", &account)).await.unwrap() }
    })
    .await;
    let created = outcomes.iter().filter(|it| matches!(it, LinkOutcome::Created(_))).count();
    let taken = outcomes.iter().filter(|it| matches!(it, LinkOutcome::Taken(Taken::User))).count();
    assert_eq!((created, taken), (1, 63), "{outcomes:?}");
    assert_eq!(identities_at(store, provider).await.len(), 1);
}

/// Users who take over each other's accounts at the same time leave whole rows: no user and no
/// account twice, and nobody gets an error for it.
pub async fn crossing_takeovers_leave_whole_rows(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    for (user, account) in [("u", "a"), ("v", "b")] {
        linked(store, &link(provider, user, account)).await;
    }
    let outcomes = race(32, |racer| {
        let store = store.clone();
        let (user, account) = [("u", "b"), ("v", "a"), ("u", "a"), ("v", "b")][racer % 4];
        async move {
            let asked = Link { reattach: true, ..link(provider, user, account) };
            store.identities().link(&asked).await
        }
    })
    .await;
    for outcome in outcomes {
        assert!(!matches!(outcome, Err(_) | Ok(LinkOutcome::Taken(_))), "{outcome:?}");
    }
    let rows = identities_at(store, provider).await;
    let users: HashSet<_> = rows.iter().map(|it| it.user_id.as_str()).collect();
    let accounts: HashSet<_> = rows.iter().map(|it| it.external_id.as_str()).collect();
    assert!((1..=2).contains(&rows.len()), "{rows:?}");
    assert_eq!((users.len(), accounts.len()), (rows.len(), rows.len()), "{rows:?}");
}

/// The same account proved again, with the credentials of every fixture.
fn link_of(identity: &Identity) -> Link {
    link(identity.idp_id, identity.user_id.as_str(), identity.external_id.as_str())
}
