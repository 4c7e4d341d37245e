//! Which replica goes where next: pure functions of the registry, of what a job wants, and of what its
//! nodes say that they host.
//!
//! A job is planned exchange by exchange, always from what is there now; a dry run plays the same
//! exchanges on a copy. A refusal of the class [`Class::Refused`](crate::error::Class) is for good;
//! [`Code::Unavailable`] says that the same may be possible later, when more nodes answer.

use std::collections::BTreeMap;

use super::{Exchange, Planned, ReplicaChange, ReplicaGoal};
use crate::error::{Code, Error};
use crate::ids::{GroupId, NodeId, ReplicaId};
use crate::registry::{JobKind, Registry, ReplicaInfo};
use crate::wire::NodeStatus;

/// The nodes that answer, each with the replicas that it hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// By node.
    pub hosted: BTreeMap<NodeId, Vec<(GroupId, ReplicaId)>>,
    /// Those that say that they lead.
    pub leaders: Vec<(GroupId, NodeId)>,
}

impl Sight {
    /// What these nodes say, if they are who the registry means: the folder of a node may be new.
    pub fn of<'a>(registry: &Registry, states: impl IntoIterator<Item = (NodeId, &'a NodeStatus)>) -> Self {
        let mut sight = Self::default();
        for (node, state) in states {
            if registry.nodes.get(&node).is_some_and(|info| !info.removed && info.instance == state.identity.instance) {
                let working = || state.replicas.iter().filter(|replica| replica.role != "stopped");
                sight.hosted.insert(node, working().map(|replica| (replica.group, replica.replica)).collect());
                let leading = working().filter(|replica| replica.role == "leader");
                sight.leaders.extend(leading.map(|replica| (replica.group, node)));
            }
        }
        sight
    }

    /// The groups that a node leads.
    pub fn led_by(&self, node: NodeId) -> impl Iterator<Item = GroupId> + '_ {
        self.leaders.iter().filter(move |(_, leader)| *leader == node).map(|(group, _)| *group)
    }

    /// Does the node answer?
    pub fn sees(&self, node: NodeId) -> bool {
        self.hosted.contains_key(&node)
    }

    /// Is the replica there, on a node that answers?
    pub fn hosts(&self, group: GroupId, info: &ReplicaInfo) -> bool {
        self.hosted.get(&info.node).is_some_and(|hosted| hosted.contains(&(group, info.replica)))
    }
}

/// How many of a group's voters answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// All voters.
    pub voters: usize,
    /// Those that answer.
    pub live: usize,
}

impl Quorum {
    /// Can the group commit?
    pub fn is_there(&self) -> bool {
        self.live * 2 > self.voters
    }

    /// How many more may be lost; negative once the majority is.
    pub fn margin(&self) -> isize {
        self.live as isize - (self.voters / 2 + 1) as isize
    }
}

impl Registry {
    /// How many of a group's voters answer.
    pub fn quorum(&self, group: GroupId, sight: &Sight) -> Quorum {
        let voters = self.replicas(group).iter().filter(|info| info.votes);
        let (voters, live) =
            voters.fold((0, 0), |(voters, live), info| (voters + 1, live + usize::from(sight.hosts(group, info))));
        Quorum { voters, live }
    }

    /// What a job does next, `next` changes of its goal being dealt with; `None` when it has all that it
    /// wants.
    ///
    /// # Errors
    /// Why it cannot have it; [`Code::Unavailable`]: not now.
    pub fn next_exchange(&self, kind: &JobKind, next: u32, sight: &Sight) -> Result<Option<Planned>, Error> {
        match kind {
            JobKind::Replicas { goal: ReplicaGoal::Group { group, .. }, .. } if !self.groups.contains_key(group) => {
                Err(Error::new(Code::NoSuchObject, format!("{group} has left the cluster")).hint("see GET /shard"))
            }
            JobKind::Replicas { goal: ReplicaGoal::Group { group, changes }, .. } => {
                for (index, change) in (0..).zip(changes).skip(next as usize) {
                    if let Some(planned) = self.change_of(*group, *change, index)? {
                        return Ok(Some(planned));
                    }
                }
                Ok(None)
            }
            JobKind::Replicas { goal: ReplicaGoal::Repair { nodes }, .. } => self.repair(nodes, sight),
            JobKind::Replicas { goal: ReplicaGoal::Drain { node }, .. } => {
                let Some((group, info)) = self.replicas_on(*node).next() else { return Ok(None) };
                let Some(to) = self.spare(group, *node, sight) else { return Err(no_spare(group)) };
                Ok(Some(Planned { group, add: Some((to, info.votes)), remove: Some(info), index: 0 }))
            }
            JobKind::Join { node, groups } => self.join(*node, groups, sight),
            JobKind::Remove { node } => self.leave(*node),
            _ => Ok(None),
        }
    }

    /// Would the group keep a majority that answers, before and after the exchange?
    ///
    /// # Errors
    /// [`Code::Unavailable`], with what to do.
    pub fn check_majority(&self, planned: &Planned, sight: &Sight) -> Result<(), Error> {
        let Planned { group, add, remove, .. } = planned;
        let before = self.quorum(*group, sight);
        if !before.is_there() {
            return Err(self.lost_majority(*group, sight));
        }
        let gone = remove.filter(|info| info.votes);
        let lost_live = gone.is_some_and(|info| sight.hosts(*group, &info));
        let comes = usize::from(add.is_some_and(|(_, votes)| votes));
        let after = Quorum {
            voters: before.voters + comes - usize::from(gone.is_some()),
            live: before.live + comes - usize::from(lost_live),
        };
        if after.is_there() {
            return Ok(());
        }
        let what =
            remove.map_or_else(String::new, |info| format!(" without replica {} on node {}", info.replica, info.node));
        let message = format!("{group} would have no majority{what}: {} of {} voters answer", after.live, after.voters);
        Err(Error::new(Code::Unavailable, message)
            .hint("start the nodes that are down, or replace their replicas first"))
    }

    /// That a group cannot be changed, and what is left to do.
    pub fn lost_majority(&self, group: GroupId, sight: &Sight) -> Error {
        let Quorum { voters, live } = self.quorum(group, sight);
        let silent = self.replicas(group).iter().filter(|info| info.votes && !sight.hosts(group, info));
        let silent: Vec<String> = silent.map(|info| info.node.to_string()).collect();
        let message = format!("{group} has lost its majority: {live} of {voters} voters answer");
        Error::new(Code::Unavailable, message).hint(format!(
            "start {} of these nodes again, with their data: {}",
            voters / 2 + 1 - live,
            silent.join(", ")
        ))
    }

    /// The replicas of a node.
    pub fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = (GroupId, ReplicaInfo)> + '_ {
        self.groups.iter().filter_map(move |(group, list)| Some((*group, *list.iter().find(|info| info.node == node)?)))
    }

    /// How many replicas a node has, with those that are on their way to it.
    pub(in crate::registry) fn load(&self, node: NodeId) -> usize {
        let coming = self.exchanges().filter(|exchange| exchange.add.is_some_and(|info| info.node == node)).count();
        self.replicas_on(node).count() + coming
    }

    fn exchanges(&self) -> impl Iterator<Item = &Exchange> {
        self.jobs.values().filter(|job| !job.ended()).filter_map(|job| job.members.as_ref()?.exchange.as_ref())
    }

    /// Nodes that answer and may have more replicas, in the order in which a new group takes them.
    pub fn takers(&self, sight: &Sight) -> Vec<NodeId> {
        self.nodes_for_replicas(&[], self.nodes.len(), |node| sight.sees(node) && self.check_takes(node).is_ok())
    }

    /// The node that gets a group's next replica, when the one on `from` goes.
    fn spare(&self, group: GroupId, from: NodeId, sight: &Sight) -> Option<NodeId> {
        let coming = self.exchanges().filter(|exchange| exchange.group == group).filter_map(|exchange| exchange.add);
        let stay =
            self.replicas(group).iter().copied().chain(coming).map(|info| info.node).filter(|node| *node != from);
        let fits = |node: NodeId| node != from && sight.sees(node) && self.check_takes(node).is_ok();
        self.nodes_for_replicas(&stay.collect::<Vec<_>>(), 1, fits).pop()
    }

    fn change_of(&self, group: GroupId, change: ReplicaChange, index: u32) -> Result<Option<Planned>, Error> {
        let on = |node: NodeId| self.replicas(group).iter().find(|info| info.node == node).copied();
        let refused = |message: String, hint: &str| Err(Error::new(Code::Conflict, message).hint(hint));
        let planned = |add, remove| Ok(Some(Planned { group, add, remove, index }));
        match change {
            ReplicaChange::Add { node, votes } => match on(node) {
                Some(info) if info.votes == votes => Ok(None),
                Some(info) if info.votes => {
                    refused(format!("node {node} votes in {group}"), "remove that replica first, or use another node")
                }
                Some(_) => planned(Some((node, true)), None),
                None => self.check_takes(node).and_then(|()| planned(Some((node, votes)), None)),
            },
            ReplicaChange::Promote { node } => match on(node) {
                Some(info) if info.votes => Ok(None),
                Some(_) => planned(Some((node, true)), None),
                None => refused(format!("node {node} has no replica of {group}"), "add one"),
            },
            ReplicaChange::Remove { node } => match on(node) {
                None => Ok(None),
                Some(info) if info.votes && self.replicas(group).iter().filter(|info| info.votes).count() == 1 => {
                    refused(
                        format!("node {node} holds the only replica of {group}"),
                        "let another node join with that group first",
                    )
                }
                Some(info) => planned(None, Some(info)),
            },
            ReplicaChange::Replace { from, to } => match (on(from), on(to)) {
                (None, Some(_)) => Ok(None),
                (None, None) => refused(format!("node {from} has no replica of {group}"), "see GET /shard"),
                (Some(_), Some(_)) => {
                    refused(format!("node {to} has a replica of {group} already"), "remove the other one instead")
                }
                (Some(info), None) => self.check_takes(to).and_then(|()| planned(Some((to, info.votes)), Some(info))),
            },
        }
    }

    /// Groups with the least margin first.
    fn repair(&self, nodes: &[NodeId], sight: &Sight) -> Result<Option<Planned>, Error> {
        let mut broken: Vec<(isize, GroupId, ReplicaInfo)> = nodes
            .iter()
            .flat_map(|node| self.replicas_on(*node))
            .map(|(group, info)| (self.quorum(group, sight).margin(), group, info))
            .collect();
        broken.sort_by_key(|(margin, group, info)| (*margin, *group, info.replica));
        let mut why = None;
        for (margin, group, info) in broken {
            match self.spare(group, info.node, sight) {
                _ if margin < 0 => why = Some(self.lost_majority(group, sight)),
                None => why = why.or(Some(no_spare(group))),
                Some(to) => {
                    return Ok(Some(Planned { group, add: Some((to, info.votes)), remove: Some(info), index: 0 }));
                }
            }
        }
        // All that could be done is done; what is left needs somebody.
        why.map_or(Ok(None), |error| Err(Error { code: Code::Conflict, ..error }))
    }

    /// A node that joined gets its replicas. Those that the registry has on this node, but the node itself
    /// does not host, were lost with its disk: they never come back under their ids.
    fn join(&self, node: NodeId, groups: &[GroupId], sight: &Sight) -> Result<Option<Planned>, Error> {
        let Some(hosted) = sight.hosted.get(&node) else {
            return Err(Error::new(Code::Unavailable, format!("node {node} does not answer")).hint("start it"));
        };
        for group in groups {
            let present = self.replicas(*group).iter().find(|info| info.node == node).copied();
            if present.is_some_and(|info| hosted.contains(&(*group, info.replica))) {
                continue;
            }
            if !self.groups.contains_key(group) {
                return Err(Error::new(Code::NoSuchObject, format!("there is no group {group}")));
            }
            self.check_takes(node)?;
            let votes = present.is_none_or(|info| info.votes);
            return Ok(Some(Planned { group: *group, add: Some((node, votes)), remove: present, index: 0 }));
        }
        Ok(None)
    }

    fn leave(&self, node: NodeId) -> Result<Option<Planned>, Error> {
        let only = |(group, info): &(GroupId, ReplicaInfo)| {
            info.votes && self.replicas(*group).iter().filter(|info| info.votes).count() == 1
        };
        if let Some((group, _)) = self.replicas_on(node).find(only) {
            return Err(Error::new(Code::Conflict, format!("node {node} holds the only replica of {group}"))
                .hint("let another node join with that group first"));
        }
        let next = self.replicas_on(node).next();
        Ok(next.map(|(group, info)| Planned { group, add: None, remove: Some(info), index: 0 }))
    }

    /// All exchanges of a job that starts now, if nothing goes wrong; and why it could not go on, if so.
    pub fn plan_exchanges(&self, kind: &JobKind, sight: &Sight) -> (Vec<Planned>, Option<Error>) {
        let (mut registry, mut sight) = (self.clone(), sight.clone());
        let mut members = Box::default();
        if let JobKind::Replicas { goal: ReplicaGoal::Drain { node }, .. } = kind {
            registry.draining.insert(*node);
        }
        let mut plan = Vec::new();
        loop {
            let next = plan.last().map_or(0, |planned: &Planned| planned.index + 1);
            let planned = match registry.next_exchange(kind, next, &sight) {
                Ok(Some(planned)) => planned,
                Ok(None) => return (plan, None),
                Err(error) => return (plan, Some(error)),
            };
            let seen = match planned.add {
                Some((node, _)) if !sight.sees(node) => {
                    Err(Error::new(Code::Unavailable, format!("node {node} does not answer")).hint("start it"))
                }
                _ => registry.check_majority(&planned, &sight),
            };
            let begun = seen.and_then(|()| registry.begin(0, &members, planned));
            match begun {
                Ok(exchange) => {
                    registry.exchanged(&exchange);
                    if let Some(info) = exchange.add {
                        sight.hosted.entry(info.node).or_default().push((planned.group, info.replica));
                    }
                }
                Err(error) => return (plan, Some(error)),
            }
            members.next = planned.index + 1;
            plan.push(planned);
        }
    }
}

fn no_spare(group: GroupId) -> Error {
    Error::new(Code::Unavailable, format!("no node that answers can take another replica of {group}"))
        .hint("let another node join, or start one that is down")
}
