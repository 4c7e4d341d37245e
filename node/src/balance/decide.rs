//! Which group's leader goes where next: a pure function of what nodes reported, and of how long that
//! has been so.
//!
//! A leader moves for two reasons. Its group prefers a zone, and there is a fit replica there but not
//! the leader. Or one node leads at least [`MIN_DIFFERENCE`] groups more than another one that could
//! take one over, directly or by way of others: then moving one brings them nearer, while with a
//! smaller difference it would only swap their places, for ever.
//!
//! Nothing moves while a group has no leader. A node takes over nothing before it has been up for a
//! while, and a group's leader stays for a while wherever it has come to, so a node that comes and goes
//! moves nothing but what its own failures move ([`Bounds`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use flotilla_shared::ids::{GroupId, NodeId};

/// Groups that one node leads more than another before a leader moves.
pub const MIN_DIFFERENCE: usize = 2;

/// How long things must have been so. All are multiples of the longest election timeout, the time in which
/// a cluster notices that something is wrong and mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// A node must have been up for this long, without a break, to take over a group.
    pub steady: Duration,
    /// A leader must have led for this long before its group moves on: after elections, after hand-overs,
    /// and after ones that failed.
    pub cool_down: Duration,
    /// Time between two hand-overs.
    pub pace: Duration,
}

impl Bounds {
    /// For groups that elect within `election_timeout`.
    pub fn new(election_timeout: Duration) -> Self {
        Self { steady: election_timeout * 5, cool_down: election_timeout * 10, pace: election_timeout }
    }
}

/// What nodes reported of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupView {
    /// Who leads, and since which term.
    pub leader: Option<(NodeId, u64)>,
    /// Nodes with a replica that votes and has caught up; the leader among them.
    pub fit: BTreeSet<NodeId>,
    /// The zone in which the leader shall be.
    pub preferred: Option<String>,
}

/// What nodes reported, all in one round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Nodes that answered and may lead, and the zone of each.
    pub up: BTreeMap<NodeId, Option<String>>,
    /// All groups.
    pub groups: BTreeMap<GroupId, GroupView>,
}

/// A hand-over to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The group.
    pub group: GroupId,
    /// Who leads it.
    pub from: NodeId,
    /// Who shall.
    pub to: NodeId,
}

impl View {
    /// How many groups each node leads.
    fn loads(&self) -> BTreeMap<NodeId, usize> {
        let mut loads: BTreeMap<NodeId, usize> = self.up.keys().map(|node| (*node, 0)).collect();
        for (leader, _) in self.groups.values().filter_map(|group| group.leader) {
            *loads.entry(leader).or_default() += 1;
        }
        loads
    }

    /// Nodes that may lead a group: those in its preferred zone, if there are any.
    fn may_lead(&self, group: &GroupView, ready: &impl Fn(NodeId) -> bool) -> BTreeSet<NodeId> {
        let fit = group.fit.iter().copied().filter(|node| self.up.contains_key(node) && ready(*node));
        let (near, far): (BTreeSet<NodeId>, _) =
            fit.partition(|node| group.preferred.as_deref() == self.up.get(node).and_then(|zone| zone.as_deref()));
        match group.preferred.is_some() && !near.is_empty() {
            true => near,
            false => near.union(&far).copied().collect(),
        }
    }

    /// The next hand-over, among groups that are `free` to move and to nodes that are `ready`.
    pub fn next(&self, free: impl Fn(GroupId) -> bool, ready: impl Fn(NodeId) -> bool) -> Option<Transfer> {
        let loads = self.loads();
        let led = || self.groups.iter().filter_map(|(id, group)| Some((*id, group, group.leader?.0)));
        let misplaced = led().filter(|(id, ..)| free(*id)).find_map(|(id, group, from)| {
            let zone = group.preferred.as_deref()?;
            let near = |node: &NodeId| self.up.get(node).and_then(|at| at.as_deref()) == Some(zone);
            let to = self.may_lead(group, &ready).into_iter().filter(near).min_by_key(|node| (loads[node], *node))?;
            (!near(&from)).then_some(Transfer { group: id, from, to })
        });
        if misplaced.is_some() {
            return misplaced;
        }
        let (least, most) = (loads.values().min()?, loads.values().max()?);
        if least + MIN_DIFFERENCE > *most {
            return None;
        }
        let steps: Vec<Transfer> = led()
            .filter(|(id, ..)| free(*id))
            .flat_map(|(group, view, from)| {
                self.may_lead(view, &ready).into_iter().map(move |to| Transfer { group, from, to })
            })
            .filter(|step| step.from != step.to)
            .collect();
        let ways = loads.keys().filter_map(|from| shortest_way(*from, &steps, &loads));
        ways.min_by_key(|way| way.rank).map(|way| way.last)
    }
}

/// The fewest hand-overs, each to the node from which the next one is, that take a group off a node and
/// end at one that leads at least [`MIN_DIFFERENCE`] fewer.
struct Way {
    /// How many, then how much the first node leads, most first, then how little the last one does.
    rank: (usize, Reverse<usize>, usize),
    /// The one to make first: it makes room for the one before it, and makes nothing worse.
    last: Transfer,
}

fn shortest_way(from: NodeId, steps: &[Transfer], loads: &BTreeMap<NodeId, usize>) -> Option<Way> {
    let mut reached: BTreeMap<NodeId, (usize, Transfer)> = BTreeMap::new();
    let mut queue = VecDeque::from([(from, 0)]);
    while let Some((at, length)) = queue.pop_front() {
        for step in steps.iter().filter(|step| step.from == at && step.to != from) {
            reached.entry(step.to).or_insert_with(|| {
                queue.push_back((step.to, length + 1));
                (length + 1, *step)
            });
        }
    }
    let ends = reached.iter().filter(|(end, _)| loads[end] + MIN_DIFFERENCE <= loads[&from]);
    let ways =
        ends.map(|(end, (length, last))| Way { rank: (*length, Reverse(loads[&from]), loads[end]), last: *last });
    ways.min_by_key(|way| way.rank)
}

/// Remembers how long things have been so.
#[derive(Clone, Debug)]
pub struct Balancer {
    bounds: Bounds,
    up_since: BTreeMap<NodeId, Duration>,
    led_since: BTreeMap<GroupId, (NodeId, u64, Duration)>,
    last: Option<Duration>,
}

impl Balancer {
    /// Knows nothing yet, so nothing moves before all bounds have passed.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, up_since: BTreeMap::new(), led_since: BTreeMap::new(), last: None }
    }

    /// What to do at `now`, measured from any fixed moment, after a round of reports.
    pub fn decide(&mut self, now: Duration, view: &View) -> Option<Transfer> {
        self.observe(now, view);
        let long = |since: Duration, bound: Duration| now.saturating_sub(since) >= bound;
        if view.groups.values().any(|group| group.leader.is_none())
            || self.last.is_some_and(|last| !long(last, self.bounds.pace))
        {
            return None;
        }
        let free = |group| self.led_since.get(&group).is_some_and(|(.., since)| long(*since, self.bounds.cool_down));
        let ready = |node| self.up_since.get(&node).is_some_and(|since| long(*since, self.bounds.steady));
        let transfer = view.next(free, ready)?;
        // Whether or not it succeeds, the group rests.
        self.led_since.entry(transfer.group).and_modify(|(.., since)| *since = now);
        self.last = Some(now);
        Some(transfer)
    }

    fn observe(&mut self, now: Duration, view: &View) {
        self.up_since.retain(|node, _| view.up.contains_key(node));
        self.led_since.retain(|group, _| view.groups.contains_key(group));
        for node in view.up.keys() {
            self.up_since.entry(*node).or_insert(now);
        }
        for (group, view) in &view.groups {
            let Some((leader, term)) = view.leader else { continue };
            let known = self.led_since.entry(*group).or_insert((leader, term, now));
            if (known.0, known.1) != (leader, term) {
                *known = (leader, term, now);
            }
        }
    }
}
