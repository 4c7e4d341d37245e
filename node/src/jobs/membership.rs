//! Replicas are made, caught up, given a vote, and taken away, one at a time; shards are made.
//!
//! One [`attempt`] takes one job one step further and returns, so that jobs that change replicas take
//! turns, and what was asked of a job is seen between two steps. Nothing is remembered between attempts:
//! the registry says which exchange is under way ([`Exchange`]), the group says how far it is. What comes
//! next is decided by [`Registry::next_exchange`], for all kinds of such jobs.
//!
//! # The steps of an exchange, and what a crash after each of them means
//! 1. *begin*, in the registry: the exchange has a number, the new replica its raft id. No other job
//!    changes this group before the exchange has ended.
//! 2. *create*, on the node that gets the replica. It belongs to no group yet. A later driver creates it
//!    again, which changes nothing; another replica of the group that is left there from before is
//!    dropped first.
//! 3. *learn*, at the group's leader: the replica follows, without a vote, until it has caught up. Up to
//!    here the exchange can be given up: the leader forgets the learner, unless it votes by then.
//! 4. *vote*, at the leader: the new replica votes in the place of the old one, which is taken out by the
//!    same change, so the group has as many voters as before at any moment, and either all of the old or
//!    all of the new. A leader that is to go hands over first.
//! 5. *done*, in the registry: clients learn. The node that lost its replica finds it among those that are
//!    [`left`](Registry::left), and drops it.
//!
//! Exchanges without a new replica, or with one that the group has already, begin at step 4 and are never
//! given up: there is nothing to wait for but a majority of the group.
//!
//! # Invariants
//! 1. A raft id names one replica for ever: it is reserved by step 1 and never handed out again.
//! 2. The registry lists a replica from step 5 to step 5; in between, a group may know more than it.
//! 3. What a node drops was taken out of its group before, or never belonged to it. Whether it does is asked of a
//!    registry that is read after the node has said what it hosts: an older one does not know what was made since.

use std::sync::Arc;

use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{GroupId, JobId, NodeId};
use flotilla_shared::registry::{
    Effect, Exchange, Founding, Job, JobKind, JobState, MemberStep, Members, MetaCommand, NodeInfo, Planned, Registry,
    ReplicaGoal, ReplicaInfo, Sight, Wish,
};
use flotilla_shared::wire::{GroupMembers, MemberChange, Request};

/// Entries that a replica may be behind and still count as caught up: what one append request brings.
const CAUGHT_UP: u64 = 256;

/// Looks at a replica that catches up in one attempt: other jobs shall not wait for more than a second.
const LOOKS: usize = 20;

/// How often a repair looks at the nodes, some seconds in all, before it says that it cannot do more.
const SIGHTS: usize = 4;

/// How often the registry hears that a replica's node is there: far more often than it may be silent.
const NOTE_US: i64 = 5_000_000;

/// What a driver works with: the registry, the nodes and the groups. Handed in, so that a test can let
/// calls be lost, or be the last ones of their driver.
pub(crate) trait Ground: Sync {
    /// The registry, with everything acknowledged before.
    fn registry(&self) -> impl Future<Output = Result<Arc<Registry>, Error>> + Send;
    /// Changes the registry.
    fn meta(&self, command: MetaCommand) -> impl Future<Output = Result<(), Error>> + Send;
    /// Which nodes answer, and what they host.
    fn sight(&self, registry: &Registry) -> impl Future<Output = Sight> + Send;
    /// Sends a request to one node.
    fn node(&self, info: &NodeInfo, request: Request) -> impl Future<Output = Result<(), Error>> + Send;
    /// Changes a group's members.
    fn change(&self, group: GroupId, change: MemberChange) -> impl Future<Output = Result<GroupMembers, Error>> + Send;
    /// Lets another replica of a group lead.
    fn hand_over(&self, group: GroupId) -> impl Future<Output = Result<(), Error>> + Send;
    /// Microseconds since 1970.
    fn now_us(&self) -> i64;
    /// Waits a moment.
    fn pause(&self) -> impl Future<Output = ()> + Send;
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// There is more to do.
    More,
    /// The job has ended.
    Ended,
}

/// Takes the job one step further.
///
/// # Errors
/// What kept it from that; the next attempt finds out what was done nevertheless.
pub(crate) async fn attempt<G: Ground>(ground: &G, id: JobId) -> Result<Attempt, Error> {
    let registry = ground.registry().await?;
    let Some(job) = registry.jobs.get(&id).filter(|job| job.state == JobState::Running) else {
        return Ok(Attempt::Ended);
    };
    let Some(members) = job.members.as_deref() else {
        return Err(Error::new(Code::Internal, "a job that changes replicas records nothing"));
    };
    let worker = Worker { ground, registry: &registry, job, members };
    if let Some(exchange) = &members.exchange {
        return worker.carry(exchange).await;
    }
    if let Some(founding) = &members.founding {
        return worker.make(founding).await;
    }
    if members.wish == Wish::Cancel {
        return worker.end(JobState::Cancelled, None).await;
    }
    match worker.next().await {
        Err(error) if error.code.class() == Class::Refused => worker.end(JobState::Failed, Some(error)).await,
        outcome => outcome,
    }
}

struct Worker<'a, G> {
    ground: &'a G,
    registry: &'a Registry,
    job: &'a Job,
    members: &'a Members,
}

impl<G: Ground> Worker<'_, G> {
    async fn record(&self, step: MemberStep) -> Result<Attempt, Error> {
        match self.ground.meta(MetaCommand::Members { job: self.job.id, step }).await {
            // Another driver or a wish came between; the next attempt sees which.
            Err(error) if matches!(error.code, Code::Conflict | Code::NoSuchObject) => Ok(Attempt::More),
            Err(error) => Err(error),
            Ok(()) => Ok(Attempt::More),
        }
    }

    async fn end(&self, state: JobState, error: Option<Error>) -> Result<Attempt, Error> {
        let effects = match (&self.job.kind, state) {
            (JobKind::Remove { node }, JobState::Done) => vec![Effect::NodeRemoved(*node)],
            _ => vec![],
        };
        let end = MetaCommand::EndJob { job: self.job.id, state, error, effects, results: vec![] };
        self.ground.meta(end).await?;
        Ok(Attempt::Ended)
    }

    async fn note(&self, step: String) {
        let done = self.members.done;
        let left = match &self.job.kind {
            JobKind::Replicas { goal: ReplicaGoal::Group { changes, .. }, .. } => {
                changes.len() as u64 - done.min(changes.len() as u64)
            }
            JobKind::Replicas { goal: ReplicaGoal::Repair { nodes }, .. } => {
                nodes.iter().map(|node| self.registry.replicas_on(*node).count() as u64).sum()
            }
            JobKind::Replicas { goal: ReplicaGoal::Drain { node }, .. } | JobKind::Remove { node } => {
                self.registry.replicas_on(*node).count() as u64
            }
            JobKind::Join { groups, .. } => (groups.len() as u64).saturating_sub(done),
            _ => 1,
        };
        let percent = (100 * done / (done + left).max(1)).min(99) as u8;
        if self.job.step != step || self.job.percent != percent || self.job.error.is_some() {
            let command = MetaCommand::StepJob { job: self.job.id, step, percent, error: None };
            // Not worth failing for.
            self.ground.meta(command).await.ok();
        }
    }

    fn node_info(&self, node: NodeId) -> Result<&NodeInfo, Error> {
        match self.registry.nodes.get(&node) {
            Some(info) if !info.removed => Ok(info),
            _ => Err(Error::new(Code::NoSuchObject, format!("there is no node {node}"))),
        }
    }

    async fn next(&self) -> Result<Attempt, Error> {
        let sight = self.ground.sight(self.registry).await;
        if let JobKind::CreateShard { nodes, replicas } = &self.job.kind {
            return self.found(nodes, *replicas as usize, &sight).await;
        }
        if let JobKind::Remove { node } = &self.job.kind {
            self.node_info(*node)?;
        }
        if let JobKind::Replicas { goal: ReplicaGoal::Drain { node }, .. } = &self.job.kind {
            for group in sight.led_by(*node) {
                self.note(format!("another node is to lead {group}")).await;
                // A leader that nobody can take over from now hands over before its replica goes.
                self.ground.hand_over(group).await.ok();
            }
        }
        let planned = match self.registry.next_exchange(&self.job.kind, self.members.next, &sight) {
            // What a repair cannot mend ends it, but not what was just down for a moment.
            Err(error) if matches!(&self.job.kind, JobKind::Replicas { goal: ReplicaGoal::Repair { .. }, .. }) => {
                self.look_again(error).await?
            }
            planned => planned?,
        };
        match planned {
            Some(planned) => {
                self.registry.check_majority(&planned, &sight)?;
                self.record(MemberStep::Begin(planned)).await
            }
            None => self.end(JobState::Done, None).await,
        }
    }

    /// Another sight may show more nodes; the last one decides.
    async fn look_again(&self, error: Error) -> Result<Option<Planned>, Error> {
        let mut last = Err(error);
        for _ in 0..SIGHTS {
            for _ in 0..LOOKS {
                self.ground.pause().await;
            }
            let sight = self.ground.sight(self.registry).await;
            last = self.registry.next_exchange(&self.job.kind, self.members.next, &sight);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Steps 2 to 5.
    async fn carry(&self, exchange: &Exchange) -> Result<Attempt, Error> {
        let Exchange { id, group, add, remove, .. } = exchange;
        if !self.registry.groups.contains_key(group) {
            // A job that is about a node goes on with other groups; what comes next is decided anew.
            return self.record(MemberStep::Abandon { id: *id, failed: None }).await;
        }
        let known =
            |info: &ReplicaInfo| self.registry.replicas(*group).iter().any(|other| other.replica == info.replica);
        let vote = match (add, remove) {
            (Some(new), _) if !known(new) => return self.bring(exchange, new).await,
            (Some(new), None) => {
                self.note(format!("replica {} of {group} on node {} gets a vote", new.replica, new.node)).await;
                MemberChange::Promote(new.replica)
            }
            (_, Some(old)) => {
                self.note(format!("taking replica {} of {group} off node {}", old.replica, old.node)).await;
                MemberChange::Remove(old.replica)
            }
            (None, None) => return Err(Error::new(Code::Internal, "an exchange of nothing")),
        };
        self.ground.change(*group, vote).await?;
        self.record(MemberStep::Done { id: *id }).await
    }

    /// A new replica comes.
    async fn bring(&self, exchange: &Exchange, new: &ReplicaInfo) -> Result<Attempt, Error> {
        let (id, group) = (exchange.id, exchange.group);
        let cancelled = self.members.wish == Wish::Cancel;
        let brought = match cancelled {
            true => Ok(false),
            false => self.teach(exchange, new).await,
        };
        if let Ok(true) = brought {
            let vote = match exchange.remove {
                Some(old) if new.votes && old.votes => MemberChange::Swap { add: new.replica, remove: old.replica },
                Some(old) => MemberChange::Remove(old.replica),
                None if new.votes => MemberChange::Promote(new.replica),
                None => MemberChange::Look,
            };
            self.ground.change(group, vote).await?;
            return self.record(MemberStep::Done { id }).await;
        }
        let stalled = exchange.stalled(self.ground.now_us(), self.job.kind.patience_ms());
        let failed = match (cancelled, stalled, &brought) {
            (true, ..) => None,
            // Where any node will do, another one is found.
            (_, Some((_, true)), Err(_))
                if matches!(
                    &self.job.kind,
                    JobKind::Replicas { goal: ReplicaGoal::Repair { .. } | ReplicaGoal::Drain { .. }, .. }
                ) =>
            {
                None
            }
            (_, Some((why, true)), Err(_)) | (_, Some((why, false)), _) => Some(why),
            _ => return brought.map(|_| Attempt::More),
        };
        let members = self.ground.change(group, MemberChange::Forget(new.replica)).await?;
        if members.votes(new.replica) {
            // A driver before this one brought it so far; only the rest of the change is left.
            if let Some(old) = exchange.remove {
                self.ground.change(group, MemberChange::Swap { add: new.replica, remove: old.replica }).await?;
            }
            return self.record(MemberStep::Done { id }).await;
        }
        self.record(MemberStep::Abandon { id, failed }).await
    }

    /// Steps 2 and 3: tells whether the replica has caught up.
    async fn teach(&self, exchange: &Exchange, new: &ReplicaInfo) -> Result<bool, Error> {
        let (id, group) = (exchange.id, exchange.group);
        let (step, place) = (format!("replica {} of {group} on node {}", new.replica, new.node), new.node);
        self.note(format!("{step} catches up")).await;
        let info = self.node_info(place)?;
        self.create(group, new, info).await?;
        let note_us = NOTE_US.min(self.job.kind.patience_ms() as i64 * 1000 / 4);
        if self.ground.now_us() - exchange.heard_us > note_us {
            self.record(MemberStep::Note { id, held: 0 }).await?;
        }
        let learn = MemberChange::AddLearner { replica: new.replica, node: place, addr: info.raft_addr.clone() };
        let mut members = self.ground.change(group, learn).await?;
        self.forget_strays(group, new, &members).await?;
        for _ in 0..LOOKS {
            let behind = members.behind(new.replica);
            // One that votes already has caught up before.
            if members.votes(new.replica) || behind.is_some_and(|behind| behind <= CAUGHT_UP) {
                return Ok(true);
            }
            self.ground.pause().await;
            members = self.ground.change(group, MemberChange::Look).await?;
        }
        let held = members.last_log - members.behind(new.replica).unwrap_or(members.last_log);
        if held > exchange.held {
            self.record(MemberStep::Note { id, held }).await?;
        }
        Ok(false)
    }

    /// What a node hosts of a group beside what is expected there was left by somebody who came late.
    async fn create(&self, group: GroupId, new: &ReplicaInfo, info: &NodeInfo) -> Result<(), Error> {
        let (node, replica) = (new.node, new.replica);
        let create = Request::CreateReplica { cluster: self.registry.cluster, node, group, replica };
        match self.ground.node(info, create.clone()).await {
            Err(error) if error.code == Code::Conflict => (),
            outcome => return outcome,
        }
        let sight = self.ground.sight(self.registry).await;
        // Read after the sight: what another driver has made meanwhile is expected by now, and may vote.
        let registry = self.ground.registry().await?;
        let hosted = sight.hosted.get(&node).into_iter().flatten();
        for (_, stray) in hosted.filter(|(of, id)| *of == group && !registry.is_expected(group, *id)) {
            self.ground.node(info, Request::DropReplica { group, replica: *stray }).await?;
        }
        self.ground.node(info, create).await.map_err(|error| Error { code: Code::Unavailable, ..error })
    }

    /// Learners that a group has beside what is expected there, for the same reason.
    async fn forget_strays(&self, group: GroupId, new: &ReplicaInfo, members: &GroupMembers) -> Result<(), Error> {
        let stray = |registry: &Registry, learner| learner != new.replica && !registry.is_expected(group, learner);
        let strays: Vec<_> = members.learners.iter().map(|(learner, _)| *learner).collect();
        if !strays.iter().any(|learner| stray(self.registry, *learner)) {
            return Ok(());
        }
        // The members are newer than the registry at hand.
        let registry = self.ground.registry().await?;
        for learner in strays.into_iter().filter(|learner| stray(&registry, *learner)) {
            self.ground.change(group, MemberChange::Forget(learner)).await?;
        }
        Ok(())
    }

    /// Chooses the nodes of a new shard.
    async fn found(&self, nodes: &[NodeId], replicas: usize, sight: &Sight) -> Result<Attempt, Error> {
        let nodes: Vec<NodeId> = match nodes {
            [] => self.registry.takers(sight).into_iter().take(replicas).collect(),
            given => given.to_vec(),
        };
        nodes.iter().try_for_each(|node| self.registry.check_takes(*node))?;
        if nodes.is_empty() {
            return Err(Error::new(Code::Conflict, "there is no node to hold a replica"));
        }
        self.record(MemberStep::Found { nodes }).await
    }

    /// Makes a shard. The registry lists it last; what was made of one that is given up is dropped by its
    /// nodes, and no client ever knew of it.
    async fn make(&self, founding: &Founding) -> Result<Attempt, Error> {
        if self.registry.groups.contains_key(&founding.group) {
            return self.end(JobState::Done, None).await;
        }
        if self.registry.is_gone(founding.group) {
            let failed = Some(Error::new(Code::Conflict, format!("{} was taken out of the cluster", founding.group)));
            return self.record(MemberStep::Unfound { failed }).await;
        }
        if self.members.wish == Wish::Cancel {
            return self.record(MemberStep::Unfound { failed: None }).await;
        }
        self.note(format!("making {}", founding.group)).await;
        match self.start(founding).await {
            Ok(()) => self.record(MemberStep::Founded).await,
            Err(error) if self.ground.now_us() - founding.began_us > FOUNDING_US => {
                let hint = "choose other nodes, or start those that are down";
                let failed = Some(Error::new(Code::Conflict, error.message).hint(hint));
                self.record(MemberStep::Unfound { failed }).await
            }
            Err(error) => Err(error),
        }
    }

    async fn start(&self, founding: &Founding) -> Result<(), Error> {
        let mut members = Vec::new();
        for replica in &founding.replicas {
            let info = self.node_info(replica.node)?;
            self.create(founding.group, replica, info).await?;
            members.push((replica.replica, replica.node, info.raft_addr.clone()));
        }
        let Some(first) = founding.replicas.first() else { return Ok(()) };
        let init = Request::InitGroup { group: founding.group, members };
        self.ground.node(self.node_info(first.node)?, init).await
    }
}

/// How long making a shard may take: its replicas are empty.
const FOUNDING_US: i64 = 60_000_000;

#[cfg(test)]
mod tests;
