//! What is decided, and that it comes to rest, whatever happens to the nodes.

use super::decide::*;
use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_shared::ids::{GroupId, NodeId};

const LOOK: Duration = Duration::from_millis(1200);

/// Groups by leader and by the nodes of their replicas; each node's zone is the tens of its id.
fn view(groups: &[(u64, &[u64])]) -> View {
    let nodes = groups.iter().flat_map(|(_, nodes)| nodes.iter());
    View {
        up: nodes.map(|node| (NodeId(*node), Some(format!("z{}", node / 10)))).collect(),
        groups: groups
            .iter()
            .enumerate()
            .map(|(at, (leader, nodes))| {
                let fit = nodes.iter().copied().map(NodeId).collect();
                (GroupId(at as u32), GroupView { leader: Some((NodeId(*leader), 1)), fit, preferred: None })
            })
            .collect(),
    }
}

fn next(view: &View) -> Option<(u32, u64, u64)> {
    view.next(|_| true, |_| true).map(|step| (step.group.0, step.from.0, step.to.0))
}

fn make(view: &mut View, step: Transfer) {
    let group = view.groups.get_mut(&step.group).unwrap();
    assert_eq!(group.leader.map(|(node, _)| node), Some(step.from));
    assert!(group.fit.contains(&step.to), "{step:?}");
    group.leader = Some((step.to, group.leader.unwrap().1 + 1));
}

/// Leaders move from the node that leads most to the one that leads least, as long as that is nearer to even.
#[test]
fn leaders_are_spread() {
    assert_eq!(next(&view(&[(1, &[1, 2, 3]), (1, &[1, 2, 3]), (2, &[1, 2, 3])])), Some((0, 1, 3)));
    assert_eq!(next(&view(&[(1, &[1, 2]), (2, &[1, 2]), (1, &[1, 2])])), None, "one more is even enough");
    assert_eq!(next(&view(&[(1, &[1]), (1, &[1]), (2, &[2])])), None, "no replica elsewhere");
    assert_eq!(next(&View::default()), None);
}

/// Node 1 can give to node 2 only, and node 2 to node 3: the way is gone from its end, and comes to rest.
#[test]
fn leaders_go_by_way_of_others() {
    let mut view = view(&[(1, &[1, 2]), (1, &[1, 2]), (2, &[2, 3]), (3, &[3])]);
    view.groups.remove(&GroupId(3));
    assert_eq!(next(&view), Some((2, 2, 3)));
    let step = view.next(|_| true, |_| true).unwrap();
    make(&mut view, step);
    assert_eq!(next(&view), Some((0, 1, 2)));
    let step = view.next(|_| true, |_| true).unwrap();
    make(&mut view, step);
    assert_eq!(next(&view), None);
}

/// A preferred zone goes before evenness; where nobody there is fit, the group is one like any other.
#[test]
fn preferred_zones() {
    let all: &[u64] = &[11, 12, 21];
    let mut view = view(&[(21, all), (11, all), (11, all)]);
    view.groups.get_mut(&GroupId(0)).unwrap().preferred = Some("z1".into());
    assert_eq!(next(&view), Some((0, 21, 12)), "the one there that leads least");
    let step = view.next(|_| true, |_| true).unwrap();
    make(&mut view, step);
    assert_eq!(next(&view), Some((1, 11, 21)), "the others are spread");
    view.groups.get_mut(&GroupId(0)).unwrap().preferred = Some("z9".into());
    view.groups.get_mut(&GroupId(1)).unwrap().leader = Some((NodeId(12), 1));
    assert_eq!(next(&view), Some((0, 12, 21)), "nobody is in z9");
    let only = BTreeMap::from([(NodeId(21), Some("z2".to_owned()))]);
    assert_eq!(next(&View { up: only, ..view }), Some((0, 12, 21)), "whoever is not up leads nothing new");
}

/// Nothing moves before things have been so for long enough, nor while a group has no leader.
#[test]
fn patience() {
    let bounds = Bounds::new(LOOK);
    let mut balancer = Balancer::new(bounds);
    let mut uneven = view(&[(1, &[1, 2]), (1, &[1, 2]), (1, &[1, 2]), (1, &[1, 2]), (1, &[1, 2])]);
    assert_eq!(balancer.decide(Duration::ZERO, &uneven), None);
    assert_eq!(balancer.decide(bounds.cool_down - LOOK, &uneven), None);
    let first = balancer.decide(bounds.cool_down, &uneven).unwrap();
    assert_eq!(balancer.decide(bounds.cool_down, &uneven), None, "one at a time");
    let now = bounds.cool_down + bounds.pace;
    let second = balancer.decide(now, &uneven).unwrap();
    assert_ne!(first.group, second.group, "it failed, and rests");
    make(&mut uneven, second);
    uneven.groups.get_mut(&GroupId(4)).unwrap().leader = None;
    assert_eq!(balancer.decide(now + bounds.pace, &uneven), None, "a group has no leader");
    uneven.groups.get_mut(&GroupId(4)).unwrap().leader = Some((NodeId(1), 2));
    let without = View { up: uneven.up.iter().take(1).map(|(k, v)| (*k, v.clone())).collect(), ..uneven.clone() };
    assert_eq!(balancer.decide(now + bounds.cool_down, &without), None);
    assert_eq!(balancer.decide(now + bounds.cool_down * 2, &uneven), None, "node 2 is back just now");
    assert!(balancer.decide(now + bounds.cool_down * 2 + bounds.steady, &uneven).is_some());
}

/// A small generator, so that a failure is repeated by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A cluster of which nodes fail and come back.
struct World {
    dice: Dice,
    view: View,
    nodes: BTreeMap<NodeId, Option<String>>,
    replicas: BTreeMap<GroupId, Vec<NodeId>>,
    up_since: BTreeMap<NodeId, Duration>,
    moved: BTreeMap<GroupId, Duration>,
    transfers: usize,
}

impl World {
    fn new(seed: u64, nodes: u64, groups: u32) -> Self {
        let mut dice = Dice(seed);
        let replicas = (0..groups)
            .map(|group| {
                let first = dice.roll(nodes);
                (GroupId(group), (0..3).map(|n| NodeId(1 + (first + n) % nodes)).collect())
            })
            .collect();
        let nodes: BTreeMap<NodeId, Option<String>> =
            (1..=nodes).map(|n| (NodeId(n), Some(format!("z{}", n % 3)))).collect();
        let up_since = nodes.keys().map(|node| (*node, Duration::ZERO)).collect();
        let view = View { up: nodes.clone(), groups: BTreeMap::new() };
        let mut world = Self { dice, view, nodes, replicas, up_since, moved: BTreeMap::new(), transfers: 0 };
        let prefer = |group: u32| (group % 4 == 3).then(|| format!("z{}", group % 3));
        for group in 0..groups {
            world.view.groups.insert(GroupId(group), GroupView { preferred: prefer(group), ..GroupView::default() });
        }
        world.elect();
        world
    }

    /// Groups that lost their leader get one, if a majority is up; replicas are fit when their node is.
    fn elect(&mut self) {
        for (id, group) in &mut self.view.groups {
            group.fit = self.replicas[id].iter().copied().filter(|node| self.view.up.contains_key(node)).collect();
            let term = group.leader.map_or(0, |(_, term)| term);
            if group.leader.is_none_or(|(leader, _)| !group.fit.contains(&leader)) {
                let next = group.fit.iter().nth(self.dice.roll(group.fit.len().max(1) as u64) as usize);
                group.leader = next.filter(|_| group.fit.len() >= 2).map(|node| (*node, term + 1));
            }
        }
    }

    fn fail(&mut self, node: NodeId) {
        self.view.up.remove(&node);
        for group in self.view.groups.values_mut() {
            // The election takes until the next look.
            group.leader = group.leader.filter(|(leader, _)| *leader != node);
            group.fit.remove(&node);
        }
    }

    fn carry_out(&mut self, now: Duration, bounds: Bounds, step: Transfer) {
        let up = now - self.up_since[&step.to];
        assert!(up >= bounds.steady, "{step:?}: it has been up for {up:?}");
        if let Some(before) = self.moved.insert(step.group, now) {
            assert!(now - before >= bounds.cool_down, "{step:?}: moved {:?} ago", now - before);
        }
        self.transfers += 1;
        if self.dice.roll(10) > 0 {
            make(&mut self.view, step);
        }
    }
}

/// 60 clusters whose nodes fail and come back at random, with hand-overs that fail, too. No leader is moved
/// twice within its rest, or to a node that has just come; when the nodes stay up, all comes to rest as
/// even as it can be, and stays so.
#[test]
fn nothing_flaps() {
    for seed in 0..60 {
        let (nodes, groups) = (3 + seed % 5, 4 + (seed % 9) as u32 * 2);
        let bounds = Bounds::new(LOOK);
        let (mut world, mut balancer) = (World::new(seed, nodes, groups), Balancer::new(bounds));
        let mut now = Duration::ZERO;
        for _ in 0..600 {
            now += LOOK;
            world.elect();
            let (node, chance) = (NodeId(1 + world.dice.roll(nodes)), world.dice.roll(100));
            match world.view.up.contains_key(&node) {
                true if chance < 3 => world.fail(node),
                false if chance < 30 => {
                    world.view.up.insert(node, world.nodes[&node].clone());
                    world.up_since.insert(node, now);
                }
                _ => (),
            }
            if let Some(step) = balancer.decide(now, &world.view) {
                world.carry_out(now, bounds, step);
            }
        }
        let back: Vec<NodeId> = world.nodes.keys().copied().filter(|node| !world.view.up.contains_key(node)).collect();
        world.up_since.extend(back.iter().map(|node| (*node, now)));
        world.view.up = world.nodes.clone();
        world.elect();
        let mut last = now;
        let end = now + bounds.cool_down * 40;
        while now < end {
            now += LOOK;
            if let Some(step) = balancer.decide(now, &world.view) {
                world.carry_out(now, bounds, step);
                last = now;
            }
        }
        assert!(end - last >= bounds.cool_down * 20, "seed {seed}: still moving after {:?}", last);
        assert_eq!(world.view.next(|_| true, |_| true), None, "seed {seed}: it rests before it is even");
    }
}

/// Without zones and with replicas everywhere, rest means that no node leads two more than another; and
/// each hand-over was needed.
#[test]
fn rest_is_even_and_reached_by_the_shortest_way() {
    for groups in 1..20_u32 {
        let all: Vec<u64> = vec![1, 2, 3, 4];
        let list: Vec<(u64, &[u64])> = (0..groups).map(|_| (1, all.as_slice())).collect();
        let (mut view, mut steps) = (view(&list), 0);
        while let Some(step) = view.next(|_| true, |_| true) {
            make(&mut view, step);
            steps += 1;
        }
        let led = |node| view.groups.values().filter(|group| group.leader.unwrap().0 == NodeId(node)).count();
        let counts: Vec<usize> = (1..=4).map(led).collect();
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        assert_eq!(steps, groups as usize - led(1), "{groups} groups");
    }
}

/// A node that comes and goes all the time is given nothing, however uneven that leaves things.
#[test]
fn a_flapping_node_gets_nothing() {
    let bounds = Bounds::new(LOOK);
    let (mut world, mut balancer) = (World::new(1, 3, 6), Balancer::new(bounds));
    let mut now = Duration::ZERO;
    let mut given = 0;
    for round in 0..500 {
        now += LOOK;
        world.elect();
        match round % 4 {
            0 => world.fail(NodeId(3)),
            1 => {
                world.view.up.insert(NodeId(3), world.nodes[&NodeId(3)].clone());
                world.up_since.insert(NodeId(3), now);
            }
            _ => (),
        }
        if let Some(step) = balancer.decide(now, &world.view) {
            given += usize::from(step.to == NodeId(3));
            world.carry_out(now, bounds, step);
        }
    }
    assert_eq!(given, 0);
    assert!(world.transfers <= 6, "{} hand-overs between two nodes", world.transfers);
}
