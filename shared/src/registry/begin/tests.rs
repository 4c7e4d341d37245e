//! What is recorded of a job before it changes shards, and what it holds up from then on.

use super::*;
use crate::ids::{Epoch, NodeId, ReplicaId, RequestId, Slot};
use crate::registry::balance::tests::placement;
use crate::registry::{
    HOME_SHARD, Left, MoveChange, MoveOptions, Placement, Registration, ReplicaInfo, SchemaObject, SlotSet, Table,
    Transfer,
};

/// Three shards, and table `t` in placement 1 on all of them.
fn registry() -> Registry {
    let replica = |group: u32| ReplicaInfo { node: NodeId(1), replica: ReplicaId(group.into()), votes: true };
    let groups = (0..=3).map(|group| (GroupId(group), vec![replica(group)])).collect();
    let mut registry = Registry::default();
    registry.apply(0, MetaCommand::Bootstrap { cluster: 7, nodes: vec![], groups }).unwrap();
    registry.placements.insert(PlacementId(1), placement(&[(1, 0..50), (2, 50..100)], &[1, 2, 3]));
    registry.tables.insert("t".into(), table("t", 1));
    registry.tables.insert("new".into(), table("new", 0));
    registry.counters.placement = 1;
    registry
}

fn table(name: &str, placement: u32) -> Table {
    Table {
        name: name.into(),
        placement: PlacementId(placement),
        key: vec![],
        columns: vec![],
        rowid_alias: None,
        unique: vec![],
    }
}

fn job(registry: &mut Registry, kind: JobKind) -> JobId {
    let request = RequestId(u128::from(registry.version) + 1);
    match registry.apply(1, MetaCommand::CreateJob { request, kind }) {
        Ok(MetaReply::Job(job)) => job,
        other => panic!("{other:?}"),
    }
}

fn wanted(shards: &[u32]) -> Registration {
    Registration {
        table: "new".into(),
        key: vec!["k".into()],
        spread: Spread::Hash,
        nullable: false,
        colocate_with: None,
        shards: shards.iter().copied().map(GroupId).collect(),
    }
}

fn begin(registry: &mut Registry, job: JobId, placement: Option<u32>, shards: &[u32]) -> Result<MetaReply, Error> {
    let shards = shards.iter().copied().map(GroupId).collect();
    registry.apply(2, MetaCommand::BeginJob { job, placement: placement.map(PlacementId), shards })
}

fn remove_from(shard: u32) -> JobKind {
    JobKind::RemoveFromShard { table: "t".into(), shard: GroupId(shard), options: MoveOptions::default() }
}

fn leave(registry: &mut Registry, job: JobId, shard: u32) -> Result<MetaReply, Code> {
    let change = MoveChange::Leave { placement: PlacementId(1), shard: GroupId(shard) };
    registry.apply(3, MetaCommand::Move { job, change }).map_err(|error| error.code)
}

fn end(registry: &mut Registry, job: JobId, effects: Vec<Effect>) -> Result<MetaReply, Code> {
    let end = MetaCommand::EndJob { job, state: JobState::Done, error: None, effects, results: vec![] };
    registry.apply(4, end).map_err(|error| error.code)
}

/// The first decision stays, whatever a later driver would decide.
#[test]
fn a_registration_is_decided_once() {
    let mut registry = registry();
    let register = job(&mut registry, JobKind::Register(wanted(&[])));
    assert_eq!(begin(&mut registry, register, None, &[1, 2, 3]), Ok(MetaReply::Placement(PlacementId(2))));
    registry.groups.insert(GroupId(4), vec![]);
    assert_eq!(begin(&mut registry, register, None, &[1, 2, 3, 4]), Ok(MetaReply::Placement(PlacementId(2))));
    let JobKind::Register(decided) = &registry.jobs[&register].kind else { panic!() };
    assert_eq!(decided.shards, [1, 2, 3].map(GroupId));
    let other = job(&mut registry, JobKind::Register(wanted(&[2])));
    assert_eq!(begin(&mut registry, other, None, &[2]), Ok(MetaReply::Placement(PlacementId(3))));
}

/// What was decided with an older registry is not recorded.
#[test]
fn old_decisions_are_not_recorded() {
    let mut registry = registry();
    let register = job(&mut registry, JobKind::Register(wanted(&[])));
    let code = |outcome: Result<MetaReply, Error>| outcome.unwrap_err().code;
    assert_eq!(code(begin(&mut registry, register, None, &[1, 4])), Code::Unavailable, "no such shard");
    assert_eq!(code(begin(&mut registry, register, None, &[0])), Code::Unavailable, "no shard at all");
    assert_eq!(code(begin(&mut registry, register, None, &[1, 2, 2])), Code::BadRequest);
    assert_eq!(code(begin(&mut registry, register, Some(1), &[1, 2])), Code::Unavailable, "not its shards");
    let options = MoveOptions::default();
    job(&mut registry, JobKind::RemoveShard { shard: GroupId(3), options });
    assert_eq!(code(begin(&mut registry, register, None, &[1, 3])), Code::Unavailable, "it departs");
    assert!(registry.jobs[&register].begun().is_none());
    assert!(begin(&mut registry, register, None, &[1, 2]).is_ok());
}

/// A shard that a registration relies on is not taken out of the cluster, nor a table off it, until the job has ended.
#[test]
fn shards_stay_until_the_job_has_ended() {
    let mut registry = registry();
    let register = job(&mut registry, JobKind::Register(wanted(&[])));
    begin(&mut registry, register, None, &[1, 3]).unwrap();
    let leaves = job(&mut registry, remove_from(3));
    assert_eq!(leave(&mut registry, leaves, 3), Err(Code::Conflict));
    let options = MoveOptions::default();
    registry.placements.get_mut(&PlacementId(1)).unwrap().shards.pop();
    let departs = job(&mut registry, JobKind::RemoveShard { shard: GroupId(3), options });
    let drop = MetaCommand::Move { job: departs, change: MoveChange::DropShard { shard: GroupId(3) } };
    assert_eq!(registry.apply(3, drop.clone()).unwrap_err().code, Code::Conflict);
    assert!(end(&mut registry, register, vec![]).is_ok());
    assert!(registry.apply(3, drop).is_ok());
}

/// A schema statement keeps its placement's shards; a job that begins while a table is taken off one waits.
#[test]
fn tables_are_not_taken_off_under_a_statement() {
    let mut registry = registry();
    let sql = JobKind::Schema { sql: "DROP TABLE t".into(), table: Some("t".into()) };
    let schema = job(&mut registry, sql.clone());
    begin(&mut registry, schema, Some(1), &[1, 2, 3]).unwrap();
    let leaves = job(&mut registry, remove_from(3));
    assert_eq!(leave(&mut registry, leaves, 3), Err(Code::Conflict));
    end(&mut registry, schema, vec![]).unwrap();
    assert!(leave(&mut registry, leaves, 3).is_ok());
    let second = job(&mut registry, sql);
    let waits = begin(&mut registry, second, Some(1), &[1, 2, 3]).unwrap_err();
    assert_eq!(waits.code, Code::Unavailable);
    let register = job(&mut registry, JobKind::Register(wanted(&[])));
    assert_eq!(begin(&mut registry, register, None, &[1, 3]).unwrap_err().code, Code::Unavailable);
    assert!(begin(&mut registry, register, None, &[1, 2]).is_ok(), "it does not rely on that shard");
}

/// While a table is taken off a shard that is down, jobs end that have nothing to do with its placement.
#[test]
fn a_leave_holds_up_its_placement_alone() {
    let mut registry = registry();
    let leaves = job(&mut registry, remove_from(3));
    leave(&mut registry, leaves, 3).unwrap();
    let schema = job(&mut registry, JobKind::Schema { sql: "CREATE TABLE h (v)".into(), table: None });
    let other = Effect::Schema { placements: vec![HOME], objects: vec![], tables: vec![] };
    assert!(end(&mut registry, schema, vec![other]).is_ok());
    let write = job(&mut registry, JobKind::Schema { sql: "x".into(), table: None });
    let epoch = Effect::Epoch { placement: PlacementId(1), shard: GroupId(3), epoch: Epoch(9) };
    assert_eq!(end(&mut registry, write, vec![epoch]), Err(Code::Unavailable));
}

/// Only what has not begun is given up without being undone.
#[test]
fn giving_up() {
    let mut registry = registry();
    let error = Error::new(Code::Constraint, "no");
    let give_up = |registry: &mut Registry, job| {
        registry.apply(3, MetaCommand::GiveUp { job, error: error.clone() }).map_err(|error| error.code)
    };
    let register = job(&mut registry, JobKind::Register(wanted(&[])));
    begin(&mut registry, register, None, &[1, 2]).unwrap();
    assert_eq!(give_up(&mut registry, register), Err(Code::Unavailable));
    let other = job(&mut registry, JobKind::Register(wanted(&[])));
    assert!(give_up(&mut registry, other).is_ok());
    assert_eq!((registry.jobs[&other].state, &registry.jobs[&other].error), (JobState::Failed, &Some(error.clone())));
    assert_eq!(begin(&mut registry, other, None, &[1, 2]).unwrap_err().code, Code::Conflict, "it has ended");
}

/// No slots begin to move while a table joins their placement.
#[test]
fn a_table_joins_slots_at_rest() {
    let mut registry = registry();
    let join = Registration { colocate_with: Some("t".into()), ..wanted(&[]) };
    let register = job(&mut registry, JobKind::Register(join));
    let moves = job(&mut registry, JobKind::rebalance("t"));
    let change = MoveChange::Begin {
        placement: PlacementId(1),
        transfer: Transfer { from: GroupId(1), to: GroupId(3), slots: SlotSet::range(Slot(0), Slot(9)) },
        left: Left::default(),
    };
    let change = MetaCommand::Move { job: moves, change };
    begin(&mut registry, register, Some(1), &[1, 2, 3]).unwrap();
    assert_eq!(registry.apply(3, change.clone()).unwrap_err().code, Code::Conflict);
    end(&mut registry, register, vec![]).unwrap();
    assert!(registry.apply(3, change).is_ok());
}

/// A placement without tables goes, its views stay, and its id is never used again. One that has tables or moves stays.
#[test]
fn empty_placements_are_forgotten() {
    let mut registry = registry();
    let object = |kind: &str, name: &str, id| SchemaObject {
        kind: kind.into(),
        name: name.into(),
        table: name.into(),
        sql: String::new(),
        placement: PlacementId(id),
    };
    registry.objects = vec![object("table", "t", 1), object("view", "v", 1)];
    let forget = |registry: &mut Registry, tables: Vec<Table>| {
        let objects = vec![object("view", "v", 1)];
        let schema = Effect::Schema { placements: vec![PlacementId(1)], objects, tables };
        let drops = job(registry, JobKind::Schema { sql: "DROP TABLE t".into(), table: Some("t".into()) });
        end(registry, drops, vec![schema, Effect::Forget(PlacementId(1))])
    };
    assert!(forget(&mut registry.clone(), vec![table("t", 1)]).is_ok());
    let mut moving = registry.clone();
    let moves = job(&mut moving, JobKind::rebalance("t"));
    let transfer = Transfer { from: GroupId(1), to: GroupId(3), slots: SlotSet::range(Slot(0), Slot(9)) };
    let change = MoveChange::Begin { placement: PlacementId(1), transfer, left: Left::default() };
    moving.apply(3, MetaCommand::Move { job: moves, change }).unwrap();
    assert_eq!(forget(&mut moving, vec![]), Err(Code::Unavailable));
    assert!(forget(&mut registry, vec![]).is_ok());
    assert_eq!(registry.placements.keys().copied().collect::<Vec<_>>(), [HOME]);
    assert_eq!(registry.objects, [object("view", "v", 0)]);
    let register = job(&mut registry, JobKind::Register(wanted(&[])));
    assert_eq!(begin(&mut registry, register, None, &[1, 2]), Ok(MetaReply::Placement(PlacementId(2))));
}

/// A version that is told late does not set back a later one.
#[test]
fn versions_do_not_go_back() {
    let mut registry = registry();
    let (placement, shard) = (PlacementId(1), GroupId(3));
    let tell = |registry: &mut Registry, epoch| {
        let late = job(registry, JobKind::Schema { sql: "x".into(), table: None });
        end(registry, late, vec![Effect::Epoch { placement, shard, epoch: Epoch(epoch) }]).unwrap();
    };
    tell(&mut registry, 9);
    tell(&mut registry, 4);
    assert_eq!(registry.placements[&placement].epoch(shard), Epoch(9));
    let leaves = job(&mut registry, remove_from(3));
    leave(&mut registry, leaves, 3).unwrap();
    let id = registry.jobs[&leaves].progress.as_ref().unwrap().leave.as_ref().unwrap().id;
    let left = MoveChange::Left { id, epoch: Epoch(5) };
    registry.apply(3, MetaCommand::Move { job: leaves, change: left }).unwrap();
    assert_eq!(registry.placements[&placement].epoch(shard), Epoch(9));
}

/// A further copy of a reference placement is added to what the registry knows by then.
#[test]
fn a_copy_is_added() {
    let mut registry = registry();
    let shards = vec![HOME_SHARD, GroupId(2)];
    let copies = Placement {
        id: PlacementId(5),
        function: crate::registry::Function::Reference,
        key: vec![],
        slots: 1,
        owned: shards.iter().map(|shard| (*shard, SlotSet::all(1))).collect(),
        epochs: shards.iter().map(|shard| (*shard, Epoch(4))).collect(),
        shards,
    };
    registry.placements.insert(PlacementId(5), copies);
    let add = job(&mut registry, JobKind::AddToShard { table: "t".into(), shard: GroupId(3) });
    end(&mut registry, add, vec![Effect::Copy { placement: PlacementId(5), shard: GroupId(3), epoch: Epoch(2) }])
        .unwrap();
    let copies = &registry.placements[&PlacementId(5)];
    assert_eq!(copies.shards, [1, 2, 3].map(GroupId));
    assert_eq!((copies.epoch(GroupId(3)), copies.owned[&GroupId(3)].len()), (Epoch(2), 1));
}
