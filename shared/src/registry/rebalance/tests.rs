//! Which slots should move, and what the registry lets a driver record.

use super::*;
use crate::ids::RequestId;
use crate::registry::{Function, MetaCommand};
use crate::slot::{Affinity, Collation, KeyColumn};

fn placement(shares: &[(u32, std::ops::Range<u16>)], shards: &[u32]) -> Placement {
    let owned: std::collections::BTreeMap<GroupId, SlotSet> =
        shares.iter().map(|(shard, slots)| (GroupId(*shard), slots.clone().map(Slot).collect())).collect();
    Placement {
        id: PlacementId(1),
        function: Function::Hash,
        key: vec![KeyColumn { affinity: Affinity::Integer, collation: Collation::Binary }],
        slots: 100,
        shards: shards.iter().copied().map(GroupId).collect(),
        epochs: owned.keys().map(|shard| (*shard, Epoch(1))).collect(),
        owned,
    }
}

fn after(mut placement: Placement) -> Vec<usize> {
    for transfer in placement.transfers() {
        let from = placement.owned[&transfer.from].clone();
        assert!(transfer.slots.is_within(&from));
        placement.owned.insert(transfer.from, from.minus(&transfer.slots));
        let to = placement.owned.get(&transfer.to).cloned().unwrap_or_default();
        assert!(!to.meets(&transfer.slots));
        placement.owned.insert(transfer.to, to.union(&transfer.slots));
    }
    assert_eq!(placement.transfers(), [], "even once it is even");
    placement.shards.iter().map(|shard| placement.owned.get(shard).map_or(0, SlotSet::len)).collect()
}

/// Shards end with equal shares, no slot moves without need, and what is even stays.
#[test]
fn transfers_make_even() {
    assert_eq!(after(placement(&[(1, 0..50), (2, 50..100)], &[1, 2, 3, 4])), [25, 25, 25, 25]);
    assert_eq!(after(placement(&[(1, 0..100)], &[1, 2, 3])), [34, 33, 33]);
    assert_eq!(after(placement(&[(1, 0..30), (2, 30..100)], &[1, 2, 3])), [33, 34, 33]);
    assert_eq!(after(placement(&[(1, 0..30), (2, 30..60), (3, 60..100)], &[1, 2])), [50, 50], "a shard is left");
    let even = placement(&[(1, 0..34), (2, 34..67), (3, 67..100)], &[1, 2, 3]);
    assert_eq!(even.transfers(), []);
    let moved: usize =
        placement(&[(1, 0..30), (2, 30..100)], &[1, 2, 3]).transfers().iter().map(|t| t.slots.len()).sum();
    assert_eq!(moved, 36);
}

fn registry() -> (Registry, JobId) {
    let mut registry = Registry::default();
    registry.placements.insert(PlacementId(1), placement(&[(1, 0..50), (2, 50..100)], &[1, 2, 3]));
    let kind = JobKind::Rebalance { table: "t".into() };
    match registry.apply(1, MetaCommand::CreateJob { request: RequestId(1), kind }) {
        Ok(MetaReply::Job(job)) => (registry, job),
        other => panic!("{other:?}"),
    }
}

fn begin(from: u32, to: u32, slots: std::ops::Range<u16>) -> MoveChange {
    let slots = slots.map(Slot).collect();
    MoveChange::Begin { placement: PlacementId(1), transfer: Transfer { from: GroupId(from), to: GroupId(to), slots } }
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
