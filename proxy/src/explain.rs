//! Plans for people: which shards do what, what the proxy's own SQLite finishes, and how SQLite goes
//! about each of these.
//!
//! Input: a plan. Output: a tree of lines, for `GET /explain`, for `.explain` in the shell and for
//! `EXPLAIN QUERY PLAN`. SQLite's part is that of an empty database with the same schema; a shard that
//! was analyzed may choose another index.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_shared::error::Error;
use flotilla_shared::registry::{HOME, Registry, SlotSet};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{Claim, Rows, Statement};
use serde_json::{Value as Json, json};

use crate::merge::{Bounds, Session};
use crate::mirror::Mirror;
use crate::plan::{self, Input, Part, Plan, Staged};

/// How long SQLite may think about the last query.
const TIME_LIMIT: Duration = Duration::from_millis(500);

/// A plan as lines of a tree and as JSON.
#[derive(Debug, Default)]
pub struct Explanation {
    /// Depth and text.
    pub lines: Vec<(usize, String)>,
    /// The same in parts.
    pub json: Json,
}

impl Explanation {
    /// Explains the plan of a statement.
    pub fn of(plan: &Plan, statement: &Statement, mirror: &Mirror, registry: &Registry) -> Self {
        let mut lines = Vec::new();
        let mut json = json!({ "class": plan.class() });
        match plan {
            Plan::Refused(error) => {
                lines.push((0, format!("refused: {error}")));
                json["error"] = error.to_json()["error"].clone();
            }
            Plan::Local => lines.push((0, "local: no shard is asked, the proxy answers it from the schema".to_owned())),
            Plan::Copies(copies) => {
                let shards: Vec<String> = copies.shards.iter().map(ToString::to_string).collect();
                lines.push((0, "a job runs it on every copy of the reference table".to_owned()));
                lines.push((1, format!("{}: {}", shards.join(", "), one_line(&statement.sql))));
                json["steps"] = json!([{
                    "shards": shards.iter().map(|shard| json!({ "shard": shard })).collect::<Vec<_>>(),
                    "sql": statement.sql,
                    "args": args(&statement.params),
                }]);
            }
            Plan::One(part) => {
                lines.push((0, "one shard runs it".to_owned()));
                json["steps"] =
                    json!([step(None, std::slice::from_ref(part), statement, mirror, registry, &mut lines)]);
            }
            Plan::Some(parts) | Plan::All(parts) => {
                let which = if matches!(plan, Plan::All(_)) { "all shards" } else { "the shards of its keys" };
                lines.push((0, format!("{which} run it, their results are put together")));
                // Parts of an INSERT differ; those of all else are the same statement.
                json["steps"] = match parts.iter().all(|part| part.statement.is_none()) {
                    true => json!([step(None, parts, statement, mirror, registry, &mut lines)]),
                    false => parts
                        .iter()
                        .map(|part| step(None, std::slice::from_ref(part), statement, mirror, registry, &mut lines))
                        .collect(),
                };
            }
            Plan::Staged(staged) => {
                let (head, read, parts) = match staged {
                    Staged::Insert(read) => ("rows are read first, then inserted on their shards", read, None),
                    Staged::ByKey(read) => ("rows are found first, then written by their keys", read, None),
                    Staged::Find(read, parts) => (
                        "shards that have such rows run it as written; which they are is asked first",
                        read,
                        Some(parts),
                    ),
                };
                lines.push((0, head.to_owned()));
                match parts {
                    Some(parts) => json["steps"] = json!([step(None, parts, read, mirror, registry, &mut lines)]),
                    None => {
                        let nested = Self::of(&plan_of(read, mirror, registry), read, mirror, registry);
                        lines.extend(nested.lines.iter().map(|(depth, text)| (depth + 1, text.clone())));
                        json["read"] = nested.json;
                    }
                }
            }
            Plan::Merge(merge) => {
                let head = match merge.why {
                    "" => format!("shards do {}, SQLite in the proxy finishes", merge.pushed),
                    why => format!(
                        "tables are pulled ({}), SQLite in the proxy runs the statement, since {why}",
                        merge.pushed
                    ),
                };
                lines.push((0, head));
                json["pushed"] = json!(merge.pushed);
                json["why"] = json!(merge.why);
                json["steps"] = merge
                    .pulls
                    .iter()
                    .map(|pull| step(Some(&pull.table), &pull.parts, statement, mirror, registry, &mut lines))
                    .collect();
                lines.push((1, format!("finish: {}", one_line(&merge.finish.sql))));
                let plan = finish_plan(&merge.setup, &merge.finish);
                lines.extend(plan.iter().map(|(depth, text)| (depth + 2, text.clone())));
                json["finish"] = json!({
                    "setup": merge.setup,
                    "sql": merge.finish.sql,
                    "args": args(&merge.finish.params),
                    "query_plan": texts(&plan),
                });
            }
        }
        let mut explanation = Self { lines, json };
        explanation.json["text"] = json!(explanation.text());
        explanation
    }

    /// The tree as text.
    pub fn text(&self) -> String {
        let lines: Vec<String> =
            self.lines.iter().map(|(depth, text)| format!("{}{text}", "  ".repeat(*depth))).collect();
        lines.join("\n")
    }

    /// The tree as SQLite gives one for `EXPLAIN QUERY PLAN`.
    pub fn rows(&self, columns: &[String], types: &[String]) -> Rows {
        let mut parents: Vec<i64> = vec![0];
        let mut values = Vec::with_capacity(self.lines.len());
        for (n, (depth, text)) in self.lines.iter().enumerate() {
            let id = n as i64 + 1;
            parents.truncate(depth + 1);
            let parent = parents.last().copied().unwrap_or(0);
            parents.push(id);
            values.push(vec![Value::Integer(id), Value::Integer(parent), Value::Integer(0), Value::Text(text.clone())]);
        }
        Rows { columns: columns.to_vec(), types: types.to_vec(), values }
    }
}

/// The plan of the read that is part of a write.
fn plan_of(read: &Statement, mirror: &Mirror, registry: &Registry) -> Plan {
    let keys = BTreeMap::new();
    match mirror.prepare_own_kept(&read.sql) {
        Ok((prepared, _)) => {
            let input = Input { mirror, prepared: &prepared, params: &read.params, allow_partial: false, keys: &keys };
            plan::plan(input, registry)
        }
        Err(error) => Plan::Refused(error),
    }
}

/// What some shards do with one text.
fn step(
    table: Option<&str>,
    parts: &[Part],
    written: &Statement,
    mirror: &Mirror,
    registry: &Registry,
    lines: &mut Vec<(usize, String)>,
) -> Json {
    let statement = parts.first().and_then(|part| part.statement.as_ref()).unwrap_or(written);
    let shards: Vec<(String, Option<usize>)> =
        parts.iter().map(|part| (part.shard.to_string(), slots(part, registry))).collect();
    let named: Vec<String> = shards
        .iter()
        .map(|(shard, slots)| slots.map_or_else(|| shard.clone(), |slots| format!("{shard} ({slots} slots)")))
        .collect();
    let what = table.map_or_else(String::new, |table| format!("{table} from "));
    lines.push((1, format!("{what}{}: {}", named.join(", "), one_line(&statement.sql))));
    let plan = shard_plan(mirror, statement);
    lines.extend(plan.iter().map(|(depth, text)| (depth + 2, text.clone())));
    json!({
        "table": table,
        "shards": shards.iter().map(|(shard, slots)| json!({ "shard": shard, "slots": slots })).collect::<Vec<_>>(),
        "sql": statement.sql,
        "args": args(&statement.params),
        "query_plan": texts(&plan),
    })
}

/// How many slots a part relies on; none for tables without a shard key.
fn slots(part: &Part, registry: &Registry) -> Option<usize> {
    let count = |claim: &Claim| {
        let placement = registry.placements.get(&claim.placement).filter(|placement| placement.id != HOME)?;
        let owned = || placement.owned.get(&part.shard).map_or(0, SlotSet::len);
        Some(claim.slots.as_ref().map_or_else(owned, SlotSet::len))
    };
    part.claims.iter().filter_map(count).max()
}

fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn args(params: &Params) -> Json {
    match params {
        Params::Positional(list) => list.iter().map(Value::to_json).collect(),
        Params::Named(list) => list.iter().map(|(name, value)| (name.clone(), value.to_json())).collect(),
    }
}

fn texts(plan: &[(usize, String)]) -> Vec<String> {
    plan.iter().map(|(depth, text)| format!("{}{text}", "  ".repeat(*depth))).collect()
}

/// SQLite's plan on the empty schema; nothing where it has none to tell.
fn shard_plan(mirror: &Mirror, statement: &Statement) -> Vec<(usize, String)> {
    let explain = || -> Result<Rows, Error> {
        let prepared = mirror.prepare_own(&format!("EXPLAIN QUERY PLAN {}", statement.sql))?;
        mirror.answer(&prepared, &statement.params)
    };
    explain().map(|rows| tree(&rows.values)).unwrap_or_default()
}

fn finish_plan(setup: &[String], finish: &Statement) -> Vec<(usize, String)> {
    let bounds = Bounds { pulled_rows: 0, pulled_bytes: 0, result_rows: 10_000, result_bytes: 1 << 20 };
    let explained = Statement { sql: format!("EXPLAIN QUERY PLAN {}", finish.sql), params: finish.params.clone() };
    let session = Session::open(setup, bounds, Instant::now() + TIME_LIMIT);
    session.and_then(|session| session.finish(&explained)).map(|values| tree(&values)).unwrap_or_default()
}

/// Depth and text of each row of `EXPLAIN QUERY PLAN`: id, parent, unused, text.
fn tree(rows: &[Vec<Value>]) -> Vec<(usize, String)> {
    let mut path: Vec<i64> = Vec::new();
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let [Value::Integer(id), Value::Integer(parent), _, Value::Text(text)] = row.as_slice() else { continue };
        while path.last().is_some_and(|last| last != parent) {
            path.pop();
        }
        lines.push((path.len(), text.clone()));
        path.push(*id);
    }
    lines
}
