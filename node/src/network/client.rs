//! The sending end: openraft's network for one target replica.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_shared::client::Cluster;
use flotilla_shared::ids::{GroupId, ReplicaId};
use flotilla_shared::rpc::{self, Connection, RpcError};
use futures::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftTypeConfig};

use super::{Answer, KIND_RAFT, Message, RaftRequest, SnapshotMetaWire};
use crate::consensus::{Peer, Types};
use crate::state::machine::StateSnapshot;
use crate::state::pages::Outgoing;
use crate::state::store::block;
use crate::state::{SnapshotSource, Store};

/// Append requests on the way to one follower. Each is at most one read of the log (1 MiB), so this
/// also bounds the bytes per follower.
const MAX_APPENDS_ON_THE_WAY: usize = 16;

/// How long a follower may take to answer an append before it counts as unreachable; its disk may be
/// slow, but nobody waits for it meanwhile.
const APPEND_TIMEOUT: Duration = Duration::from_secs(3);

/// Page messages on the way: enough to fill a link, few enough for heartbeats to slip between.
const MAX_PAGES_ON_THE_WAY: usize = 4;

/// How long the follower may take to take in a message of pages, or to put the whole in place.
const PAGES_TIMEOUT: Duration = Duration::from_secs(30);

/// First pause before an unreachable peer is tried again; doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);

/// Longest such pause: a node that comes back is served within it.
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// Makes a [`Network`] per target; all share the node's connections.
#[derive(Clone)]
pub struct Network {
    cluster: Arc<Cluster>,
    group: GroupId,
}

impl Network {
    /// The network of one group on this node.
    pub fn new(cluster: Arc<Cluster>, group: GroupId) -> Self {
        Self { cluster, group }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Target {
        Target { network: self.clone(), to: ReplicaId(target), peer: peer.clone() }
    }
}

/// One target replica.
pub struct Target {
    network: Network,
    to: ReplicaId,
    peer: Peer,
}

type RpcResult<T> = Result<T, RPCError<Types>>;

fn unreachable(error: &RpcError) -> RPCError<Types> {
    match error {
        RpcError::NotSent { .. } | RpcError::Incompatible { .. } => RPCError::Unreachable(Unreachable::new(error)),
        RpcError::NoAnswer { .. } => RPCError::Network(NetworkError::new(error)),
    }
}

fn failed(why: String) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&io::Error::other(why)))
}

impl Target {
    /// The node's address as the registry knows it; before that, as the membership does.
    fn addr(&self) -> String {
        let registry = self.network.cluster.registry();
        registry.nodes.get(&self.peer.node).map_or_else(|| self.peer.addr.clone(), |node| node.raft_addr.clone())
    }

    async fn connection(&self) -> RpcResult<Arc<Connection>> {
        self.network.cluster.pool().get(&self.addr()).await.map_err(|error| unreachable(&error))
    }

    fn encode(&self, message: Message) -> Bytes {
        let request = RaftRequest { group: self.network.group, to: self.to, message };
        rpc::payload(&request)
    }

    async fn call(&self, message: Message, timeout: Duration) -> RpcResult<Answer> {
        let connection = self.connection().await?;
        let answer = connection.call(KIND_RAFT, self.encode(message), timeout).await;
        decode(answer)
    }

    async fn vote_call(&self, message: Message, option: &RPCOption) -> RpcResult<VoteResponse<Types>> {
        match self.call(message, option.soft_ttl()).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(failed("another kind of answer came".into())),
        }
    }

    /// Sends all pages; the follower then holds them, complete and synced, but not in place.
    async fn send_pages(&self, store: &Store, transfer: u64, outgoing: &mut Outgoing) -> RpcResult<()> {
        let connection = self.connection().await?;
        let mut on_the_way: VecDeque<rpc::Answer> = VecDeque::new();
        let mut first = true;
        loop {
            let chunk = block(store.executor(), || outgoing.next_chunk()).map_err(|error| failed(error.to_string()))?;
            let Some(chunk) = chunk else { break };
            let payload = self.encode(Message::Pages { transfer, first, chunk });
            first = false;
            on_the_way.push_back(sent(&connection, payload, PAGES_TIMEOUT).await?);
            if on_the_way.len() >= MAX_PAGES_ON_THE_WAY
                && let Some(oldest) = on_the_way.pop_front()
            {
                received(oldest).await?;
            }
        }
        for answer in on_the_way {
            received(answer).await?;
        }
        Ok(())
    }

    async fn send_snapshot(&self, vote: crate::consensus::Vote, store: &Store) -> RpcResult<SnapshotResponse<Types>> {
        let mut outgoing =
            block(store.executor(), || Outgoing::open(store)).map_err(|error| failed(error.to_string()))?;
        let transfer = random_transfer();
        self.send_pages(store, transfer, &mut outgoing).await?;
        // The pages are of the moment when they were read, which is later than what openraft asked for.
        let meta = SnapshotMetaWire {
            last_log_id: outgoing.applied.log_id,
            last_membership: outgoing.applied.membership.clone(),
        };
        let install = Message::Install { transfer, hash: outgoing.digest(), vote, meta };
        match self.call(install, PAGES_TIMEOUT).await? {
            Answer::Installed(response) => Ok(response),
            _ => Err(failed("another kind of answer came".into())),
        }
    }
}

fn random_transfer() -> u64 {
    flotilla_shared::ids::RequestId::random().0 as u64
}

fn decode(answer: Result<Bytes, RpcError>) -> RpcResult<Answer> {
    let bytes = answer.map_err(|error| unreachable(&error))?;
    match postcard::from_bytes(&bytes) {
        Ok(Answer::Failed(why)) => Err(failed(why)),
        Ok(answer) => Ok(answer),
        Err(error) => Err(failed(format!("an answer does not decode: {error}"))),
    }
}

/// Sends a message. What waits for a peer that stands still is bounded, and so is the wait for room.
async fn sent(connection: &Arc<Connection>, payload: Bytes, timeout: Duration) -> RpcResult<rpc::Answer> {
    match tokio::time::timeout(timeout, connection.send(KIND_RAFT, payload)).await {
        Ok(sent) => sent.map_err(|error| unreachable(&error)),
        Err(_) => Err(failed("no room in its queue in time".into())),
    }
}

async fn wait(answer: rpc::Answer, timeout: Duration) -> RpcResult<Answer> {
    match tokio::time::timeout(timeout, answer.wait()).await {
        Ok(bytes) => decode(bytes),
        Err(_) => Err(failed("no answer in time".into())),
    }
}

async fn received(answer: rpc::Answer) -> RpcResult<()> {
    match wait(answer, PAGES_TIMEOUT).await? {
        Answer::Received => Ok(()),
        _ => Err(failed("another kind of answer came".into())),
    }
}

async fn appended(answer: RpcResult<rpc::Answer>) -> RpcResult<StreamAppendResult<Types>> {
    match wait(answer?, APPEND_TIMEOUT).await? {
        Answer::Append(result) => Ok(result),
        _ => Err(failed("another kind of answer came".into())),
    }
}

impl RaftNetworkV2<Types> for Target {
    type SnapshotData = SnapshotSource;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<Types>> {
        match self.call(Message::Append(request), option.soft_ttl()).await? {
            Answer::Append(result) => Ok(AppendEntriesResponse::from(result)),
            _ => Err(failed("another kind of answer came".into())),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<Types>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let connection = self.connection().await?;
            let this = &*self;
            // `then` sends one after the other, which keeps the order; `buffered` waits for answers of
            // several at once.
            let answers = input
                .then(move |request| {
                    let connection = Arc::clone(&connection);
                    async move {
                        let payload = this.encode(Message::Append(request));
                        sent(&connection, payload, APPEND_TIMEOUT).await
                    }
                })
                .map(appended)
                .buffered(MAX_APPENDS_ON_THE_WAY);
            Ok::<BoxStream<'s, _>, _>(Box::pin(answers))
        })
    }

    async fn vote(&mut self, request: VoteRequest<Types>, option: RPCOption) -> RpcResult<VoteResponse<Types>> {
        self.vote_call(Message::Vote(request), &option).await
    }

    async fn pre_vote(&mut self, request: VoteRequest<Types>, option: RPCOption) -> RpcResult<VoteResponse<Types>> {
        self.vote_call(Message::PreVote(request), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: <Types as RaftTypeConfig>::Vote,
        snapshot: StateSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotSource::Local(source) = snapshot.snapshot else {
            return Err(failed("only the replica's own database can be sent".into()).into());
        };
        tokio::select! {
            sent = self.send_snapshot(vote, &source.0) => Ok(sent?),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<Types>> {
        match self.call(Message::Transfer(request), option.soft_ttl()).await? {
            Answer::Transferred => Ok(Ok(())),
            _ => Err(failed("another kind of answer came".into())),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::successors(Some(FIRST_BACKOFF), |pause| Some((*pause * 2).min(MAX_BACKOFF)))))
    }
}
