//! How new is what a replica holds? Needed where it is asked for what it has, leader or not.
//!
//! A replica that does not lead cannot tell by itself: its leader may lead no more, and a heartbeat may have
//! been long on its way. So it asks the leader for a *read index*, an index that everything acknowledged
//! before the question is within, and waits until it has applied that much. Then it is known to hold all
//! that was acknowledged when it began to ask, by its own clock alone. Those who ask meanwhile share the
//! next such proof; a read that allows some age is served by the last one.
//!
//! Two things need a proof: a read with a `freshness`, and the first read that was planned with a schema.
//! Shards change before the registry learns of it, so a replica that is as new as the plan's schema has the
//! tables that the plan speaks of; without that, a plan's text could find an older table and mean another
//! thing. Slots need none: who owns them is read beside the rows. Input: [`Need`]. Refused: [`Code::NotFresh`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flotilla_shared::client::{Cluster, unexpected};
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, SchemaVersion};
use flotilla_shared::wire::{Read, Request, Response};
use openraft::async_runtime::WatchReceiver;
use openraft::{ReadPolicy, ServerState};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::handover::{leader_of, refused_read};
use crate::host::Raft;
use crate::read::{Proof, Ticket};

/// How long the leader may take to answer, and this replica to apply what it lacks: a round trip around the
/// world and what a healthy follower is behind. Who waits for longer had better ask another replica.
const PATIENCE: Duration = Duration::from_millis(500);

/// Pause before a proof that failed is tried again for nobody in particular.
const PAUSE: Duration = Duration::from_millis(500);

/// What a read needs a replica to hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Need {
    /// Everything acknowledged longer ago than this.
    age: Option<Duration>,
    /// The tables as of this schema.
    pub schema: SchemaVersion,
}

impl Need {
    /// What `read` needs. One that runs as written, for inspection, needs nothing but its freshness.
    pub fn of(read: &Read) -> Self {
        Self {
            age: read.freshness_ms.map(Duration::from_millis),
            schema: read.route.as_ref().map_or_else(SchemaVersion::default, |route| route.schema),
        }
    }
}

/// Proves how new a replica is, and remembers it.
pub struct Prover {
    group: GroupId,
    raft: Raft,
    cluster: Arc<Cluster>,
    /// All that was acknowledged then is here.
    proven: Mutex<Option<Instant>>,
    /// The latest schema that was in use then.
    schema: AtomicU64,
    renewing: AtomicBool,
}

impl Prover {
    /// For a replica of which nothing is known.
    pub fn new(group: GroupId, raft: Raft, cluster: Arc<Cluster>) -> Self {
        let (schema, renewing) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { group, raft, cluster, proven: Mutex::new(None), schema, renewing }
    }

    /// Is it proven that the replica holds what is needed?
    pub fn has(&self, need: Need) -> bool {
        self.schema.load(Ordering::Acquire) >= need.schema.0
            && need.age.is_none_or(|age| self.age().is_some_and(|proven| proven <= age))
    }

    fn age(&self) -> Option<Duration> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    /// Asks for another proof once half of the allowed age is used up, so that reads that follow each other
    /// need not wait, and some time without a leader does not stop them.
    pub fn renew_early(&self, need: Need, queue: &mpsc::Sender<Ticket>) {
        let half_used = |age| self.age().is_none_or(|proven| proven > age / 2);
        if need.age.is_some_and(half_used) && !self.renewing.swap(true, Ordering::AcqRel) {
            queue.try_send(Ticket::Go(oneshot::channel().0, need.schema)).ok();
        }
    }

    async fn catch_up(&self, deadline: Instant) -> Result<(), Error> {
        let (leader, leads) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (leader_of(&metrics), metrics.state == ServerState::Leader)
        };
        if leads {
            let confirmed = tokio::time::timeout_at(deadline, read_index(&self.raft)).await;
            return confirmed.unwrap_or_else(|_| Err(self.not_fresh("no majority answers it"))).map(drop);
        }
        let leader = leader.ok_or_else(|| self.not_fresh("it knows no leader"))?;
        let index = match self.cluster.ask(leader, Request::ReadIndex(self.group), deadline).await {
            Ok(Response::Index(index)) => index,
            Ok(other) => return Err(unexpected(&other)),
            Err(error) => return Err(self.not_fresh(&format!("its leader does not say: {}", error.message))),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let applied = self.raft.wait(Some(left)).applied_index_at_least(Some(index), "a read index").await;
        applied.map(drop).map_err(|_| self.not_fresh("it has not applied all that its leader has committed"))
    }

    fn not_fresh(&self, why: &str) -> Error {
        let message = format!("this replica of {} cannot tell how new it is: {why}", self.group);
        Error::new(Code::NotFresh, message)
    }

    /// Proves every new schema before somebody waits for it, until the replica stops.
    pub async fn keep_up(self: Arc<Self>, queue: mpsc::WeakSender<Ticket>) {
        let mut changes = self.cluster.changes();
        loop {
            changes.borrow_and_update();
            let schema = self.cluster.registry().schema_version;
            if self.schema.load(Ordering::Acquire) < schema.0 {
                let (ticket, proven) = oneshot::channel();
                let Some(queue) = queue.upgrade() else { return };
                queue.try_send(Ticket::Go(ticket, schema)).ok();
                drop(queue);
                if !matches!(proven.await, Ok(Ok(()))) {
                    tokio::time::sleep(PAUSE).await;
                }
            } else if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Proof for Arc<Prover> {
    async fn prove(&self, schema: SchemaVersion) -> Result<(), Error> {
        let schema = schema.max(self.cluster.registry().schema_version);
        let at = Instant::now();
        let proven = self.catch_up(at + PATIENCE).await;
        if proven.is_ok() {
            *self.proven.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
            self.schema.fetch_max(schema.0, Ordering::AcqRel);
        }
        self.renewing.store(false, Ordering::Release);
        proven
    }
}

/// An index of the log that everything acknowledged before is within, which the leader has applied.
///
/// # Errors
/// That this replica does not lead.
pub async fn read_index(raft: &Raft) -> Result<u64, Error> {
    match raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
        Ok(read) => Ok(read.log_id().index),
        Err(error) => Err(refused_read(raft, &error).await),
    }
}
