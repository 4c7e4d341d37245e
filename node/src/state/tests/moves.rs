//! Slots move from one shard to another, step by step, each step any number of times.

mod ahead;
mod split;
mod traces;

use flotilla_shared::ids::{MoveId, Slot};
use flotilla_shared::moves::{
    Content, Cursor, MoveAnswer, MoveQuery, MoveReply, MoveStep, MovedSet, MovedTable, Piece,
};
use flotilla_shared::registry::{Function, Placement};
use flotilla_shared::slot::{Affinity, Collation, KeyColumn, slot_of};

use super::*;

/// The placement whose slots move.
pub(crate) const PLACEMENT: PlacementId = PlacementId(7);

/// Its slots: few, so that each has rows.
pub(crate) const SLOTS: u16 = 16;

const GENERATION: u64 = 1;

/// Tables of all kinds, sharded by `k`.
const TABLES: &[&str] = &[
    "CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT, k INTEGER NOT NULL, v, twice AS (v || v), kept AS (v + 1) STORED)",
    "CREATE TABLE bare (k INTEGER NOT NULL, v UNIQUE ON CONFLICT REPLACE)",
    "CREATE TABLE pair (name TEXT COLLATE NOCASE, k INTEGER, v, PRIMARY KEY (name DESC, k)) WITHOUT ROWID",
    "CREATE TABLE hidden (rowid ANY, _rowid_ INT, oid INTEGER PRIMARY KEY, k INTEGER NOT NULL) STRICT",
    "CREATE TABLE noted (n INTEGER)",
    "CREATE TRIGGER t1 AFTER INSERT ON bare BEGIN INSERT INTO noted VALUES (changes()); END",
    "CREATE TRIGGER t2 AFTER DELETE ON bare BEGIN INSERT INTO noted VALUES (-1); END",
    "CREATE INDEX bare_k ON bare (k)",
];

pub(crate) fn bare_placement() -> Placement {
    Placement {
        id: PLACEMENT,
        function: Function::Hash,
        key: vec![KeyColumn { affinity: Affinity::Integer, collation: Collation::Binary }],
        slots: SLOTS,
        shards: vec![],
        owned: Default::default(),
        epochs: Default::default(),
    }
}

pub(crate) fn slot_of_key(key: i64) -> Slot {
    slot_of(&bare_placement().key, &[Value::Integer(key)], SLOTS)
}

pub(super) fn set() -> MovedSet {
    let table = |name: &str, columns: &[&str]| MovedTable {
        name: name.into(),
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        key: vec!["k".into()],
    };
    let tables = vec![
        table("auto", &["id", "k", "v"]),
        table("bare", &["k", "v"]),
        table("hidden", &["rowid", "_rowid_", "oid", "k"]),
        table("pair", &["name", "k", "v"]),
    ];
    MovedSet { placement: bare_placement(), tables }
}

fn slots(list: &[u16]) -> SlotSet {
    list.iter().copied().map(Slot).collect()
}

/// A shard of two replicas, which must stay alike.
pub(super) struct Shard {
    replicas: [Replica; 2],
    log: Log,
}

impl Shard {
    pub(super) fn new(owned: SlotSet) -> Self {
        let mut shard = Self { replicas: [Replica::new(), Replica::new()], log: Log::new() };
        let schema = shard.log.schema(1, TABLES);
        let outcome = shard.apply(schema);
        assert!(matches!(outcome, Outcome::Shard(Ok(_))), "{outcome:?}");
        let own = ShardCommand::Own { placement: PLACEMENT, epoch: Epoch(1), slots: owned };
        let own = shard.log.entry(Body::Shard(own));
        shard.apply(own);
        shard
    }

    fn apply(&mut self, entry: Entry) -> Outcome {
        let outcome = self.replicas[0].apply(std::slice::from_ref(&entry)).remove(0);
        assert_eq!(outcome, self.replicas[1].apply(&[entry]).remove(0));
        outcome
    }

    /// One replica restarts; both must hold the same.
    fn check(&mut self) {
        self.replicas[0].reopen();
        assert_eq!(self.replicas[0].hash(), self.replicas[1].hash(), "replicas agree");
    }

    fn step(&mut self, step: &MoveStep) -> Result<MoveReply, Error> {
        let entry = self.log.entry(Body::Shard(ShardCommand::Move(Box::new(step.clone()))));
        match self.apply(entry) {
            Outcome::Shard(Ok(ShardReply::Move(reply))) => Ok(reply),
            Outcome::Shard(Err(error)) => Err(error),
            other => panic!("not a move's answer: {other:?}"),
        }
    }

    /// Takes a step as often as it takes: rows go in chunks.
    fn whole(&mut self, step: &MoveStep) -> MoveReply {
        loop {
            match self.step(step).unwrap_or_else(|error| panic!("{step:?}: {error}")) {
                MoveReply::Released { done: false, .. } | MoveReply::Activating | MoveReply::Cancelling => (),
                reply => return reply,
            }
        }
    }

    pub(super) fn ask(&self, query: &MoveQuery) -> Result<MoveAnswer, Error> {
        self.replicas[0].handle().answer(query)
    }

    fn route(key: i64, epoch: u64) -> Route {
        let slots = Some(SlotSet::range(slot_of_key(key), slot_of_key(key)));
        Route { schema: SchemaVersion(9), claims: vec![Claim { placement: PLACEMENT, epoch: Epoch(epoch), slots }] }
    }

    fn write(&mut self, id: u128, route: Option<Route>, sql: &str) -> WriteResult {
        let write = Write { id: RequestId(1 << 90 | id), route, statements: vec![Statement::bare(sql)] };
        let entry = self.log.entry(Body::Writes(vec![write]));
        only(&[self.apply(entry)]).clone()
    }

    pub(super) fn run(&mut self, sql: &str) -> StatementResult {
        let entry = self.log.writes(&[sql]);
        only(&[self.apply(entry)]).clone().unwrap_or_else(|error| panic!("{sql}: {error}")).remove(0)
    }

    pub(super) fn index(&mut self) {
        while self.step(&MoveStep::Index { generation: GENERATION, set: set() }).unwrap()
            != (MoveReply::Index { done: true })
        {}
    }

    /// All rows of all tables that are sharded, in an order of their own.
    fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for sql in [
            "SELECT 'auto', id, k, v, typeof(v), hex(v), twice, kept FROM auto",
            "SELECT 'bare', k, v, typeof(v) FROM bare",
            "SELECT 'pair', name, k, v FROM pair",
            "SELECT 'hidden', rowid, _rowid_, oid, k FROM hidden",
        ] {
            rows.extend(self.replicas[0].query(sql).into_iter().map(|row| format!("{row:?}")));
        }
        rows.sort();
        rows
    }

    fn value(&self, sql: &str) -> Value {
        self.replicas[0].value(sql)
    }
}

/// A source with rows in all slots, and an empty target.
pub(super) fn pair() -> (Shard, Shard) {
    let mut source = Shard::new(SlotSet::all(SLOTS));
    let mut writes = Vec::new();
    for k in 0..60 {
        writes.push(format!(
            "INSERT INTO auto (k, v) VALUES ({k}, {})",
            ["NULL", "1.0", "'é'", "x'00ff'", "CAST(x'ff' AS TEXT)"][k % 5]
        ));
        writes.push(format!("INSERT INTO bare VALUES ({k}, {k} * 10)"));
        writes.push(format!("INSERT INTO pair VALUES ('Name{k}', {k}, {k} / 7.0)"));
        writes.push(format!("INSERT INTO hidden VALUES ({k}, 2, {k} + 100, {k})"));
    }
    let entry = source.log.writes(&writes.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(results(&source.apply(entry)).iter().all(Result::is_ok));
    (source, Shard::new(SlotSet::default()))
}

fn released(reply: &MoveReply) -> u64 {
    match reply {
        MoveReply::Released { rows, .. } => *rows,
        other => panic!("not released: {other:?}"),
    }
}

fn stage(source: &Shard, target: &mut Shard, id: MoveId, at: Cursor, again: bool) -> Cursor {
    let MoveAnswer::Piece(piece) = source.ask(&MoveQuery::Export { id, from: at.clone() }).unwrap() else { panic!() };
    let step = MoveStep::Stage { id, from: at, piece };
    let reply = target.step(&step).unwrap();
    if again {
        assert_eq!(target.step(&step).unwrap(), reply, "the same piece is not taken twice");
    }
    let MoveReply::Staged(next) = reply else { panic!("{reply:?}") };
    next
}

/// Only the first rows of a piece, as if it were full.
pub(crate) fn cut(mut piece: Piece, rows: usize) -> Piece {
    if let (true, Some(last)) = (piece.changed.is_empty() && piece.rows.len() > rows, piece.rows.get(rows - 1)) {
        let after = Some(last.name.identity.clone());
        piece.next = Cursor::Rows { table: last.name.table, slot: last.slot, after };
        piece.rows.truncate(rows);
        piece.requests.clear();
    }
    piece
}

fn content(shard: &Shard, id: MoveId) -> Content {
    match shard.ask(&MoveQuery::Content { id }).unwrap() {
        MoveAnswer::Content(content) => content,
        other => panic!("{other:?}"),
    }
}

fn ahead(id: u64, slots: &SlotSet) -> MoveStep {
    MoveStep::Ahead { id: MoveId(id), set: set(), slots: slots.clone() }
}

fn open(id: u64, slots: &SlotSet) -> MoveStep {
    MoveStep::Open { id: MoveId(id), set: set(), slots: slots.clone() }
}

/// Takes a step; with `again` it comes twice, and after each the replicas restart and agree.
fn step(shard: &mut Shard, step: MoveStep, again: bool) -> MoveReply {
    let reply = shard.step(&step).unwrap_or_else(|error| panic!("{step:?}: {error}"));
    if again {
        shard.check();
        assert_eq!(shard.step(&step).unwrap(), reply);
        shard.check();
    }
    reply
}

/// Stages from where the target is: to the end, or to where nothing is left for the moment.
fn stage_all(source: &Shard, target: &mut Shard, id: u64, moved: &SlotSet, again: bool) -> Cursor {
    let MoveReply::Staged(mut at) = step(target, open(id, moved), again) else { panic!() };
    loop {
        let next = stage(source, target, MoveId(id), at.clone(), again);
        if next == Cursor::End || next == at {
            return next;
        }
        at = next;
    }
}

/// A whole move; `meanwhile` is what clients do between copy and freeze.
fn carry_while(source: &mut Shard, target: &mut Shard, id: u64, moved: &SlotSet, again: bool, meanwhile: &[&str]) {
    step(source, ahead(id, moved), again);
    for sql in meanwhile {
        assert_ne!(stage_all(source, target, id, moved, again), Cursor::End);
        source.run(sql);
    }
    let id = MoveId(id);
    step(source, MoveStep::Freeze { id }, again);
    assert_eq!(stage_all(source, target, id.0, moved, again), Cursor::End);
    let compared = content(source, id);
    assert_eq!(compared, content(target, id));
    let release = MoveStep::Release { id, content: compared };
    let rows = released(&step(source, release.clone(), again));
    source.whole(&release);
    step(target, MoveStep::Activate { id, rows }, again);
    target.whole(&MoveStep::Activate { id, rows });
}

fn carry(source: &mut Shard, target: &mut Shard, id: u64, moved: &SlotSet, again: bool) {
    carry_while(source, target, id, moved, again, &[]);
}

/// Rows of every kind of table arrive as they were, whatever is repeated and whoever restarts; rows of
/// other slots stay; no trigger of a client fires.
#[test]
fn rows_move_as_they_are() {
    let (mut source, mut target) = pair();
    let (before, noted) = (source.rows(), source.value("SELECT count(*) FROM noted"));
    let moved = slots(&[0, 3, 4, 9, 15]);
    source.index();
    carry(&mut source, &mut target, 1, &moved, true);
    let (left, arrived) = (source.rows(), target.rows());
    assert!(!left.is_empty() && !arrived.is_empty());
    let mut all = [left, arrived].concat();
    all.sort();
    assert_eq!(all, before);
    for key in 0..60 {
        let of = |shard: &Shard| shard.value(&format!("SELECT count(*) FROM bare WHERE k = {key}"));
        let here = i64::from(moved.contains(slot_of_key(key)));
        assert_eq!((of(&source), of(&target)), (Value::Integer(1 - here), Value::Integer(here)), "{key}");
    }
    assert_eq!(source.value("SELECT count(*) FROM noted"), noted);
    assert_eq!(target.value("SELECT count(*) FROM noted"), Value::Integer(0));
    for shard in [&source, &target] {
        let handle = shard.replicas[0].handle().lock();
        let found: String = handle.db().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(found, "ok");
    }
    // AUTOINCREMENT does not hand out again what moved in.
    let largest = target.value("SELECT max(id) FROM auto");
    target.run("INSERT INTO auto (k) VALUES (1)");
    assert_eq!(target.value("SELECT max(id) - 1 FROM auto"), largest);
}

/// Back again: what a shard got it can give, also to the shard where it was.
#[test]
fn slots_move_back() {
    let (mut source, mut target) = pair();
    let before = source.rows();
    let moved = slots(&[1, 2]);
    source.index();
    carry(&mut source, &mut target, 1, &moved, false);
    target.index();
    carry(&mut target, &mut source, 2, &moved, false);
    assert_eq!(source.rows(), before);
    assert_eq!(target.rows(), Vec::<String>::new());
    // Rows came in that the source's index does not know: it must be filled anew before it is used.
    assert_eq!(source.step(&ahead(3, &moved)).unwrap_err().code, Code::Conflict);
    source.index();
    carry(&mut source, &mut target, 3, &moved, true);
    assert!(!target.rows().is_empty());
}

/// The index finds all rows, whatever statements change them while it is built and after.
#[test]
fn the_index_follows_changes() {
    let (mut source, mut target) = pair();
    assert_eq!(source.step(&MoveStep::Index { generation: 1, set: set() }).unwrap(), MoveReply::Index { done: false });
    for round in 0..2 {
        for sql in [
            "INSERT OR REPLACE INTO bare VALUES (1, 20), (2, 30), (200, 40)",
            "REPLACE INTO pair VALUES ('NAME1', 1, 'x'), ('name3', 3, 'y')",
            "UPDATE OR REPLACE hidden SET oid = oid + 1 WHERE k > 30",
            "UPDATE bare SET k = k + 1000 WHERE k BETWEEN 5 AND 9",
            "UPDATE pair SET name = name || 'x', k = k + 3 WHERE k % 7 = 0",
            "DELETE FROM auto WHERE k % 4 = 0",
            "INSERT INTO auto (id, k) VALUES (1000, 4) ON CONFLICT (id) DO UPDATE SET k = k + 17",
            "INSERT OR FAIL INTO bare (rowid, k, v) VALUES (500, 77, 900) ON CONFLICT DO NOTHING",
            "UPDATE bare SET rowid = rowid + 5000 WHERE k = 20",
            "INSERT INTO bare (k, v) VALUES (21, 'again') ON CONFLICT (v) DO UPDATE SET v = 'more'",
        ] {
            source.run(sql);
        }
        if round == 0 {
            source.index();
            source.check();
        }
    }
    let before = source.rows();
    carry(&mut source, &mut target, 1, &SlotSet::all(SLOTS), false);
    assert_eq!(source.rows(), Vec::<String>::new());
    assert_eq!(target.rows(), before);
}

/// While slots are frozen, writes to them wait, reads go on, other slots do not notice; cancelled, all
/// is as before.
#[test]
fn frozen_slots() {
    let (mut source, _) = pair();
    source.index();
    let frozen = slots(&[slot_of_key(1).0]);
    let other = (2..60).find(|key| slot_of_key(*key) != slot_of_key(1)).unwrap();
    source.step(&ahead(1, &frozen)).unwrap();
    assert!(source.write(900, Some(Shard::route(1, 1)), "INSERT INTO bare VALUES (1, 4000)").is_ok(), "not yet");
    source.step(&MoveStep::Freeze { id: MoveId(1) }).unwrap();
    let insert = |key: i64| format!("INSERT INTO bare VALUES ({key}, {key} + 5000)");
    let all =
        Route { schema: SchemaVersion(9), claims: vec![Claim { placement: PLACEMENT, epoch: Epoch(1), slots: None }] };
    let elsewhere = Route {
        schema: SchemaVersion(9),
        claims: vec![Claim { placement: HOME_OF_OTHERS, epoch: Epoch(0), slots: Some(slots(&[slot_of_key(1).0])) }],
    };
    assert_eq!(code(&source.write(901, Some(Shard::route(1, 1)), &insert(1))), Code::StaleRoute);
    assert_eq!(code(&source.write(902, Some(all.clone()), "UPDATE bare SET v = v + 1")), Code::StaleRoute);
    assert_eq!(code(&source.write(903, Some(elsewhere), &insert(1))), Code::StaleRoute, "not owned at all");
    assert!(source.write(904, Some(Shard::route(other, 1)), &insert(other)).is_ok());
    assert!(source.replicas[0].read(&Read { route: Some(all.clone()), ..select("SELECT 1") }).is_ok());
    source.check();
    assert_eq!(code(&source.write(901, Some(Shard::route(1, 1)), &insert(1))), Code::StaleRoute, "after a restart");
    assert_eq!(source.step(&MoveStep::Cancel { id: MoveId(1) }).unwrap(), MoveReply::Cancelled);
    assert_eq!(source.step(&MoveStep::Cancel { id: MoveId(1) }).unwrap(), MoveReply::Cancelled);
    assert!(source.write(901, Some(Shard::route(1, 1)), &insert(1)).is_ok(), "the same request goes on");
    assert!(source.write(902, Some(all), "UPDATE bare SET v = v + 100000").is_ok());
    for late in [ahead(1, &slots(&[2])), MoveStep::Freeze { id: MoveId(1) }] {
        assert_eq!(source.step(&late).unwrap(), MoveReply::Cancelled, "a late step freezes nothing");
    }
}

const HOME_OF_OTHERS: PlacementId = PlacementId(99);

/// A write that was applied at the source is not applied again at the target: its first result moves
/// along, more than once, and only with its slots.
#[test]
fn request_ids_move_along() {
    let (mut source, mut target) = pair();
    source.index();
    let key = 3;
    let other = (4..60).find(|other| slot_of_key(*other) != slot_of_key(key)).unwrap();
    let insert = |key: i64| format!("INSERT INTO bare VALUES ({key}, NULL) RETURNING v IS NULL, {key}");
    let first = source.write(71, Some(Shard::route(key, 1)), &insert(key));
    let failed = source.write(72, Some(Shard::route(key, 1)), "INSERT INTO bare VALUES (NULL, 1)");
    let stays = source.write(73, Some(Shard::route(other, 1)), &insert(other));
    assert!(first.is_ok() && stays.is_ok());
    assert_eq!(code(&failed), Code::Constraint);
    let moved = slots(&[slot_of_key(key).0]);
    carry(&mut source, &mut target, 1, &moved, true);
    assert_eq!(target.write(71, Some(Shard::route(key, 1)), &insert(key)), first);
    assert_eq!(target.write(72, Some(Shard::route(key, 1)), &insert(key)), failed);
    assert_eq!(code(&target.write(73, Some(Shard::route(other, 1)), &insert(other))), Code::StaleRoute);
    assert_eq!(source.write(71, Some(Shard::route(key, 1)), &insert(key)), first, "an old proxy gets it, too");
    target.index();
    carry(&mut target, &mut source, 2, &moved, true);
    assert_eq!(source.write(71, Some(Shard::route(key, 1)), &insert(key)), first);
    assert_eq!(source.value(&format!("SELECT count(*) FROM bare WHERE k = {key} AND v IS NULL")), Value::Integer(1));
}

/// One flipped byte on the way is noticed: the contents differ, the source keeps its rows and slots, and the
/// move is cancelled.
#[test]
fn a_flipped_byte_is_noticed() {
    let (mut source, mut target) = pair();
    source.index();
    let (before, moved) = (source.rows(), SlotSet::all(SLOTS));
    let id = MoveId(1);
    source.step(&ahead(1, &moved)).unwrap();
    source.step(&MoveStep::Freeze { id }).unwrap();
    target.step(&open(1, &moved)).unwrap();
    let from = Cursor::start(&moved);
    let MoveAnswer::Piece(mut piece) = source.ask(&MoveQuery::Export { id, from: from.clone() }).unwrap() else {
        panic!()
    };
    let row = &mut piece.rows[17].packed;
    let last = row.len() - 1;
    row[last] ^= 1;
    target.step(&MoveStep::Stage { id, from, piece }).unwrap();
    assert_eq!(stage_all(&source, &mut target, 1, &moved, false), Cursor::End);
    let (here, there) = (content(&source, id), content(&target, id));
    let (ours, theirs) = here.differs(&there).expect("the contents differ");
    assert_eq!((ours.slot, ours.rows, ours.bytes), (theirs.slot, theirs.rows, theirs.bytes), "but for one byte");
    assert_eq!(source.rows(), before);
    for shard in [&mut source, &mut target] {
        assert_eq!(shard.whole(&MoveStep::Cancel { id }), MoveReply::Cancelled);
        shard.check();
    }
    assert_eq!(target.value("SELECT count(*) FROM bare"), Value::Integer(0));
    assert!(source.write(1 << 99, Some(Shard::route(1, 1)), "INSERT INTO bare VALUES (1, 12345)").is_ok());
}

/// A row that does not go in at the target is found before the source gives anything up; a row that
/// changes past the routing after the contents were compared, too.
#[test]
fn what_is_in_the_way_is_found_before() {
    let (mut source, mut target) = pair();
    source.index();
    // Somebody has written past the routing, with `shard=`.
    target.run("INSERT INTO hidden VALUES (1, 1, 101, 1)");
    let (id, moved) = (MoveId(1), SlotSet::all(SLOTS));
    source.step(&ahead(1, &moved)).unwrap();
    target.step(&open(1, &moved)).unwrap();
    let from = Cursor::start(&moved);
    let MoveAnswer::Piece(piece) = source.ask(&MoveQuery::Export { id, from: from.clone() }).unwrap() else { panic!() };
    let stage = MoveStep::Stage { id, from, piece };
    assert_eq!(target.step(&stage).unwrap_err().code, Code::Constraint);
    target.check();
    target.run("DELETE FROM hidden");
    target.step(&stage).unwrap();
    source.step(&MoveStep::Freeze { id }).unwrap();
    assert_eq!(stage_all(&source, &mut target, 1, &moved, true), Cursor::End);
    let compared = content(&source, id);
    assert_eq!(compared, content(&target, id));
    source.run("UPDATE bare SET v = v + 1 WHERE k = 3");
    let release = MoveStep::Release { id, content: compared };
    assert_eq!(source.step(&release).unwrap_err().code, Code::Conflict);
    assert_eq!(target.step(&MoveStep::Activate { id, rows: 1 }).unwrap_err().code, Code::MoveMismatch);
    for shard in [&mut source, &mut target] {
        shard.check();
        assert_eq!(shard.whole(&MoveStep::Cancel { id }), MoveReply::Cancelled);
    }
    assert_eq!(target.rows(), Vec::<String>::new());
    carry(&mut source, &mut target, 2, &moved, false);
}

/// Steps that come too early, too late or to the wrong shard change nothing.
#[test]
fn steps_out_of_order_are_refused() {
    let (mut source, mut target) = pair();
    let moved = slots(&[5]);
    let freeze = |id| MoveStep::Freeze { id: MoveId(id) };
    let refused = |shard: &mut Shard, step: MoveStep| {
        assert_eq!(shard.step(&step).expect_err(&format!("{step:?}")).code, Code::Conflict);
        shard.check();
    };
    refused(&mut source, ahead(1, &moved));
    source.index();
    refused(&mut source, open(1, &moved));
    refused(&mut target, ahead(1, &moved));
    refused(&mut source, freeze(1));
    refused(&mut source, MoveStep::Release { id: MoveId(1), content: Content::default() });
    refused(&mut target, MoveStep::Activate { id: MoveId(1), rows: 0 });
    source.step(&ahead(2, &moved)).unwrap();
    refused(&mut source, MoveStep::Release { id: MoveId(2), content: Content::default() });
    refused(&mut source, MoveStep::DropIndex { generation: GENERATION });
    source.step(&freeze(2)).unwrap();
    assert_eq!(source.step(&ahead(2, &moved)).unwrap(), MoveReply::Frozen, "what is frozen stays so");
    refused(&mut source, ahead(3, &moved));
    refused(&mut source, MoveStep::Cancel { id: MoveId(1) });
    source.step(&MoveStep::Cancel { id: MoveId(2) }).unwrap();
    refused(&mut source, freeze(1));
    carry(&mut source, &mut target, 4, &moved, false);
    assert!(released(&source.step(&MoveStep::Cancel { id: MoveId(4) }).unwrap()) > 0);
    assert!(matches!(target.step(&MoveStep::Cancel { id: MoveId(4) }).unwrap(), MoveReply::Activated { .. }));
}

fn key_in(slot: u16) -> i64 {
    (0..).find(|key| slot_of_key(*key) == Slot(slot)).unwrap()
}
