//! Replicas come and go: what a job may want of them, and what the registry records of it.
//!
//! A job changes replicas one by one. Each [`Exchange`] is recorded before any node or group hears of
//! it, with the raft id of the replica that is made, and forgotten when the group has agreed and the
//! registry lists what is there now. So a driver that starts over knows which replica it was, no
//! raft id is used twice, and no two jobs change one group at the same time. What was taken out stands
//! in [`Registry::left`] until its node has dropped it, however late that node comes back.

mod plan;

use serde::{Deserialize, Serialize};

pub use plan::{Quorum, Sight};

use super::{Job, JobKind, JobState, MetaCommand, MetaReply, Registry, ReplicaInfo, Wish};
use crate::error::{Code, Error};
use crate::ids::{GroupId, JobId, NodeId, ReplicaId};

/// How long a new replica may come no closer to its group before the job gives it up, unless the
/// caller says otherwise. Pages of a large database are on their way for minutes.
pub const PATIENCE_MS: u64 = 600_000;

/// How long its node may be silent: much longer than a restart takes.
pub const MAX_SILENCE_MS: u64 = 60_000;

/// A change of one group's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaChange {
    /// A node gets a replica.
    Add {
        /// The node.
        node: NodeId,
        /// It votes, once it has caught up.
        votes: bool,
    },
    /// A replica that only follows shall vote.
    Promote {
        /// Its node.
        node: NodeId,
    },
    /// A replica goes.
    Remove {
        /// Its node.
        node: NodeId,
    },
    /// A replica goes, another takes its place.
    Replace {
        /// The node that loses it.
        from: NodeId,
        /// The node that gets it.
        to: NodeId,
    },
}

/// What a job wants of replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaGoal {
    /// These changes of one group, in order.
    Group {
        /// The group.
        group: GroupId,
        /// The changes.
        changes: Vec<ReplicaChange>,
    },
    /// Replicas of nodes that are given up are made anew on others.
    Repair {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// A node's replicas move to others, and it gets no new ones.
    Drain {
        /// The node.
        node: NodeId,
    },
}

/// One replica for another, or just one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// Names it for ever.
    pub id: u64,
    /// The group.
    pub group: GroupId,
    /// The replica that comes, as it is to be in the end. One that the group has already is promoted.
    pub add: Option<ReplicaInfo>,
    /// The replica that goes.
    pub remove: Option<ReplicaInfo>,
    /// Number of the change that asked for it, of those of [`ReplicaGoal::Group`].
    pub index: u32,
    /// Index up to which the new replica holds the log.
    pub held: u64,
    /// When that last grew, microseconds since 1970.
    pub grown_us: i64,
    /// When its node last answered.
    pub heard_us: i64,
}

/// A shard that is being made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The shard.
    pub group: GroupId,
    /// Its replicas.
    pub replicas: Vec<ReplicaInfo>,
    /// When it was begun, microseconds since 1970.
    pub began_us: i64,
}

/// How far a job that changes replicas is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// What is asked of it.
    pub wish: Wish,
    /// What is under way.
    pub exchange: Option<Exchange>,
    /// The shard that it makes.
    pub founding: Option<Founding>,
    /// Exchanges that are done.
    pub done: u64,
    /// Changes of [`ReplicaGoal::Group`] that are dealt with.
    pub next: u32,
}

/// The next exchange, as planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The group.
    pub group: GroupId,
    /// The node that gets a replica, and whether that votes.
    pub add: Option<(NodeId, bool)>,
    /// The replica that goes.
    pub remove: Option<ReplicaInfo>,
    /// As in [`Exchange::index`].
    pub index: u32,
}

/// A change of what is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MemberStep {
    /// Names the next exchange and the replica that comes.
    Begin(Planned),
    /// The new replica's node answered, and the replica holds the log up to there.
    Note {
        /// The exchange.
        id: u64,
        /// Index of the last entry it holds.
        held: u64,
    },
    /// The group has agreed.
    Done {
        /// The exchange.
        id: u64,
    },
    /// The group was left as it was.
    Abandon {
        /// The exchange.
        id: u64,
        /// Ends the job as failed.
        failed: Option<Error>,
    },
    /// Names a new shard and its replicas.
    Found {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// The new shard is there.
    Founded,
    /// The new shard is given up.
    Unfound {
        /// Ends the job as failed.
        failed: Option<Error>,
    },
    /// Somebody asks something of the job.
    Wish(Wish),
}

impl Members {
    /// The JSON form of `GET /job/{id}`.
    pub fn to_json(&self) -> serde_json::Value {
        let exchange = self.exchange.as_ref().map(|exchange| {
            serde_json::json!({
                "group": exchange.group,
                "add": exchange.add.map(|info| info.to_json()),
                "remove": exchange.remove.map(|info| info.to_json()),
            })
        });
        let mut json = serde_json::json!({ "exchanges_done": self.done, "exchange": exchange });
        if let Some(founding) = &self.founding {
            json["shard"] = serde_json::json!(founding.group);
        }
        json
    }
}

impl Exchange {
    /// Why the replica that comes is given up, if it is time to; and whether its node was silent.
    pub fn stalled(&self, now_us: i64, patience_ms: u64) -> Option<(Error, bool)> {
        let add = self.add?;
        let silent_ms = (now_us - self.heard_us).max(0) as u64 / 1000;
        let still_ms = (now_us - self.grown_us).max(0) as u64 / 1000;
        if silent_ms > patience_ms.min(MAX_SILENCE_MS) {
            let message = format!("node {}, which was to get a replica of {}, is silent", add.node, self.group);
            return Some((Error::new(Code::Conflict, message).hint("choose another node, or start it again"), true));
        }
        if still_ms > patience_ms {
            let message = format!(
                "replica {} of {} on node {} did not catch up: it holds the log up to {} for {} s",
                add.replica,
                self.group,
                add.node,
                self.held,
                still_ms / 1000
            );
            return Some((Error::new(Code::Conflict, message).hint("look at that node's log, then ask again"), false));
        }
        None
    }
}

impl JobKind {
    /// Does it change replicas?
    pub fn changes_members(&self) -> bool {
        matches!(self, Self::Join { .. } | Self::Remove { .. } | Self::CreateShard { .. } | Self::Replicas { .. })
    }

    /// How long a new replica may stand still, in milliseconds.
    pub fn patience_ms(&self) -> u64 {
        match self {
            Self::Replicas { patience_ms, .. } => *patience_ms,
            _ => PATIENCE_MS,
        }
    }
}

impl Registry {
    /// Every replica that is or may come to be on a node: what a node hosts beside these is left over.
    pub fn is_expected(&self, group: GroupId, replica: ReplicaId) -> bool {
        let members = || self.jobs.values().filter(|job| !job.ended()).filter_map(|job| job.members.as_deref());
        let coming = |info: &ReplicaInfo| info.replica == replica;
        self.replicas(group).iter().any(coming)
            || members().filter_map(|m| m.exchange.as_ref()).any(|e| e.group == group && e.add.iter().any(coming))
            || members().filter_map(|m| m.founding.as_ref()).any(|f| f.group == group && f.replicas.iter().any(coming))
    }

    /// What a new job records, if it changes replicas.
    pub(super) fn new_members(&mut self, kind: &JobKind) -> Option<Box<Members>> {
        if let JobKind::Replicas { goal: ReplicaGoal::Drain { node }, .. } = kind {
            self.draining.insert(*node);
        }
        kind.changes_members().then(Box::default)
    }

    pub(super) fn change_members(&mut self, at_us: i64, id: JobId, step: MemberStep) -> Result<MetaReply, Error> {
        let job = self.jobs.get(&id).filter(|job| !job.ended());
        let Some(members) = job.and_then(|job| job.members.as_deref()).cloned() else {
            return Err(Error::new(Code::NoSuchObject, format!("there is no running job {id} that changes replicas")));
        };
        match step {
            MemberStep::Begin(planned) => {
                let exchange = self.begin(at_us, &members, planned)?;
                self.members(id)?.exchange = Some(exchange);
            }
            MemberStep::Note { id: number, held } => {
                under_way(&members, number)?;
                let Some(exchange) = &mut self.members(id)?.exchange else { return Ok(MetaReply::Ok) };
                exchange.heard_us = at_us;
                if held > exchange.held {
                    (exchange.held, exchange.grown_us) = (held, at_us);
                }
            }
            MemberStep::Done { id: number } => {
                let exchange = under_way(&members, number)?;
                self.exchanged(&exchange);
                let members = self.members(id)?;
                (members.exchange, members.next) = (None, exchange.index + 1);
                members.done += 1;
            }
            MemberStep::Abandon { id: number, failed } => {
                let exchange = under_way(&members, number)?;
                self.members(id)?.exchange = None;
                let known =
                    |info: &ReplicaInfo| self.replicas(exchange.group).iter().any(|r| r.replica == info.replica);
                self.left.extend(exchange.add.filter(|info| !known(info)).map(|info| (exchange.group, info)));
                self.fail(at_us, id, failed)?;
            }
            MemberStep::Found { nodes } => {
                let founding = self.found(at_us, &members, &nodes)?;
                self.members(id)?.founding = Some(founding);
            }
            MemberStep::Founded => {
                let Some(Founding { group, replicas, .. }) = members.founding else {
                    return Err(Error::new(Code::Conflict, format!("job {id} makes no shard")));
                };
                if self.is_gone(group) {
                    return Err(Error::new(Code::Conflict, format!("{group} was taken out of the cluster")));
                }
                self.groups.entry(group).or_insert(replicas);
            }
            MemberStep::Unfound { failed } => {
                let made = |founding: &Founding| self.groups.contains_key(&founding.group);
                if let Some(founding) = members.founding.filter(|founding| !made(founding)) {
                    self.left.extend(founding.replicas.iter().map(|info| (founding.group, *info)));
                    self.members(id)?.founding = None;
                }
                self.fail(at_us, id, failed)?;
            }
            MemberStep::Wish(Wish::Pause) => {
                return Err(Error::new(Code::Conflict, format!("job {id} cannot be paused"))
                    .hint("cancel it; what it has done stays, and the same call goes on from there"));
            }
            MemberStep::Wish(wish) => self.members(id)?.wish = wish,
        }
        Ok(MetaReply::Ok)
    }

    pub(super) fn undrain(&mut self, node: NodeId) -> Result<MetaReply, Error> {
        if self.nodes.get(&node).is_none_or(|info| info.removed) {
            return Err(Error::new(Code::NoSuchObject, format!("there is no node {node}")));
        }
        self.draining.remove(&node);
        for job in self.jobs.values_mut().filter(|job| !job.ended()) {
            let drains =
                matches!(&job.kind, JobKind::Replicas { goal: ReplicaGoal::Drain { node: of }, .. } if *of == node);
            if let (true, Some(members)) = (drains, job.members.as_mut()) {
                members.wish = Wish::Cancel;
            }
        }
        Ok(MetaReply::Ok)
    }

    fn members(&mut self, job: JobId) -> Result<&mut Members, Error> {
        let members = self.jobs.get_mut(&job).and_then(|job| job.members.as_deref_mut());
        members.ok_or_else(|| Error::new(Code::NoSuchObject, format!("there is no job {job} that changes replicas")))
    }

    fn fail(&mut self, at_us: i64, job: JobId, failed: Option<Error>) -> Result<(), Error> {
        if failed.is_some() {
            let state = JobState::Failed;
            self.change(at_us, MetaCommand::EndJob { job, state, error: failed, effects: vec![], results: vec![] })?;
        }
        Ok(())
    }

    /// What an exchange leaves: the group's replicas, and the one that its node is to drop.
    fn exchanged(&mut self, exchange: &Exchange) {
        // A shard that left the cluster meanwhile stays away: nodes drop whatever they have of it.
        let Some(replicas) = self.groups.get_mut(&exchange.group) else { return };
        replicas.retain(|info| {
            let same = |other: &Option<ReplicaInfo>| other.is_some_and(|other| other.replica == info.replica);
            !same(&exchange.add) && !same(&exchange.remove)
        });
        replicas.extend(exchange.add);
        replicas.sort_by_key(|info| (info.node, info.replica));
        self.left.extend(exchange.remove.map(|info| (exchange.group, info)));
    }

    /// A job that is to run, and has nothing under way.
    fn check_free(&self, members: &Members) -> Result<(), Error> {
        if members.wish != Wish::Run || members.exchange.is_some() || members.founding.is_some() {
            return Err(Error::new(Code::Conflict, "the job has something under way, or is to end"));
        }
        Ok(())
    }

    fn begin(&mut self, at_us: i64, members: &Members, planned: Planned) -> Result<Exchange, Error> {
        self.check_free(members)?;
        let Planned { group, add, remove, index } = planned;
        let busy = |job: &&Job| {
            !job.ended() && job.members.iter().any(|m| m.exchange.as_ref().is_some_and(|e| e.group == group))
        };
        if let Some(other) = self.jobs.values().find(busy) {
            return Err(Error::new(Code::Unavailable, format!("job {} changes {group}", other.id)));
        }
        let moved = || Error::new(Code::Conflict, format!("the replicas of {group} are no longer what they were"));
        if remove.is_some_and(|info| !self.replicas(group).contains(&info)) || !self.groups.contains_key(&group) {
            return Err(moved());
        }
        let add = match add {
            None => None,
            Some((node, votes)) => {
                let present = self.replicas(group).iter().find(|info| info.node == node && Some(**info) != remove);
                match present.copied() {
                    Some(info) if info.votes || !votes => return Err(moved()),
                    Some(info) => Some(ReplicaInfo { votes, ..info }),
                    None => {
                        self.check_takes(node)?;
                        self.counters.replica += 1;
                        Some(ReplicaInfo { node, replica: ReplicaId(self.counters.replica), votes })
                    }
                }
            }
        };
        self.counters.exchange += 1;
        let id = self.counters.exchange;
        Ok(Exchange { id, group, add, remove, index, held: 0, grown_us: at_us, heard_us: at_us })
    }

    /// May a node get another replica?
    ///
    /// # Errors
    /// Why not.
    pub fn check_takes(&self, node: NodeId) -> Result<(), Error> {
        match self.nodes.get(&node) {
            Some(info) if !info.removed && !self.draining.contains(&node) => Ok(()),
            Some(info) if !info.removed => Err(Error::new(Code::Conflict, format!("node {node} is drained"))
                .hint(format!("POST /node/{node}/undrain lets it have replicas again"))),
            _ => {
                Err(Error::new(Code::NoSuchObject, format!("there is no node {node}"))
                    .hint("GET /node lists the nodes"))
            }
        }
    }

    fn found(&mut self, at_us: i64, members: &Members, nodes: &[NodeId]) -> Result<Founding, Error> {
        self.check_free(members)?;
        super::distinct::distinct(nodes, "node")?;
        nodes.iter().try_for_each(|node| self.check_takes(*node))?;
        let founded = self.jobs.values().filter_map(|job| Some(job.members.as_ref()?.founding.as_ref()?.group.0 + 1));
        let group = GroupId(founded.max().unwrap_or(0).max(self.next_shard().0));
        let replicas = nodes.iter().map(|node| {
            self.counters.replica += 1;
            ReplicaInfo { node: *node, replica: ReplicaId(self.counters.replica), votes: true }
        });
        Ok(Founding { group, replicas: replicas.collect(), began_us: at_us })
    }
}

fn under_way(members: &Members, id: u64) -> Result<Exchange, Error> {
    members
        .exchange
        .clone()
        .filter(|exchange| exchange.id == id)
        .ok_or_else(|| Error::new(Code::Conflict, format!("exchange {id} is not under way")))
}
