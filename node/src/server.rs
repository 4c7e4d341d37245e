//! The internal port: requests of proxies, nodes and the command line, and Raft messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, META, NodeId, ReplicaId, RequestId};
use flotilla_shared::moves::{MoveAnswer, MoveQuery};
use flotilla_shared::registry::Registry;
use flotilla_shared::rpc::{KIND_REQUEST, Reply, Session};
use flotilla_shared::wire::{Body, Envelope, Level, Outcome, Request, Response, Write};
use openraft::errors::{InitializeError, RaftError};
use tokio::sync::mpsc;

use crate::consensus::Peer;
use crate::handover;
use crate::host::Host;
use crate::jobs::heard;
use crate::members;
use crate::network::{KIND_RAFT, RaftSession};
use crate::proof::read_index;
use crate::propose::{MAX_GROUP_WAITING_BYTES, MAX_REQUEST_BYTES, MAX_WAITING_BYTES, Proposal, propose_one, respond};
use crate::read;
use crate::state::store::block;
use crate::streams::{Opened, Streams};

/// Longest that a watch may wait.
const MAX_WATCH: Duration = Duration::from_secs(60);

/// Longest that a watch may wait at a node without a replica of `meta`. Such a node is only asked while
/// a cluster is being made, or a lost replica replaced; it follows the registry itself, perhaps by asking
/// those who ask it, so they had better ask the next one soon.
const MAX_BLIND_WATCH: Duration = Duration::from_millis(200);

/// What one peer's connection brings.
pub struct NodeSession {
    host: Arc<Host>,
    raft: RaftSession,
    streams: Streams,
}

impl NodeSession {
    fn open(&self, stream: RequestId, opened: Opened, timeout: Duration, reply: Reply) {
        let (host, opening) = (Arc::clone(&self.host), self.streams.open(stream));
        self.answer(reply, async move { opening.start(&host, opened, timeout).await });
    }

    /// For a new connection.
    pub fn new(host: Arc<Host>) -> Self {
        Self { raft: RaftSession::new(Arc::clone(&host)), streams: Streams::default(), host }
    }
}

impl Session for NodeSession {
    fn handle(&mut self, kind: u8, payload: Bytes, reply: Reply) {
        match kind {
            KIND_RAFT => self.raft.handle(&payload, reply),
            KIND_REQUEST => match postcard::from_bytes::<Envelope>(&payload) {
                Ok(envelope) => self.dispatch(envelope, reply),
                Err(error) => {
                    refuse(reply, Error::new(Code::BadRequest, format!("a request does not decode: {error}")))
                }
            },
            _ => refuse(reply, Error::new(Code::BadRequest, format!("frames of kind {kind} are unknown here"))),
        }
    }
}

fn refuse(reply: Reply, error: Error) {
    tokio::spawn(respond(reply, Err(error)));
}

impl NodeSession {
    /// Writes and reads go into their group's queues without a task of their own; everything else gets one.
    fn dispatch(&self, envelope: Envelope, reply: Reply) {
        let timeout = Duration::from_millis(envelope.timeout_ms);
        match envelope.request {
            Request::Write { group, writes } => enqueue(&self.host, group, writes, timeout, reply),
            Request::Read { group, read } => read::enqueue(&self.host, group, read, None, timeout, reply),
            Request::ReadAt { group, read, at_us, stream: None } => {
                read::enqueue(&self.host, group, read, Some(at_us), timeout, reply);
            }
            Request::ReadAt { group, read, at_us, stream: Some((stream, life_ms)) } => {
                let life = Duration::from_millis(life_ms);
                self.open(stream, Opened { group, read, at_us: Some(at_us), life }, timeout, reply);
            }
            Request::Open { group, read, stream, life_ms } => {
                let life = Duration::from_millis(life_ms);
                self.open(stream, Opened { group, read, at_us: None, life }, timeout, reply);
            }
            Request::Pull(stream) => {
                let (node, next) = (self.host.identity().node, self.streams.pull(stream));
                self.answer(reply, async move { next.await.map(|piece| piece.response(node)) });
            }
            Request::Close(stream) => {
                self.streams.close(stream);
                self.answer(reply, async { Ok(Response::Ok) });
            }
            request => {
                let host = Arc::clone(&self.host);
                self.answer(reply, async move { handle(&host, request, timeout).await });
            }
        }
    }

    fn answer(&self, reply: Reply, work: impl Future<Output = Result<Response, Error>> + Send + 'static) {
        let host = Arc::clone(&self.host);
        tokio::spawn(async move {
            let response = tokio::select! {
                response = work => response,
                () = host.stopped() => Err(Error::new(Code::ShuttingDown, "this node is stopping")),
            };
            respond(reply, response).await;
        });
    }
}

fn enqueue(host: &Host, group: GroupId, writes: Vec<Write>, timeout: Duration, reply: Reply) {
    let replica = match host.hosted(group) {
        Ok(replica) => replica,
        Err(error) => return refuse(reply, error),
    };
    let bytes: usize = writes.iter().map(Write::size_bytes).sum();
    if bytes > MAX_REQUEST_BYTES {
        let error =
            Error::new(Code::TooLarge, format!("a write of {bytes} bytes is over the limit of {MAX_REQUEST_BYTES}"))
                .hint("split it, or keep large blobs elsewhere");
        return refuse(reply, error);
    }
    let no_room = |why| Error::new(Code::Overloaded, why).hint("retry after a moment");
    let Some(in_group) = replica.waiting().take(bytes) else {
        return refuse(reply, no_room(format!("writes of more than {MAX_GROUP_WAITING_BYTES} bytes wait for {group}")));
    };
    let Some(on_node) = host.waiting().take(bytes) else {
        return refuse(reply, no_room(format!("writes of more than {MAX_WAITING_BYTES} bytes wait on this node")));
    };
    let room = [on_node, in_group];
    let arrived = Instant::now();
    let proposal = Proposal { writes, reply, arrived, deadline: arrived + timeout, room };
    if let Err(refused) = replica.proposals().try_send(proposal) {
        let (proposal, error) = match refused {
            mpsc::error::TrySendError::Full(proposal) => (
                proposal,
                Error::new(Code::Overloaded, format!("too many writes wait for {group}")).hint("retry after a moment"),
            ),
            mpsc::error::TrySendError::Closed(proposal) => {
                (proposal, Error::new(Code::ShuttingDown, "this replica has stopped"))
            }
        };
        refuse(proposal.reply, error);
    }
}

/// Handles one request.
///
/// # Errors
/// What the caller is told.
pub async fn handle(host: &Arc<Host>, request: Request, timeout: Duration) -> Result<Response, Error> {
    match request {
        Request::Identify => Ok(Response::Identity(host.identity())),
        Request::Status => Ok(Response::Status(host.status())),
        Request::Silence => heard::silence(host).map(Response::Silence),
        Request::Write { .. } => Err(Error::new(Code::Internal, "writes are queued, not handled")),
        Request::Open { .. } | Request::ReadAt { stream: Some(_), .. } | Request::Pull(_) | Request::Close(_) => {
            Err(Error::new(Code::Internal, "streams belong to a connection"))
        }
        Request::Read { group, read } => read::read_rows(host, group, read, None, timeout).await.map(Response::Rows),
        Request::ReadAt { group, read, at_us, stream: None } => {
            read::read_rows(host, group, read, Some(at_us), timeout).await.map(Response::Rows)
        }
        Request::Shard { group, command } => match propose_one(host.hosted(group)?.raft(), Body::Shard(command)).await?
        {
            Outcome::Shard(reply) => reply.map(Response::Shard),
            _ => Err(another_kind()),
        },
        Request::Moves { group, query } => moves(host, group, query, timeout).await.map(Response::Moves),
        Request::Meta(command) => match propose_one(host.hosted(META)?.raft(), Body::Meta(Box::new(command))).await? {
            Outcome::Meta(reply) => reply.map(Response::Meta),
            _ => Err(another_kind()),
        },
        Request::Watch { since, wait_ms, fresh } => {
            watch(host, since, Duration::from_millis(wait_ms), fresh).await.map(Response::Registry)
        }
        Request::CreateReplica { cluster, node, group, replica } => {
            host.adopt(cluster, node)?;
            host.create_replica(group, replica).await.map(|()| Response::Ok)
        }
        Request::DropReplica { group, replica } => host.drop_replica(group, replica).await.map(|()| Response::Ok),
        Request::InitGroup { group, members } => init_group(host, group, members).await.map(|()| Response::Ok),
        Request::Membership { group, change } => {
            // Who is asked must lead now: a leader of the past may hold members that never were.
            let replica = host.hosted(group)?;
            read::confirm(&replica, Level::Linearizable, timeout).await?;
            members::change(&replica, &change, host.silence_limit()).await.map(Response::Members)
        }
        Request::HandOver { group, to } => {
            handover::hand_over(&*host.hosted(group)?, to, host.silence_limit()).await.map(Response::Leader)
        }
        Request::ReadIndex(group) => read_index(host.hosted(group)?.raft()).await.map(Response::Index),
        Request::ContentHash(group) => {
            let replica = host.hosted(group)?;
            let state = replica.state();
            let (index, hash) = block(state.store().executor(), || state.content_hash())
                .map_err(|error| Error::new(Code::Storage, error.to_string()))?;
            Ok(Response::ContentHash(index, hash))
        }
    }
}

fn another_kind() -> Error {
    Error::new(Code::Internal, "an entry gave an outcome of another kind")
}

/// What the leader answers the driver of a move, as of now.
async fn moves(host: &Arc<Host>, group: GroupId, query: MoveQuery, timeout: Duration) -> Result<MoveAnswer, Error> {
    let replica = host.hosted(group)?;
    read::confirm(&replica, Level::Linearizable, timeout).await?;
    let state = replica.state();
    block(state.store().executor(), || state.answer(&query))
}

/// The registry once it is newer than `since`. A node without a replica of `meta` passes on what it
/// follows itself.
async fn watch(host: &Arc<Host>, since: u64, wait: Duration, fresh: bool) -> Result<Option<Box<Registry>>, Error> {
    let newer = |registry: &Registry| (registry.version > since).then(|| Box::new(registry.clone()));
    if let Some(replica) = host.replica(META) {
        if fresh {
            read::confirm(&replica, Level::Linearizable, MAX_WATCH).await?;
        }
        let mut registry = replica.state().registry();
        let changed = registry.wait_for(|registry| registry.version > since);
        return match tokio::time::timeout(wait.min(MAX_WATCH), changed).await {
            Ok(Ok(registry)) => Ok(newer(&registry)),
            Ok(Err(_)) => Err(Error::new(Code::ShuttingDown, "this replica has stopped")),
            Err(_) => Ok(None),
        };
    }
    if fresh {
        return Err(Error::not_leader(host.cluster().leader(META)));
    }
    let deadline = tokio::time::Instant::now() + wait.min(MAX_BLIND_WATCH);
    match host.cluster().wait_until(deadline, |registry| registry.version > since).await {
        Ok(registry) => Ok(newer(&registry)),
        Err(_) => Ok(None),
    }
}

async fn init_group(host: &Arc<Host>, group: GroupId, members: Vec<(ReplicaId, NodeId, String)>) -> Result<(), Error> {
    let members: BTreeMap<u64, Peer> =
        members.into_iter().map(|(replica, node, addr)| (replica.0, Peer { node, addr })).collect();
    match host.hosted(group)?.raft().initialize(members).await {
        // It was started before: by an earlier try, or it has heard from a leader already.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(Error::new(Code::Conflict, error.to_string())),
    }
}
