//! What the registry lets a driver record.

use super::*;
use crate::ids::{RequestId, Slot};
use crate::registry::MetaCommand;
use crate::registry::balance::tests::placement;

fn registry() -> (Registry, JobId) {
    let mut registry = Registry::default();
    registry.placements.insert(PlacementId(1), placement(&[(1, 0..50), (2, 50..100)], &[1, 2, 3]));
    let kind = JobKind::rebalance("t");
    match registry.apply(1, MetaCommand::CreateJob { request: RequestId(1), kind }) {
        Ok(MetaReply::Job(job)) => (registry, job),
        other => panic!("{other:?}"),
    }
}

fn begin(from: u32, to: u32, slots: std::ops::Range<u16>) -> MoveChange {
    let slots = slots.map(Slot).collect();
    let left = Left { slots: 60, size: None };
    let transfer = Transfer { from: GroupId(from), to: GroupId(to), slots };
    MoveChange::Begin { placement: PlacementId(1), transfer, left }
}

/// One move at a time, only of slots that are where it says, and each flips once.
#[test]
fn moves_are_recorded_one_by_one() {
    let (mut registry, job) = registry();
    let mut change = |change| registry.apply(2, MetaCommand::Move { job, change }).map_err(|error| error.code);
    assert_eq!(change(begin(1, 3, 40..51)), Err(Code::Conflict), "slot 50 is not of shard 1");
    assert_eq!(change(begin(1, 4, 40..50)), Err(Code::Conflict), "shard 4 does not hold the table");
    assert!(change(begin(1, 3, 40..50)).is_ok());
    assert_eq!(change(begin(2, 3, 90..100)), Err(Code::Conflict), "another one is under way");
    let flip = |id| MoveChange::Flip { id: MoveId(id), from_epoch: Epoch(2), to_epoch: Epoch(5), rows: 7, bytes: 70 };
    assert_eq!(change(flip(2)), Err(Code::Conflict));
    assert!(change(flip(1)).is_ok());
    assert_eq!(change(flip(1)), Err(Code::Conflict));
    assert_eq!(change(begin(1, 3, 40..50)), Err(Code::Conflict), "a driver that fell behind");
    assert!(change(begin(2, 3, 90..100)).is_ok());
    assert!(change(MoveChange::Abandon { id: MoveId(2) }).is_ok());
    let placement = &registry.placements[&PlacementId(1)];
    assert_eq!(placement.owner(Slot(45)), Some(GroupId(3)));
    assert_eq!(placement.owner(Slot(95)), Some(GroupId(2)));
    assert_eq!((placement.epoch(GroupId(1)), placement.epoch(GroupId(3))), (Epoch(2), Epoch(5)));
    let progress = registry.jobs[&job].progress.as_ref().unwrap();
    assert_eq!((progress.moves, progress.slots, progress.rows, progress.bytes), (1, 10, 7, 70));
}

/// Moves of one job go side by side as far as it may, and never two with a shard in common.
#[test]
fn moves_side_by_side() {
    let (mut registry, job) = registry();
    let all = [1, 2, 3, 4].map(GroupId).to_vec();
    registry.placements.get_mut(&PlacementId(1)).unwrap().shards = all;
    let mut second = JobKind::rebalance("u");
    let JobKind::Rebalance { options, .. } = &mut second else { panic!() };
    options.max_parallel = 2;
    let Ok(MetaReply::Job(second)) = registry.apply(1, MetaCommand::CreateJob { request: RequestId(2), kind: second })
    else {
        panic!()
    };
    let mut change = |job, change| registry.apply(2, MetaCommand::Move { job, change }).map_err(|error| error.code);
    assert!(change(second, begin(1, 3, 40..50)).is_ok());
    assert_eq!(change(second, begin(2, 3, 90..100)), Err(Code::Conflict), "shard 3 takes part in a move");
    assert_eq!(change(job, begin(2, 1, 90..100)), Err(Code::Conflict), "and shard 1, whosever job it is");
    assert!(change(second, begin(2, 4, 90..100)).is_ok());
    let flip = |id| MoveChange::Flip { id: MoveId(id), from_epoch: Epoch(2), to_epoch: Epoch(5), rows: 7, bytes: 70 };
    assert!(change(second, flip(2)).is_ok());
    assert!(change(job, begin(2, 4, 80..90)).is_ok());
    assert_eq!(change(job, begin(2, 4, 70..80)), Err(Code::Conflict), "one at a time is its default");
    assert!(change(second, flip(1)).is_ok());
    assert!(change(job, flip(3)).is_ok());
    assert_eq!(registry.placements[&PlacementId(1)].owner(Slot(85)), Some(GroupId(4)));
}

/// A round of moves is followed by a pause, as long as the bytes that moved need at the rate that is allowed.
#[test]
fn rates_are_kept() {
    let (mut registry, job) = registry();
    let mut change = |at_us, change| registry.apply(at_us, MetaCommand::Move { job, change });
    change(5_000_000, begin(1, 3, 40..50)).unwrap();
    let flip = MoveChange::Flip { id: MoveId(1), from_epoch: Epoch(2), to_epoch: Epoch(5), rows: 7, bytes: 3000 };
    change(5_500_000, flip).unwrap();
    let progress = registry.jobs[&job].progress.as_ref().unwrap();
    assert_eq!(progress.next_round_us(None), 5_000_000);
    assert_eq!(progress.next_round_us(Some(1000)), 8_000_000);
    let json = registry.jobs[&job].to_json();
    assert_eq!((&json["percent"], &json["slots_left"], &json["bytes_left"]), (&16.into(), &50.into(), &15_000.into()));
    assert_eq!((&json["bytes_per_second"], &json["seconds_left"]), (&545.into(), &27.into()), "{json}");
}

const HALT: MoveChange = MoveChange::Halt { generation: 1 };

/// A job halts only between moves, goes on with a new generation, and ends while it is halted.
#[test]
fn halting_and_going_on() {
    let (mut registry, job) = registry();
    let mut change = |change| registry.apply(2, MetaCommand::Move { job, change }).map_err(|error| error.code);
    assert!(change(begin(1, 3, 40..50)).is_ok());
    assert!(change(MoveChange::Wish(Wish::Pause)).is_ok());
    assert_eq!(change(HALT), Err(Code::Conflict), "a move is under way");
    assert!(change(MoveChange::Abandon { id: MoveId(1) }).is_ok());
    assert_eq!(change(begin(1, 3, 40..50)), Err(Code::Conflict), "it is to halt");
    assert!(change(HALT).is_ok());
    assert!(change(MoveChange::Wish(Wish::Run)).is_ok());
    assert!(change(begin(1, 3, 40..50)).is_ok());
    assert!(change(MoveChange::Abandon { id: MoveId(2) }).is_ok());
    assert!(change(MoveChange::Wish(Wish::Pause)).is_ok());
    assert_eq!(change(HALT), Err(Code::Conflict), "a late call of before");
    let late = MoveChange::End { generation: 1, state: JobState::Failed, error: None };
    assert_eq!(change(late), Err(Code::Conflict), "another late call of before");
    assert!(change(MoveChange::Renew { generation: 2 }).is_ok());
    assert!(change(MoveChange::Halt { generation: 3 }).is_ok());
    assert!(change(MoveChange::Wish(Wish::Cancel)).is_ok());
    assert_eq!(change(MoveChange::Wish(Wish::Run)), Err(Code::NoSuchObject), "it has ended");
    assert_eq!(registry.jobs[&job].state, JobState::Cancelled);
    assert!(registry.counters.generation >= 2);
}
