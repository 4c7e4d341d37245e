//! What goes wrong, when, as the seed decides.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::bugs::Bug;
use super::replica::{Death, crash_and_restart};
use super::world::{World, pause, spawn};

/// A clock is off by at most so much: twice the time for which request ids are remembered, which must
/// not make a group forget them.
const MAX_SKEW_US: u64 = 1_200_000_000;

/// Makes things go wrong until the plan's time is over, then mends everything.
pub async fn run(world: Arc<World>) {
    let end_us = world.now_us() + world.plan.faults_ms * 1000;
    while world.now_us() < end_us && !world.is_broken() {
        let calm = world.rng().millis(world.plan.calm_ms.0, world.plan.calm_ms.1);
        pause(calm).await;
        one(&world).await;
    }
    mend(&world);
    world.note(format_args!("faults are over"));
    world.set_calm();
}

fn mend(world: &World) {
    world.links().heal();
    world.ambush.store(false, Ordering::Relaxed);
    let fsync_us = world.plan.fsync_us;
    for node in world.nodes().values_mut() {
        node.fsync_us = fsync_us;
    }
}

/// Who leads, as far as it knows.
pub fn leader(world: &World) -> Option<u64> {
    let leads = |life: &Arc<super::replica::Life>| life.raft.metrics().borrow_watched().state == ServerState::Leader;
    world.lives().iter().find(|life| leads(life)).map(|life| life.process.node)
}

fn someone(world: &World) -> u64 {
    let leader = leader(world);
    let mut rng = world.rng();
    let other = rng.within(1, world.plan.replicas);
    // The leader is where faults hurt most.
    if rng.percent(50) { leader.unwrap_or(other) } else { other }
}

async fn one(world: &Arc<World>) {
    if world.has(Bug::VotesAtOnce) && world.rng().percent(30) {
        return desert(world);
    }
    let node = someone(world);
    let dice = world.rng().below(100);
    match dice {
        0..14 => restart(world, &[node], Death::Killed),
        14..29 => restart(world, &[node], Death::PowerLoss),
        29..33 => restart(world, &all(world), Death::PowerLoss),
        33..36 => restart(world, &all(world), Death::Killed),
        36..39 => restart(world, &majority(world), Death::PowerLoss),
        39..42 => desert(world),
        42..58 => isolate(world, node),
        58..64 => cut_one_way(world, node),
        64..70 => split(world),
        70..75 => slow_disk(world, node),
        75..79 => slow_link(world, node),
        79..82 => noise(world),
        82..85 => jump_clock(world, node),
        85..94 => {
            world.note(format_args!("an ambush is laid"));
            world.ambush.store(true, Ordering::Relaxed);
        }
        94..97 => fail_disk(world, node),
        _ => hand_over(world).await,
    }
}

fn all(world: &World) -> Vec<u64> {
    (1..=world.plan.replicas).collect()
}

fn majority(world: &World) -> Vec<u64> {
    let first = world.rng().below(world.plan.replicas);
    let count = world.plan.replicas / 2 + 1;
    (0..count).map(|offset| (first + offset) % world.plan.replicas + 1).collect()
}

fn restart(world: &Arc<World>, nodes: &[u64], death: Death) {
    for node in nodes {
        let after = {
            let mut rng = world.rng();
            if rng.percent(70) { rng.millis(5, 400) } else { rng.millis(400, 2_000) }
        };
        crash_and_restart(world, *node, death, after);
    }
}

/// Runs `change` after a while.
fn later(world: &Arc<World>, low_ms: u64, high_ms: u64, change: impl FnOnce(&World) + Send + 'static) {
    let after = world.rng().millis(low_ms, high_ms);
    let world = Arc::clone(world);
    spawn(async move {
        pause(after).await;
        change(&world);
    });
}

fn heal_later(world: &Arc<World>) {
    let longest = if world.rng().percent(30) { 2_500 } else { 700 };
    later(world, 50, longest, |world| {
        world.note(format_args!("links are mended"));
        world.links().heal();
    });
}

fn isolate(world: &Arc<World>, node: u64) {
    world.note(format_args!("{node} is cut off"));
    world.links().isolate(node);
    heal_later(world);
}

/// The leader is cut off, and all others are restarted at once: none of them remembers its lease.
fn desert(world: &Arc<World>) {
    let Some(leader) = leader(world) else { return };
    isolate(world, leader);
    for node in all(world).into_iter().filter(|node| *node != leader) {
        crash_and_restart(world, node, Death::Killed, Duration::from_millis(1));
    }
}

fn cut_one_way(world: &Arc<World>, node: u64) {
    let (other, outward) = {
        let mut rng = world.rng();
        (rng.within(1, world.plan.replicas), rng.percent(50))
    };
    let (from, to) = if outward { (node, other) } else { (other, node) };
    world.note(format_args!("{from} -> {to} is cut"));
    world.links().set_cut(from, to, true);
    heal_later(world);
}

fn split(world: &Arc<World>) {
    let side = world.rng().any();
    world.note(format_args!("the network is split by {:b}", side & 0x3f));
    let mut links = world.links();
    for from in 1..=world.plan.replicas {
        for to in 1..=world.plan.replicas {
            if side >> from & 1 != side >> to & 1 {
                links.set_cut(from, to, true);
            }
        }
    }
    drop(links);
    heal_later(world);
}

fn slow_disk(world: &Arc<World>, node: u64) {
    let sync_us = world.rng().within(10_000, 200_000);
    world.note(format_args!("the disk of {node} takes {sync_us} us"));
    let set = move |world: &World, fsync_us| {
        if let Some(place) = world.nodes().get_mut(&node) {
            place.fsync_us = fsync_us;
        }
    };
    set(world, (sync_us / 2, sync_us));
    later(world, 200, 2_000, move |world| set(world, world.plan.fsync_us));
}

fn slow_link(world: &Arc<World>, node: u64) {
    let by_us = world.rng().within(5_000, 120_000);
    world.note(format_args!("messages of {node} are {by_us} us late"));
    world.links().slow(node, by_us);
    heal_later(world);
}

fn noise(world: &Arc<World>) {
    world.note(format_args!("messages are lost and doubled"));
    world.links().set_noise(150, 150);
    heal_later(world);
}

fn jump_clock(world: &World, node: u64) {
    let skew_us = world.rng().within(0, 2 * MAX_SKEW_US) as i64 - MAX_SKEW_US as i64;
    world.note(format_args!("the clock of {node} is off by {skew_us} us"));
    if let Some(place) = world.nodes().get_mut(&node) {
        place.skew_us = skew_us;
    }
}

/// A write or a sync fails: the replica must stop. Its node restarts it, with power loss or without.
fn fail_disk(world: &Arc<World>, node: u64) {
    let Some(life) = world.life(node) else { return };
    let (sync, death, after) = {
        let mut rng = world.rng();
        (rng.percent(50), rng.pick(&[Death::Killed, Death::PowerLoss]), rng.millis(50, 500))
    };
    world.note(format_args!("the disk of {node} fails"));
    life.process.doomed.store(true, Ordering::Relaxed);
    if let Some(place) = world.nodes().get(&node) {
        if sync { place.disk.fail_next_sync() } else { place.disk.fail_next_write() }
    }
    let world = Arc::clone(world);
    spawn(async move {
        pause(after).await;
        // Somebody else may have restarted it meanwhile.
        if world.life(node).is_some_and(|now| Arc::ptr_eq(&now, &life)) {
            crash_and_restart(&world, node, death, Duration::from_millis(20));
        }
    });
}

async fn hand_over(world: &Arc<World>) {
    let Some(life) = leader(world).and_then(|node| world.life(node)) else { return };
    let to = world.rng().within(1, world.plan.replicas);
    world.note(format_args!("{} hands over to {to}", life.process.node));
    life.raft.trigger().transfer_leader(to).await.ok();
}
