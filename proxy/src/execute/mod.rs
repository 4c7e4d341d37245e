//! Carries out plans: the only step that talks to the cluster.
//!
//! A statement is prepared on the mirror, planned, sent, and planned again when a shard says
//! `stale_route`, until there is an answer or the deadline. Every write carries a request id that
//! depends on the client's `Idempotency-Key` and the statement's place alone, so a retry, ours or
//! the client's, is applied once.
//!
//! [`send`] talks to shards, [`stream`] pulls large results from them, [`batch`] runs several
//! statements, [`transaction`] runs them together, [`staged`] reads rows and then writes them, [`once`]
//! sees to it that this takes effect once, [`recall`] finds writes whose rows have moved apart, [`ddl`] makes jobs of schema statements, [`script`] of transactions that change the schema, [`copies`] of writes
//! to reference tables, [`keys`] hands out integer keys, [`generated`] gives them to
//! rows, [`check`] looks for rows that refer to nothing, [`merged`] finishes reads of several shards.

pub mod batch;
pub mod check;
pub mod copies;
pub mod ddl;
pub mod generated;
pub mod keys;
pub mod merged;
pub mod once;
pub mod recall;
pub mod script;
pub mod send;
pub mod staged;
pub mod stream;
pub mod transaction;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, RequestId, Slot};
use flotilla_shared::registry::{Placement, Registry, SlotSet};
use flotilla_shared::value::Params;
use flotilla_shared::wire::{Level, Read, Statement};
use tokio::time::Instant;

use crate::Proxy;
use crate::analyze::{self, Verb};
use crate::explain::Explanation;
use crate::metrics::Stage;
use crate::mirror::{Mirror, Prepared};
use crate::plan::{self, Input, Plan};
use crate::respond::Output;
use send::Job;

/// First pause before a statement is planned again; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Longest pause before a statement is planned again: a move of slots takes about that long.
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// How often generated keys are replaced after a collision. One is enough unless others insert
/// explicit keys at the same moment.
const MAX_KEY_COLLISIONS: u64 = 4;

/// Part numbers of request ids for retries after a collision lie beyond those of shards.
const COLLISION_PART: u64 = 1 << 40;

/// How long a look for a newer schema may hold up a refusal.
const REFRESH_LIMIT: Duration = Duration::from_secs(2);

/// How a request is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names the request; statements get ids derived from it.
    pub id: RequestId,
    /// The client chose the id, so an earlier try of it may have been applied.
    pub keyed: bool,
    /// When to give up.
    pub deadline: Instant,
    /// How fresh reads must be.
    pub level: Level,
    /// With level `none`: how old a replica may be.
    pub freshness_ms: Option<u64>,
    /// Run as written on this shard.
    pub shard: Option<GroupId>,
    /// Writes on several shards may be done without atomicity.
    pub allow_partial: bool,
    /// Only reads.
    pub reads_only: bool,
    /// It is a statement of our own, which may call functions that clients may not.
    pub internal: bool,
    /// A merged result may have any number of rows, within its bound on bytes: they are not answered as
    /// one body.
    pub any_rows: bool,
    /// The time that the clock of SQL shows to reads, in microseconds since 1970; none: each shard's own.
    pub at_us: Option<i64>,
}

impl Options {
    /// One time for all shards that a statement reads, if it may ask for the time.
    pub(crate) fn at_one_time(&self, prepared: &Prepared) -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        let at_us = self.at_us.or_else(|| prepared.analysis.record.clock.then(now));
        Self { at_us, ..self.clone() }
    }
}

/// A statement made ready, with what it was made ready from.
#[derive(Clone)]
pub(crate) struct Ready {
    pub prepared: Arc<Prepared>,
    pub registry: Arc<Registry>,
    pub mirror: Arc<Mirror>,
}

impl Proxy {
    /// Waits for the first registry.
    pub(crate) async fn registry(&self, deadline: Instant) -> Result<Arc<Registry>, Error> {
        let registry = self.cluster.registry();
        if registry.cluster != 0 {
            return Ok(registry);
        }
        if let Some(error) = self.cluster.unheard() {
            return Err(error);
        }
        self.cluster.wait_until(deadline, |registry| registry.cluster != 0).await.map_err(|_| {
            Error::new(Code::Unavailable, "this proxy has not heard from the metadata group yet")
                .hint("retry; check the addresses that the proxy was started with")
        })
    }

    /// A registry that holds every change acknowledged before this call. Callers that come while
    /// one look is under way share the next.
    pub(crate) async fn refreshed(&self, deadline: Instant) -> Result<Arc<Registry>, Error> {
        let arrived = Instant::now();
        let mut last_start = self.refresh.lock().await;
        if last_start.is_some_and(|start| start >= arrived) {
            return Ok(self.cluster.registry());
        }
        let start = Instant::now();
        let registry = self.cluster.refresh(deadline).await?;
        *last_start = Some(start);
        Ok(registry)
    }

    /// Prepares a statement. What SQLite refuses is tried once more with the newest schema, which
    /// another proxy may have changed a moment ago.
    pub(crate) async fn ready(&self, sql: &str, options: &Options) -> Result<Ready, Error> {
        let registry = self.registry(options.deadline).await?;
        let mirror = self.mirrors.of(&registry)?;
        let prepare = |mirror: &Mirror| match options.internal {
            true => mirror.prepare_own_kept(sql),
            false => mirror.prepare(sql),
        };
        let error = match prepare(&mirror) {
            Ok((prepared, hit)) => {
                self.metrics.looked_up(hit);
                return self.allowed(Ready { prepared, registry, mirror }, options);
            }
            Err(error) => error,
        };
        if !matches!(error.code, Code::NoSuchTable | Code::SqlError) {
            return Err(error);
        }
        let deadline = options.deadline.min(Instant::now() + REFRESH_LIMIT);
        let newer = match self.refreshed(deadline).await {
            Ok(newer) if newer.schema_version != registry.schema_version => newer,
            Ok(_) => return Err(error),
            Err(_) => return Err(unsure(&error)),
        };
        let mirror = self.mirrors.of(&newer)?;
        let (prepared, _) = prepare(&mirror)?;
        self.allowed(Ready { prepared, registry: newer, mirror }, options)
    }

    fn allowed(&self, ready: Ready, options: &Options) -> Result<Ready, Error> {
        if options.reads_only && !ready.prepared.readonly {
            return Err(Error::new(Code::NotARead, "the statement is not a read").hint("send it to /execute or /sql"));
        }
        Ok(ready)
    }

    /// Runs one statement, the `index`-th of its request.
    pub(crate) async fn run(&self, statement: &Statement, index: u64, options: &Options) -> Result<Output, Error> {
        self.run_after(statement, index, 0, options).await
    }

    /// The same after so many attempts whose generated keys were taken.
    pub(crate) async fn run_after(
        &self,
        statement: &Statement,
        index: u64,
        mut collisions: u64,
        options: &Options,
    ) -> Result<Output, Error> {
        let id = options.id.part(index);
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let ready = match self.ready(&statement.sql, options).await {
                // A schema statement that was carried out no longer prepares.
                Err(error) if options.keyed && matches!(error.code, Code::SqlError | Code::NoSuchTable) => {
                    let registry = self.registry(options.deadline).await?;
                    return Box::pin(self.done_before(&registry, statement, index, options)).await?.ok_or(error);
                }
                ready => ready?,
            };
            match ready.prepared.analysis.verb {
                Verb::Schema if options.shard.is_none() => {
                    return Box::pin(self.run_schema(statement, index, options)).await;
                }
                Verb::Schema => return Err(no_schema_on_shard()),
                Verb::Local => return Box::pin(self.run_local(&ready, &statement.params, options)).await,
                _ => ready.prepared.check_args(&statement.params)?,
            }
            if let Some(shard) = options.shard {
                known_shard(&ready.registry, shard)?;
                if ready.prepared.analysis.verb == Verb::Select {
                    return Box::pin(self.read_as_written(statement, shard, options)).await;
                }
            }
            let keys = self.assign_keys(&ready, &statement.params, id, options.shard, options).await?;
            let mut plan = plan::plan(input(&ready, &statement.params, &keys, options), &ready.registry);
            if let Some(shard) = options.shard {
                plan = plan::pinned::on_shard(plan, shard, ready.prepared.analysis.verb);
            }
            claim_slot_of_id(&mut plan, &ready, id, &keys);
            if plan == Plan::Local {
                return Box::pin(self.run_local(&ready, &statement.params, options)).await;
            }
            self.metrics.planned(plan.class());
            self.metrics.took(Stage::Plan, begun.elapsed());
            let wanders = recall::wanders(&ready, &statement.params, &keys, options);
            let due = recall::is_due(&plan, &ready, options) || (wanders && recall::wanders_since(&ready));
            if let Plan::Refused(error) = &plan {
                match self.refused(error.clone(), &ready.registry, options).await {
                    Ok(()) => continue,
                    Err(error) if due && error.code == Code::CrossShardWrite => (),
                    Err(error) => return Err(error),
                }
            }
            if due && let Some(results) = Box::pin(self.recall(std::slice::from_ref(statement), id, options)).await? {
                return Ok(Output::Write(send::last_result(results)?));
            }
            let steps = due || wanders || matches!(plan, Plan::Staged(_)) || recall::may_part(&plan, &ready, options);
            if steps && options.shard.is_none() {
                return Box::pin(self.run_staged(statement, id, options)).await;
            }
            self.check_rewritten(&ready, &plan)?;
            let attempt = if collisions == 0 { id } else { id.part(COLLISION_PART + collisions) };
            let version = ready.registry.version;
            let job = Job { prepared: &ready.prepared, statement, schema: ready.mirror.version, options };
            match self.carry_out(job, &plan, attempt).await {
                // An earlier try met several shards, and made sure that nobody takes this way any more.
                Ok(None) if options.shard.is_some() => return Err(send::fenced_off()),
                Ok(None) => return Box::pin(self.run_staged(statement, id, options)).await,
                Err(error) if error.code == Code::StaleRoute => {
                    self.await_newer(error, version, &mut pause, options).await?
                }
                Err(error) if error.code == Code::Constraint && !keys.is_empty() && collisions < MAX_KEY_COLLISIONS => {
                    let taken = match &plan {
                        Plan::One(part) => {
                            (options.keyed && collisions < 2) || self.keys_taken(&ready, part, &keys, options).await?
                        }
                        _ => false,
                    };
                    if !taken {
                        return Err(error);
                    }
                    self.raise_keys(&ready, options).await?;
                    self.metrics.retried("key_collision");
                    collisions += 1;
                }
                Ok(Some(output)) => return Ok(output),
                Err(error) => return Err(error),
            }
        }
    }

    /// `None`: a fence is in the way, and nothing was done.
    async fn carry_out(&self, job: Job<'_>, plan: &Plan, id: RequestId) -> Result<Option<Output>, Error> {
        let reads = job.prepared.analysis.verb == Verb::Select;
        let output = match plan {
            Plan::Refused(error) => Err(error.clone()),
            Plan::Local => Err(Error::new(Code::Internal, "a local statement was sent out")),
            Plan::Merge(merge) => Box::pin(self.read_merged(job, merge)).await.map(Output::Rows),
            Plan::Staged(_) => Err(Error::new(Code::Internal, "a write in two steps was sent out as one")),
            Plan::Copies(copies) => Box::pin(self.write_copies(job, copies, id)).await,
            Plan::One(part) if reads => self.read_part(job, part).await.map(Output::Rows),
            Plan::One(part) => return Ok(self.write_part(job, part, id).await?.map(Output::Write)),
            Plan::Some(parts) | Plan::All(parts) if reads => {
                Box::pin(self.read_parts(job, parts)).await.map(Output::Rows)
            }
            Plan::Some(parts) | Plan::All(parts) => Box::pin(self.write_parts(job, parts, id)).await,
        };
        output.map(Some)
    }

    /// What was printed anew must be what was meant: SQLite reads it before any shard does.
    pub(crate) fn check_rewritten(&self, ready: &Ready, plan: &Plan) -> Result<(), Error> {
        // What reads is prepared where it is made.
        for statement in plan.parts().iter().flat_map(|part| part.guard.iter().chain(&part.statement)) {
            let (again, _) = ready.mirror.prepare(&statement.sql)?;
            again.check_args(&statement.params)?;
            same_meaning(&again, &ready.prepared, Verb::Insert)?;
        }
        Ok(())
    }

    /// A refusal is final only if the newest registry gives no reason to plan again: without it, this
    /// proxy would refuse for good what others carry out.
    pub(crate) async fn refused(&self, error: Error, planned: &Registry, options: &Options) -> Result<(), Error> {
        let deadline = options.deadline.min(Instant::now() + REFRESH_LIMIT);
        let newer = self.refreshed(deadline).await.map_err(|_| unsure(&error))?;
        match newer.schema_version == planned.schema_version && newer.placements == planned.placements {
            true => Err(error),
            false => Ok(()),
        }
    }

    /// Waits until planning again may give something else.
    pub(crate) async fn await_newer(
        &self,
        error: Error,
        version: u64,
        pause: &mut Duration,
        options: &Options,
    ) -> Result<(), Error> {
        self.metrics.retried("stale_route");
        if Instant::now() + *pause >= options.deadline {
            return Err(error);
        }
        let registry = self.refreshed(options.deadline).await.map_err(|_| error.clone())?;
        if registry.version > version {
            return Ok(());
        }
        // The shard is ahead of the registry, or a replica behind it: the change is on its way.
        let until = options.deadline.min(Instant::now() + *pause);
        self.cluster.wait_until(until, |registry| registry.version > version).await.ok();
        *pause = (*pause * 2).min(MAX_PAUSE);
        Ok(())
    }

    /// The plan of a statement, without running it; none for a schema statement.
    pub(crate) async fn explain(&self, statement: &Statement, options: &Options) -> Result<Option<Explanation>, Error> {
        let ready = self.ready(&statement.sql, options).await?;
        if ready.prepared.analysis.verb == Verb::Schema {
            return Ok(None);
        }
        ready.prepared.check_args(&statement.params)?;
        let keys = self.assign_keys(&ready, &statement.params, options.id, None, options).await?;
        let plan = plan::plan(input(&ready, &statement.params, &keys, options), &ready.registry);
        let statement = statement.clone();
        let explained = move || Some(Explanation::of(&plan, &statement, &ready.mirror, &ready.registry));
        tokio::task::spawn_blocking(explained)
            .await
            .map_err(|_| Error::new(Code::Internal, "a plan could not be shown"))
    }

    async fn run_local(&self, ready: &Ready, params: &Params, options: &Options) -> Result<Output, Error> {
        ready.prepared.check_args(params)?;
        if ready.prepared.analysis.record.checks_rows {
            return self.check_foreign_keys(ready, options).await.map(Output::Rows);
        }
        self.metrics.planned(Plan::Local.class());
        // SQLite's plan alone would not tell that several shards take part.
        if let Some(sql) = analyze::explained(&ready.prepared.sql).filter(|_| ready.mirror.schema.has_sharded) {
            let statement = Statement { sql: sql.to_owned(), params: params.clone() };
            if let Some(explanation) = Box::pin(self.explain(&statement, options)).await? {
                return Ok(Output::Rows(explanation.rows(&ready.prepared.columns, &ready.prepared.types)));
            }
        }
        let (mirror, prepared, params) = (Arc::clone(&ready.mirror), Arc::clone(&ready.prepared), params.clone());
        let answer = tokio::task::spawn_blocking(move || mirror.answer(&prepared, &params)).await;
        Ok(Output::Rows(answer.map_err(|_| Error::new(Code::Internal, "a schema query failed"))??))
    }

    /// Reads from a shard as written, for inspection: what it holds, whether or not it owns it.
    async fn read_as_written(&self, statement: &Statement, shard: GroupId, options: &Options) -> Result<Output, Error> {
        let read = Read {
            route: None,
            statement: statement.clone(),
            level: options.level,
            freshness_ms: options.freshness_ms,
        };
        Ok(Output::Rows(self.send_read(shard, read, options).await?))
    }
}

/// A plan's input.
pub(crate) fn input<'a>(
    ready: &'a Ready,
    params: &'a Params,
    keys: &'a BTreeMap<usize, i64>,
    options: &Options,
) -> Input<'a> {
    Input { mirror: &ready.mirror, prepared: &ready.prepared, params, allow_partial: options.allow_partial, keys }
}

/// Does a statement that was written anew still do `verb` to the same table?
pub(crate) fn same_meaning(again: &Prepared, written: &Prepared, verb: Verb) -> Result<(), Error> {
    match again.analysis.verb == verb && again.analysis.record.target == written.analysis.record.target {
        true => Ok(()),
        false => Err(Error::new(Code::Internal, format!("a rewritten statement means something else: {}", again.sql))),
    }
}

/// The slot that decides where rows with generated keys go.
fn slot_of_id(placement: &Placement, id: RequestId) -> Slot {
    placement.slot_by_number(id.0)
}

/// Lets a write with generated keys claim the slot that its shard was chosen by, too: its id is then
/// remembered wherever that slot goes, which is where a retry goes, whatever keys that makes up.
pub(crate) fn claim_slot_of_id(plan: &mut Plan, ready: &Ready, id: RequestId, keys: &BTreeMap<usize, i64>) {
    let Plan::One(part) = plan else { return };
    let target = ready.prepared.analysis.record.target.as_deref().filter(|_| !keys.is_empty());
    let Some(placement) = target.and_then(|name| ready.registry.placement_of(name)) else { return };
    let slot = slot_of_id(placement, id);
    if placement.owner(slot) != Some(part.shard) {
        return;
    }
    for claim in part.claims.iter_mut().filter(|claim| claim.placement == placement.id) {
        if let Some(slots) = &mut claim.slots {
            *slots = slots.union(&SlotSet::range(slot, slot));
        }
    }
}

/// What is wrong by the registry at hand may be right by the newest one, and nobody tells.
fn unsure(error: &Error) -> Error {
    let message = format!("{}; but the metadata group does not say whether that has changed", error.message);
    Error::new(Code::Unavailable, message).hint("retry, here or at another proxy")
}

fn known_shard(registry: &Registry, shard: GroupId) -> Result<(), Error> {
    match registry.groups.contains_key(&shard) {
        true => Ok(()),
        false => {
            Err(Error::new(Code::NoSuchObject, format!("there is no {shard}")).hint("GET /shard lists the shards"))
        }
    }
}

fn no_schema_on_shard() -> Error {
    Error::new(Code::Unroutable, "a schema statement cannot run on one shard alone").hint("leave out auto_route=false")
}
