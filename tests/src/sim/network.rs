//! The network between replicas: late, lossy, cut, sometimes twice.
//!
//! Single messages (votes, heartbeats when not pipelined) may be lost, overtake each other and arrive
//! twice. A stream of appends ([`lane`]) and a page transfer
//! ([`transfer`]) keep their order, as a connection does, and end when a message of
//! theirs meets a cut link. A link is cut in each direction by itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use flotilla_node::consensus::{Peer, Vote};
use flotilla_node::state::SnapshotSource;
use flotilla_node::state::machine::StateSnapshot;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::oneshot;

use super::SimTypes;
use super::bugs::Bug;
use super::lane::{self, MAX_APPENDS_ON_THE_WAY};
use super::random::Rng;
use super::replica::{Life, Process};
use super::transfer;
use super::world::{World, pause, spawn, within};

/// How long a follower may take to answer an append; several elections, as in a node.
pub const APPEND_TIMEOUT: Duration = Duration::from_millis(800);

/// Longest pause before an unreachable peer is tried again.
const MAX_BACKOFF: Duration = Duration::from_millis(120);

/// The state of all links.
pub struct Links {
    nodes: u64,
    delay_us: (u64, u64),
    /// Added to messages from and to a node.
    slow_us: Vec<u64>,
    cut: Vec<bool>,
    /// In 1000.
    lost: u64,
    /// In 1000.
    twice: u64,
}

impl Links {
    /// Links that all work.
    pub fn new(nodes: u64, delay_us: (u64, u64)) -> Self {
        let side = nodes as usize + 1;
        Self { nodes, delay_us, slow_us: vec![0; side], cut: vec![false; side * side], lost: 0, twice: 0 }
    }

    fn place(&self, from: u64, to: u64) -> usize {
        (from * (self.nodes + 1) + to) as usize
    }

    /// Cuts or mends one direction.
    pub fn set_cut(&mut self, from: u64, to: u64, cut: bool) {
        let place = self.place(from, to);
        self.cut[place] = cut;
    }

    /// Cuts a node off in both directions.
    pub fn isolate(&mut self, node: u64) {
        for other in 1..=self.nodes {
            self.set_cut(node, other, true);
            self.set_cut(other, node, true);
        }
    }

    /// Mends everything.
    pub fn heal(&mut self) {
        self.cut.fill(false);
        self.slow_us.fill(0);
        (self.lost, self.twice) = (0, 0);
    }

    /// Makes a node's messages late.
    pub fn slow(&mut self, node: u64, by_us: u64) {
        self.slow_us[node as usize] = by_us;
    }

    /// Loses and doubles so many of 1000 single messages.
    pub fn set_noise(&mut self, lost: u64, twice: u64) {
        (self.lost, self.twice) = (lost, twice);
    }

    /// Is this direction cut?
    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut[self.place(from, to)]
    }

    fn delay(&self, from: u64, to: u64, rng: &mut Rng) -> Duration {
        let slow_us = self.slow_us[from as usize].max(self.slow_us[to as usize]);
        // Now and then a message takes much longer than others.
        let factor = if rng.percent(2) { 10 } else { 1 };
        rng.micros(self.delay_us.0, self.delay_us.1 * factor) + Duration::from_micros(slow_us)
    }
}

impl World {
    /// How long a message takes.
    pub fn delay(&self, from: u64, to: u64) -> Duration {
        self.links().delay(from, to, &mut self.rng())
    }

    fn dice(&self, of_1000: u64) -> bool {
        self.rng().below(1000) < of_1000
    }
}

/// Makes a [`Target`] per replica.
pub struct Network {
    world: Arc<World>,
    from: Arc<Process>,
}

impl Network {
    /// The network as one process sees it.
    pub fn new(world: Arc<World>, from: Arc<Process>) -> Self {
        Self { world, from }
    }
}

impl RaftNetworkFactory<SimTypes> for Network {
    type Network = Target;

    async fn new_client(&mut self, target: u64, _: &Peer) -> Target {
        Target { world: Arc::clone(&self.world), from: Arc::clone(&self.from), to: target }
    }
}

/// The way from one process to one node.
#[derive(Clone)]
pub struct Target {
    /// The world.
    pub world: Arc<World>,
    /// The sender.
    pub from: Arc<Process>,
    /// The receiving node.
    pub to: u64,
}

/// What a message to another replica gives.
pub type RpcResult<T> = Result<T, RPCError<SimTypes>>;

/// The message was not sent.
pub fn unreachable(why: &str) -> RPCError<SimTypes> {
    RPCError::Unreachable(Unreachable::new(&std::io::Error::other(why.to_owned())))
}

/// No answer came.
pub fn no_answer() -> RPCError<SimTypes> {
    RPCError::Network(NetworkError::new(&std::io::Error::other("no answer")))
}

impl Target {
    /// Whoever receives what arrives now, if the link and both ends work.
    pub fn receiver(&self) -> Option<Arc<Life>> {
        let open = self.from.is_alive() && !self.world.links().is_cut(self.from.node, self.to);
        if open { self.world.life(self.to) } else { None }
    }

    /// Does an answer get back that leaves `life` now?
    pub fn answers(&self, life: &Life) -> bool {
        let open = !self.world.links().is_cut(self.to, self.from.node);
        open && life.process.is_alive() && self.from.is_alive()
    }

    /// The way of a message.
    pub async fn travel(&self) {
        pause(self.world.delay(self.from.node, self.to)).await;
    }

    /// The way of an answer.
    pub async fn travel_back(&self) {
        pause(self.world.delay(self.to, self.from.node)).await;
    }

    /// Notes what an append says about its sender.
    pub fn note_append(&self, request: &AppendEntriesRequest<SimTypes>) {
        self.world.check(self.world.history().leads(self.from.node, &request.vote));
        if let (Some(first), Some(last)) = (request.entries.first(), request.entries.last()) {
            let (from, to, term) = (self.from.node, self.to, request.vote.leader_id.term);
            let (first, last) = (first.log_id.index, last.log_id.index);
            self.world.note(format_args!("{from} -> {to} entries {first}..={last} in term {term}"));
        }
    }

    /// One message and its answer.
    async fn call<T, F>(&self, timeout: Duration, handle: impl Fn(Arc<Life>) -> F + Send) -> RpcResult<T>
    where
        T: Send + 'static,
        F: Future<Output = Option<T>> + Send + 'static,
    {
        let (lost, twice) = {
            let links = self.world.links();
            (links.lost, links.twice)
        };
        if self.world.life(self.to).is_none() && self.from.is_alive() {
            self.travel().await;
            return Err(unreachable("nobody is there"));
        }
        self.travel().await;
        let (reply, answer) = oneshot::channel();
        let mut reply = Some(reply);
        if !self.world.dice(lost) {
            let copies = if self.world.dice(twice) { 2 } else { 1 };
            for copy in 0..copies {
                let Some(life) = self.receiver() else { break };
                let (this, work, reply) = (self.clone(), handle(Arc::clone(&life)), reply.take());
                let later = if copy > 0 { self.world.delay(self.from.node, self.to) * 3 } else { Duration::ZERO };
                spawn(async move {
                    pause(later).await;
                    if !life.process.is_alive() {
                        return;
                    }
                    let result = work.await;
                    let arrives = !this.world.dice(lost);
                    this.travel_back().await;
                    if let (Some(result), Some(reply), true) = (result, reply, arrives && this.answers(&life)) {
                        reply.send(result).ok();
                    }
                });
            }
        }
        // A lost message is known as such only when the time is over.
        if let Some(reply) = reply {
            spawn(hold(reply, timeout));
        }
        match within(timeout, answer).await {
            Some(Ok(result)) => Ok(result),
            _ => Err(no_answer()),
        }
    }

    async fn vote_call(
        &self,
        request: VoteRequest<SimTypes>,
        pre: bool,
        option: &RPCOption,
    ) -> RpcResult<VoteResponse<SimTypes>> {
        let (term, candidate) = (request.vote.leader_id.term, request.vote.leader_id.voted_for);
        if !pre {
            self.world.check(self.world.history().votes(self.from.node, term, candidate));
        }
        let world = Arc::clone(&self.world);
        let response = self.call(option.soft_ttl(), move |life| {
            let (world, request) = (Arc::clone(&world), request.clone());
            async move { answer_vote(&world, &life, request, pre).await }
        });
        response.await?.ok_or_else(|| unreachable("it keeps its vote back"))
    }
}

async fn hold<T>(reply: oneshot::Sender<T>, timeout: Duration) {
    pause(timeout).await;
    drop(reply);
}

/// What the host of a replica answers to a request for its vote.
async fn answer_vote(
    world: &World,
    life: &Life,
    request: VoteRequest<SimTypes>,
    pre: bool,
) -> Option<Option<VoteResponse<SimTypes>>> {
    if !life.process.may_vote() && !world.has(Bug::VotesAtOnce) {
        return Some(None);
    }
    let (term, candidate) = (request.vote.leader_id.term, request.vote.leader_id.voted_for);
    let response = match pre {
        true => life.raft.pre_vote(request).await.ok()?,
        false => life.raft.vote(request).await.ok()?,
    };
    if !pre && response.vote_granted && life.process.is_alive() {
        world.note(format_args!("{} votes for {candidate} in term {term}", life.process.node));
        world.check(world.history().votes(life.process.node, term, candidate));
    }
    Some(Some(response))
}

impl RaftNetworkV2<SimTypes> for Target {
    type SnapshotData = SnapshotSource;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<SimTypes>,
        _: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<SimTypes>> {
        self.note_append(&request);
        let early = self.world.has(Bug::AckBeforeAppend) && !request.entries.is_empty() && self.world.dice(100);
        if early {
            return Ok(AppendEntriesResponse::Success);
        }
        self.call(APPEND_TIMEOUT, move |life| {
            let request = request.clone();
            async move { life.raft.append_entries(request).await.ok() }
        })
        .await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<SimTypes>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<SimTypes>> + OptionalSend + Unpin + 'static,
    {
        if !self.world.plan.pipelined {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let lane = lane::open(self).await?;
            let this = &*self;
            let answers = input
                .then(move |request| {
                    let lane = lane.clone();
                    async move { lane.send(this, request) }
                })
                .map(lane::answered)
                .buffered(MAX_APPENDS_ON_THE_WAY);
            Ok::<BoxStream<'s, _>, _>(Box::pin(answers))
        })
    }

    async fn vote(&mut self, request: VoteRequest<SimTypes>, option: RPCOption) -> RpcResult<VoteResponse<SimTypes>> {
        self.vote_call(request, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<SimTypes>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<SimTypes>> {
        self.vote_call(request, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: StateSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<SimTypes>, StreamingError<SimTypes>> {
        let SnapshotSource::Local(source) = snapshot.snapshot else {
            return Err(unreachable("only the replica's own database can be sent").into());
        };
        let sending = std::pin::pin!(transfer::send(self, vote, &source.0));
        match futures::future::select(sending, std::pin::pin!(cancel)).await {
            futures::future::Either::Left((sent, _)) => Ok(sent?),
            futures::future::Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<SimTypes>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<SimTypes>> {
        self.call(option.soft_ttl(), move |life| {
            let request = request.clone();
            async move { life.raft.handle_transfer_leader(request).await.ok() }
        })
        .await
    }

    fn backoff(&self) -> Option<Backoff> {
        let first = Duration::from_millis(5);
        Some(Backoff::new(std::iter::successors(Some(first), |pause| Some((*pause * 2).min(MAX_BACKOFF)))))
    }
}
