//! `POST /table/rebalance` and `POST /job/{id}/cancel|pause|resume`.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::ids::JobId;
use flotilla_shared::registry::{HOME, JobKind, MetaCommand, MoveChange, Transfer, Wish};
use serde_json::{Value as Json, json};

use super::params::{Fields, bad, required};
use super::tables::known_table;
use crate::Proxy;

/// Spreads a table's slots evenly over its shards, and those of the tables that are colocated with it.
pub async fn rebalance(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = request.json()?;
    let fields = Fields::new(&request, Some(&body));
    let options = fields.options(proxy, false)?;
    let (dry_run, wait) = (fields.flag("dry_run")?.unwrap_or(false), fields.flag("wait")?.unwrap_or(false));
    let name = required(&body, "table_name")?;
    proxy.registry(options.deadline).await?;
    let registry = proxy.refreshed(options.deadline).await?;
    let table = known_table(&registry, name)?;
    let placement = registry.placements.get(&table.placement).filter(|placement| placement.id != HOME);
    let Some(placement) = placement.filter(|placement| !placement.key.is_empty()) else {
        return Err(Error::new(Code::Conflict, format!("{} is not spread by a key", table.name))
            .hint("POST /table/register gives it one"));
    };
    let transfers = placement.transfers();
    let slots: usize = transfers.iter().map(|transfer| transfer.slots.len()).sum();
    if dry_run {
        let moves: Vec<Json> = transfers.iter().map(transfer_json).collect();
        return Ok(http::json(200, &json!({ "dry_run": true, "slots": slots, "moves": moves })));
    }
    let kind = JobKind::Rebalance { table: table.name.clone() };
    let under_way = registry.jobs.values().find(|job| !job.ended() && job.kind == kind);
    let job = match under_way {
        Some(job) => job.id,
        None if transfers.is_empty() => {
            let message = format!("the slots of {} are spread evenly already", table.name);
            return Ok(http::json(200, &json!({ "state": "done", "already_even": true, "message": message })));
        }
        None => proxy.start(options.id, kind, options.deadline).await?,
    };
    if !wait {
        return Ok(http::json(202, &json!({ "job": job.to_string(), "slots": slots })));
    }
    proxy.finish(job, options.deadline).await?;
    Ok(http::json(200, &json!({ "job": job.to_string(), "state": "done" })))
}

fn transfer_json(transfer: &Transfer) -> Json {
    json!({ "from": transfer.from, "to": transfer.to, "slots": transfer.slots.len() })
}

/// Asks something of a job that moves slots.
pub async fn wish(proxy: &Proxy, request: &HttpRequest) -> Result<HttpResponse, Error> {
    let deadline = Fields::new(request, None).deadline(proxy)?;
    let path = request.path.trim_start_matches("/job/");
    let (id, wish) = path.split_once('/').unwrap_or((path, ""));
    let id: JobId = id.parse().map_err(|_| bad(format!("`{id}` is no job id")))?;
    let wish = match wish {
        "cancel" => Wish::Cancel,
        "pause" => Wish::Pause,
        "resume" => Wish::Run,
        other => {
            return Err(Error::new(Code::NotFound, format!("there is no /job/{id}/{other}"))
                .hint("use /job/{id}/cancel, /pause or /resume"));
        }
    };
    proxy.registry(deadline).await?;
    proxy.cluster.meta(MetaCommand::Move { job: id, change: MoveChange::Wish(wish) }, deadline).await?;
    let registry = proxy.refreshed(deadline).await?;
    let job = registry.jobs.get(&id).ok_or_else(|| Error::new(Code::NoSuchObject, format!("there is no job {id}")))?;
    Ok(http::json(202, &job.to_json()))
}
