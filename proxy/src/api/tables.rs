//! `POST /table/register` and `/table/add-to-shard`; `GET /table` and `/table/{name}`.

use flotilla_shared::client::unexpected;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::form::path_piece;
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::ids::GroupId;
use flotilla_shared::registry::{Function, HOME, JobKind, Registration, Registry, Spread, Table};
use flotilla_shared::slot::KeyColumn;
use flotilla_shared::value::Value;
use flotilla_shared::wire::{Level, Read, Request, Response, Statement};
use futures::StreamExt;
use serde_json::{Value as Json, json};

use super::params::{Fields, required, with_fields};
use super::placements::{columns_json, registration, shard_id, shard_json, table_json};
use crate::Proxy;
use crate::execute::send::MAX_FAN_OUT;
use crate::plan::split::quote;

/// Shards a table.
pub async fn register(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let fields = [
        "table_name",
        "shard_key",
        "shard_func",
        "split_points",
        "values",
        "default",
        "shards",
        "colocate_with",
        "nullable",
    ];
    let body = with_fields(&mut request, &fields)?;
    let fields = Fields::new(&request, Some(&body));
    let options = fields.options(proxy, false)?;
    let wait = fields.flag("wait")?.unwrap_or(true);
    let wanted = registration(&body)?;
    proxy.registry(options.deadline).await?;
    let registry = proxy.refreshed(options.deadline).await?;
    let table = known_table(&registry, &wanted.table)?;
    if table.placement != HOME {
        return registered_already(&registry, table, &wanted);
    }
    let job = proxy.start(options.id, JobKind::Register(wanted.clone()), options.deadline).await?;
    if !wait {
        return Ok(http::json(202, &json!({ "job": job.to_string() })));
    }
    proxy.finish(job, options.deadline).await?;
    let registry = proxy.cluster.registry();
    Ok(http::json(
        200,
        &json!({
            "job": job.to_string(),
            "state": "done",
            "table": registry.table(&wanted.table).map(|table| table_json(&registry, table)),
        }),
    ))
}

/// The same registration again is no error; another one is.
fn registered_already(registry: &Registry, table: &Table, wanted: &Registration) -> Result<HttpResponse, Error> {
    let function = registry.placements.get(&table.placement).map(|placement| &placement.function);
    let same_key = table.key.len() == wanted.key.len()
        && table.key_names().zip(&wanted.key).all(|(a, b)| a.eq_ignore_ascii_case(b));
    let same_function = wanted.colocate_with.is_some()
        || match (function, &wanted.spread) {
            (Some(Function::Hash), Spread::Hash) | (Some(Function::Reference), Spread::Reference) => true,
            // A table whose ranges were split may be registered again as it was, and as it is.
            (Some(function @ (Function::Range { .. } | Function::SplitRange(_))), Spread::Range { points }) => {
                let compare: Vec<KeyColumn> = table.key.iter().map(|index| table.columns[*index].compare).collect();
                Function::range(&compare, points.clone())
                    .is_ok_and(|again| [&function.registered_points()[..], function.points()].contains(&again.points()))
            }
            (Some(function @ Function::List { .. }), Spread::List { values, default }) => {
                let compare: Vec<KeyColumn> = table.key.iter().map(|index| table.columns[*index].compare).collect();
                Function::list(&compare, values, *default).is_ok_and(|(again, _)| again == *function)
            }
            _ => false,
        };
    if !same_key || !same_function {
        let how = match function {
            Some(Function::Reference) => "a reference table".to_owned(),
            _ => {
                let names: Vec<&str> = table.key_names().collect();
                let function = function.map_or("", Function::name);
                format!("sharded by {function} of {}", names.join(", "))
            }
        };
        return Err(Error::new(Code::AlreadyRegistered, format!("{} is {how}", table.name))
            .hint("a table's shard key stays; make a new table to shard it otherwise"));
    }
    Ok(http::json(
        200,
        &json!({
            "state": "done",
            "already_registered": true,
            "table": table_json(registry, table),
        }),
    ))
}

/// Lets a shard hold a table.
pub async fn add_to_shard(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_fields(&mut request, &["table_name", "shard_id"])?;
    let fields = Fields::new(&request, Some(&body));
    let options = fields.options(proxy, false)?;
    let wait = fields.flag("wait")?.unwrap_or(true);
    let name = required(&body, "table_name")?;
    let shard = shard_id(required(&body, "shard_id")?)?;
    proxy.registry(options.deadline).await?;
    let registry = proxy.refreshed(options.deadline).await?;
    let table = known_table(&registry, name)?;
    if !registry.groups.contains_key(&shard) {
        return Err(Error::new(Code::NoSuchObject, format!("there is no {shard}")).hint("GET /shard lists the shards"));
    }
    let placement = registry.placements.get(&table.placement);
    if registry.leaving(table.placement).contains(&shard) {
        return Err(Error::new(Code::Conflict, format!("{} is being taken off {shard}", table.name))
            .hint("wait for the end of that job, or cancel it; see GET /job"));
    }
    if placement.is_some_and(|placement| placement.shards.contains(&shard)) {
        return Ok(http::json(
            200,
            &json!({ "state": "done", "already_there": true, "table": table_json(&registry, table) }),
        ));
    }
    let job = proxy.start(options.id, JobKind::AddToShard { table: name.to_owned(), shard }, options.deadline).await?;
    if !wait {
        return Ok(http::json(202, &json!({ "job": job.to_string() })));
    }
    proxy.finish(job, options.deadline).await?;
    let registry = proxy.cluster.registry();
    Ok(http::json(
        200,
        &json!({
            "job": job.to_string(),
            "state": "done",
            "table": registry.table(name).map(|table| table_json(&registry, table)),
        }),
    ))
}

/// The table of that name.
pub fn known_table<'a>(registry: &'a Registry, name: &str) -> Result<&'a Table, Error> {
    registry.table(name).ok_or_else(|| {
        Error::new(Code::NoSuchTable, format!("no such table: {name}"))
            .hint("GET /table lists the tables; create it first")
    })
}

/// All tables.
pub async fn list(proxy: &Proxy, request: &HttpRequest) -> Result<HttpResponse, Error> {
    let registry = proxy.registry(Fields::shown(request)?.deadline(proxy)?).await?;
    let tables: Vec<Json> = registry.tables.values().map(|table| table_json(&registry, table)).collect();
    Ok(http::json(200, &json!({ "tables": tables })))
}

/// One table with its columns, and slots and rows per shard.
pub async fn show(proxy: &Proxy, request: &HttpRequest) -> Result<HttpResponse, Error> {
    let deadline = Fields::shown(request)?.deadline(proxy)?;
    let mut registry = proxy.registry(deadline).await?;
    let name = path_piece(request.path.trim_start_matches("/table/"))?;
    if registry.table(&name).is_none() {
        registry = proxy.refreshed(deadline).await?;
    }
    let table = known_table(&registry, &name)?;
    let Some(placement) = registry.placements.get(&table.placement) else {
        return Err(Error::new(Code::Internal, format!("placement {} is not known", table.placement)));
    };
    let count = Statement::bare(format!("SELECT count(*) FROM {}", quote(&table.name)));
    let rows = placement.shards.iter().map(|shard| {
        // Whoever leads, whether or not a majority answers it just now.
        let read = Read { route: None, statement: count.clone(), level: Level::None, freshness_ms: None };
        let asked = proxy.cluster.call(*shard, Request::Read { group: *shard, read }, deadline);
        async move {
            let rows = match asked.await {
                Ok(Response::Rows(rows)) => Ok(rows.values.into_iter().flatten().next().unwrap_or(Value::Null)),
                Ok(other) => Err(unexpected(&other)),
                Err(error) => Err(error),
            };
            (*shard, rows)
        }
    });
    let rows: Vec<_> = rows.collect();
    let counted: Vec<(GroupId, Result<Value, Error>)> =
        futures::stream::iter(rows).buffered(MAX_FAN_OUT).collect().await;
    let mut shown = table_json(&registry, table);
    shown["columns"] = columns_json(table);
    shown["shards"] = counted
        .into_iter()
        .map(|(shard, rows)| {
            let mut json = shard_json(placement, shard);
            match rows {
                Ok(rows) => json["rows"] = rows.to_json(),
                Err(error) => json["error"] = error.to_json()["error"].clone(),
            }
            json
        })
        .collect();
    Ok(http::json(200, &shown))
}
