//! What happens in that world, and what must hold in the end.

use flotilla_shared::ids::META;
use flotilla_shared::registry::ReplicaChange;

use super::*;

fn start(world: &World, kind: JobKind) {
    let mut inner = world.lock();
    inner.keeps_size &= !matches!(&kind, JobKind::Remove { .. }) && !format!("{kind:?}").contains("changes: [Remove");
    let request = RequestId::random();
    inner.meta(MetaCommand::CreateJob { request, kind }).unwrap();
}

fn group_goal(group: GroupId, change: ReplicaChange) -> JobKind {
    JobKind::Replicas { goal: ReplicaGoal::Group { group, changes: vec![change] }, patience_ms: 60_000 }
}

fn some_job(world: &World) -> JobKind {
    let mut inner = world.lock();
    let random = &mut inner.random;
    let group = GroupId(random.below(4) as u32);
    let [node, other] = [0; 2].map(|_| NodeId(1 + random.below(6) as u64));
    match random.below(9) {
        0 => group_goal(group, ReplicaChange::Add { node, votes: true }),
        1 => group_goal(group, ReplicaChange::Add { node, votes: false }),
        2 => group_goal(group, ReplicaChange::Remove { node }),
        3 | 4 => group_goal(group, ReplicaChange::Replace { from: node, to: other }),
        5 => JobKind::Replicas { goal: ReplicaGoal::Drain { node }, patience_ms: 60_000 },
        6 => JobKind::Remove { node },
        7 => JobKind::CreateShard { nodes: vec![], replicas: 3 },
        _ => JobKind::Join { node, groups: vec![group] },
    }
}

fn seeds() -> std::ops::Range<u64> {
    let more = std::env::var("FLOTILLA_MEMBERSHIP_SEEDS").ok().and_then(|text| text.parse().ok());
    0..more.unwrap_or(300)
}

fn with_seed(seed: u64, run: impl FnOnce(u64)) {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
    if let Err(panic) = outcome {
        eprintln!("seed {seed}");
        std::panic::resume_unwind(panic);
    }
}

/// Whatever jobs run at the same time, and whatever is lost, late or down for a while: registry, groups
/// and nodes agree in the end, and no group ever has fewer voters than it had.
#[test]
fn any_jobs_at_once() {
    for seed in seeds() {
        with_seed(seed, |seed| {
            let world = World::new(seed);
            for _ in 0..1 + seed % 3 {
                start(&world, some_job(&world));
            }
            drive(&world);
            let mut inner = world.lock();
            inner.check_end();
        });
    }
}

/// A node dies for good at any moment of another node's drain, or the drained one does: the job ends, no
/// group loses its majority.
#[test]
fn a_node_dies_for_good() {
    for seed in seeds() {
        with_seed(seed, |seed| {
            let world = World::new(seed);
            let node = NodeId(1 + seed % 5);
            start(&world, JobKind::Replicas { goal: ReplicaGoal::Drain { node }, patience_ms: 60_000 });
            {
                let mut inner = world.lock();
                inner.faults = 0;
                let dies = NodeId(1 + inner.random.below(6) as u64);
                inner.nodes.get_mut(&dies).unwrap().down = u32::MAX;
            }
            drive(&world);
            let mut inner = world.lock();
            inner.check_end();
            assert_eq!(inner.registry.replicas_on(node).count(), 0, "{:#?}", inner.registry.jobs);
        });
    }
}

/// A dead node's replicas are made anew on others, those of the group with the least margin first; when
/// it comes back it drops its own.
#[test]
fn repair_replaces_a_dead_node() {
    for seed in seeds() {
        with_seed(seed, |seed| {
            let world = World::new(seed);
            let dead = NodeId(1 + seed % 5);
            world.lock().nodes.get_mut(&dead).unwrap().down = u32::MAX;
            start(&world, JobKind::Replicas { goal: ReplicaGoal::Repair { nodes: vec![dead] }, patience_ms: 60_000 });
            drive(&world);
            let mut inner = world.lock();
            assert_eq!(inner.registry.replicas_on(dead).count(), 0, "{:#?}", inner.registry.jobs);
            inner.nodes.get_mut(&dead).unwrap().down = 0;
            inner.check_end();
            assert!(inner.nodes[&dead].hosted.is_empty(), "{:?}", inner.nodes[&dead].hosted);
        });
    }
}

/// Without late calls nothing is left over anywhere: no replica that nobody knows, no learner that
/// nobody waits for.
#[test]
fn nothing_is_left_over() {
    for seed in seeds() {
        with_seed(seed, |seed| {
            let world = World::new(seed);
            world.lock().faults = 0;
            for _ in 0..3 {
                start(&world, some_job(&world));
                drive(&world);
            }
            let mut inner = world.lock();
            inner.check_end();
            let hosted: Vec<_> = inner.nodes.iter().map(|(id, node)| (id, &node.hosted)).collect();
            assert_eq!(inner.left_over(), 0, "{:?} {:?} {hosted:?}", inner.registry.groups, inner.registry.jobs);
        });
    }
}

/// A shard leaves at any moment of a job that changes replicas: of a node's it is as if the shard had not been
/// there, one about the shard alone ends, too, and no node keeps a replica of it.
#[test]
fn a_shard_leaves_meanwhile() {
    let mut failed = 0;
    for seed in seeds() {
        with_seed(seed, |seed| {
            let world = World::new(seed);
            let node = world.lock().registry.replicas(LEAVING)[0].node;
            let drain = JobKind::Replicas { goal: ReplicaGoal::Drain { node }, patience_ms: 60_000 };
            let replace = group_goal(LEAVING, ReplicaChange::Replace { from: node, to: NodeId(6) });
            let add = group_goal(LEAVING, ReplicaChange::Add { node: NodeId(6), votes: true });
            start(&world, [drain, JobKind::Remove { node }, replace, add][seed as usize % 4].clone());
            {
                let mut inner = world.lock();
                inner.faults = 0;
                inner.leaves_at = Some(1 + inner.random.below(40) as u32);
            }
            drive(&world);
            let mut inner = world.lock();
            inner.check_end();
            let gone = !inner.registry.groups.contains_key(&LEAVING);
            let job = inner.registry.jobs.values().next().unwrap();
            let of_a_node = seed % 4 < 2;
            assert!(job.state == JobState::Done || (gone && !of_a_node && job.state == JobState::Failed), "{job:?}");
            failed += u32::from(job.state == JobState::Failed);
            assert!(!of_a_node || inner.registry.replicas_on(node).count() == 0, "{:?}", inner.registry.groups);
            let hosted: Vec<_> = inner.nodes.iter().map(|(id, node)| (id, &node.hosted)).collect();
            assert_eq!(inner.left_over(), 0, "{hosted:?}");
        });
    }
    assert!(failed > 0, "the shard never left before the job was over");
}

/// A replica that never catches up is given up in time, with the reason, and its group is as before.
#[test]
fn a_replica_that_stands_still_is_given_up() {
    let world = World::new(7);
    let group = META;
    let before = world.lock().groups[&group].voters.clone();
    let free = NodeId(6);
    start(&world, group_goal(group, ReplicaChange::Add { node: free, votes: true }));
    {
        let mut inner = world.lock();
        inner.faults = 0;
        inner.nodes.get_mut(&free).unwrap().down = u32::MAX;
    }
    drive(&world);
    let mut inner = world.lock();
    inner.check_end();
    let job = inner.registry.jobs.values().next().unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert!(job.error.as_ref().unwrap().message.contains("silent"), "{job:?}");
    assert_eq!(inner.groups[&group].voters, before);
    assert!(inner.groups[&group].learners.is_empty());
}
