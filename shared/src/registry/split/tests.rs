//! Splits against the function before them, and what the registry records of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::*;
use crate::ids::RequestId;
use crate::registry::{Goal, MAX_POINTS, MAX_POINTS_BYTES, MetaCommand, MoveOptions, Table};
use crate::slot::{Affinity, Collation};

const INTEGER: KeyColumn = KeyColumn { affinity: Affinity::Integer, collation: Collation::Binary };

const TEXT: KeyColumn = KeyColumn { affinity: Affinity::Text, collation: Collation::NoCase };

const ONE: GroupId = GroupId(1);

fn int(n: i64) -> Value {
    Value::Integer(n)
}

fn text(s: &str) -> Value {
    Value::Text(s.into())
}

/// A placement with these points, shared out over two shards.
fn ranges(key: &[KeyColumn], points: &[Vec<Value>]) -> Placement {
    let function = Function::range(key, points.to_vec()).unwrap();
    let slots = function.slots();
    let owned = Placement::even_shares(slots, &[ONE, GroupId(2)]);
    let epochs = owned.keys().map(|shard| (*shard, Epoch(1))).collect();
    let (id, key, shards) = (PlacementId(7), key.to_vec(), owned.keys().copied().collect());
    Placement { id, function, key, slots, shards, owned, epochs }
}

/// Splits at some points, as a job does; what was split.
fn split_at(placement: &mut Placement, at: &[Vec<Value>]) -> Vec<Split> {
    let splits = placement.splits(at).unwrap();
    for split in &splits {
        let owner = placement.owner(split.slot).unwrap();
        let epoch = Epoch(placement.epoch(owner).0 + 1);
        assert!(placement.split(split, owner, epoch));
        // A second time it is not there to be split.
        let before = placement.clone();
        assert!(!placement.split(split, owner, Epoch(99)));
        assert_eq!(*placement, before);
    }
    splits
}

/// Many splits of ranges of one and two columns: all keys but those of the split slot stay in their slot, those go to
/// the part that a placement with all the points from the start would have them in; each slot keeps its
/// owner, no number is used twice, and bounds still leave every row.
#[test]
fn only_the_keys_of_a_split_slot_move_on() {
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let key = [INTEGER, TEXT];
    let letters = ["", "a", "B", "m", "Z"];
    let all_keys: Vec<Vec<Value>> = (-1..22).flat_map(|n| letters.map(|letter| vec![int(n), text(letter)])).collect();
    for _ in 0..40 {
        let mut point = || match random(3) {
            0 => vec![int(random(20) as i64), text(letters[random(5) as usize])],
            _ => vec![int(random(20) as i64)],
        };
        let mut placement = ranges(&key, &[point()]);
        let registered = placement.clone();
        let mut used: BTreeSet<Slot> = placement.all_slots().iter().collect();
        for _ in 0..6 {
            let asked: BTreeMap<String, Vec<Value>> =
                (0..3).map(|_| point()).map(|point| (format!("{point:?}").to_lowercase(), point)).collect();
            let asked: Vec<Vec<Value>> = asked.into_values().collect();
            let before = placement.clone();
            let splits = split_at(&mut placement, &asked);
            for split in &splits {
                assert!(split.slots().iter().all(|slot| used.insert(slot)), "a number is used again: {split:?}");
                assert!(!placement.all_slots().contains(split.slot));
            }
            let wanted: Vec<Vec<Value>> = placement.function.points().to_vec();
            let fresh = ranges(&key, &wanted);
            for one in &all_keys {
                let (old, new) = (before.slot(one).unwrap(), placement.slot(one).unwrap());
                match splits.iter().find(|split| split.slot == old) {
                    None => assert_eq!(new, old, "{one:?}"),
                    Some(split) => assert!(split.slots().contains(new), "{one:?}"),
                }
                let position = fresh.slot(one).unwrap();
                assert_eq!(new, placement.function.slot_at(usize::from(position.0)), "{one:?}");
                assert_eq!(placement.owner(new), before.owner(old), "{one:?}");
                let (low, high) = (Bound::Included(&one[0]), Bound::Included(&one[0]));
                for (low, high) in [(low, Bound::Unbounded), (Bound::Unbounded, high), (low, high)] {
                    assert!(placement.slots_between(low, high).contains(new), "{one:?}");
                }
                assert!(placement.with_origins(&SlotSet::range(new, new)).contains(registered.slot(one).unwrap()));
            }
            let owned: usize = placement.owned.values().map(SlotSet::len).sum();
            assert_eq!((owned, placement.all_slots().len()), (wanted.len() + 1, wanted.len() + 1));
            assert_eq!(placement.slots, used.iter().next_back().unwrap().0 + 1);
            // The points of now are no reason to split anything.
            assert_eq!(placement.splits(&wanted), Ok(vec![]));
        }
        assert_eq!(placement.function.registered_points(), registered.function.points());
        let bytes = postcard::to_stdvec(&placement).unwrap();
        assert_eq!(postcard::from_bytes::<Placement>(&bytes).unwrap(), placement);
    }
}

/// Two points in one slot and one in another: numbers follow the keys, and each slot that was split knows where its
/// parts come from. The slot of a number stays the first part.
#[test]
fn numbers() {
    let mut placement = ranges(&[INTEGER], &[vec![int(10)], vec![int(20)]]);
    let splits = split_at(&mut placement, &[vec![int(35)], vec![int(5)], vec![text("30")], vec![int(20)]]);
    let shown: Vec<_> = splits.iter().map(|split| (split.slot.0, split.points.len(), split.into.first.0)).collect();
    assert_eq!(shown, [(0, 1, 3), (2, 2, 5)]);
    let slots = [0, 5, 10, 20, 30, 40].map(|n| placement.slot(&[int(n)]).unwrap().0);
    assert_eq!(slots, [3, 4, 1, 5, 6, 7]);
    split_at(&mut placement, &[vec![int(2)], vec![int(32)]]);
    let slots = [0, 2, 5, 10, 20, 30, 32, 40].map(|n| placement.slot(&[int(n)]).unwrap().0);
    assert_eq!(slots, [8, 9, 4, 1, 5, 10, 11, 7]);
    assert_eq!([0, 1, 2, 3, 302].map(|number| placement.slot_by_number(number).0), [8, 1, 5, 8, 5]);
    let origins = |slot: u16| -> Vec<u16> {
        placement.with_origins(&SlotSet::range(Slot(slot), Slot(slot))).iter().map(|slot| slot.0).collect()
    };
    assert_eq!([origins(8), origins(4), origins(1)], [vec![0, 3, 8], vec![0, 4], vec![1]]);
    assert_eq!([origins(11), origins(7)], [vec![2, 6, 11], vec![2, 7]]);
    let from: Vec<u16> =
        placement.slots_from(&[vec![int(5)], vec![int(7)], vec![int(32)]]).iter().map(|s| s.0).collect();
    assert_eq!(from, [4, 11]);
}

/// A range that was not split is stored as ever.
#[test]
fn ranges_are_stored_as_before() {
    let function = Function::range(&[INTEGER], vec![vec![int(1)]]).unwrap();
    assert_eq!(postcard::to_stdvec(&function).unwrap(), [2, 1, 1, 1, 2]);
}

/// What cannot be split is refused by name, with nothing changed.
#[test]
fn refusals() {
    let placement = ranges(&[TEXT], &[vec![text("m")]]);
    let code = |at: Vec<Vec<Value>>| placement.splits(&at).unwrap_err().code;
    assert_eq!(code(vec![]), Code::BadRequest);
    assert_eq!(code(vec![vec![text("a"), text("b")]]), Code::BadRequest);
    assert_eq!(code(vec![vec![text("a")], vec![text("A")]]), Code::BadRequest);
    assert_eq!(code((0..MAX_POINTS as i64).map(|n| vec![int(n)]).collect()), Code::TooLarge, "with the one there is");
    assert_eq!(code(vec![vec![text(&"x".repeat(MAX_POINTS_BYTES))]]), Code::TooLarge);
    assert_eq!(placement.splits(&[vec![text("M")]]), Ok(vec![]), "it is there by its collation");
    let hash = Placement { function: Function::Hash, slots: 16, ..placement.clone() };
    let error = hash.splits(&[vec![text("a")]]).unwrap_err();
    assert_eq!(error.code, Code::BadRequest);
    assert!(error.message.contains("hash") && !error.hint.is_empty(), "{error:?}");
}

fn registry_of(placement: Placement) -> Registry {
    let db = rusqlite::Connection::open_in_memory().unwrap();
    db.execute_batch("CREATE TABLE t (k INTEGER PRIMARY KEY)").unwrap();
    let table = Table { placement: placement.id, key: vec![0], ..Table::read(&db, "t").unwrap() };
    let mut registry = Registry::default();
    registry.tables.insert("t".into(), table);
    registry.placements.insert(placement.id, placement);
    registry
}

fn job(registry: &mut Registry, request: u128, kind: JobKind) -> JobId {
    match registry.apply(1, MetaCommand::CreateJob { request: RequestId(request), kind }).unwrap() {
        MetaReply::Job(id) => id,
        other => panic!("{other:?}"),
    }
}

/// The registry learns of a split once, from its own job; a job that gives the old slot to a shard gives the new
/// ones; then the job may move what begins at its points.
#[test]
fn the_registry_records_a_split() {
    let mut registry = registry_of(ranges(&[INTEGER], &[vec![int(10)]]));
    let (at, options) = (vec![vec![int(5)]], MoveOptions::default());
    let slots = SlotSet::range(Slot(0), Slot(0));
    let give = JobKind::Give { table: "T".into(), slots, to: GroupId(2), options: options.clone() };
    let give = job(&mut registry, 1, give);
    let kind = JobKind::Split { table: "t".into(), at: at.clone(), to: Some(GroupId(2)), options };
    let id = job(&mut registry, 2, kind);
    assert_eq!(registry.jobs[&id].progress, None);
    let split = registry.placements[&PlacementId(7)].splits(&at).unwrap().remove(0);
    let taken = |job, epoch| MetaCommand::Split {
        job,
        step: SplitStep::Taken { split: split.clone(), shard: ONE, epoch: Epoch(epoch) },
    };
    assert_eq!(registry.apply(2, taken(give, 2)).unwrap_err().code, Code::Conflict, "of another job");
    for _ in 0..2 {
        registry.apply(2, taken(id, 2)).unwrap();
        let placement = &registry.placements[&PlacementId(7)];
        assert_eq!(placement.owned[&ONE].iter().collect::<Vec<_>>(), [Slot(2), Slot(3)]);
        assert_eq!((placement.epoch(ONE), placement.epoch(GroupId(2))), (Epoch(2), Epoch(1)));
    }
    let given = registry.goal(&registry.jobs[&give]).unwrap().unwrap().1;
    assert_eq!(given, Goal::Give(SlotSet::range(Slot(2), Slot(3)), GroupId(2)));
    registry.apply(3, MetaCommand::Split { job: id, step: SplitStep::Move }).unwrap();
    assert!(registry.jobs[&id].progress.is_some());
    let goal = registry.goal(&registry.jobs[&id]).unwrap().unwrap().1;
    assert_eq!(goal, Goal::Give(SlotSet::range(Slot(3), Slot(3)), GroupId(2)));
    let again = registry.apply(4, MetaCommand::Split { job: id, step: SplitStep::Move });
    assert_eq!(again.unwrap_err().code, Code::Conflict, "its progress would be lost");
}
