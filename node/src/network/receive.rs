//! The receiving end: what one peer's connection brings, handed to the replicas in order.
//!
//! Appends of one group go through a lane: a task that feeds openraft's own pipelined stream and
//! pairs its answers with the requests. openraft ends the stream at the first refusal; the lane then
//! answers what it has taken with "not handled" and the next append opens a new one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use flotilla_shared::ids::{GroupId, ReplicaId};
use flotilla_shared::rpc::{Reply, payload};
use futures::{StreamExt, pin_mut};
use openraft::raft::{AppendEntriesRequest, StreamAppendError};
use openraft::storage::Snapshot;
use tokio::sync::mpsc;

use super::{Answer, Message, RaftRequest};
use crate::consensus::Types;
use crate::host::{Host, Replica};
use crate::state::SnapshotSource;
use crate::state::pages::Incoming;
use crate::state::store::block;

/// Appends that may wait in a lane; more than a sender has on the way.
const LANE_REQUESTS: usize = 64;

/// Page messages that may wait; more than a sender has on the way.
const TRANSFER_MESSAGES: usize = 8;

/// Transfers that one connection may have open: one per group that fell behind is the common case.
const MAX_TRANSFERS: usize = 64;

/// Handles the Raft messages of one connection.
pub struct RaftSession {
    host: Arc<Host>,
    lanes: HashMap<(GroupId, ReplicaId), Lane>,
    transfers: HashMap<u64, mpsc::Sender<(Message, Reply)>>,
}

async fn answer(reply: Reply, answer: &Answer) {
    reply.send(payload(answer)).await;
}

fn answer_later(reply: Reply, message: Answer) {
    tokio::spawn(async move { answer(reply, &message).await });
}

impl RaftSession {
    /// For a new connection.
    pub fn new(host: Arc<Host>) -> Self {
        Self { host, lanes: HashMap::new(), transfers: HashMap::new() }
    }

    /// Takes one message.
    pub fn handle(&mut self, payload: &Bytes, reply: Reply) {
        let request: RaftRequest = match postcard::from_bytes(payload) {
            Ok(request) => request,
            Err(error) => return answer_later(reply, Answer::Failed(format!("the message does not decode: {error}"))),
        };
        let Some(replica) = self.host.replica(request.group).filter(|replica| replica.id() == request.to) else {
            let why = format!("this node hosts no replica {} of {}", request.to, request.group);
            return answer_later(reply, Answer::Failed(why));
        };
        match request.message {
            Message::Append(append) => self.append(&replica, append, reply),
            Message::Pages { transfer, first: true, .. } if !self.transfers.contains_key(&transfer) => {
                self.transfers.retain(|_, queue| !queue.is_closed());
                if self.transfers.len() >= MAX_TRANSFERS {
                    return answer_later(reply, Answer::Failed("too many transfers".into()));
                }
                let (queue, messages) = mpsc::channel(TRANSFER_MESSAGES);
                tokio::spawn(receive_pages(replica, transfer, messages));
                queue.try_send((request.message, reply)).ok();
                self.transfers.insert(transfer, queue);
            }
            Message::Pages { transfer, .. } | Message::Install { transfer, .. } => {
                match self.transfers.get(&transfer) {
                    Some(queue) => {
                        if let Err(refused) = queue.try_send((request.message, reply)) {
                            let (_, reply) = refused.into_inner();
                            answer_later(reply, Answer::Failed("the transfer was given up".into()));
                        }
                    }
                    None => answer_later(reply, Answer::Failed("there is no such transfer".into())),
                }
            }
            message => {
                tokio::spawn(async move { answer(reply, &single(&replica, message).await).await });
            }
        }
    }

    fn append(&mut self, replica: &Arc<Replica>, append: AppendEntriesRequest<Types>, reply: Reply) {
        let key = (replica.group(), replica.id());
        let lane = self.lanes.entry(key).or_insert_with(|| Lane::open(replica));
        if lane.is_over() {
            *lane = Lane::open(replica);
        }
        if let Err(refused) = lane.queue.try_send((append, reply)) {
            let (_, reply) = refused.into_inner();
            answer_later(reply, Answer::Failed("too many appends wait".into()));
        }
    }
}

/// Messages that stand alone.
async fn single(replica: &Replica, message: Message) -> Answer {
    let failed = |error: &dyn std::fmt::Display| Answer::Failed(error.to_string());
    match message {
        // A leader may hold a lease that this replica granted before it was restarted.
        Message::Vote(_) | Message::PreVote(_) if !replica.may_vote() => {
            Answer::Failed("this node has just started and may have promised its vote".into())
        }
        Message::Vote(vote) => replica.raft().vote(vote).await.map_or_else(|e| failed(&e), Answer::Vote),
        Message::PreVote(vote) => replica.raft().pre_vote(vote).await.map_or_else(|e| failed(&e), Answer::Vote),
        Message::Transfer(transfer) => match replica.raft().handle_transfer_leader(transfer).await {
            Ok(Ok(())) => Answer::Transferred,
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error),
        },
        _ => Answer::Failed("not a message that stands alone".into()),
    }
}

/// Appends of one group from one peer.
struct Lane {
    queue: mpsc::Sender<(AppendEntriesRequest<Types>, Reply)>,
    /// Replies of requests that openraft has, in order; `None` once its stream has ended.
    pending: Arc<Mutex<Option<VecDeque<Reply>>>>,
}

impl Lane {
    fn open(replica: &Arc<Replica>) -> Self {
        let (queue, mut requests) = mpsc::channel(LANE_REQUESTS);
        let pending = Arc::new(Mutex::new(Some(VecDeque::new())));
        let taken = Arc::clone(&pending);
        let input = futures::stream::poll_fn(move |context| {
            requests.poll_recv(context).map(|next: Option<(AppendEntriesRequest<Types>, Reply)>| {
                let (request, reply) = next?;
                match taken.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                    Some(pending) => {
                        pending.push_back(reply);
                        Some(request)
                    }
                    None => {
                        answer_later(reply, Answer::Failed("the stream of appends has ended".into()));
                        None
                    }
                }
            })
        });
        tokio::spawn(run_lane(Arc::clone(replica), input, Arc::clone(&pending)));
        Self { queue, pending }
    }

    fn is_over(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

async fn run_lane(
    replica: Arc<Replica>,
    input: impl futures::Stream<Item = AppendEntriesRequest<Types>> + Send + 'static,
    pending: Arc<Mutex<Option<VecDeque<Reply>>>>,
) {
    let results = replica.raft().stream_append(input);
    pin_mut!(results);
    while let Some(result) = results.next().await {
        let reply = pending.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(VecDeque::pop_front);
        let Some(reply) = reply else { break };
        if !matches!(result, Err(_) | Ok(Err(StreamAppendError::HigherVote(_)))) {
            replica.hears_leader();
        }
        match result {
            Ok(result) => answer(reply, &Answer::Append(result)).await,
            Err(fatal) => answer(reply, &Answer::Failed(fatal.to_string())).await,
        }
    }
    let left = pending.lock().unwrap_or_else(PoisonError::into_inner).take();
    for reply in left.into_iter().flatten() {
        answer(reply, &Answer::Failed("the stream of appends has ended".into())).await;
    }
}

/// Takes in one transfer, in order, until it is complete or its connection is gone.
async fn receive_pages(replica: Arc<Replica>, transfer: u64, mut messages: mpsc::Receiver<(Message, Reply)>) {
    let store = Arc::clone(replica.state().store());
    let mut incoming = match Incoming::create(store.folder(), transfer) {
        Ok(incoming) => incoming,
        Err(error) => return tracing::warn!(%error, "cannot take in a snapshot"),
    };
    while let Some((message, reply)) = messages.recv().await {
        match message {
            Message::Pages { chunk, .. } => match block(store.executor(), || incoming.write(&chunk)) {
                Ok(()) => answer(reply, &Answer::Received).await,
                Err(error) => return answer(reply, &Answer::Failed(error.to_string())).await,
            },
            Message::Install { hash, vote, meta, .. } => {
                let installed = match block(store.executor(), || incoming.finish(hash)) {
                    Ok(file) => {
                        let snapshot = Snapshot { meta: meta.into(), snapshot: SnapshotSource::File(file) };
                        replica.raft().install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())
                    }
                    Err(error) => Err(error.to_string()),
                };
                return answer(reply, &installed.map_or_else(Answer::Failed, Answer::Installed)).await;
            }
            _ => return answer(reply, &Answer::Failed("not part of a transfer".into())).await,
        }
    }
}
