//! From waiting writes to log entries.
//!
//! All writes that wait when the last proposal has been handed over become one entry: an idle group
//! proposes at once, a busy one proposes many together, and no timer is in the way. A bounded number
//! of entries is under way, so that the next one gathers while they replicate. Who has waited for longer than
//! its caller does is refused, not proposed: after an overload the callers have sent their writes again, and a
//! queue of old ones would be worked off for nobody, while the new ones grow old behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_shared::budget::Taken;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::NodeId;
use flotilla_shared::rpc::{Reply, payload};
use flotilla_shared::wire::{Body, Command, Outcome, Response, Write};
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::consensus::Types;
use crate::handover::refused;
use crate::host::Raft;
use crate::stages::{NodeStages, Stage};

/// Requests that may wait for a proposal; beyond it they are refused with `overloaded`.
pub const MAX_WAITING: usize = 4096;

/// Bytes of the writes that may wait on one node, all groups together; refused like those beyond
/// [`MAX_WAITING`]. Eight of the largest requests, or some seconds of what a disk takes.
pub const MAX_WAITING_BYTES: usize = 64 << 20;

/// Bytes of the writes that may wait for one group: one without a majority leaves room to the others.
pub const MAX_GROUP_WAITING_BYTES: usize = MAX_WAITING_BYTES / 2;

/// How often those who wait longer than usual are looked through for callers that have given up.
pub const SWEEP: Duration = Duration::from_millis(100);

/// Writes of one entry: beyond some hundreds nothing is gained, and one entry is applied in one go.
const MAX_WRITES_PER_ENTRY: usize = 1024;

/// Bytes of one entry, unless a single request is larger.
const MAX_ENTRY_BYTES: usize = 1 << 20;

/// Bytes that one request may bring into the log.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;

/// Entries of one group under way. With one, writes would wait a whole round trip for the next; with
/// many, entries are small and each costs its own bookkeeping.
const MAX_UNDER_WAY: usize = 4;

/// Writes with the place where their results go.
pub struct Proposal {
    /// In order.
    pub writes: Vec<Write>,
    /// Where the results go.
    pub reply: Reply,
    /// When it came.
    pub arrived: Instant,
    /// When its caller gives up.
    pub deadline: Instant,
    /// Its part of [`MAX_WAITING_BYTES`], and of [`MAX_GROUP_WAITING_BYTES`].
    pub room: [Taken; 2],
}

/// Microseconds since 1970.
pub fn now_us() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

/// A command with the time and randomness that apply will see.
pub fn command(body: Body) -> Command {
    Command { at_us: now_us(), seed: flotilla_shared::ids::RequestId::random().0 as u64, body }
}

/// An answer as it goes into a frame.
pub fn encoded(response: &Result<Response, Error>) -> Bytes {
    payload(response)
}

/// Sends an answer to a request.
pub async fn respond(reply: Reply, response: Result<Response, Error>) {
    reply.send(encoded(&response)).await;
}

/// Proposes what waits, until the queue closes.
pub async fn propose_writes(raft: Raft, mut queue: mpsc::Receiver<Proposal>, stages: NodeStages) {
    let places = Arc::new(Semaphore::new(MAX_UNDER_WAY));
    let mut held = VecDeque::new();
    loop {
        let place = free_place(&places, &mut queue, &mut held).await;
        let first = match held.pop_front() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let (writes, replies) = gather(first, &mut queue, &mut held, &stages);
        if writes.is_empty() {
            continue;
        }
        let (responder, outcome) = ProgressResponder::complete_only();
        let proposed = Instant::now();
        let sent = raft.client_write_ff(command(Body::Writes(writes)), Some(responder)).await;
        stages.observe_all(Stage::Propose, proposed.elapsed(), replies.len());
        let (raft, stages) = (raft.clone(), stages.clone());
        tokio::spawn(async move {
            let outcome = match sent {
                Ok(()) => match outcome.await {
                    Ok(Ok(response)) => Ok(response.data),
                    Ok(Err(error)) => Err(refused(&raft, &error).await),
                    Err(_) => Err(stopped()),
                },
                Err(_) => Err(stopped()),
            };
            drop(place);
            distribute(outcome, replies, &stages).await;
        });
    }
}

/// Waits for a place for an entry. A group without a majority frees none, so that those who wait are looked through.
async fn free_place(
    places: &Arc<Semaphore>,
    queue: &mut mpsc::Receiver<Proposal>,
    held: &mut VecDeque<Proposal>,
) -> OwnedSemaphorePermit {
    loop {
        match tokio::time::timeout(SWEEP, Arc::clone(places).acquire_owned()).await {
            Ok(place) => return place.expect("never closed"),
            Err(_) => sweep(queue, held),
        }
    }
}

/// Refuses those who have waited too long while no entry could be proposed; the others are `held`, in order.
fn sweep(queue: &mut mpsc::Receiver<Proposal>, held: &mut VecDeque<Proposal>) {
    while held.len() < MAX_WAITING
        && let Ok(proposal) = queue.try_recv()
    {
        held.push_back(proposal);
    }
    let now = Instant::now();
    let (late, rest): (VecDeque<_>, _) = held.drain(..).partition(|proposal| proposal.deadline <= now);
    *held = rest;
    late.into_iter().for_each(refuse_late);
}

fn refuse_late(proposal: Proposal) {
    let late = Error::new(Code::Overloaded, "the write waited for longer than its caller does");
    proposal.reply.send_now(encoded(&Err(late.hint("retry after a moment"))));
}

/// What goes into one entry: `first` and what waits behind it; what does not fit any more is `held` for the next.
fn gather(
    first: Proposal,
    queue: &mut mpsc::Receiver<Proposal>,
    held: &mut VecDeque<Proposal>,
    stages: &NodeStages,
) -> (Vec<Write>, Vec<(usize, Reply)>) {
    let (mut writes, mut replies) = (Vec::new(), Vec::new());
    let (mut bytes, now) = (0, Instant::now());
    let mut next = Some(first);
    while let Some(proposal) = next.take() {
        let waited = now.saturating_duration_since(proposal.arrived);
        if proposal.deadline <= now {
            stages.observe(Stage::Queue, waited);
            refuse_late(proposal);
        } else {
            let size: usize = proposal.writes.iter().map(Write::size_bytes).sum();
            let full = writes.len() + proposal.writes.len() > MAX_WRITES_PER_ENTRY || bytes + size > MAX_ENTRY_BYTES;
            if full && !writes.is_empty() {
                held.push_front(proposal);
                break;
            }
            stages.observe(Stage::Queue, waited);
            bytes += size;
            replies.push((proposal.writes.len(), proposal.reply));
            writes.extend(proposal.writes);
        }
        next = held.pop_front().or_else(|| queue.try_recv().ok());
    }
    (writes, replies)
}

async fn distribute(outcome: Result<Outcome, Error>, replies: Vec<(usize, Reply)>, stages: &NodeStages) {
    let known = Instant::now();
    match outcome {
        Ok(Outcome::Writes(results)) => {
            let mut results = results.into_iter();
            for (count, reply) in replies {
                respond(reply, Ok(Response::Writes(results.by_ref().take(count).collect()))).await;
                stages.observe(Stage::Respond, known.elapsed());
            }
        }
        Ok(_) => {
            for (_, reply) in replies {
                respond(reply, Err(Error::new(Code::Internal, "an entry gave an outcome of another kind"))).await;
            }
        }
        Err(error) => {
            for (_, reply) in replies {
                respond(reply, Err(error.clone())).await;
            }
        }
    }
}

/// Proposes one command that is not a client's write.
///
/// # Errors
/// When this replica does not lead or stops.
pub async fn propose_one(raft: &Raft, body: Body) -> Result<Outcome, Error> {
    match raft.client_write(command(body)).await {
        Ok(response) => Ok(response.data),
        Err(RaftError::APIError(error)) => Err(refused(raft, &error).await),
        Err(RaftError::Fatal(_)) => Err(stopped()),
    }
}

/// What a refused proposal means. One that was forwarded never was in the log. An entry that this replica has
/// thrown away need not be gone: others may have it, and a leader of the past that gets pages in the place of
/// its log throws away what may be in these pages. Only the request's id tells, at the next leader.
pub fn write_error(error: &ClientWriteError<Types>) -> Error {
    match error {
        ClientWriteError::ForwardToLeader(forward) => {
            Error::not_leader(forward.leader_node.as_ref().map(|peer| peer.node))
        }
        ClientWriteError::LogEntryDiscarded(forward) => Error {
            leader: forward.leader_node.as_ref().map(|peer| peer.node),
            ..Error::new(Code::OutcomeUnknown, "another leader's log has taken the place of this entry")
        },
        other => Error::new(Code::Conflict, other.to_string()),
    }
}

fn stopped() -> Error {
    Error::new(Code::ShuttingDown, "this replica has stopped").hint("retry; another replica takes over")
}

/// What a refused read means.
pub fn read_error(error: &RaftError<Types, LinearizableReadError<Types>>) -> Error {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => {
            Error::not_leader(forward.leader_node.as_ref().map(|peer| -> NodeId { peer.node }))
        }
        RaftError::APIError(other) => Error::new(Code::Unavailable, other.to_string()),
        RaftError::Fatal(_) => stopped(),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_shared::budget::Budget;
    use flotilla_shared::error::Class;
    use flotilla_shared::ids::RequestId;
    use flotilla_shared::rpc::{self, Connection, Session};
    use openraft::errors::{ForwardReason, ForwardToLeader};

    use tokio::net::TcpListener;
    use tokio::sync::watch;

    use super::*;
    use crate::consensus::Peer;

    /// Hands over the places of answers.
    struct Answers(mpsc::UnboundedSender<Reply>);

    impl Session for Answers {
        fn handle(&mut self, _: u8, _: Bytes, reply: Reply) {
            self.0.send(reply).ok();
        }
    }

    /// Of three writes that waited, the first and the last for longer than their callers do: these two are told so,
    /// whether a place for an entry was free or not, and only the other goes into the entry.
    #[tokio::test]
    async fn late_writes_are_not_proposed() {
        for has_waited_for_a_place in [false, true] {
            late_writes(has_waited_for_a_place).await;
        }
    }

    async fn late_writes(has_waited_for_a_place: bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let ((given, mut replies), (_stop, stopped)) = (mpsc::unbounded_channel(), watch::channel(false));
        tokio::spawn(rpc::serve(listener, move || Answers(given.clone()), stopped));
        let connection = Arc::new(Connection::open(&addr).await.unwrap());
        let (proposals, mut queue) = mpsc::channel(3);
        let (budget, now, minute) = (Budget::new(0), Instant::now(), Duration::from_secs(60));
        let mut answers = vec![];
        for (id, deadline) in [(0, now), (1, now + minute), (2, now)] {
            answers.push(connection.send(0, Bytes::new()).await.unwrap());
            let writes = vec![Write { id: RequestId(id), route: None, statements: vec![] }];
            let (reply, room) = (replies.recv().await.unwrap(), [budget.open(), budget.open()]);
            proposals.try_send(Proposal { writes, reply, arrived: now, deadline, room }).ok().unwrap();
        }
        let (last, on_time, first) = (answers.pop().unwrap(), answers.pop().unwrap(), answers.pop().unwrap());
        let told = async {
            for late in [first, last] {
                let answer = tokio::time::timeout(minute, late.wait()).await.expect("it is told").unwrap();
                let answer: Result<Response, Error> = postcard::from_bytes(&answer).unwrap();
                assert_eq!(answer.unwrap_err().code, Code::Overloaded);
            }
        };
        tokio::pin!(told);
        let mut held = VecDeque::new();
        if has_waited_for_a_place {
            let none_free = Arc::new(Semaphore::new(0));
            tokio::select! {
                _ = free_place(&none_free, &mut queue, &mut held) => panic!("there is no place"),
                () = &mut told => (),
            }
            assert_eq!(held.len(), 1);
        }
        let next = held.pop_front().or_else(|| queue.try_recv().ok()).unwrap();
        let (writes, kept) = gather(next, &mut queue, &mut held, &NodeStages::default());
        assert_eq!(writes.iter().map(|write| write.id.0).collect::<Vec<_>>(), [1]);
        assert!(held.is_empty() && kept.len() == 1);
        if !has_waited_for_a_place {
            told.await;
        }
        // Nobody has answered it yet.
        assert!(tokio::time::timeout(Duration::ZERO, on_time.wait()).await.is_err());
    }

    /// Whoever was sent on knows that nothing happened; whose entry was thrown away does not, since the next
    /// leader may have it. Both learn who leads.
    #[test]
    fn a_discarded_entry_may_have_been_committed() {
        let peer = Peer { node: NodeId(3), addr: String::new() };
        let forward = ForwardToLeader { leader_id: Some(9), leader_node: Some(peer), reason: ForwardReason::NotLeader };
        let sent_on = write_error(&ClientWriteError::ForwardToLeader(forward.clone()));
        assert_eq!((sent_on.code.class(), sent_on.leader), (Class::Retry, Some(NodeId(3))));
        let discarded = write_error(&ClientWriteError::LogEntryDiscarded(forward));
        assert_eq!((discarded.code.class(), discarded.leader), (Class::Unknown, Some(NodeId(3))));
    }
}
