//! `PRAGMA foreign_key_check`: rows that refer to nothing, on all shards.
//!
//! A shard can tell where parent and child are on it: both unsharded, joined by their shard keys, or the parent a
//! reference table. Each shard that has such tables is asked as written, at the ownership versions at hand, and
//! their rows are put together; of a reference table, which each shard has, those of the home shard.
//!
//! Refused: a foreign key that leads to other shards, and the table-valued form, which the mirror would answer
//! without looking at any row.

use std::collections::BTreeSet;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::GroupId;
use flotilla_shared::registry::{HOME_SHARD, Registry};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{Read, Route, Rows, Statement};

use crate::Proxy;
use crate::execute::{Options, Ready};
use crate::lex::Tokens;
use crate::plan::keys::claim_all;

impl Proxy {
    pub(crate) async fn check_foreign_keys(&self, ready: &Ready, options: &Options) -> Result<Rows, Error> {
        let (registry, schema) = (&ready.registry, &ready.mirror.schema);
        let tokens = Tokens::read(&ready.prepared.sql)?;
        if !tokens.is_word(0, "PRAGMA") {
            return Err(Error::new(Code::Unroutable, "pragma_foreign_key_check() cannot be part of a query")
                .hint("use PRAGMA foreign_key_check"));
        }
        let at = if tokens.is_mark(2, ".") { 4 } else { 2 };
        let named = tokens.name(at + 1).filter(|_| at < tokens.list.len()).map(|name| name.to_ascii_lowercase());
        let asked = |child: &str| named.as_deref().is_none_or(|name| name == child);
        if let Some(key) = schema.foreign_keys.iter().find(|key| asked(&key.child) && !schema.may_refer(key)) {
            let message = format!("a foreign key of {} to {} leads to other shards", key.child, key.parent);
            return Err(Error::new(Code::Unroutable, message).hint("PRAGMA foreign_key_check(table) checks one table"));
        }
        let mut answer =
            Rows { columns: ready.prepared.columns.clone(), types: ready.prepared.types.clone(), values: vec![] };
        for shard in shards(registry, named.as_deref()) {
            let claims = registry.placements.values().filter(|placement| placement.owners().any(|one| one == shard));
            let claims = claims.map(|placement| claim_all(placement, shard)).collect();
            let route = Some(Route { schema: ready.mirror.version, claims });
            let statement = Statement { sql: ready.prepared.sql.clone(), params: Params::default() };
            let read = Read { route, statement, level: options.level, freshness_ms: options.freshness_ms };
            let rows = self.send_read(shard, read, options).await?;
            answer.values.extend(rows.values.into_iter().filter(|row| match child(row) {
                Some(child) if schema.tables.get(&child).is_some_and(|table| schema.is_reference(table.placement)) => {
                    shard == HOME_SHARD
                }
                _ => true,
            }));
        }
        Ok(answer)
    }
}

fn child(row: &[Value]) -> Option<String> {
    match row.first()? {
        Value::Text(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    }
}

/// The shards that have the table, or any.
fn shards(registry: &Registry, named: Option<&str>) -> BTreeSet<GroupId> {
    match named {
        Some(name) => registry.placement_of(name).map(|placement| placement.owners().collect()).unwrap_or_default(),
        None => registry.placements.values().flat_map(|placement| placement.owners()).collect(),
    }
}
