//! Jobs that change replicas in a world where calls are lost, their answers are lost, old calls arrive
//! late, nodes restart or die for good, drivers die, and two of them work at the same time. Groups are
//! modelled: who votes, who follows, and that nothing is agreed without a majority. Drivers take turns by
//! a seed, which a failure prints.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use flotilla_shared::ids::{ReplicaId, RequestId};
use flotilla_shared::registry::{MoveChange, MoveOptions};

use super::*;
use crate::state::tests::Random;

/// Faults of one run; after them all jobs must come to their ends.
const FAULTS: u32 = 30;

/// Calls after which everything that still runs is cancelled, and after which that must have ended.
const CANCEL_AFTER: u32 = 4000;
const MAX_CALLS: u32 = 12_000;

/// The shard that leaves, where one does.
const LEAVING: GroupId = GroupId(3);

/// Replicas that a group is made with.
const VOTERS: usize = 3;

#[derive(Clone, Default)]
struct Group {
    voters: BTreeSet<ReplicaId>,
    learners: BTreeMap<ReplicaId, u64>,
    /// Those that were taken out.
    gone: BTreeSet<ReplicaId>,
    last_log: u64,
}

#[derive(Clone, Default)]
struct Node {
    /// Calls until it is up again; for ever: `u32::MAX`.
    down: u32,
    hosted: BTreeMap<GroupId, ReplicaId>,
}

/// A call that arrives again, some time.
#[derive(Clone)]
enum Late {
    Meta(MetaCommand),
    Node(NodeId, Request),
    Change(GroupId, MemberChange),
}

struct Inner {
    random: Random,
    registry: Registry,
    nodes: BTreeMap<NodeId, Node>,
    groups: BTreeMap<GroupId, Group>,
    /// Where each replica was made; a raft id is never made twice.
    made: BTreeMap<ReplicaId, (GroupId, NodeId)>,
    /// No job makes groups smaller.
    keeps_size: bool,
    faults: u32,
    calls: u32,
    /// The call before which [`LEAVING`] leaves the cluster.
    leaves_at: Option<u32>,
    late: Vec<Late>,
}

struct World(Mutex<Inner>);

fn lost() -> Error {
    Error::new(Code::Unavailable, "the call was lost")
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let info = |node: u64| NodeInfo {
            instance: u128::from(node),
            raft_addr: format!("{node}:1"),
            http_addr: format!("{node}:2"),
            zone: None,
            removed: false,
        };
        let nodes: Vec<(NodeId, NodeInfo)> = (1..=6).map(|node| (NodeId(node), info(node))).collect();
        let mut next = 0;
        let mut groups = Vec::new();
        for group in 0..=3 {
            let first = random.below(3) as u64;
            let replicas = (0..VOTERS as u64).map(|n| {
                next += 1;
                ReplicaInfo { node: NodeId(first + n + 1), replica: ReplicaId(next), votes: true }
            });
            groups.push((GroupId(group), replicas.collect::<Vec<_>>()));
        }
        let mut inner = Inner {
            random,
            registry: Registry::default(),
            nodes: nodes.iter().map(|(node, _)| (*node, Node::default())).collect(),
            groups: BTreeMap::new(),
            made: BTreeMap::new(),
            keeps_size: true,
            faults: FAULTS,
            calls: 0,
            leaves_at: None,
            late: vec![],
        };
        for (group, replicas) in &groups {
            let voters = replicas.iter().map(|info| info.replica).collect();
            inner.groups.insert(*group, Group { voters, last_log: 1000, ..Group::default() });
            for info in replicas {
                inner.host(info.node, *group, info.replica);
            }
        }
        inner.meta(MetaCommand::Bootstrap { cluster: 9, nodes, groups }).unwrap();
        Self(Mutex::new(inner))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// One call: others come between, and it may be lost, or its answer, or come again.
    async fn call<T>(&self, late: Option<Late>, call: impl FnOnce(&mut Inner) -> Result<T, Error>) -> Result<T, Error> {
        YieldOnce(false).await;
        let mut inner = self.lock();
        inner.between();
        if inner.fault(4) {
            return Err(lost());
        }
        if let Some(late) = late.filter(|_| inner.fault(4)) {
            inner.late.push(late);
        }
        let answer = call(&mut inner);
        inner.check();
        if inner.fault(4) { Err(lost()) } else { answer }
    }
}

struct YieldOnce(bool);

impl Future for YieldOnce {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match std::mem::replace(&mut self.0, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Inner {
    fn meta(&mut self, command: MetaCommand) -> Result<(), Error> {
        // As a state machine does: a refusal leaves nothing.
        let mut registry = self.registry.clone();
        registry.apply(i64::from(self.calls) * 1_000_000, command)?;
        self.registry = registry;
        Ok(())
    }

    fn host(&mut self, node: NodeId, group: GroupId, replica: ReplicaId) {
        let made = *self.made.entry(replica).or_insert((group, node));
        assert_eq!(made, (group, node), "replica {replica} is made twice");
        self.nodes.get_mut(&node).unwrap().hosted.insert(group, replica);
    }

    fn is_up(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.made.get(&replica).is_some_and(|(_, node)| {
            let node = &self.nodes[node];
            node.down == 0 && node.hosted.get(&group) == Some(&replica)
        })
    }

    fn majority(&self, group: GroupId, voters: &BTreeSet<ReplicaId>) -> bool {
        voters.iter().filter(|id| self.is_up(group, **id)).count() * 2 > voters.len()
    }

    fn node(&mut self, node: NodeId, request: Request) -> Result<(), Error> {
        if self.nodes[&node].down > 0 {
            return Err(Error::new(Code::Unavailable, "the node is down"));
        }
        match request {
            Request::CreateReplica { group, .. } if self.registry.is_gone(group) => {
                return Err(Error::new(Code::NoSuchObject, "the group has left"));
            }
            Request::CreateReplica { group, replica, .. } => match self.nodes[&node].hosted.get(&group) {
                Some(other) if *other != replica => return Err(Error::new(Code::Conflict, "another is here")),
                Some(_) => (),
                None => self.host(node, group, replica),
            },
            Request::DropReplica { group, replica } => {
                // A shard that is given up while it is made goes with its voters.
                let listed = self.registry.groups.contains_key(&group);
                let votes = self.groups.get(&group).is_some_and(|group| group.voters.contains(&replica));
                assert!(!(votes && listed), "replica {replica} of {group} votes and is dropped");
                let hosted = &mut self.nodes.get_mut(&node).unwrap().hosted;
                if hosted.get(&group) == Some(&replica) {
                    hosted.remove(&group);
                }
            }
            Request::InitGroup { group, members } => {
                let voters = members.iter().map(|(replica, ..)| *replica).collect();
                self.groups.entry(group).or_insert(Group { voters, last_log: 1, ..Group::default() });
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    fn change(&mut self, id: GroupId, change: MemberChange) -> Result<GroupMembers, Error> {
        let now = self.groups[&id].clone();
        if !self.majority(id, &now.voters) {
            return Err(Error::new(Code::Unavailable, "no majority"));
        }
        let mut next = now.clone();
        match change {
            MemberChange::Look => (),
            MemberChange::AddLearner { replica, .. } if now.voters.contains(&replica) => (),
            MemberChange::AddLearner { replica, .. } => _ = next.learners.entry(replica).or_insert(0),
            MemberChange::Promote(add) => _ = next.voters.insert(add),
            MemberChange::Swap { add, remove } => {
                next.voters.insert(add);
                next.voters.remove(&remove);
            }
            MemberChange::Remove(replica) => {
                next.voters.remove(&replica);
                next.learners.remove(&replica);
            }
            MemberChange::Forget(replica) => _ = next.learners.remove(&replica),
        }
        for added in next.voters.difference(&now.voters) {
            if next.learners.remove(added).is_none() {
                return Err(Error::new(Code::Conflict, "it does not follow"));
            }
            let held = now.learners[added];
            assert!(now.last_log - held <= CAUGHT_UP, "replica {added} votes {} entries behind", now.last_log - held);
            assert!(!now.gone.contains(added), "replica {added} votes again");
        }
        if !self.majority(id, &next.voters) {
            return Err(Error::new(Code::Unavailable, "no majority would be left"));
        }
        next.gone.extend(now.voters.difference(&next.voters));
        let size = (now.voters.len(), next.voters.len());
        assert!(!self.keeps_size || size.1 >= size.0.min(VOTERS), "{id} shrinks: {size:?}");
        // Pages and entries come while somebody looks.
        next.last_log += 10;
        for (learner, held) in &mut next.learners {
            if self.is_up(id, *learner) {
                *held = (*held + 400).min(next.last_log);
            }
        }
        let members = GroupMembers {
            voters: next.voters.iter().copied().collect(),
            learners: next.learners.iter().map(|(id, held)| (*id, *held)).collect(),
            last_log: next.last_log,
        };
        self.groups.insert(id, next);
        Ok(members)
    }

    fn fault(&mut self, percent: usize) -> bool {
        let happens = self.faults > 0 && self.random.below(100) < percent;
        self.faults -= u32::from(happens);
        happens
    }

    /// What happens between two calls.
    fn between(&mut self) {
        self.calls += 1;
        for node in self.nodes.values_mut().filter(|node| node.down != u32::MAX) {
            node.down = node.down.saturating_sub(1);
        }
        if !self.late.is_empty() && self.random.below(100) < 10 {
            let at = self.random.below(self.late.len());
            match self.late.swap_remove(at) {
                Late::Meta(command) => drop(self.meta(command)),
                Late::Node(node, request) => drop(self.node(node, request)),
                Late::Change(group, change) => drop(self.change(group, change)),
            }
        }
        let all_up = self.nodes.values().all(|node| matches!(node.down, 0 | u32::MAX));
        if all_up && self.fault(2) {
            let node = NodeId(1 + self.random.below(6) as u64);
            let down = &mut self.nodes.get_mut(&node).unwrap().down;
            *down = (*down).max(20);
        }
        self.sweep();
        if self.leaves_at == Some(self.calls) {
            self.leave(LEAVING);
        }
        if self.calls == CANCEL_AFTER {
            let running: Vec<JobId> = self.running().collect();
            for job in running {
                self.meta(MetaCommand::Move { job, change: MoveChange::Wish(Wish::Cancel) }).unwrap();
            }
        }
        assert!(self.calls < MAX_CALLS, "{:#?}", self.registry.jobs);
    }

    /// Another job takes a shard out: it drops the replicas that the registry listed.
    fn leave(&mut self, shard: GroupId) {
        let request = RequestId::random();
        let kind = JobKind::RemoveShard { shard, options: MoveOptions::default() };
        self.meta(MetaCommand::CreateJob { request, kind }).unwrap();
        let job = *self.registry.jobs.keys().next_back().unwrap();
        self.meta(MetaCommand::Move { job, change: MoveChange::DropShard { shard } }).unwrap();
        for info in self.registry.jobs[&job].progress.clone().unwrap().dropping {
            self.node(info.node, Request::DropReplica { group: shard, replica: info.replica }).unwrap();
        }
        let end = MetaCommand::EndJob { job, state: JobState::Done, error: None, effects: vec![], results: vec![] };
        self.meta(end).unwrap();
    }

    fn running(&self) -> impl Iterator<Item = JobId> + '_ {
        self.registry.jobs.values().filter(|job| !job.ended()).map(|job| job.id)
    }

    /// Some node that is up drops what the registry says; one that has left drops all, and each what it has of
    /// a shard that has left.
    fn sweep(&mut self) {
        for (id, node) in self.nodes.iter_mut().filter(|(_, node)| node.down == 0) {
            if self.registry.nodes[id].removed {
                node.hosted.clear();
            }
            node.hosted.retain(|group, _| !self.registry.is_gone(*group));
        }
        let Some(at) = self.registry.left.len().checked_sub(1) else { return };
        let (group, info) = self.registry.left[self.random.below(at + 1)];
        let drop = Request::DropReplica { group, replica: info.replica };
        if self.random.below(4) == 0 && self.node(info.node, drop).is_ok() {
            self.meta(MetaCommand::Dropped { group, replica: info.replica }).unwrap();
        }
    }

    /// No two jobs change one group; what the registry lists as voting votes, or is about to.
    fn check(&self) {
        let under_way = || self.registry.jobs.values().filter_map(|job| job.members.as_ref()?.exchange.as_ref());
        let mut groups = BTreeSet::new();
        for exchange in under_way() {
            assert!(groups.insert(exchange.group), "two jobs change {}", exchange.group);
        }
        for (group, replicas) in &self.registry.groups {
            for info in replicas.iter().filter(|_| !groups.contains(group)) {
                let is_voter = self.groups[group].voters.contains(&info.replica);
                assert_eq!(is_voter, info.votes, "{group}: {info:?} of {:?}", self.groups[group].voters);
            }
        }
    }

    /// All calls have come, all nodes that are not dead have looked: registry, groups and nodes agree.
    fn check_end(&mut self) {
        self.late.clear();
        for node in self.nodes.values_mut().filter(|node| node.down != u32::MAX) {
            node.down = 0;
        }
        for _ in 0..1000 {
            self.sweep();
        }
        self.check();
        for job in self.registry.jobs.values() {
            assert!(job.ended(), "{job:?}");
            assert!(job.members.iter().all(|members| members.exchange.is_none()), "{job:?}");
        }
        for (group, replicas) in &self.registry.groups {
            let voters: BTreeSet<ReplicaId> =
                replicas.iter().filter(|info| info.votes).map(|info| info.replica).collect();
            assert_eq!(voters, self.groups[group].voters, "{group}");
            assert!(self.majority(*group, &voters), "{group} has lost its majority");
            for info in replicas {
                assert_eq!(self.made[&info.replica], (*group, info.node));
                assert!(info.votes || self.groups[group].learners.contains_key(&info.replica), "{group} {info:?}");
            }
        }
    }

    /// What nodes and groups have beside what the registry lists; late calls may leave such.
    fn left_over(&self) -> usize {
        let hosted = self.nodes.values().filter(|node| node.down == 0).flat_map(|node| &node.hosted);
        let hosted = hosted.filter(|(group, id)| !self.registry.is_expected(**group, **id)).count();
        let listed = |group: &GroupId| self.registry.groups.contains_key(group);
        let learners =
            self.groups.iter().filter(|(group, _)| listed(group)).map(|(group, state)| {
                state.learners.keys().filter(|id| !self.registry.is_expected(*group, **id)).count()
            });
        hosted
            + learners.sum::<usize>()
            + self.registry.left.iter().filter(|(_, i)| self.nodes[&i.node].down == 0).count()
    }
}

impl Ground for World {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        self.call(None, |inner| Ok(Arc::new(inner.registry.clone()))).await
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        self.call(Some(Late::Meta(command.clone())), |inner| inner.meta(command)).await
    }

    async fn sight(&self, _: &Registry) -> Sight {
        let look = |inner: &mut Inner| {
            let up = inner.nodes.iter().filter(|(_, node)| node.down == 0);
            let hosted = up.map(|(id, node)| (*id, node.hosted.iter().map(|(g, r)| (*g, *r)).collect()));
            Ok(Sight { hosted: hosted.collect(), leaders: vec![] })
        };
        self.call(None, look).await.unwrap_or_default()
    }

    async fn node(&self, info: &NodeInfo, request: Request) -> Result<(), Error> {
        let node = NodeId(info.instance as u64);
        self.call(Some(Late::Node(node, request.clone())), |inner| inner.node(node, request)).await
    }

    async fn change(&self, group: GroupId, change: MemberChange) -> Result<GroupMembers, Error> {
        self.call(Some(Late::Change(group, change.clone())), |inner| inner.change(group, change)).await
    }

    async fn hand_over(&self, _: GroupId) -> Result<(), Error> {
        Ok(())
    }

    fn now_us(&self) -> i64 {
        i64::from(self.lock().calls) * 1_000_000
    }

    async fn pause(&self) {
        self.call(None, |_| Ok(())).await.ok();
    }
}

/// Two drivers work on whatever job, and die now and then, until all jobs have ended.
fn drive(world: &World) {
    let mut drivers: [Option<Pin<Box<dyn Future<Output = ()> + '_>>>; 2] = [None, None];
    loop {
        let (at, job) = {
            let mut inner = world.lock();
            let running: Vec<JobId> = inner.running().collect();
            if running.is_empty() {
                return;
            }
            (inner.random.below(2), running[inner.random.below(running.len())])
        };
        let driver = &mut drivers[at];
        let work = driver.get_or_insert_with(|| Box::pin(async move { drop(attempt(world, job).await) }));
        let over = work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        if over || world.lock().fault(2) {
            *driver = None;
        }
    }
}

mod scenarios;
mod strays;
