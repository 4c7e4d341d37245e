//! `POST /table/split`: brings the slots of some keys to a shard, or puts new split points into ranges.
//!
//! With `values` whole slots move as they are. With `at` the ranges that hold these points are split there; with
//! `to`, too, what begins at the points moves to that shard, in the same job. What must hold while a range is split
//! is told in `shared/src/registry/split.rs`.

use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::ids::{GroupId, Slot};
use flotilla_shared::registry::{
    Function, Goal, JobKind, Measure, Placement, Registry, Sizes, Split, Table, total_size,
};
use flotilla_shared::value::Value;
use serde_json::{Value as Json, json};

use super::params::{Fields, bad, required, with_fields};
use super::placements::{keys, points_json, shard_id};
use super::rebalance::{Asked, MOVES, measure, plan_json, spread, under_way};
use super::tables::known_table;
use crate::Proxy;

/// What `values` or `at` say.
pub async fn split(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let fields = [&["table_name", "values", "to", "default", "at"], MOVES].concat();
    let body = with_fields(&mut request, &fields)?;
    let asked = Asked::new(proxy, &request, &body)?;
    let registry = asked.registry(proxy).await?;
    let table = known_table(&registry, required(&body, "table_name")?)?;
    let placement = spread(&registry, table)?;
    asked.moves.check_rates()?;
    let given = |name: &str| body.get(name).filter(|value| !value.is_null());
    if let Some(at) = given("at") {
        if given("values").is_some() || given("default").is_some() {
            return Err(bad("`at` splits ranges, `values` and `default` name slots that move as they are")
                .hint("send two requests"));
        }
        let to = given("to").map(|_| required(&body, "to").and_then(shard_id)).transpose()?;
        let wanted = Wanted { registry: &registry, table, placement, at: keys("at", Some(at))?, to };
        return split_at(proxy, &asked, wanted).await;
    }
    let to = shard_id(required(&body, "to")?)?;
    registry.takes(placement, &table.name, to)?;
    let default = Fields::new(&request, Some(&body)).flag("default")?.unwrap_or(false);
    let values = match body.get("values") {
        None if default => vec![],
        values => keys("values", values)?,
    };
    let mut slots = Vec::new();
    for key in &values {
        if key.len() != placement.key.len() {
            return Err(bad(format!("the key has {} columns, one of `values` has {}", placement.key.len(), key.len())));
        }
        slots.push(placement.slot(key)?);
    }
    let others = match &placement.function {
        Function::List { values, default: true } => Some(Slot(values.len() as u16)),
        _ => None,
    };
    match (default, others) {
        (true, Some(slot)) => slots.push(slot),
        (true, None) => return Err(bad("the table has no default shard")),
        // A value that is not listed would take all others along.
        (false, Some(slot)) if slots.contains(&slot) => {
            return Err(Error::new(Code::UnlistedValue, "one of `values` is not listed")
                .hint("\"default\": true brings all values that are not listed to the shard"));
        }
        _ => (),
    }
    if slots.is_empty() {
        return Err(bad("`values` is empty").hint("name keys whose rows shall be on the shard"));
    }
    let goal = Goal::Give(slots.into_iter().collect(), to);
    if asked.dry_run {
        return asked.plans(proxy, &registry, &[(placement, goal)]).await;
    }
    let Goal::Give(slots, _) = goal else { return Err(Error::new(Code::Internal, "a goal has become another one")) };
    let kind = JobKind::Give { table: table.name.clone(), slots, to, options: asked.moves.clone() };
    match under_way(&registry, placement, &kind)? {
        Some(job) => asked.started(proxy, job, None).await,
        None => asked.start(proxy, kind, None).await,
    }
}

/// Split points, and where what begins at them shall be.
struct Wanted<'a> {
    registry: &'a Registry,
    table: &'a Table,
    placement: &'a Placement,
    at: Vec<Vec<Value>>,
    to: Option<GroupId>,
}

impl Wanted<'_> {
    /// The placement as it will be, with the shard of each split.
    fn after(&self, splits: &[Split]) -> Result<(Placement, Vec<GroupId>), Error> {
        let (mut after, mut owners) = (self.placement.clone(), Vec::with_capacity(splits.len()));
        for split in splits {
            let owner = after.owner(split.slot).ok_or_else(|| {
                Error::new(Code::Unavailable, format!("slot {} is on its way to another shard", split.slot))
            })?;
            after.split(split, owner, after.epoch(owner));
            owners.push(owner);
        }
        Ok((after, owners))
    }
}

async fn split_at(proxy: &Proxy, asked: &Asked, wanted: Wanted<'_>) -> Result<HttpResponse, Error> {
    let Wanted { registry, table, placement, at, to } = &wanted;
    let splits = placement.splits(at)?;
    to.map_or(Ok(()), |to| registry.takes(placement, &table.name, to))?;
    let (after, owners) = wanted.after(&splits)?;
    let begins = after.slots_from(at);
    if asked.dry_run {
        return planned(proxy, asked, &wanted, &after, owners.iter().zip(&splits)).await;
    }
    let there = |shard: &GroupId| begins.iter().all(|slot| placement.owner(slot) == Some(*shard));
    if splits.is_empty() && to.as_ref().is_none_or(there) {
        let message = match to {
            None => format!("{} has these split points already", table.name),
            Some(to) => format!("{} has these split points already, and what begins at them is on {to}", table.name),
        };
        return Ok(http::json(200, &json!({ "state": "done", "already_split": true, "message": message })));
    }
    let kind = JobKind::Split { table: table.name.clone(), at: at.clone(), to: *to, options: asked.moves.clone() };
    match under_way(registry, placement, &kind)? {
        Some(job) => asked.started(proxy, job, None).await,
        None => asked.start(proxy, kind, None).await,
    }
}

/// Answers what would be split, and what would move then.
async fn planned(
    proxy: &Proxy,
    asked: &Asked,
    wanted: &Wanted<'_>,
    after: &Placement,
    splits: impl Iterator<Item = (&GroupId, &Split)>,
) -> Result<HttpResponse, Error> {
    // Shards count rows by whatever ranges they are asked for.
    let sizes = match measure(proxy, wanted.registry, after, asked.options.deadline).await {
        Ok(sizes) => Some(sizes),
        Err(error) if asked.moves.by == Measure::Slots && error.code.class() == Class::Retry => None,
        Err(error) => return Err(error),
    };
    let leaving = wanted.registry.leaving(after.id);
    let goal = wanted.to.map(|to| Goal::Give(after.slots_from(&wanted.at), to));
    let plan = goal.map(|goal| after.plan(&goal, &asked.moves, &leaving, sizes.as_ref().unwrap_or(&Sizes::new())));
    let moves: Vec<_> = plan
        .unwrap_or_default()
        .into_iter()
        .map(|transfer| (transfer.clone(), sizes.as_ref().map(|sizes| total_size(sizes, &transfer.slots))))
        .collect();
    let parts = |split: &Split| -> Json {
        let size = |slot| sizes.as_ref().map(|sizes| sizes.get(&slot).copied().unwrap_or_default());
        let one =
            |slot| json!({ "rows": size(slot).map(|size| size.rows), "bytes": size(slot).map(|size| size.bytes) });
        split.slots().iter().map(one).collect()
    };
    let split = |(shard, split): (&GroupId, &Split)| {
        let at = points_json(&split.points);
        json!({ "shard": shard, "at": at, "parts": parts(split) })
    };
    let mut answer = plan_json(&moves);
    answer["splits"] = splits.map(split).collect();
    answer["split_points"] = points_json(after.function.points());
    Ok(http::json(200, &answer))
}
