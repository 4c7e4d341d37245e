//! Generated integer keys of a statement's rows: which keys they get, and what is done when one was taken.
//!
//! Input: a statement that is [`Ready`] and the keys at hand ([`super::keys`]). Output: a key for each row without one,
//! such that a retry of the request meets the same shard.

use std::collections::BTreeMap;

use flotilla_shared::error::Error;
use flotilla_shared::ids::{GroupId, RequestId};
use flotilla_shared::registry::{Function, HOME_SHARD};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{Level, Read, Statement};
use tokio::time::Instant;

use super::{Options, REFRESH_LIMIT, Ready, input, slot_of_id};
use crate::Proxy;
use crate::plan::{self, Part};

impl Proxy {
    /// Keys for the rows that need one. They are chosen so that all rows of the statement are on one
    /// shard, `on` or else the one that the request id falls on: a retry of the request then meets
    /// the same shard, which remembers it.
    pub(crate) async fn assign_keys(
        &self,
        ready: &Ready,
        params: &Params,
        id: RequestId,
        on: Option<GroupId>,
        options: &Options,
    ) -> Result<BTreeMap<usize, i64>, Error> {
        let none = BTreeMap::new();
        let input = input(ready, params, &none, options);
        let rows: Vec<usize> = plan::missing_keys(input, &ready.registry).into_keys().collect();
        let Some(table) = self.target(ready).filter(|_| !rows.is_empty()) else { return Ok(none) };
        let placement = &ready.registry.placements[&table.placement];
        let slot = slot_of_id(placement, id);
        let shard = on.or_else(|| placement.owner(slot));
        let fits: Vec<_> = rows
            .iter()
            .map(|row| {
                move |key| plan::row_owner(input, &ready.registry, *row, key).is_none_or(|owner| Some(owner) == shard)
            })
            .collect();
        let name = table.name.to_ascii_lowercase();
        // Where the key does not decide the shard, no shard would notice a key that another one has
        // from the time before the table was sharded.
        if !in_key(table) && !self.keys.is_raised(&ready.registry, &name).await {
            self.raise_keys(ready, options).await?;
        }
        // By a hash some key falls anywhere; in ranges and lists none may, and those are repeated in another way.
        let hashed = placement.function == Function::Hash && in_key(table) && shard.is_some();
        let must_fit = hashed && (options.keyed || on.is_some());
        let keys = self.keys.take(&self.cluster, &ready.registry, &name, &fits, must_fit, options.deadline).await?;
        drop(fits);
        Ok(rows.into_iter().zip(keys).collect())
    }

    fn target<'a>(&self, ready: &'a Ready) -> Option<&'a flotilla_shared::registry::Table> {
        ready.registry.table(ready.prepared.analysis.record.target.as_deref()?)
    }

    /// Is one of the generated keys in use, because somebody gave it explicitly before?
    pub(crate) async fn keys_taken(
        &self,
        ready: &Ready,
        part: &Part,
        keys: &BTreeMap<usize, i64>,
        options: &Options,
    ) -> Result<bool, Error> {
        let Some((table, column)) = self.generated_column(ready) else { return Ok(false) };
        let marks = vec!["?"; keys.len()].join(", ");
        let statement = Statement {
            sql: format!("SELECT count(*) FROM {table} WHERE {column} IN ({marks})"),
            params: Params::Positional(keys.values().map(|key| Value::Integer(*key)).collect()),
        };
        let read = Read { route: None, statement, level: Level::Linearizable, freshness_ms: None };
        let rows = self.send_read(part.shard, read, options).await?;
        Ok(rows.values.first().and_then(|row| row.first()) != Some(&Value::Integer(0)))
    }

    /// Lets further keys begin behind the largest in use.
    pub(crate) async fn raise_keys(&self, ready: &Ready, options: &Options) -> Result<(), Error> {
        let (Some((table, column)), Some(target)) = (self.generated_column(ready), self.target(ready)) else {
            return Ok(());
        };
        let owners: Vec<GroupId> =
            ready.registry.placements.get(&target.placement).map_or(vec![HOME_SHARD], |p| p.owners().collect());
        let within = Options { deadline: options.deadline.min(Instant::now() + REFRESH_LIMIT), ..options.clone() };
        let mut largest = 0;
        for shard in owners {
            let statement = Statement::bare(format!("SELECT max({column}) FROM {table}"));
            let read = Read { route: None, statement, level: Level::Linearizable, freshness_ms: None };
            match self.send_read(shard, read, &within).await {
                Ok(rows) => {
                    if let Some(Value::Integer(max)) = rows.values.first().and_then(|row| row.first()) {
                        largest = largest.max(*max);
                    }
                }
                // A shard that is down refuses a collision itself once it is up.
                Err(_) if in_key(target) => (),
                Err(error) => return Err(error),
            }
        }
        self.keys.raise(&target.name.to_ascii_lowercase(), largest.saturating_add(1)).await;
        Ok(())
    }

    fn generated_column(&self, ready: &Ready) -> Option<(String, String)> {
        let table = self.target(ready)?;
        let column = &table.columns[table.rowid_alias?].name;
        Some((plan::split::quote(&table.name), plan::split::quote(column)))
    }
}

/// Is the generated column part of the shard key?
fn in_key(table: &flotilla_shared::registry::Table) -> bool {
    table.rowid_alias.is_some_and(|alias| table.key.contains(&alias))
}
