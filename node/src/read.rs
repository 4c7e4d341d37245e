//! From waiting reads to answers: shared proofs of leadership, and many reads in one go.
//!
//! A read of a level waits in its replica's queue of that level. All that wait when the last round is
//! over share the next one: ReadIndex for linearizable reads, a look at the lease for lease reads,
//! nothing for reads of what the replica holds, unless it has to be [proven](crate::proof) first how new
//! that is. A read that comes during a round waits for the next, since the round's index may be older
//! than a write that the reader knows of.
//!
//! What a round confirmed is read in runs of [`READS_PER_TASK`], on the threads that serve connections:
//! a read by key takes some microseconds, waking another thread for it takes longer. A read that is not
//! over at SQLite's first look at the clock begins again on a thread of its own, with all of its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_shared::client::Cluster;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, SchemaVersion};
use flotilla_shared::rpc::Reply;
use flotilla_shared::wire::{Level, Read, Response, Rows};
use openraft::ReadPolicy;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::handover::refused_read;
use crate::host::{Host, Raft, Replica};
use crate::proof::{Need, Prover};
use crate::propose::{MAX_WAITING, SWEEP, encoded};
use crate::stages::{NodeStages, Stage};
use crate::state::Store;
use crate::state::store::block;

/// Longest that a read may take.
const MAX_READ: Duration = Duration::from_secs(60);

/// Reads that follow each other without a break: enough that a task costs little of it, few enough that
/// the last one does not notice the others.
const READS_PER_TASK: usize = 16;

/// Waits for a round.
pub enum Ticket {
    /// Somebody who goes on by himself, with something that was planned with this schema.
    Go(oneshot::Sender<Result<(), Error>>, SchemaVersion),
    /// A read.
    Read(Box<Pending>),
}

/// A read with the place where its rows go.
pub struct Pending {
    read: Read,
    /// What the clock shows to it, if it says so.
    at_us: Option<i64>,
    arrived: Instant,
    deadline: Instant,
    reply: Reply,
}

impl Ticket {
    fn is_over(&self) -> bool {
        match self {
            Self::Go(waiting, _) => waiting.is_closed(),
            Self::Read(pending) => pending.deadline <= Instant::now(),
        }
    }

    /// The schema that it was planned with.
    fn schema(&self) -> SchemaVersion {
        match self {
            Self::Read(pending) => pending.read.route.as_ref().map_or_else(Default::default, |route| route.schema),
            Self::Go(_, schema) => *schema,
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Go(waiting, _) => drop(waiting.send(Err(error))),
            Self::Read(pending) => pending.reply.send_now(encoded(&Err(error))),
        }
    }
}

/// The queues of one replica.
pub struct Reads {
    linearizable: mpsc::Sender<Ticket>,
    lease: mpsc::Sender<Ticket>,
    none: mpsc::Sender<Ticket>,
    proven: mpsc::Sender<Ticket>,
    prover: Arc<Prover>,
    served: Arc<AtomicU64>,
}

impl Reads {
    /// Starts serving reads of a replica; ends when this is dropped.
    pub fn start(group: GroupId, raft: &Raft, store: &Arc<Store>, stages: &NodeStages, cluster: &Arc<Cluster>) -> Self {
        let served = Arc::new(AtomicU64::new(0));
        let prover = Arc::new(Prover::new(group, raft.clone(), Arc::clone(cluster)));
        let confirm = |policy| Confirm { raft: raft.clone(), policy };
        let (index, lease) = (confirm(ReadPolicy::ReadIndex), confirm(ReadPolicy::LeaseRead));
        let (store, stages) = (Arc::clone(store), stages.clone());
        let common = Common { group, store, stages, served: Arc::clone(&served) };
        let reads = Self {
            linearizable: common.serve(index),
            lease: common.serve(lease),
            none: common.serve(()),
            proven: common.serve(Arc::clone(&prover)),
            prover,
            served,
        };
        if group.is_shard() {
            tokio::spawn(Arc::clone(&reads.prover).keep_up(reads.proven.downgrade()));
        }
        reads
    }

    /// Reads answered since the start.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Counts a read that is answered elsewhere.
    pub fn count(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// Where a read of that level waits; `None` when it need not wait at all.
    fn queue(&self, level: Level, need: Need) -> Option<&mpsc::Sender<Ticket>> {
        match level {
            Level::Linearizable => Some(&self.linearizable),
            Level::Lease => Some(&self.lease),
            Level::None if self.prover.has(need) => {
                self.prover.renew_early(need, &self.proven);
                None
            }
            Level::None => Some(&self.proven),
        }
    }
}

/// What those who wait in a queue wait for. Handed in, so that a test can let it take its time.
pub trait Proof: Send + Sync + 'static {
    /// Returns once what the replica holds is new enough for all who came before the call; `schema` is the latest
    /// that any of them speaks of.
    fn prove(&self, schema: SchemaVersion) -> impl Future<Output = Result<(), Error>> + Send;
}

/// That this replica leads, and has applied all that was acknowledged.
struct Confirm {
    raft: Raft,
    policy: ReadPolicy,
}

impl Proof for Confirm {
    async fn prove(&self, _: SchemaVersion) -> Result<(), Error> {
        match self.raft.ensure_linearizable(self.policy.clone()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(refused_read(&self.raft, &error).await),
        }
    }
}

/// Nothing.
impl Proof for () {
    async fn prove(&self, _: SchemaVersion) -> Result<(), Error> {
        Ok(())
    }
}

/// What the queues of a replica have in common.
#[derive(Clone)]
struct Common {
    group: GroupId,
    store: Arc<Store>,
    stages: NodeStages,
    served: Arc<AtomicU64>,
}

impl Common {
    fn serve(&self, proof: impl Proof) -> mpsc::Sender<Ticket> {
        let (sender, queue) = mpsc::channel(MAX_WAITING);
        tokio::spawn(Rounds { common: self.clone(), proof }.serve(queue));
        sender
    }
}

/// The rounds of one queue.
struct Rounds<P> {
    common: Common,
    proof: P,
}

impl<P: Proof> Rounds<P> {
    async fn serve(self, mut queue: mpsc::Receiver<Ticket>) {
        let mut tickets = Vec::new();
        while !tickets.is_empty() || queue.recv_many(&mut tickets, MAX_WAITING).await > 0 {
            let mut late = Vec::new();
            let confirmed = self.round(&mut queue, &mut tickets, &mut late).await;
            self.answer(std::mem::replace(&mut tickets, late), &confirmed);
        }
    }

    /// One round; `late` are those who came during it and may not use it.
    async fn round(
        &self,
        queue: &mut mpsc::Receiver<Ticket>,
        tickets: &mut Vec<Ticket>,
        late: &mut Vec<Ticket>,
    ) -> Result<(), Error> {
        let schema = tickets.iter().map(Ticket::schema).max().unwrap_or_default();
        let mut round = std::pin::pin!(self.proof.prove(schema));
        loop {
            match tokio::time::timeout(SWEEP, &mut round).await {
                Ok(proved) => return proved,
                Err(_) => {
                    while late.len() < MAX_WAITING
                        && let Ok(ticket) = queue.try_recv()
                    {
                        late.push(ticket);
                    }
                    for waiting in [&mut *tickets, &mut *late] {
                        waiting
                            .extract_if(.., |ticket| ticket.is_over())
                            .for_each(|over| over.refuse(self.no_majority()));
                    }
                }
            }
        }
    }

    fn no_majority(&self) -> Error {
        Error::new(Code::Unavailable, format!("{} has no majority at the moment", self.common.group))
    }

    fn answer(&self, tickets: Vec<Ticket>, confirmed: &Result<(), Error>) {
        let mut reads = Vec::new();
        for ticket in tickets {
            match (ticket, confirmed) {
                (ticket, Err(error)) => ticket.refuse(error.clone()),
                (Ticket::Go(waiting, _), Ok(())) => drop(waiting.send(Ok(()))),
                (Ticket::Read(pending), Ok(())) => reads.push(*pending),
            }
        }
        let Common { store, stages, served, .. } = &self.common;
        served.fetch_add(reads.len() as u64, Ordering::Relaxed);
        // A task of its own for one read would be as dear as the read.
        if reads.len() == 1 {
            return run(store, stages, reads);
        }
        while !reads.is_empty() {
            let rest = reads.split_off(reads.len().min(READS_PER_TASK));
            let (store, stages) = (Arc::clone(store), stages.clone());
            let some = std::mem::replace(&mut reads, rest);
            tokio::spawn(async move { run(&store, &stages, some) });
        }
    }
}

fn run(store: &Arc<Store>, stages: &NodeStages, reads: Vec<Pending>) {
    let mut begun = Instant::now();
    let give = |pending: Pending, rows: Result<Rows, Error>| {
        stages.observe(Stage::Confirm, begun - pending.arrived);
        match rows {
            Err(error) if error.code == Code::Timeout => {
                let (store, stages) = (Arc::clone(store), stages.clone());
                let first_try = std::mem::replace(&mut begun, Instant::now());
                tokio::spawn(async move {
                    let left = pending.deadline.saturating_duration_since(Instant::now());
                    let rows = block(store.executor(), || store.readers().read_at(&pending.read, pending.at_us, left));
                    stages.observe(Stage::Read, first_try.elapsed());
                    pending.reply.send_now(encoded(&rows.map(Response::Rows)));
                });
            }
            rows => {
                let ended = Instant::now();
                stages.observe(Stage::Read, ended - begun);
                begun = ended;
                pending.reply.send_now(encoded(&rows.map(Response::Rows)));
            }
        }
    };
    store.readers().read_each(reads, |pending| (&pending.read, pending.at_us), Duration::ZERO, give);
}

/// Queues a read whose rows go to `reply`; the clock shows it `at_us`, if that is given.
pub fn enqueue(host: &Host, group: GroupId, read: Read, at_us: Option<i64>, timeout: Duration, reply: Reply) {
    let admitted = host.hosted(group).and_then(|replica| admit(&replica, read.level).map(|()| replica));
    let replica = match admitted {
        Ok(replica) => replica,
        Err(error) => return reply.send_now(encoded(&Err(error))),
    };
    let (level, need, arrived) = (read.level, Need::of(&read), Instant::now());
    let deadline = arrived + timeout.min(MAX_READ);
    let ticket = Ticket::Read(Box::new(Pending { read, at_us, arrived, deadline, reply }));
    let queue = replica.reads().queue(level, need).unwrap_or(&replica.reads().none);
    if let Err(refused) = queue.try_send(ticket) {
        let (ticket, error) = not_queued(refused, group);
        ticket.refuse(error);
    }
}

fn not_queued(refused: mpsc::error::TrySendError<Ticket>, group: GroupId) -> (Ticket, Error) {
    match refused {
        mpsc::error::TrySendError::Full(ticket) => {
            (ticket, Error::new(Code::Overloaded, format!("too many reads wait for {group}")))
        }
        mpsc::error::TrySendError::Closed(ticket) => {
            (ticket, Error::new(Code::ShuttingDown, "this replica has stopped"))
        }
    }
}

/// What can be said of a read before it waits.
fn admit(replica: &Replica, level: Level) -> Result<(), Error> {
    match level {
        Level::Lease if !replica.may_vote() => {
            Err(Error::new(Code::Unavailable, "this node has just started; its lease is not to be trusted yet"))
        }
        _ => Ok(()),
    }
}

/// Waits for a round of a level.
///
/// # Errors
/// That this replica does not lead, or is not known to.
pub async fn confirm(replica: &Replica, level: Level, timeout: Duration) -> Result<(), Error> {
    confirm_for(replica, level, Need::default(), timeout).await
}

async fn confirm_for(replica: &Replica, level: Level, need: Need, timeout: Duration) -> Result<(), Error> {
    let Some(queue) = replica.reads().queue(level, need) else { return Ok(()) };
    let (ticket, confirmed) = oneshot::channel();
    let group = replica.group();
    queue.try_send(Ticket::Go(ticket, need.schema)).map_err(|refused| not_queued(refused, group).1)?;
    match tokio::time::timeout(timeout, confirmed).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::new(Code::ShuttingDown, "this replica has stopped")),
        Err(_) => Err(Error::new(Code::Unavailable, format!("{group} has no majority at the moment"))),
    }
}

/// The replica of a group, once it holds what a read of that level must see.
///
/// # Errors
/// That it cannot be known, or does not.
pub async fn fresh_enough(
    host: &Arc<Host>,
    group: GroupId,
    read: &Read,
    timeout: Duration,
) -> Result<Arc<Replica>, Error> {
    let replica = host.hosted(group)?;
    admit(&replica, read.level)?;
    confirm_for(&replica, read.level, Need::of(read), timeout).await?;
    replica.reads().count();
    Ok(replica)
}

/// Runs a read and waits for its rows.
///
/// # Errors
/// What the read is told.
pub async fn read_rows(
    host: &Arc<Host>,
    group: GroupId,
    read: Read,
    at_us: Option<i64>,
    timeout: Duration,
) -> Result<Rows, Error> {
    let replica = fresh_enough(host, group, &read, timeout).await?;
    let store = replica.state().store();
    block(store.executor(), || store.readers().read_at(&read, at_us, timeout.min(MAX_READ)))
}

#[cfg(test)]
mod tests;
