//! From waiting reads to answers: shared proofs of leadership, and many reads in one go.
//!
//! A read of a level waits in its replica's queue of that level. All that wait when the last round is
//! over share the next one: ReadIndex for linearizable reads, a look at the lease for lease reads,
//! nothing for reads of what the replica holds. A read that comes during a round waits for the next,
//! since the round's index may be older than a write that the reader knows of.
//!
//! What a round confirmed is read in runs of [`READS_PER_TASK`], on the threads that serve connections:
//! a read by key takes some microseconds, waking another thread for it takes longer. A read that is not
//! over at SQLite's first look at the clock begins again on a thread of its own, with all of its time.

use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::GroupId;
use flotilla_shared::rpc::Reply;
use flotilla_shared::wire::{Level, Read, Response, Rows};
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, ReadPolicy};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::handover::{leader_of, refused_read};
use crate::host::{Host, Raft, Replica};
use crate::propose::{MAX_WAITING, encoded};
use crate::stages::{NodeStages, Stage};
use crate::state::Store;
use crate::state::store::block;

/// Longest that a read may take.
const MAX_READ: Duration = Duration::from_secs(60);

/// Reads that follow each other without a break: enough that a task costs little of it, few enough that
/// the last one does not notice the others.
const READS_PER_TASK: usize = 16;

/// How often a round that takes long looks for reads whose time is over.
const SWEEP: Duration = Duration::from_millis(100);

/// Waits for a round.
pub enum Ticket {
    /// Somebody who goes on by himself.
    Go(oneshot::Sender<Result<(), Error>>),
    /// A read.
    Read(Box<Pending>),
}

/// A read with the place where its rows go.
pub struct Pending {
    read: Read,
    arrived: Instant,
    deadline: Instant,
    reply: Reply,
}

impl Ticket {
    fn is_over(&self) -> bool {
        match self {
            Self::Go(waiting) => waiting.is_closed(),
            Self::Read(pending) => pending.deadline <= Instant::now(),
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Go(waiting) => drop(waiting.send(Err(error))),
            Self::Read(pending) => pending.reply.send_now(encoded(&Err(error))),
        }
    }
}

/// The queues of one replica.
pub struct Reads {
    linearizable: mpsc::Sender<Ticket>,
    lease: mpsc::Sender<Ticket>,
    none: mpsc::Sender<Ticket>,
}

impl Reads {
    /// Starts serving reads of a replica; ends when this is dropped.
    pub fn start(group: GroupId, raft: &Raft, store: &Arc<Store>, stages: &NodeStages) -> Self {
        let serve = |policy| {
            let (sender, queue) = mpsc::channel(MAX_WAITING);
            let (proof, store, stages) = (raft.clone(), Arc::clone(store), stages.clone());
            tokio::spawn(Rounds { group, proof, store, stages, policy }.serve(queue));
            sender
        };
        Self {
            linearizable: serve(Some(ReadPolicy::ReadIndex)),
            lease: serve(Some(ReadPolicy::LeaseRead)),
            none: serve(None),
        }
    }

    fn queue(&self, level: Level) -> &mpsc::Sender<Ticket> {
        match level {
            Level::Linearizable => &self.linearizable,
            Level::Lease => &self.lease,
            Level::None => &self.none,
        }
    }
}

/// What proves that a replica leads. Handed in, so that a test can let a proof take its time.
trait Proof: Send + Sync + 'static {
    /// Returns once all that was acknowledged before the call is applied here.
    fn prove(&self, policy: ReadPolicy) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Proof for Raft {
    async fn prove(&self, policy: ReadPolicy) -> Result<(), Error> {
        match self.ensure_linearizable(policy).await {
            Ok(_) => Ok(()),
            Err(error) => Err(refused_read(self, &error).await),
        }
    }
}

/// The rounds of one level.
struct Rounds<P> {
    group: GroupId,
    proof: P,
    store: Arc<Store>,
    stages: NodeStages,
    policy: Option<ReadPolicy>,
}

impl<P: Proof> Rounds<P> {
    async fn serve(self, mut queue: mpsc::Receiver<Ticket>) {
        let mut tickets = Vec::new();
        while !tickets.is_empty() || queue.recv_many(&mut tickets, MAX_WAITING).await > 0 {
            let mut late = Vec::new();
            let confirmed = match self.policy.clone() {
                Some(policy) => self.round(policy, &mut queue, &mut tickets, &mut late).await,
                None => Ok(()),
            };
            self.answer(std::mem::replace(&mut tickets, late), &confirmed);
        }
    }

    /// One round; `late` are those who came during it and may not use it.
    async fn round(
        &self,
        policy: ReadPolicy,
        queue: &mut mpsc::Receiver<Ticket>,
        tickets: &mut Vec<Ticket>,
        late: &mut Vec<Ticket>,
    ) -> Result<(), Error> {
        let mut round = std::pin::pin!(self.proof.prove(policy));
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
        Error::new(Code::Unavailable, format!("{} has no majority at the moment", self.group))
    }

    fn answer(&self, tickets: Vec<Ticket>, confirmed: &Result<(), Error>) {
        let mut reads = Vec::new();
        for ticket in tickets {
            match (ticket, confirmed) {
                (ticket, Err(error)) => ticket.refuse(error.clone()),
                (Ticket::Go(waiting), Ok(())) => drop(waiting.send(Ok(()))),
                (Ticket::Read(pending), Ok(())) => reads.push(*pending),
            }
        }
        // A task of its own for one read would be as dear as the read.
        if reads.len() == 1 {
            return run(&self.store, &self.stages, reads);
        }
        while !reads.is_empty() {
            let rest = reads.split_off(reads.len().min(READS_PER_TASK));
            let (store, stages) = (Arc::clone(&self.store), self.stages.clone());
            let some = std::mem::replace(&mut reads, rest);
            tokio::spawn(async move { run(&store, &stages, some) });
        }
    }
}

fn run(store: &Arc<Store>, stages: &NodeStages, reads: Vec<Pending>) {
    for pending in reads {
        let begun = Instant::now();
        stages.observe(Stage::Confirm, begun - pending.arrived);
        match store.readers().read(&pending.read, Duration::ZERO) {
            Err(error) if error.code == Code::Timeout => {
                let (store, stages) = (Arc::clone(store), stages.clone());
                tokio::spawn(async move {
                    let left = pending.deadline.saturating_duration_since(Instant::now());
                    let rows = block(store.executor(), || store.readers().read(&pending.read, left));
                    stages.observe(Stage::Read, begun.elapsed());
                    pending.reply.send_now(encoded(&rows.map(Response::Rows)));
                });
            }
            rows => {
                stages.observe(Stage::Read, begun.elapsed());
                pending.reply.send_now(encoded(&rows.map(Response::Rows)));
            }
        }
    }
}

/// Queues a read whose rows go to `reply`.
pub fn enqueue(host: &Host, group: GroupId, read: Read, timeout: Duration, reply: Reply) {
    let admitted = host.hosted(group).and_then(|replica| admit(&replica, &read).map(|()| replica));
    let replica = match admitted {
        Ok(replica) => replica,
        Err(error) => return reply.send_now(encoded(&Err(error))),
    };
    let (level, arrived) = (read.level, Instant::now());
    let deadline = arrived + timeout.min(MAX_READ);
    let ticket = Ticket::Read(Box::new(Pending { read, arrived, deadline, reply }));
    if let Err(refused) = replica.reads().queue(level).try_send(ticket) {
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
fn admit(replica: &Replica, read: &Read) -> Result<(), Error> {
    match read.level {
        Level::Linearizable => Ok(()),
        Level::Lease if replica.may_vote() => Ok(()),
        Level::Lease => {
            Err(Error::new(Code::Unavailable, "this node has just started; its lease is not to be trusted yet"))
        }
        Level::None => check_freshness(replica, read.freshness_ms),
    }
}

fn check_freshness(replica: &Replica, freshness_ms: Option<u64>) -> Result<(), Error> {
    let Some(freshness_ms) = freshness_ms else { return Ok(()) };
    // A replica that has applied what its leader had committed at the last heartbeat is as fresh as
    // that heartbeat; followers are not told its time, so only leaders can promise one.
    let metrics = replica.raft().metrics();
    let metrics = metrics.borrow_watched();
    match metrics.last_quorum_acked {
        Some(at) if at.elapsed() <= Duration::from_millis(freshness_ms) => Ok(()),
        _ => Err(Error::not_leader(leader_of(&metrics))),
    }
}

/// Waits for a round of a level.
///
/// # Errors
/// That this replica does not lead, or is not known to.
pub async fn confirm(replica: &Replica, level: Level, timeout: Duration) -> Result<(), Error> {
    let (ticket, confirmed) = oneshot::channel();
    let group = replica.group();
    replica.reads().queue(level).try_send(Ticket::Go(ticket)).map_err(|refused| not_queued(refused, group).1)?;
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
    admit(&replica, read)?;
    if read.level != Level::None {
        confirm(&replica, read.level, timeout).await?;
    }
    Ok(replica)
}

/// Runs a read and waits for its rows.
///
/// # Errors
/// What the read is told.
pub async fn read_rows(host: &Arc<Host>, group: GroupId, read: Read, timeout: Duration) -> Result<Rows, Error> {
    let replica = fresh_enough(host, group, &read, timeout).await?;
    let store = replica.state().store();
    block(store.executor(), || store.readers().read(&read, timeout.min(MAX_READ)))
}

#[cfg(test)]
mod tests;
