//! Placements in JSON: what a registration asks for, and how a table lies.
//!
//! ```json
//! {"table_name": "t", "shard_key": "id", "shard_func": "hash"}
//! {"table_name": "t", "shard_key": ["day", "id"], "shard_func": "range", "split_points": ["2024-01-01", ["2025-01-01", 500]]}
//! {"table_name": "t", "shard_key": "country", "shard_func": "list", "values": {"shard1": ["de", "fr"], "shard2": ["us"]}, "default": "shard3"}
//! {"table_name": "t", "shard_func": "reference"}
//! ```

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, Slot};
use flotilla_shared::registry::{Function, HOME, Placement, Registration, Registry, SlotSet, Spread, Table};
use flotilla_shared::value::Value;
use serde_json::{Value as Json, json};

use super::params::{bad, required};

/// The registration that a body asks for.
///
/// # Errors
/// [`Code::BadRequest`] for what has another form; the columns are checked by the job.
pub(super) fn registration(body: &Json) -> Result<Registration, Error> {
    let table = required(body, "table_name")?.to_owned();
    let colocate_with = match given(body, "colocate_with") {
        None => None,
        Some(Json::String(table)) => Some(table.clone()),
        Some(_) => return Err(bad("`colocate_with` is the name of a table")),
    };
    let function = match given(body, "shard_func") {
        None => "hash".to_owned(),
        Some(Json::String(name)) => name.to_ascii_lowercase(),
        Some(_) => return Err(bad("`shard_func` is a text")),
    };
    let allowed: &[&str] = match (function.as_str(), &colocate_with) {
        ("hash" | "range" | "list", Some(_)) => &["shard_key", "nullable"],
        ("hash", None) => &["shard_key", "nullable", "shards"],
        ("range", None) => &["shard_key", "nullable", "shards", "split_points"],
        ("list", None) => &["shard_key", "nullable", "values", "default"],
        ("reference", _) => &[],
        _ => {
            return Err(Error::new(Code::BadRequest, format!("there is no shard_func `{function}`"))
                .hint("use hash, range, list or reference"));
        }
    };
    let fields = ["shard_key", "nullable", "shards", "split_points", "values", "default"];
    if let Some(name) = fields.iter().find(|name| given(body, name).is_some() && !allowed.contains(name)) {
        let with = if colocate_with.is_some() { " with `colocate_with`" } else { "" };
        return Err(bad(format!("`{name}` does not go with shard_func `{function}`{with}")));
    }
    let key = match given(body, "shard_key") {
        Some(key) => texts("shard_key", key)?,
        None if function == "reference" => vec![],
        None => return Err(bad("`shard_key` is missing")),
    };
    if key.is_empty() && function != "reference" {
        return Err(bad("`shard_key` names no column"));
    }
    let shards = match given(body, "shards") {
        None => vec![],
        Some(list) => texts("shards", list)?.iter().map(|text| shard_id(text)).collect::<Result<_, _>>()?,
    };
    let nullable = match given(body, "nullable") {
        None => false,
        Some(Json::Bool(nullable)) => *nullable,
        Some(_) => return Err(bad("`nullable` is true or false")),
    };
    let spread = match (function.as_str(), &colocate_with) {
        ("reference", None) => Spread::Reference,
        ("reference", Some(_)) => return Err(bad("a reference table is on every shard: leave out `colocate_with`")),
        ("range", None) => Spread::Range { points: keys("split_points", given(body, "split_points"))? },
        ("list", None) => listed(body)?,
        _ => Spread::Hash,
    };
    Ok(Registration { table, key, spread, nullable, colocate_with, shards })
}

fn given<'a>(body: &'a Json, name: &str) -> Option<&'a Json> {
    body.get(name).filter(|value| !value.is_null())
}

fn texts(name: &str, value: &Json) -> Result<Vec<String>, Error> {
    let list = match value {
        Json::String(text) => return Ok(vec![text.clone()]),
        Json::Array(list) => list,
        _ => return Err(bad(format!("`{name}` is a text or a list of texts"))),
    };
    list.iter()
        .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| bad(format!("`{name}` is a list of texts"))))
        .collect()
}

/// Keys: a value for the one key column, or a list with a value for each.
pub(super) fn keys(name: &str, value: Option<&Json>) -> Result<Vec<Vec<Value>>, Error> {
    let Some(Json::Array(list)) = value else { return Err(bad(format!("`{name}` is a list of values"))) };
    let key = |item: &Json| match item {
        Json::Array(values) => values.iter().map(Value::from_json).collect(),
        value => Value::from_json(value).map(|value| vec![value]),
    };
    list.iter().map(key).collect()
}

fn listed(body: &Json) -> Result<Spread, Error> {
    let Some(Json::Object(map)) = given(body, "values") else {
        return Err(
            bad("`values` is missing").hint("send {\"values\": {\"shard1\": [\"de\", \"fr\"], \"shard2\": [\"us\"]}}")
        );
    };
    let values = map
        .iter()
        .map(|(shard, list)| Ok((shard_id(shard)?, keys("values", Some(list))?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let default = match given(body, "default") {
        None => None,
        Some(Json::String(shard)) => Some(shard_id(shard)?),
        Some(_) => return Err(bad("`default` is the name of a shard")),
    };
    Ok(Spread::List { values, default })
}

/// The shard that a text names.
///
/// # Errors
/// [`Code::BadRequest`].
pub(super) fn shard_id(text: &str) -> Result<GroupId, Error> {
    text.parse::<GroupId>()
        .ok()
        .filter(|group| group.is_shard())
        .ok_or_else(|| bad(format!("`{text}` names no shard")).hint("shards are named shard1, shard2, …"))
}

pub(super) fn columns_json(table: &Table) -> Json {
    let columns = table.columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.declared,
            "affinity": column.compare.affinity,
            "collation": column.compare.collation,
            "not_null": column.not_null,
            "primary_key": column.primary_key,
            "generated": column.generated,
        })
    });
    columns.collect()
}

/// What a shard has of a placement. A list shows its values there, ranges where they begin and end.
pub(super) fn shard_json(placement: &Placement, shard: GroupId) -> Json {
    let owned = placement.owned.get(&shard);
    let mut json = json!({
        "id": shard,
        "slots": owned.map_or(0, SlotSet::len),
        "epoch": placement.epoch(shard),
    });
    if let Function::List { values, default } = &placement.function {
        let has = |slot: usize| owned.is_some_and(|set| set.contains(Slot(slot as u16)));
        json["values"] = (0..values.len()).filter(|slot| has(*slot)).map(|slot| key_json(&values[slot])).collect();
        if *default && has(values.len()) {
            json["default"] = Json::Bool(true);
        }
    }
    if placement.may_split() {
        let here = placement.ranges().filter(|(slot, _, _)| owned.is_some_and(|set| set.contains(*slot)));
        json["ranges"] =
            here.map(|(_, from, to)| json!({ "from": from.map(key_json), "to": to.map(key_json) })).collect();
    }
    json
}

/// A key of one column is its value.
fn key_json(key: &[Value]) -> Json {
    match key {
        [one] => one.to_json(),
        several => several.iter().map(Value::to_json).collect(),
    }
}

/// Split points, each as a key.
pub(super) fn points_json(points: &[Vec<Value>]) -> Json {
    points.iter().map(|point| key_json(point)).collect()
}

/// A table without its columns.
pub fn table_json(registry: &Registry, table: &Table) -> Json {
    let key: Vec<&str> = table.key_names().collect();
    let placement = registry.placements.get(&table.placement);
    let shards: Vec<Json> =
        placement.map_or_else(Vec::new, |p| p.shards.iter().map(|shard| shard_json(p, *shard)).collect());
    let mut json = json!({
        "name": table.name,
        "sharded": table.placement != HOME,
        "placement": table.placement,
        "shard_key": key,
        "shard_func": placement.map(|placement| placement.function.name()),
        "slots": placement.map(Placement::slot_count),
        "shards": shards,
    });
    if let Some(placement) = placement.filter(|placement| placement.may_split()) {
        json["split_points"] = points_json(placement.function.points());
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every form of a registration is understood.
    #[test]
    fn forms() {
        let spread = |body: Json| registration(&body).map(|wanted| (wanted.key, wanted.spread)).unwrap();
        let text = |s: &str| Value::Text(s.into());
        let a = || vec!["a".to_owned()];
        assert_eq!(spread(json!({"table_name": "t", "shard_key": "a"})), (a(), Spread::Hash));
        assert_eq!(
            spread(
                json!({"table_name": "t", "shard_key": ["a", "b"], "shard_func": "RANGE", "split_points": [5, ["x", null]]})
            ),
            (
                vec!["a".to_owned(), "b".to_owned()],
                Spread::Range { points: vec![vec![Value::Integer(5)], vec![text("x"), Value::Null]] }
            )
        );
        assert_eq!(
            spread(json!({"table_name": "t", "shard_key": "a", "shard_func": "list",
                "values": {"shard1": ["de", "fr"], "shard2": [{"blob": "AQ=="}]}, "default": "shard3"})),
            (
                a(),
                Spread::List {
                    values: vec![
                        (GroupId(1), vec![vec![text("de")], vec![text("fr")]]),
                        (GroupId(2), vec![vec![Value::Blob(vec![1])]])
                    ],
                    default: Some(GroupId(3))
                }
            )
        );
        assert_eq!(spread(json!({"table_name": "t", "shard_func": "reference"})), (vec![], Spread::Reference));
        let with =
            registration(&json!({"table_name": "t", "shard_key": "a", "shard_func": "list", "colocate_with": "u"}));
        assert_eq!(with.unwrap().colocate_with.as_deref(), Some("u"));
    }

    /// What has another form is refused, and so is a field that would be ignored.
    #[test]
    fn refusals() {
        for body in [
            json!({"shard_key": "a"}),
            json!({"table_name": "t"}),
            json!({"table_name": "t", "shard_key": []}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "modulo"}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": 7}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "range"}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "range", "split_points": 5}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "range", "split_points": [{"x": 1}]}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "hash", "split_points": [5]}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "list"}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "list", "values": {"meta": [1]}}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "list", "values": {"shard1": [1]}, "default": 2}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "list", "values": {"shard1": [1]}, "shards": ["shard1"]}),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "reference"}),
            json!({"table_name": "t", "shard_func": "reference", "colocate_with": "u"}),
            json!({"table_name": "t", "shard_key": "a", "colocate_with": "u", "shards": ["shard1"]}),
            json!({"table_name": "t", "shard_key": "a", "nullable": "yes"}),
        ] {
            assert_eq!(registration(&body).unwrap_err().code, Code::BadRequest, "{body}");
        }
    }
}
