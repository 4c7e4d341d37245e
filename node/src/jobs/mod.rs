//! Long work, driven by the leader of `meta`.
//!
//! One job at a time, in order of ids; but jobs that move slots go on between the others, one move at a
//! time, so that nobody waits for long behind them. A driver takes the first job that has not ended and works
//! through its steps; each step is idempotent where it lands (in a shard, in a group's membership, in
//! the registry), so a driver that dies is followed by one that starts the steps over, and two that
//! overlap for a moment do no harm: a job ends once, and the loser of that race is refused.
//!
//! Jobs that change replicas ([`membership`]) have a lane of their own: a replica that catches up for
//! minutes holds up no schema change. They take turns there, step by step, so that one that cannot go on
//! does not keep another from mending what it waits for.
//!
//! A step that cannot be taken now (a shard without a leader) is tried again until it can, with the
//! reason shown in `GET /job/{id}`; a step that is refused ends the job as failed, undone ([`undo`]).

mod calls;
mod check;
mod copy;
pub mod heard;
mod membership;
mod pause;
mod rebalance;
mod register;
mod schema;
mod script;
mod split;
mod undo;
mod write;

use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::client::{Cluster, unexpected};
use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{Epoch, GroupId, JobId, META, PlacementId};
use flotilla_shared::moves::{MoveAnswer, MoveQuery, MoveReply, MoveStep};
use flotilla_shared::registry::{
    Effect, Job, JobKind, JobState, MetaCommand, MetaReply, NodeInfo, Registry, ReplicaInfo, Sight, Split,
};
use flotilla_shared::wire::{GroupMembers, MemberChange, Request, Response, ShardCommand, ShardReply, StatementResult};
use openraft::ServerState;
use rebalance::Attempt;
use split::Splitting;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::host::Host;
use calls::Calls;
use pause::Pausing;

/// How long one step may take before it counts as stuck and is tried anew.
const STEP: Duration = Duration::from_secs(10);

/// Pause after a step that could not be taken.
const PAUSE: Duration = Duration::from_millis(200);

/// How often a driver looks at what nothing tells it; ten of these pass where it is told of nearly all.
const LOOK: Duration = Duration::from_millis(50);

/// Drives jobs whenever this node leads `meta`, until `stop`.
pub async fn drive(host: Arc<Host>, mut stop: watch::Receiver<bool>) {
    let members = async {
        let mut last = JobId(0);
        loop {
            if let Some(job) = lead(&host, |registry| next_member_job(registry, last)).await {
                last = job.id;
                change_members(&host, &job).await;
            }
        }
    };
    let others = async {
        let (mut moved, mut ahead) = (false, false);
        let mut memory = rebalance::Memory::default();
        loop {
            if let Some(job) = lead(&host, |registry| next_job(registry, moved, ahead)).await {
                moved = job.progress.is_some();
                ahead = run(&host, &mut memory, job).await;
            }
        }
    };
    tokio::select! {
        () = members => (),
        () = others => (),
        () = heard::listen(&host) => (),
        _ = stop.wait_for(|stop| *stop) => (),
    }
}

/// The next job, if this node leads `meta` and there is one; else waits a while for either.
async fn lead(host: &Host, next: impl Fn(&Registry) -> Option<&Job>) -> Option<Job> {
    let Some(replica) = host.replica(META).filter(|replica| replica.leads()) else {
        until_leads(host).await;
        return None;
    };
    let mut registry = replica.state().registry();
    let job = next(&registry.borrow_and_update()).cloned();
    if job.is_none() {
        // A new job or the loss of leadership; the latter is only looked for.
        drop(tokio::time::timeout(LOOK * 10, registry.changed()).await);
    }
    job
}

/// Waits a while for this node to lead `meta`.
async fn until_leads(host: &Host) {
    let Some(replica) = host.replica(META) else { return tokio::time::sleep(LOOK * 10).await };
    let wait = replica.raft().wait(Some(LOOK * 10));
    if wait.state(ServerState::Leader, "this node leads meta").await.is_err() {
        // Told at once by a replica that has stopped.
        tokio::time::sleep(LOOK).await;
    }
}

/// A step that took longer was not at work all that time.
const MAX_REST: Duration = Duration::from_millis(100);

/// The job to go on with. A move that is under way is finished first, because writers wait for it, unless
/// it is known that they do not yet; then those that move slots take turns with all others, which keep
/// their order.
fn next_job(registry: &Registry, moved: bool, ahead: bool) -> Option<&Job> {
    let due = || registry.jobs.values().filter(|job| is_due(job) && job.members.is_none());
    let under_way = due().find(|job| job.progress.as_ref().is_some_and(|progress| progress.is_under_way()));
    let mover = due().find(|job| job.progress.is_some());
    let other = due().find(|job| job.progress.is_none());
    let turns = if moved { other.or(mover) } else { mover.or(other) };
    under_way.filter(|_| !ahead).or(turns)
}

/// The one after `last` of the jobs that change replicas, in turn.
fn next_member_job(registry: &Registry, last: JobId) -> Option<&Job> {
    let due = || registry.jobs.values().filter(|job| is_due(job) && job.members.is_some());
    due().find(|job| job.id > last).or_else(|| due().next())
}

fn is_due(job: &Job) -> bool {
    job.state == JobState::Running
}

/// One step of a job that changes replicas.
async fn change_members(host: &Arc<Host>, job: &Job) {
    let driver = Driver { cluster: host.cluster(), calls: host.cluster(), job };
    let ground = Pausing { ground: &driver, folder: host.options().pauses.as_deref() };
    if let Err(error) = membership::attempt(&ground, job.id).await {
        tracing::debug!(job = %job.id, %error, "a job's step is tried again");
        driver.note(&job.step, job.percent, Some(error)).await;
        tokio::time::sleep(PAUSE).await;
    }
}

/// One attempt at one job; tells whether it left a move behind for which nobody waits.
async fn run(host: &Arc<Host>, memory: &mut rebalance::Memory, job: Job) -> bool {
    let driver = Driver { cluster: host.cluster(), calls: host.cluster(), job: &job };
    if job.progress.is_some() {
        let ground = Pausing { ground: &driver, folder: host.options().pauses.as_deref() };
        let (error, ahead) = match rebalance::attempt(&ground, memory, job.id).await {
            Ok(Attempt::Ahead(held)) => (held, true),
            Ok(Attempt::More | Attempt::Ended) => (None, false),
            // In pieces, so that other jobs and wishes come between.
            Ok(Attempt::Wait(time)) => {
                tokio::time::sleep(time.min(PAUSE)).await;
                (None, false)
            }
            Err(error) => (Some(error), false),
        };
        if let Some(error) = error {
            tracing::debug!(job = %job.id, %error, "a job's step is tried again");
            driver.note(&job.step, job.percent, Some(error)).await;
            tokio::time::sleep(PAUSE).await;
        }
        return ahead;
    }
    if let Err(error) = take(&driver).await {
        tracing::debug!(job = %job.id, %error, "a job's step is tried again");
        driver.note("waiting", 0, Some(error)).await;
        tokio::time::sleep(PAUSE).await;
    }
    false
}

/// One attempt at a job that moves no slots and changes no replicas, from its first step to its end.
///
/// # Errors
/// What keeps it from that now.
async fn take(driver: &Driver<'_>) -> Result<(), Error> {
    let registry = driver.registry().await?;
    let outcome = match &driver.job.kind {
        JobKind::Schema { sql, table } => schema::run(driver, &registry, sql, table.as_deref()).await.map(Done::from),
        JobKind::Register(registration) => register::run(driver, &registry, registration).await.map(Done::from),
        JobKind::AddToShard { table, shard } => {
            register::add_to_shard(driver, &registry, table, *shard).await.map(Done::from)
        }
        JobKind::Write(write) => write::run(driver, &registry, write).await,
        JobKind::Script(script) => script::run(driver, &registry, script).await,
        JobKind::Split { .. } => match split::run(driver, driver.job).await {
            Ok(Splitting::Done) => Ok(Done::default()),
            Ok(Splitting::Moves) => return Ok(()),
            Err(error) => Err(error),
        },
        JobKind::Rebalance { .. }
        | JobKind::Give { .. }
        | JobKind::RemoveFromShard { .. }
        | JobKind::RemoveShard { .. }
        | JobKind::Join { .. }
        | JobKind::CreateShard { .. }
        | JobKind::Remove { .. }
        | JobKind::Replicas { .. } => Err(Error::new(Code::Internal, "this job is done in many attempts")),
    };
    match outcome {
        Ok(done) => driver.end(JobState::Done, None, done).await,
        // A write that was planned with an older schema ends, too; its proxy plans it anew.
        Err(error) if error.code.class() == Class::Refused || error.code == Code::StaleRoute => {
            tracing::info!(job = %driver.job.id, %error, "job fails");
            undo::fail(driver, error).await
        }
        Err(error) => Err(error),
    }
}

/// What a finished job leaves in the registry.
#[derive(Default)]
struct Done {
    effects: Vec<Effect>,
    results: Vec<StatementResult>,
}

impl From<Vec<Effect>> for Done {
    fn from(effects: Vec<Effect>) -> Self {
        Self { effects, ..Self::default() }
    }
}

/// Steps that were undone have raised the schema version of their shards; plans must reach it again.
fn after_failure(kind: &JobKind, error: &Error) -> Done {
    match kind {
        // No shard has heard of it; and one script that is planned anew must not make all others stale.
        JobKind::Script(_) if error.code == Code::StaleRoute => Done::default(),
        JobKind::Schema { .. } | JobKind::Register(_) | JobKind::AddToShard { .. } | JobKind::Script(_) => {
            vec![Effect::Schema { placements: vec![], objects: vec![], tables: vec![] }].into()
        }
        _ => Done::default(),
    }
}

impl rebalance::Ground for Driver<'_> {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        self.cluster.refresh(self.deadline()).await
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        self.cluster.meta(command, self.deadline()).await.map(drop)
    }

    async fn step(&self, group: GroupId, step: MoveStep, patience: Duration) -> Result<MoveReply, Error> {
        let request = Request::Shard { group, command: ShardCommand::Move(Box::new(step)) };
        match self.cluster.call(group, request, Instant::now() + patience).await? {
            Response::Shard(ShardReply::Move(reply)) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    async fn drop_replica(&self, shard: GroupId, replica: ReplicaInfo) -> Result<(), Error> {
        let registry = self.cluster.registry();
        let Some(info) = registry.nodes.get(&replica.node).filter(|info| !info.removed) else { return Ok(()) };
        let request = Request::DropReplica { group: shard, replica: replica.replica };
        self.node(&info.raft_addr, request).await.map(drop).map_err(|error| {
            let message = format!("node {} does not drop its replica of {shard}: {}", replica.node, error.message);
            Error { message, ..error }.hint("start that node, or take it out with POST /remove")
        })
    }

    fn now_us(&self) -> i64 {
        crate::propose::now_us()
    }

    async fn rest(&self, took: Duration) {
        tokio::time::sleep(took.min(MAX_REST)).await;
    }

    async fn wait(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn ask(&self, group: GroupId, query: MoveQuery) -> Result<MoveAnswer, Error> {
        // All rows of a large slot are read at once to be compared.
        let patience = if matches!(query, MoveQuery::Content { .. }) { STEP } else { rebalance::PATIENCE };
        let deadline = Instant::now() + patience;
        match self.cluster.call(group, Request::Moves { group, query }, deadline).await? {
            Response::Moves(answer) => Ok(answer),
            other => Err(unexpected(&other)),
        }
    }
}

impl split::Ground for Driver<'_> {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        Driver::registry(self).await
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        self.cluster.meta(command, self.deadline()).await.map(drop)
    }

    async fn split(&self, shard: GroupId, split: Split) -> Result<Epoch, Error> {
        match self.shard(shard, ShardCommand::Split(split)).await? {
            ShardReply::Split(epoch) => Ok(epoch),
            other => Err(Error::new(Code::Internal, format!("a shard gave another answer: {other:?}"))),
        }
    }
}

impl membership::Ground for Driver<'_> {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        self.cluster.refresh(self.deadline()).await
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        self.cluster.meta(command, self.deadline()).await.map(drop)
    }

    async fn sight(&self, registry: &Registry) -> Sight {
        let states = self.cluster.states(registry).await;
        Sight::of(registry, states.iter().map(|(node, state)| (*node, state)))
    }

    async fn node(&self, info: &NodeInfo, request: Request) -> Result<(), Error> {
        Driver::node(self, &info.raft_addr, request).await.map(drop)
    }

    async fn change(&self, group: GroupId, change: MemberChange) -> Result<GroupMembers, Error> {
        match self.cluster.call(group, Request::Membership { group, change }, self.deadline()).await? {
            Response::Members(members) => Ok(members),
            other => Err(unexpected(&other)),
        }
    }

    async fn hand_over(&self, group: GroupId) -> Result<(), Error> {
        self.cluster.call(group, Request::HandOver { group, to: None }, self.deadline()).await.map(drop)
    }

    fn now_us(&self) -> i64 {
        crate::propose::now_us()
    }

    async fn pause(&self) {
        tokio::time::sleep(LOOK).await;
    }
}

/// What a job's steps work with.
struct Driver<'a> {
    cluster: &'a Arc<Cluster>,
    calls: &'a dyn Calls,
    job: &'a Job,
}

impl Driver<'_> {
    fn deadline(&self) -> Instant {
        Instant::now() + STEP
    }

    /// The registry as of now, and proof that this job has not ended.
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        let registry = self.calls.fresh_registry(self.deadline()).await?;
        match registry.jobs.get(&self.job.id) {
            Some(job) if is_due(job) => Ok(registry),
            _ => Err(Error::new(Code::Unavailable, "another driver has taken this job further")),
        }
    }

    /// Changes the registry.
    async fn meta(&self, command: MetaCommand) -> Result<MetaReply, Error> {
        self.calls.change_registry(command, self.deadline()).await
    }

    /// Records what the job relies on, before it changes any shard: the placement, and the registry with what was
    /// recorded, perhaps by an earlier driver.
    async fn begin(
        &self,
        placement: Option<PlacementId>,
        shards: Vec<GroupId>,
    ) -> Result<(PlacementId, Arc<Registry>), Error> {
        match self.meta(MetaCommand::BeginJob { job: self.job.id, placement, shards }).await? {
            MetaReply::Placement(begun) => Ok((begun, self.registry().await?)),
            other => Err(Error::new(Code::Internal, format!("the registry gave another answer: {other:?}"))),
        }
    }

    /// Takes a step on a shard.
    async fn shard(&self, group: GroupId, command: ShardCommand) -> Result<ShardReply, Error> {
        match self.calls.ask_group(group, Request::Shard { group, command }, self.deadline()).await? {
            Response::Shard(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a request to one node.
    async fn node(&self, addr: &str, request: Request) -> Result<Response, Error> {
        match self.cluster.pool().request(addr, request, STEP).await {
            Ok(answer) => answer,
            Err(error) => Err(Error::new(Code::Unavailable, error.to_string())),
        }
    }

    /// Shows what the job is at. Not worth failing for.
    async fn note(&self, step: &str, percent: u8, error: Option<Error>) {
        let same = self
            .cluster
            .registry()
            .jobs
            .get(&self.job.id)
            .is_some_and(|job| job.step == step && job.percent == percent && job.error == error);
        if !same {
            let command = MetaCommand::StepJob { job: self.job.id, step: step.to_owned(), percent, error };
            self.meta(command).await.ok();
        }
    }

    async fn end(&self, state: JobState, error: Option<Error>, done: Done) -> Result<(), Error> {
        let Done { effects, results } = done;
        let command = MetaCommand::EndJob { job: self.job.id, state, error, effects, results };
        self.meta(command).await.map(drop)
    }
}
