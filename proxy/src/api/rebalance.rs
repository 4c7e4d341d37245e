//! What makes slots move: `POST /table/rebalance`, `/table/remove-from-shard` and `/shard/{id}/remove`, and
//! [`/table/split`](super::split); and `POST /job/{id}/cancel|pause|resume`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::client::unexpected;
use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::ids::{GroupId, JobId};
use flotilla_shared::measure::Measuring;
use flotilla_shared::registry::{
    EVEN_WITHIN_PERCENT, Goal, HOME, Job, JobKind, Measure, MetaCommand, MoveChange, MoveOptions, Placement, Registry,
    Sizes, SlotSize, Table, Transfer, Wish, total_size,
};
use flotilla_shared::wire::{Request, Response};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::leaders::group_in;
use super::params::{Fields, bad, required, with_fields, with_optional_fields};
use super::placements::{shard_id, table_json};
use super::tables::known_table;
use crate::Proxy;
use crate::execute::Options;

/// Fields that say how slots shall move.
pub(super) const MOVES: &[&str] = &["by", "weights", "max_bytes_per_second", "max_parallel", "dry_run"];

/// How long a request that starts a rebalancing by rows or bytes looks whether there is anything to do.
const MEASURED_AT_ONCE: Duration = Duration::from_secs(2);

/// Spreads a table's slots evenly over its shards, and those of the tables that are colocated with it.
pub async fn rebalance(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_fields(&mut request, &[&["table_name"], MOVES].concat())?;
    let asked = Asked::new(proxy, &request, &body)?;
    let registry = asked.registry(proxy).await?;
    let table = known_table(&registry, required(&body, "table_name")?)?;
    let placement = spread(&registry, table)?;
    asked.moves.check(placement)?;
    let goal = Goal::Even { begun: false };
    if asked.dry_run {
        return asked.plans(proxy, &registry, &[(placement, goal)]).await;
    }
    let kind = JobKind::Rebalance { table: table.name.clone(), options: asked.moves.clone() };
    if let Some(job) = under_way(&registry, placement, &kind)? {
        return asked.started(proxy, job, None).await;
    }
    let slots = |sizes: &Sizes| {
        let plan = placement.plan(&goal, &asked.moves, &registry.leaving(placement.id), sizes);
        plan.iter().map(|transfer| transfer.slots.len()).sum::<usize>()
    };
    let by = asked.moves.by;
    let slots = match by {
        Measure::Slots => Some(slots(&Sizes::new())),
        Measure::Rows | Measure::Bytes => {
            let soon = asked.options.deadline.min(Instant::now() + MEASURED_AT_ONCE);
            match measure(proxy, &registry, placement, soon).await {
                Ok(sizes) => Some(slots(&sizes)),
                // The job finds out, and says so when it ends.
                Err(error) if error.code.class() == Class::Retry => None,
                Err(error) => return Err(error),
            }
        }
    };
    if slots == Some(0) {
        let within = match by {
            Measure::Slots => String::new(),
            _ => format!(", within {EVEN_WITHIN_PERCENT} %"),
        };
        let message = format!("the {} of {} are spread evenly already{within}", by.name(), table.name);
        return Ok(http::json(200, &json!({ "state": "done", "already_even": true, "message": message })));
    }
    asked.start(proxy, kind, slots).await
}

/// Takes a table, and those colocated with it, off a shard.
pub async fn remove_from_shard(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_fields(&mut request, &[&["table_name", "shard_id"], MOVES].concat())?;
    let asked = Asked::new(proxy, &request, &body)?;
    let registry = asked.registry(proxy).await?;
    let table = known_table(&registry, required(&body, "table_name")?)?;
    let shard = shard_id(required(&body, "shard_id")?)?;
    let placement = registry.placements.get(&table.placement).filter(|placement| placement.id != HOME);
    let Some(placement) = placement else {
        return Err(Error::new(Code::CannotLeave, format!("{} lives whole on its home shard", table.name))
            .hint("POST /table/register shards it"));
    };
    if !registry.groups.contains_key(&shard) && !registry.is_gone(shard) {
        return Err(Error::new(Code::NoSuchObject, format!("there is no {shard}")).hint("GET /shard lists the shards"));
    }
    if !placement.shards.contains(&shard) {
        let gone = json!({ "state": "done", "already_gone": true, "table": table_json(&registry, table) });
        return Ok(http::json(200, &gone));
    }
    registry.check_leave(placement, shard)?;
    let rest: Vec<GroupId> = placement.shards.iter().copied().filter(|other| *other != shard).collect();
    asked.moves.check(&Placement { shards: rest, ..placement.clone() })?;
    if asked.dry_run {
        let plans = [(placement, Goal::Drain(shard))];
        let moved = if placement.is_reference() { &plans[..0] } else { &plans[..] };
        return asked.plans(proxy, &registry, moved).await;
    }
    let kind = JobKind::RemoveFromShard { table: table.name.clone(), shard, options: asked.moves.clone() };
    match under_way(&registry, placement, &kind)? {
        Some(job) => asked.started(proxy, job, None).await,
        None => asked.start(proxy, kind, None).await,
    }
}

/// Takes all tables off a shard, then the shard out of the cluster.
pub async fn remove_shard(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_optional_fields(&mut request, MOVES)?;
    let asked = Asked::new(proxy, &request, &body)?;
    let registry = asked.registry(proxy).await?;
    let shard = group_in(&request.path, "/remove", &registry)?;
    if !shard.is_shard() {
        return Err(Error::new(Code::CannotLeave, format!("{shard} is no shard: it keeps the registry")));
    }
    if !asked.moves.weights.is_empty() {
        return Err(bad("`weights` belong to a table").hint("POST /table/remove-from-shard takes them"));
    }
    asked.moves.check_rates()?;
    registry.check_departure(shard)?;
    if asked.dry_run {
        let here = registry.placements.values().filter(|placement| placement.shards.contains(&shard));
        // Copies of reference tables do not move, they are dropped.
        let here = here.filter(|placement| !placement.key.is_empty());
        let plans: Vec<_> = here.map(|placement| (placement, Goal::Drain(shard))).collect();
        return asked.plans(proxy, &registry, &plans).await;
    }
    let removes =
        |job: &&Job| !job.ended() && matches!(&job.kind, JobKind::RemoveShard { shard: s, .. } if *s == shard);
    match registry.jobs.values().find(removes) {
        Some(job) => asked.started(proxy, job.id, None).await,
        None => asked.start(proxy, JobKind::RemoveShard { shard, options: asked.moves.clone() }, None).await,
    }
}

/// What calls that move slots have in common.
pub(super) struct Asked {
    pub options: Options,
    pub moves: MoveOptions,
    pub dry_run: bool,
    wait: bool,
}

impl Asked {
    pub fn new(proxy: &Proxy, request: &HttpRequest, body: &Json) -> Result<Self, Error> {
        let fields = Fields::new(request, Some(body));
        Ok(Self {
            options: fields.options(proxy, false)?,
            moves: move_options(&fields, body)?,
            dry_run: fields.flag("dry_run")?.unwrap_or(false),
            wait: fields.flag("wait")?.unwrap_or(false),
        })
    }

    pub async fn registry(&self, proxy: &Proxy) -> Result<Arc<Registry>, Error> {
        proxy.registry(self.options.deadline).await?;
        proxy.refreshed(self.options.deadline).await
    }

    pub async fn start(&self, proxy: &Proxy, kind: JobKind, slots: Option<usize>) -> Result<HttpResponse, Error> {
        let job = proxy.start(self.options.id, kind, self.options.deadline).await?;
        self.started(proxy, job, slots).await
    }

    /// Answers which job does it; of how many slots, if that is known.
    pub async fn started(&self, proxy: &Proxy, job: JobId, slots: Option<usize>) -> Result<HttpResponse, Error> {
        if !self.wait {
            let mut answer = json!({ "job": job.to_string() });
            if let Some(slots) = slots {
                answer["slots"] = json!(slots);
            }
            return Ok(http::json(202, &answer));
        }
        proxy.finish(job, self.options.deadline).await?;
        Ok(http::json(200, &json!({ "job": job.to_string(), "state": "done" })))
    }

    /// Answers what would move.
    pub async fn plans(
        &self,
        proxy: &Proxy,
        registry: &Registry,
        wanted: &[(&Placement, Goal)],
    ) -> Result<HttpResponse, Error> {
        let mut moves: Vec<(Transfer, Option<SlotSize>)> = Vec::new();
        for (placement, goal) in wanted {
            let sizes = match measure(proxy, registry, placement, self.options.deadline).await {
                Ok(sizes) => Some(sizes),
                // By slots the plan needs no sizes: they are shown where there is time to find them out.
                Err(error) if self.moves.by == Measure::Slots && error.code.class() == Class::Retry => None,
                Err(error) => return Err(error),
            };
            let leaving = registry.leaving(placement.id);
            let plan = placement.plan(goal, &self.moves, &leaving, sizes.as_ref().unwrap_or(&Sizes::new()));
            let size = |transfer: &Transfer| sizes.as_ref().map(|sizes| total_size(sizes, &transfer.slots));
            moves.extend(plan.into_iter().map(|transfer| (transfer.clone(), size(&transfer))));
        }
        Ok(http::json(200, &plan_json(&moves)))
    }
}

/// The placement of a table that is spread by a key.
pub(super) fn spread<'a>(registry: &'a Registry, table: &Table) -> Result<&'a Placement, Error> {
    let placement = registry.placements.get(&table.placement).filter(|placement| placement.id != HOME);
    placement.filter(|placement| !placement.key.is_empty()).ok_or_else(|| {
        Error::new(Code::Conflict, format!("{} is not spread by a key", table.name))
            .hint("POST /table/register gives it one")
    })
}

/// The job that does just this; another one that moves slots of the same placement must end first.
pub(super) fn under_way(registry: &Registry, placement: &Placement, kind: &JobKind) -> Result<Option<JobId>, Error> {
    let same_placement =
        |job: &&Job| !job.ended() && matches!(registry.goal(job), Ok(Some((other, _))) if other.id == placement.id);
    match registry.jobs.values().filter(|job| job.kind.moves_slots()).find(same_placement) {
        None => Ok(None),
        Some(job) if job.kind.is_like(kind) => Ok(Some(job.id)),
        Some(job) => Err(Error::new(Code::Conflict, format!("job {} moves slots of this table", job.id))
            .hint(format!("wait for its end, or POST /job/{}/cancel", job.id))),
    }
}

/// How slots shall move, as the body says.
fn move_options(fields: &Fields<'_>, body: &Json) -> Result<MoveOptions, Error> {
    let number = |name: &str| {
        let text = fields.text(name)?;
        text.map(|text| text.parse::<u64>().map_err(|_| bad(format!("`{name}` is a whole number")))).transpose()
    };
    let by = fields.text("by")?.map(|text| text.to_ascii_lowercase().parse()).transpose()?.unwrap_or_default();
    let weights: BTreeMap<GroupId, u32> = match body.get("weights") {
        None | Some(Json::Null) => BTreeMap::new(),
        Some(Json::Object(map)) => map
            .iter()
            .map(|(shard, weight)| {
                let weight = weight.as_u64().and_then(|weight| u32::try_from(weight).ok());
                let weight = weight.ok_or_else(|| bad(format!("the weight of {shard} is a whole number from 0 on")))?;
                Ok((shard_id(shard)?, weight))
            })
            .collect::<Result<_, Error>>()?,
        Some(_) => return Err(bad("`weights` is an object").hint("send {\"weights\": {\"shard1\": 2, \"shard3\": 0}}")),
    };
    let max_parallel = number("max_parallel")?.unwrap_or(1);
    Ok(MoveOptions {
        weights,
        by,
        max_bytes_per_second: number("max_bytes_per_second")?,
        max_parallel: u16::try_from(max_parallel).unwrap_or(u16::MAX),
    })
}

/// How large the slots of a placement are.
///
/// # Errors
/// A shard's, or that there was not enough time.
pub(super) async fn measure(
    proxy: &Proxy,
    registry: &Registry,
    placement: &Placement,
    deadline: Instant,
) -> Result<Sizes, Error> {
    let mut measuring = Measuring::new(registry, placement);
    while let Some((group, query)) = measuring.question() {
        if Instant::now() >= deadline {
            return Err(Error::new(Code::Timeout, "the rows could not be measured in time")
                .hint("raise `timeout`, or even out by slots, which need not be measured"));
        }
        match proxy.cluster.call(group, Request::Moves { group, query }, deadline).await? {
            Response::Moves(answer) => {
                if !measuring.take(answer) {
                    return Err(Error::new(Code::WrongPeer, format!("{group} answered what was not asked")));
                }
            }
            other => return Err(unexpected(&other)),
        }
    }
    Ok(measuring.sizes().clone())
}

/// A plan, by pairs of shards; rows and bytes where they are known.
pub(super) fn plan_json(moves: &[(Transfer, Option<SlotSize>)]) -> Json {
    let total = moves.iter().try_fold(SlotSize::default(), |mut total, (_, size)| {
        total += (*size)?;
        Some(total)
    });
    let one = |(transfer, size): &(Transfer, Option<SlotSize>)| {
        json!({
            "from": transfer.from,
            "to": transfer.to,
            "slots": transfer.slots.len(),
            "rows": size.map(|size| size.rows),
            "bytes": size.map(|size| size.bytes),
        })
    };
    json!({
        "dry_run": true,
        "slots": moves.iter().map(|(transfer, _)| transfer.slots.len()).sum::<usize>(),
        "rows": total.map(|size| size.rows),
        "bytes": total.map(|size| size.bytes),
        "moves": moves.iter().map(one).collect::<Vec<_>>(),
    })
}

/// Asks something of a job that moves slots.
pub async fn wish(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = with_optional_fields(&mut request, &[])?;
    let deadline = Fields::new(&request, Some(&body)).deadline(proxy)?;
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
