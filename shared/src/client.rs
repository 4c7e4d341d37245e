//! The client that finds a group's leader: used by proxies, by the jobs of `meta`, and by the
//! command line. It follows the registry by a watch and remembers leaders; a wrong guess costs one
//! hop, never an error. What any replica may answer goes to a near one (`near`).
//!
//! Retries are safe for reads and for writes that carry a request id. What ends a call: an answer,
//! a refusal, or the deadline; then the error says whether the outcome is known.

mod near;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use dashmap::DashMap;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Code, Error};
use crate::ids::{GroupId, META, NodeId};
use crate::registry::{MetaCommand, MetaReply, Registry, ReplicaInfo};
use crate::rpc::{Pool, RpcError, encode};
use crate::wire::{NodeStatus, Request, Response};

/// First pause between tries; doubles up to [`MAX_PAUSE`]. Short, since a leader that answers "not
/// me" names the right one.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Longest pause between tries: a fraction of an election.
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// How long one watch waits at the node before it asks again; also how soon a dead node is noticed.
const WATCH_WAIT: Duration = Duration::from_secs(10);

/// How long one try may take before another replica is asked: a node that was stopped or cut off
/// keeps its connections open and would otherwise use up the whole deadline.
const TRY_TIMEOUT: Duration = Duration::from_millis(2500);

/// How long a node may take to tell its state: one that is down shall not hold up the answer.
const STATUS_TIMEOUT: Duration = Duration::from_millis(800);

/// Nodes that are asked for their states at once.
const MAX_ASKED: usize = 64;

/// A view of the cluster and a way to talk to it. Cheap to share.
pub struct Cluster {
    pool: Pool,
    seeds: Vec<String>,
    registry: ArcSwap<Registry>,
    changed: watch::Sender<u64>,
    leaders: DashMap<GroupId, NodeId>,
    turn: AtomicUsize,
    /// Which replica the next call asks first, where it knows no leader.
    first: AtomicUsize,
    unheard: ArcSwapOption<Error>,
    /// Nodes that could not answer a read that any replica may answer, and until when that counts.
    failed: DashMap<NodeId, Instant>,
}

impl Cluster {
    /// A client that knows only some nodes' internal addresses. Nothing is sent yet.
    pub fn new(seeds: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            pool: Pool::default(),
            seeds,
            registry: ArcSwap::default(),
            changed: watch::channel(0).0,
            leaders: DashMap::new(),
            turn: AtomicUsize::new(0),
            first: AtomicUsize::new(0),
            unheard: ArcSwapOption::empty(),
            failed: DashMap::new(),
        })
    }

    /// The registry as last seen. Version 0 until the first answer.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    /// The connections.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Tells of every new version of the registry.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes over a registry unless the one at hand is as new.
    pub fn learn(&self, registry: Registry) {
        let version = registry.version;
        let registry = Arc::new(registry);
        self.registry.rcu(|old| if old.version < version { Arc::clone(&registry) } else { Arc::clone(old) });
        self.changed.send_if_modified(|seen| {
            let newer = *seen < version;
            *seen = version.max(*seen);
            newer
        });
    }

    /// Follows the registry until the task is dropped.
    pub async fn follow(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let since = self.registry.load().version;
            match self.watch(since, WATCH_WAIT, false).await {
                Ok(_) => {
                    failures = 0;
                    self.unheard.store(None);
                }
                Err(error) => {
                    failures += 1;
                    if matches!(error, RpcError::Incompatible { .. }) {
                        self.unheard.store(Some(Arc::new(Error::new(Code::IncompatibleVersion, error.to_string()))));
                    }
                    if failures == 10 {
                        tracing::warn!(%error, "cannot follow the registry");
                    }
                    tokio::time::sleep(MAX_PAUSE).await;
                }
            }
        }
    }

    /// Why the registry will not come, if that is known: the last node that was asked for it is of a
    /// version too far from ours.
    pub fn unheard(&self) -> Option<Error> {
        self.unheard.load().as_deref().cloned()
    }

    /// Makes sure that the registry at hand holds every change acknowledged before this call.
    ///
    /// # Errors
    /// When the metadata group cannot be reached before the deadline.
    pub async fn refresh(&self, deadline: Instant) -> Result<Arc<Registry>, Error> {
        let since = self.registry.load().version;
        let request = Request::Watch { since, wait_ms: 0, fresh: true };
        match self.call(META, request, deadline).await? {
            Response::Registry(Some(registry)) => self.learn(*registry),
            Response::Registry(None) => (),
            other => return Err(unexpected(&other)),
        }
        Ok(self.registry())
    }

    /// Waits until the registry satisfies `done`.
    ///
    /// # Errors
    /// [`Code::Timeout`] at the deadline.
    pub async fn wait_until(
        &self,
        deadline: Instant,
        done: impl Fn(&Registry) -> bool,
    ) -> Result<Arc<Registry>, Error> {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let registry = self.registry();
            if done(&registry) {
                return Ok(registry);
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => (),
                _ => return Err(Error::new(Code::Timeout, "the registry did not change in time").hint("retry")),
            }
        }
    }

    async fn watch(&self, since: u64, wait: Duration, fresh: bool) -> Result<(), RpcError> {
        let addr = self.meta_addr();
        let request = Request::Watch { since, wait_ms: wait.as_millis() as u64, fresh };
        match self.pool.request(&addr, request, wait + TRY_TIMEOUT).await? {
            Ok(Response::Registry(Some(registry))) => self.learn(*registry),
            Ok(Response::Registry(None)) => (),
            Ok(other) => return Err(RpcError::NoAnswer { addr, why: unexpected(&other).message }),
            Err(error) => return Err(RpcError::NoAnswer { addr, why: error.message }),
        }
        Ok(())
    }

    /// The next of the nodes that may hold the registry, in turn.
    fn meta_addr(&self) -> String {
        let registry = self.registry.load();
        let mut known: Vec<&str> = registry
            .replicas(META)
            .iter()
            .filter_map(|r| registry.nodes.get(&r.node))
            .map(|n| n.raft_addr.as_str())
            .collect();
        if known.is_empty() {
            known = self.seeds.iter().map(String::as_str).collect();
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        known.get(turn % known.len().max(1)).map_or_else(String::new, |addr| (*addr).to_owned())
    }

    /// Changes the registry.
    ///
    /// # Errors
    /// The registry's refusal, or that its group could not be reached.
    pub async fn meta(&self, command: MetaCommand, deadline: Instant) -> Result<MetaReply, Error> {
        match self.call(META, Request::Meta(command), deadline).await? {
            Response::Meta(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks the leader of `group`, wherever it is, until there is an answer or the deadline.
    ///
    /// # Errors
    /// The leader's refusal, or that nobody answered.
    pub async fn call(&self, group: GroupId, request: Request, deadline: Instant) -> Result<Response, Error> {
        let is_write = matches!(request, Request::Write { .. } | Request::Meta(_) | Request::Shard { .. });
        // A write that takes long is found again by its id; a read would start over, so it gets half of
        // what is left, and the other half is for another replica.
        let is_read = matches!(
            request,
            Request::Read { .. } | Request::ReadAt { .. } | Request::Open { .. } | Request::Moves { .. }
        );
        let try_timeout = |left: Duration| if is_read { (left / 2).max(TRY_TIMEOUT) } else { TRY_TIMEOUT }.min(left);
        let payload = encode(request, try_timeout(deadline.saturating_duration_since(Instant::now())));
        let mut pause = FIRST_PAUSE;
        let mut sent = false;
        let mut last;
        // Not the same one first each time: who has little time and asks again and again would never get past
        // a replica that does not answer.
        let first = self.first.fetch_add(1, Ordering::Relaxed);
        let mut tried = 0usize;
        let mut incompatible = 0usize;
        loop {
            if self.registry.load().is_gone(group) {
                return Err(Error::new(Code::StaleRoute, format!("{group} was taken out of the cluster")));
            }
            let timeout = try_timeout(deadline.saturating_duration_since(Instant::now()));
            let (node, addr) = self.pick(group, first.wrapping_add(tried));
            tried += 1;
            match self.pool.send(&addr, payload.clone(), timeout).await {
                Ok(Ok(response)) => {
                    if let Some(node) = node.filter(|node| self.leaders.get(&group).is_none_or(|known| *known != *node))
                    {
                        self.leaders.insert(group, node);
                    }
                    return Ok(response);
                }
                // A refusal says nothing of an earlier try that may have gone through.
                Ok(Err(error)) if asks_again(error.code) || (is_write && sent && error.code == Code::Overloaded) => {
                    // What a stopping node had proposed, or one that no longer leads, may be committed by the next leader.
                    sent |= matches!(error.code, Code::ShuttingDown | Code::OutcomeUnknown);
                    // One that is too busy leads all the same.
                    let hinted = asks_again(error.code) && self.note_leader(group, node, error.leader);
                    last = error;
                    if hinted && Instant::now() < deadline {
                        continue;
                    }
                }
                Ok(Err(error)) => return Err(error),
                Err(error @ RpcError::Incompatible { .. }) => {
                    self.leaders.remove(&group);
                    incompatible += 1;
                    last = Error::new(Code::IncompatibleVersion, format!("{group}: {error}"));
                    // Others may be of a nearer version; when none is, waiting is of no use.
                    if incompatible == tried && tried >= self.candidates(group) {
                        return Err(last);
                    }
                }
                Err(error) => {
                    self.leaders.remove(&group);
                    sent |= matches!(error, RpcError::NoAnswer { .. });
                    last = Error::new(Code::Unavailable, format!("{group}: {error}"))
                        .hint("a majority of the group's nodes must be up");
                }
            }
            if Instant::now() + pause >= deadline {
                return Err(match is_write && sent {
                    true => Error::new(Code::OutcomeUnknown, format!("{group} did not answer in time: {last}"))
                        .hint("repeat the request with the same Idempotency-Key: it is applied once at most"),
                    false => last,
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Remembers who leads. Was that news worth an immediate try?
    fn note_leader(&self, group: GroupId, asked: Option<NodeId>, leader: Option<NodeId>) -> bool {
        match leader {
            Some(leader) if Some(leader) != asked => {
                self.leaders.insert(group, leader);
                true
            }
            _ => {
                self.leaders.remove(&group);
                false
            }
        }
    }

    /// Whom to ask: the known leader, else the replicas in turn.
    fn pick(&self, group: GroupId, turn: usize) -> (Option<NodeId>, String) {
        let registry = self.registry.load();
        let leader = self.leaders.get(&group).map(|node| *node);
        if let Some((node, info)) = leader.and_then(|node| registry.nodes.get_key_value(&node)) {
            return (Some(*node), info.raft_addr.clone());
        }
        // One that does not vote never leads.
        let replicas: Vec<&ReplicaInfo> = registry.replicas(group).iter().filter(|info| info.votes).collect();
        match replicas.get(turn % replicas.len().max(1)).and_then(|r| registry.nodes.get_key_value(&r.node)) {
            Some((node, info)) => (Some(*node), info.raft_addr.clone()),
            None => (None, self.meta_addr()),
        }
    }

    /// How many nodes may be asked about a group before one is asked again.
    fn candidates(&self, group: GroupId) -> usize {
        match self.registry.load().replicas(group).len() {
            0 => self.seeds.len(),
            known => known,
        }
    }

    /// Asks one node, once, over the connection that requests to it go over anyway.
    ///
    /// # Errors
    /// The node's refusal, or that it did not answer.
    pub async fn ask(&self, node: NodeId, request: Request, deadline: Instant) -> Result<Response, Error> {
        let addr = self.registry.load().nodes.get(&node).map(|info| info.raft_addr.clone());
        let addr = addr.ok_or_else(|| Error::new(Code::NoSuchObject, format!("there is no node {node}")))?;
        let timeout = deadline.saturating_duration_since(Instant::now());
        let answer = self.pool.request(&addr, request, timeout).await;
        answer.map_err(|error| match error {
            RpcError::Incompatible { .. } => Error::new(Code::IncompatibleVersion, error.to_string()),
            RpcError::NotSent { .. } | RpcError::NoAnswer { .. } => Error::new(Code::Unavailable, error.to_string()),
        })?
    }

    /// The state of every node that answers in time.
    pub async fn states(&self, registry: &Registry) -> BTreeMap<NodeId, NodeStatus> {
        let present = registry.nodes.iter().filter(|(_, info)| !info.removed);
        let asked = present.map(|(node, info)| async move {
            let answer = self.pool.request(&info.raft_addr, Request::Status, STATUS_TIMEOUT);
            match tokio::time::timeout(STATUS_TIMEOUT, answer).await {
                Ok(Ok(Ok(Response::Status(status)))) => Some((*node, status)),
                _ => None,
            }
        });
        let asked: Vec<_> = asked.collect();
        futures::stream::iter(asked).buffer_unordered(MAX_ASKED).filter_map(std::future::ready).collect().await
    }

    /// The node believed to lead a group.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.leaders.get(&group).map(|node| *node)
    }
}

/// May the group's leader, whoever it is, answer what was answered so?
fn asks_again(code: Code) -> bool {
    matches!(code, Code::NotLeader | Code::Unavailable | Code::ShuttingDown | Code::OutcomeUnknown)
}

/// An answer of the wrong kind: the peer is not what it should be.
pub fn unexpected(response: &Response) -> Error {
    let text: String = format!("{response:?}").chars().take(80).collect();
    Error::new(Code::WrongPeer, format!("an answer of another kind came: {text}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::net::TcpListener;

    use super::*;
    use crate::ids::ReplicaId;
    use crate::registry::NodeInfo;
    use crate::rpc;

    /// Answers everything.
    struct Answering;

    impl rpc::Session for Answering {
        fn handle(&mut self, _: u8, _: Bytes, reply: rpc::Reply) {
            let answer: Result<Response, Error> = Ok(Response::Registry(None));
            reply.send_now(rpc::payload(&answer));
        }
    }

    /// A shard with a replica at each of these.
    fn registry(listeners: &[&TcpListener]) -> Registry {
        let mut registry = Registry { version: 1, ..Registry::default() };
        for (number, listener) in (1..).zip(listeners) {
            let (node, raft_addr) = (NodeId(number), listener.local_addr().unwrap().to_string());
            let replica = ReplicaInfo { node, replica: ReplicaId(number), votes: true };
            let http_addr = String::new();
            let info = NodeInfo { instance: 1, raft_addr, http_addr, zone: None, removed: false };
            registry.nodes.insert(node, info);
            registry.groups.entry(GroupId(1)).or_default().push(replica);
        }
        registry
    }

    /// Its entry was thrown away; from then on it does not lead, until it has been asked some times.
    struct Deposed {
        asked: u32,
        recovers: bool,
    }

    impl rpc::Session for Deposed {
        fn handle(&mut self, _: u8, _: Bytes, reply: rpc::Reply) {
            self.asked += 1;
            let answer: Result<Response, Error> = match self.asked {
                1 => Err(Error::new(Code::OutcomeUnknown, "discarded")),
                4.. if self.recovers => Ok(Response::Writes(vec![])),
                _ => Err(Error::not_leader(None)),
            };
            reply.send_now(rpc::payload(&answer));
        }
    }

    /// A write whose entry was thrown away by a replica that no longer leads is asked for again; if nobody
    /// tells what became of it, its outcome is unknown, whatever was said last.
    #[tokio::test]
    async fn what_became_of_a_discarded_entry() {
        let (_stop, stopped) = watch::channel(false);
        for recovers in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let cluster = Cluster::new(vec![]);
            cluster.learn(registry(&[&listener]));
            tokio::spawn(rpc::serve(listener, move || Deposed { asked: 0, recovers }, stopped.clone()));
            let request = Request::Write { group: GroupId(1), writes: vec![] };
            let answer = cluster.call(GroupId(1), request, Instant::now() + Duration::from_millis(300)).await;
            match recovers {
                true => assert_eq!(answer, Ok(Response::Writes(vec![]))),
                false => assert_eq!(answer.unwrap_err().code, Code::OutcomeUnknown),
            }
        }
    }

    /// It lost the entry of the first try of a write, if `unsure`, and is too busy for all that follow.
    struct Busy {
        unsure: bool,
    }

    impl rpc::Session for Busy {
        fn handle(&mut self, _: u8, _: Bytes, reply: rpc::Reply) {
            let code = if std::mem::take(&mut self.unsure) { Code::OutcomeUnknown } else { Code::Overloaded };
            let answer: Result<Response, Error> = Err(Error::new(code, "not now"));
            reply.send_now(rpc::payload(&answer));
        }
    }

    /// A node too busy for a write says so at once; but where an earlier try may have gone through, its being busy
    /// does not mean that nothing was done.
    #[tokio::test]
    async fn a_busy_node_knows_nothing_of_earlier_tries() {
        let (_stop, stopped) = watch::channel(false);
        for (unsure, code) in [(false, Code::Overloaded), (true, Code::OutcomeUnknown)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let cluster = Cluster::new(vec![]);
            cluster.learn(registry(&[&listener]));
            tokio::spawn(rpc::serve(listener, move || Busy { unsure }, stopped.clone()));
            let request = Request::Write { group: GroupId(1), writes: vec![] };
            let answer = cluster.call(GroupId(1), request, Instant::now() + Duration::from_millis(300)).await;
            assert_eq!(answer.unwrap_err().code, code);
        }
    }

    /// Who has time for one replica only, and asks again and again, gets past one that does not answer.
    #[tokio::test]
    async fn a_silent_replica_is_not_always_asked_first() {
        let (silent, answering) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let registry = registry(&[&silent, &answering]);
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(rpc::serve(answering, || Answering, stopped));
        let cluster = Cluster::new(vec![]);
        cluster.learn(registry);
        let mut answers = 0;
        for _ in 0..2 {
            let request = Request::Watch { since: 0, wait_ms: 0, fresh: false };
            let deadline = Instant::now() + Duration::from_millis(100);
            answers += u32::from(cluster.call(GroupId(1), request, deadline).await.is_ok());
        }
        assert_eq!(answers, 1, "the replicas take turns");
    }
}
