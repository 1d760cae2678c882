//! What is taken of links of users to accounts, whatever they are for.

use symbolon_domain::{archive::Refusal, ports::Sealer};

use crate::failure::Failure;

/// A link of a user to an account, of which a group has at most one for each of them.
pub(super) trait Account {
    type Row;

    fn id(&self) -> i64;
    fn group(&self) -> i64;
    fn user(&self) -> &str;
    fn account(&self) -> &str;
    /// Whether the user may have another account there.
    fn beside_others(&self) -> bool;
    /// The row under this id.
    fn row(&self, id: i64, sealer: &dyn Sealer) -> Result<Self::Row, Failure>;
    /// There is no such group.
    fn no_group(&self) -> Refusal;
    /// The row of this id has the account.
    fn account_taken(id: i64) -> Refusal;
    /// The row of this id has the user.
    fn user_taken(id: i64) -> Refusal;
}

/// What is known of a row that is there: id, group, user and account.
pub(super) type Known = (i64, i64, String, String);

/// Takes accounts into a table: first inserts, and afterwards looks at what did not go in. An
/// import into an empty table, or once more into a full one, is the common case.
macro_rules! accounts {
    ($record:ty: $take:ident, $left:ident, $table:ident, $group:ident, $account:ident) => {
        /// Takes records; those in groups that are not `there` are refused.
        async fn $take(
            conn: &mut Conn,
            records: &[&$record],
            there: &HashSet<i64>,
            batch: &mut Batch<'_>,
        ) -> Result<Vec<ImportOutcome>, Failure> {
            let table = stringify!($table);
            let mut outcomes: Vec<Option<ImportOutcome>> = Vec::with_capacity(records.len());
            // Records and the ids that they are to be inserted under; 0 for a new one.
            let mut waiting = Vec::new();
            for (index, record) in records.iter().enumerate() {
                if there.contains(&record.group()) {
                    let id = Account::id(*record);
                    waiting.push((index, if may_be_kept(id) { id } else { 0 }));
                    outcomes.push(None);
                } else {
                    outcomes.push(Some(ImportOutcome::Refused(record.no_group())));
                }
            }
            batch.raise(conn, table, waiting.iter().map(|(_, id)| *id)).await?;

            // Each round settles at least the first record that waits.
            while !waiting.is_empty() {
                let renamed = waiting.iter().filter(|(_, id)| *id == 0).count();
                let mut new = batch.new_ids(conn, table, renamed).await?;
                // Of several records with one id the first goes first; the others see what
                // became of it.
                let (mut round, mut later, mut claimed) = (Vec::new(), Vec::new(), HashSet::new());
                for (index, id) in waiting {
                    let id = if id == 0 { new.next().unwrap_or(0) } else { id };
                    if claimed.insert(id) {
                        round.push((index, id))
                    } else {
                        later.push((index, id))
                    }
                }
                let mut rows = Vec::with_capacity(round.len());
                for (index, id) in &round {
                    rows.push(records[*index].row(*id, batch.sealer)?);
                }
                let created = insert_missing!(conn, $table::table, rows, $table::id)?;
                let created: HashSet<i64> = created.into_iter().collect();
                let (created, left): (Vec<_>, Vec<_>) =
                    round.into_iter().partition(|(_, id)| created.contains(id));
                for (index, id) in created {
                    outcomes[index] = Some(ImportOutcome::Created(id));
                }
                let taken = $left(conn, records, &left, &mut outcomes).await?;
                waiting = left
                    .into_iter()
                    .filter(|(index, _)| outcomes[*index].is_none())
                    .map(|(index, id)| (index, if taken.contains(&id) { 0 } else { id }))
                    .chain(later)
                    .collect();
                waiting.sort_unstable_by_key(|(index, _)| *index);
            }
            Ok(outcomes.into_iter().flatten().collect())
        }

        /// Says of records that did not go in what stands in their way, and answers which of
        /// their ids are taken.
        async fn $left(
            conn: &mut Conn,
            records: &[&$record],
            left: &[(usize, i64)],
            outcomes: &mut [Option<ImportOutcome>],
        ) -> Result<HashSet<i64>, Failure> {
            if left.is_empty() {
                return Ok(HashSet::new());
            }
            let columns = ($table::id, $table::$group, $table::user_id, $table::$account);
            let ids = left.iter().map(|(_, id)| *id);
            let by_id = $table::table.filter($table::id.eq_any(ids)).select(columns);
            let by_id: Vec<Known> = by_id.load(conn).await?;
            let by_id: HashMap<i64, Known> = by_id.into_iter().map(|it| (it.0, it)).collect();

            let mut others: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
            for (index, id) in left {
                let record = records[*index];
                let is_same = by_id.get(id).is_some_and(|row| {
                    row.1 == record.group() && row.2 == record.user() && row.3 == record.account()
                });
                if is_same {
                    outcomes[*index] = Some(ImportOutcome::Unchanged(*id));
                } else {
                    others.entry(record.group()).or_default().push(*index);
                }
            }
            for (group, indices) in others {
                let at = || $table::table.filter($table::$group.eq(group)).select(columns);
                let accounts = indices.iter().map(|it| records[*it].account());
                let accounts = at().filter($table::$account.eq_any(accounts));
                let mut rows: Vec<Known> = accounts.load(conn).await?;
                let users = indices.iter().map(|it| records[*it].user());
                let users = at().filter($table::user_id.eq_any(users));
                rows.extend(users.load::<Known>(conn).await?);
                for index in indices {
                    let (user, account) = (records[index].user(), records[index].account());
                    let of_account = rows.iter().find(|row| row.3 == account);
                    let of_user = rows.iter().find(|row| row.2 == user);
                    let refused = |refusal| Some(ImportOutcome::Refused(refusal));
                    outcomes[index] = match (of_account, of_user) {
                        (Some(row), _) if row.2 == user => Some(ImportOutcome::Unchanged(row.0)),
                        (Some(row), _) => refused(<$record>::account_taken(row.0)),
                        (None, Some(row)) if !records[index].beside_others() => {
                            refused(<$record>::user_taken(row.0))
                        }
                        (None, _) => None,
                    };
                }
            }
            Ok(by_id.into_keys().collect())
        }
    };
}

pub(super) use accounts;
