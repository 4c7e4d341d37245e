//! A slot is split on its shard, and what came of it moves.

use flotilla_shared::registry::{Function, Split};

use super::*;

/// By ranges of `k`: slot 0 below 10, slot 1 from there on.
fn ranges() -> Placement {
    let function = Function::range(&bare_placement().key, vec![vec![Value::Integer(10)]]).unwrap();
    Placement { slots: function.slots(), function, ..bare_placement() }
}

/// Splits at one point, here and in the map.
fn split_at(shard: &mut Shard, map: &mut Placement, at: i64) -> Split {
    let split = map.splits(&[vec![Value::Integer(at)]]).unwrap().remove(0);
    let epoch = split_on(shard, &split).unwrap();
    assert!(map.split(&split, SHARD, epoch));
    split
}

fn split_on(shard: &mut Shard, split: &Split) -> Result<Epoch, Error> {
    let entry = shard.log.entry(Body::Shard(ShardCommand::Split(split.clone())));
    match shard.apply(entry) {
        Outcome::Shard(Ok(ShardReply::Split(epoch))) => Ok(epoch),
        Outcome::Shard(Err(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn claim(slots: Option<&[u16]>, epoch: u64) -> Option<Route> {
    let claim = Claim { placement: PLACEMENT, epoch: Epoch(epoch), slots: slots.map(super::slots) };
    Some(Route { schema: SchemaVersion(9), claims: vec![claim] })
}

fn put(shard: &mut Shard, id: u128, slots: &[u16], key: i64) -> WriteResult {
    shard.write(id, claim(Some(slots), 1), &format!("INSERT INTO bare VALUES ({key}, {id})"))
}

fn set_of(map: &Placement) -> MovedSet {
    let table = MovedTable { name: "bare".into(), columns: vec!["k".into(), "v".into()], key: vec!["k".into()] };
    MovedSet { placement: map.clone(), tables: vec![table] }
}

fn index_of(shard: &mut Shard, map: &Placement, generation: u64) {
    let step = MoveStep::Index { generation, set: set_of(map) };
    while shard.step(&step).unwrap() != (MoveReply::Index { done: true }) {}
}

/// A whole move by a map.
fn carry_by(map: &Placement, source: &mut Shard, target: &mut Shard, id: u64, moved: &[u16]) {
    let (id, moved) = (MoveId(id), slots(moved));
    index_of(source, map, id.0);
    source.step(&MoveStep::Ahead { id, set: set_of(map), slots: moved.clone() }).unwrap();
    source.step(&MoveStep::Freeze { id }).unwrap();
    let open = MoveStep::Open { id, set: set_of(map), slots: moved };
    let MoveReply::Staged(mut at) = target.step(&open).unwrap() else { panic!() };
    while at != Cursor::End {
        at = stage(source, target, id, at, false);
    }
    let compared = content(source, id);
    assert_eq!(compared, content(target, id));
    let rows = released(&source.step(&MoveStep::Release { id, content: compared }).unwrap());
    target.step(&MoveStep::Activate { id, rows }).unwrap();
    source.step(&MoveStep::DropIndex { generation: id.0 }).unwrap();
}

/// From the entry of a split on, plans with the old slot are refused, by slot and by version, and those of other slots
/// are not; the step may come any number of times, and late.
#[test]
fn a_split_slot_is_gone() {
    let (mut shard, mut map) = (Shard::new(slots(&[0, 1])), ranges());
    let first = put(&mut shard, 1, &[1], 15);
    let split = split_at(&mut shard, &mut map, 20);
    shard.check();
    for (route, code) in [
        (claim(Some(&[1]), 1), Some(Code::StaleRoute)),
        (claim(Some(&[0, 1]), 1), Some(Code::StaleRoute)),
        (claim(None, 1), Some(Code::StaleRoute)),
        (claim(None, 2), None),
        (claim(Some(&[0]), 1), None),
        (claim(Some(&[2, 3]), 1), None),
    ] {
        let read = Read { route: route.clone(), ..select("SELECT 1") };
        assert_eq!(shard.replicas[0].read(&read).err().map(|error| error.code), code, "{route:?}");
        let id = shard.log.index.into();
        assert_eq!(shard.write(id, route.clone(), "SELECT 1").err().map(|error| error.code), code, "{route:?}");
    }
    assert_eq!(put(&mut shard, 1, &[2], 15), first, "what was done before is remembered");
    assert_eq!(split_on(&mut shard, &split), Ok(Epoch(2)), "again, it changes nothing");
    // The number of a slot that is not here says nothing about others.
    let unknown = Split { slot: Slot(9), into: map.splits(&[vec![Value::Integer(30)]]).unwrap()[0].into, ..split };
    assert_eq!(split_on(&mut shard, &unknown).unwrap_err().code, Code::Conflict);
    assert_eq!(shard.replicas[0].handle().lock().owned(PLACEMENT), Some(&slots(&[0, 2, 3])));
}

/// What was remembered under a slot that was split, and split again, goes where any of its parts goes: a retry
/// there gets its first result. A step that comes after all that finds nothing to do.
#[test]
fn requests_follow_all_parts() {
    let (mut source, mut target, mut map) = (Shard::new(slots(&[0, 1])), Shard::new(slots(&[])), ranges());
    let results: Vec<WriteResult> = [15, 25, 35].map(|key| put(&mut source, key as u128, &[1], key)).into();
    let both = source.write(60, claim(Some(&[0, 1]), 1), "INSERT INTO bare VALUES (5, 60), (16, 61)");
    let early = split_at(&mut source, &mut map, 20);
    let later = put(&mut source, 26, &[3], 26);
    split_at(&mut source, &mut map, 30);
    // Slot 1 is 2, 4 and 5 now.
    carry_by(&map, &mut source, &mut target, 1, &[4]);
    let rows = |shard: &Shard| integers(&shard.replicas[0].query("SELECT k FROM bare ORDER BY k"));
    assert_eq!((rows(&source), rows(&target)), (vec![5, 15, 16, 35], vec![25, 26]));
    for (key, result) in [15, 25, 35].into_iter().zip(&results) {
        assert_eq!(put(&mut target, key as u128, &[4], key), *result);
    }
    assert_eq!(target.write(60, claim(Some(&[4]), 1), "SELECT 1"), both);
    assert_eq!(put(&mut target, 26, &[4], 26), later);
    assert_eq!(rows(&target), [25, 26]);
    assert_eq!(split_on(&mut source, &early).unwrap_err().code, Code::Conflict, "it comes late");
    assert_eq!(source.replicas[0].handle().lock().owned(PLACEMENT), Some(&slots(&[0, 2, 5])));
    // And from the target to a third shard, under a number that it never had itself.
    let mut third = Shard::new(slots(&[]));
    let further = map.splits(&[vec![Value::Integer(26)]]).unwrap().remove(0);
    let epoch = split_on(&mut target, &further).unwrap();
    assert!(map.split(&further, SHARD, epoch));
    carry_by(&map, &mut target, &mut third, 2, &[7]);
    assert_eq!((rows(&target), rows(&third)), (vec![25], vec![26]));
    assert_eq!(third.write(60, claim(Some(&[7]), 1), "SELECT 1"), both);
    assert_eq!(put(&mut third, 26, &[7], 26), later);
    for shard in [&mut source, &mut target, &mut third] {
        shard.check();
    }
}

/// No slot is split while slots of its placement are on their way, and no index of the old numbers is used afterwards.
#[test]
fn moves_and_splits_keep_apart() {
    let (mut source, mut map) = (Shard::new(slots(&[0, 1])), ranges());
    put(&mut source, 1, &[1], 15).unwrap();
    index_of(&mut source, &map, 1);
    let ahead = |id: u64, map: &Placement, moved: &[u16]| MoveStep::Ahead {
        id: MoveId(id),
        set: set_of(map),
        slots: slots(moved),
    };
    source.step(&ahead(1, &map, &[0])).unwrap();
    let split = map.splits(&[vec![Value::Integer(20)]]).unwrap().remove(0);
    assert_eq!(split_on(&mut source, &split).unwrap_err().code, Code::Unavailable);
    source.step(&MoveStep::Cancel { id: MoveId(1) }).unwrap();
    let old = map.clone();
    split_at(&mut source, &mut map, 20);
    assert_eq!(source.step(&ahead(2, &old, &[0])).unwrap_err().code, Code::Conflict, "its index is spoilt");
    assert_eq!(source.step(&ahead(2, &map, &[3])).unwrap_err().code, Code::Conflict);
    // Rows that come now are in no index.
    put(&mut source, 2, &[3], 25).unwrap();
    let mut target = Shard::new(slots(&[]));
    carry_by(&map, &mut source, &mut target, 2, &[3]);
    assert_eq!(integers(&target.replicas[0].query("SELECT k FROM bare")), [25]);
    assert_eq!(integers(&source.replicas[0].query("SELECT k FROM bare")), [15]);
}
