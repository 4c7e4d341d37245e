//! Slots are copied while clients write to them: what changes is noted, copied again, and nothing is lost.

use super::*;

/// A snapshot in the middle of a move carries all of it.
#[test]
fn snapshots_carry_moves() {
    let (mut source, mut target) = pair();
    source.index();
    let (id, moved) = (MoveId(1), slots(&[1, 2, 3]));
    source.step(&ahead(1, &moved)).unwrap();
    stage_all(&source, &mut target, 1, &moved, false);
    source.run(&format!("UPDATE auto SET v = 'later' WHERE k = {}", key_in(1)));
    source.step(&MoveStep::Freeze { id }).unwrap();
    for shard in [&mut source, &mut target] {
        let follower = Replica::new();
        follower.take_snapshot_of(&shard.replicas[0]);
        assert_eq!(follower.hash(), shard.replicas[0].hash());
        shard.replicas[0] = follower;
    }
    assert_eq!(code(&source.write(5, Some(Shard::route(key_in(1), 1)), "DELETE FROM bare")), Code::StaleRoute);
    let before = source.rows().len();
    carry(&mut source, &mut target, 1, &moved, true);
    assert_eq!(source.rows().len() + target.rows().len(), before);
    assert_eq!(target.value("SELECT count(*) FROM auto WHERE v = 'later'"), Value::Integer(1));
}

/// Statements of all kinds that change rows, also in silence.
const CHANGES: &[&str] = &[
    "INSERT OR REPLACE INTO bare VALUES (1, 20), (2, 30), (200, 40)",
    "INSERT INTO bare VALUES (41, 120), (42, 130)",
    "REPLACE INTO pair VALUES ('NAME1', 1, 'x'), ('name3', 3, 'y')",
    "UPDATE OR REPLACE hidden SET oid = oid + 1 WHERE k > 30",
    "UPDATE bare SET k = k + 1000 WHERE k BETWEEN 5 AND 9",
    "UPDATE pair SET name = name || 'x', k = k + 3 WHERE k % 7 = 0",
    "DELETE FROM auto WHERE k % 4 = 0",
    "INSERT INTO auto (id, k) VALUES (1000, 4) ON CONFLICT (id) DO UPDATE SET k = k + 17",
    "REPLACE INTO auto (id, k) VALUES (1000, 5), (7, 500), (8, 501)",
    "INSERT OR FAIL INTO bare (rowid, k, v) VALUES (500, 77, 900) ON CONFLICT DO NOTHING",
    "UPDATE bare SET rowid = rowid + 5000 WHERE k = 20",
    "UPDATE bare SET rowid = -rowid, v = v || 'r'",
    "INSERT INTO bare (k, v) VALUES (21, 'again') ON CONFLICT (v) DO UPDATE SET v = 'more'",
    "UPDATE parent SET id = id + 100 WHERE id < 5",
    "DELETE FROM parent WHERE id BETWEEN 6 AND 9",
    "UPDATE twisted SET a = b, b = a",
    "UPDATE twisted SET late = 12 WHERE a < 10",
    "REPLACE INTO twisted (a, b) SELECT a, b FROM twisted WHERE a > 20",
    "INSERT INTO auto (k, v) SELECT k, v FROM bare WHERE k < 10",
    "DELETE FROM twisted",
    "INSERT INTO twisted (a, b) VALUES (1.0, 'x'), (2.5, 'y')",
];

/// Tables whose rows change by rows of others, and whose columns came late.
const MORE: &[&str] = &[
    "CREATE TABLE parent (id INTEGER PRIMARY KEY, v)",
    "CREATE TABLE child (id INTEGER NOT NULL REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE, n, PRIMARY KEY (id, n))",
    "CREATE TABLE twisted (b REAL, g AS (b || 'g') STORED, a REAL, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "ALTER TABLE twisted ADD COLUMN late INTEGER DEFAULT 7",
];

/// As [`pair`], with more tables, of which two have keys that are no integers or came late.
fn wide_pair() -> (Shard, Shard) {
    let (mut source, mut target) = pair();
    for shard in [&mut source, &mut target] {
        let schema = shard.log.schema(2, MORE);
        assert!(matches!(shard.apply(schema), Outcome::Shard(Ok(_))));
    }
    for k in 0..30 {
        source.run(&format!("INSERT INTO parent VALUES ({k}, {k} * 2)"));
        source.run(&format!("INSERT INTO child VALUES ({k}, 1), ({k}, 2)"));
        source.run(&format!("INSERT INTO twisted (a, b) VALUES ({k}, {k} + 0.5)"));
    }
    (source, target)
}

fn wide_set() -> MovedSet {
    let mut set = set();
    for (name, columns, key) in [
        ("child", vec!["id", "n"], "id"),
        ("parent", vec!["id", "v"], "id"),
        ("twisted", vec!["b", "a", "late"], "late"),
    ] {
        let columns = columns.into_iter().map(str::to_owned).collect();
        set.tables.push(MovedTable { name: name.into(), columns, key: vec![key.to_owned()] });
    }
    set
}

fn wide_rows(shard: &Shard) -> Vec<String> {
    let mut rows = shard.rows();
    for sql in ["SELECT 'parent', * FROM parent", "SELECT 'child', * FROM child", "SELECT 'twisted', * FROM twisted"] {
        rows.extend(shard.replicas[0].query(sql).into_iter().map(|row| format!("{row:?}")));
    }
    rows.sort();
    rows
}

fn copied_by_chance(seed: u64) {
    let mut random = Random(seed);
    let (mut source, mut target) = wide_pair();
    let set = wide_set();
    let index = |shard: &mut Shard| {
        while shard.step(&MoveStep::Index { generation: 1, set: set.clone() }).unwrap()
            != (MoveReply::Index { done: true })
        {}
    };
    // Prepared before anything is watched.
    source.run("DELETE FROM noted");
    source.run("DELETE FROM hidden WHERE k = 3");
    index(&mut source);
    let moved: SlotSet = (0..SLOTS).filter(|_| random.below(3) > 0).map(Slot).collect();
    let (id, slots) = (MoveId(1), moved.clone());
    source.step(&MoveStep::Ahead { id, set: set.clone(), slots: slots.clone() }).unwrap();
    let open = MoveStep::Open { id, set: set.clone(), slots };
    let MoveReply::Staged(mut at) = target.step(&open).unwrap() else { panic!() };
    let mut frozen = false;
    let mut left = 12;
    while at != Cursor::End {
        if left > 0 && random.below(2) == 0 {
            let sql = random.pick(CHANGES);
            let entry = source.log.writes(&[sql]);
            // Some fail by a constraint, and then change nothing.
            source.apply(entry);
            left -= 1;
        }
        if random.below(8) == 0 {
            source.check();
        }
        if left == 0 && !frozen {
            frozen = true;
            source.step(&MoveStep::Freeze { id }).unwrap();
        }
        let MoveAnswer::Piece(piece) = source.ask(&MoveQuery::Export { id, from: at.clone() }).unwrap() else {
            panic!()
        };
        let piece = cut(piece, 1 + random.below(40));
        let MoveReply::Staged(next) = target.step(&MoveStep::Stage { id, from: at, piece }).unwrap() else { panic!() };
        at = next;
    }
    let before = wide_rows(&source);
    let compared = content(&source, id);
    assert_eq!(compared.differs(&content(&target, id)), None);
    assert_eq!(compared, content(&target, id));
    let release = MoveStep::Release { id, content: compared };
    let rows = released(&source.whole(&release));
    target.whole(&MoveStep::Activate { id, rows });
    let (left, arrived) = (wide_rows(&source), wide_rows(&target));
    let mut all = [left, arrived].concat();
    all.sort();
    assert_eq!(all, before);
    source.check();
    target.check();
}

/// Whatever statements change rows between the pieces of a copy, and wherever a piece ends, both sides
/// hold the same once the slots are frozen, and every row arrives as it is.
#[test]
fn rows_change_during_the_copy() {
    let given = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = match given("FLOTILLA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..given("FLOTILLA_SEEDS").unwrap_or(20),
    };
    for seed in seeds {
        if let Err(why) = std::panic::catch_unwind(|| copied_by_chance(seed)) {
            eprintln!("FLOTILLA_SEED={seed}");
            std::panic::resume_unwind(why);
        }
    }
}

/// A piece that comes again, late, does not bring back what its rows were then.
#[test]
fn a_late_piece_is_not_taken() {
    let (mut source, mut target) = pair();
    source.index();
    let (id, moved) = (MoveId(1), SlotSet::all(SLOTS));
    source.step(&ahead(1, &moved)).unwrap();
    target.step(&open(1, &moved)).unwrap();
    let from = Cursor::start(&moved);
    let MoveAnswer::Piece(piece) = source.ask(&MoveQuery::Export { id, from: from.clone() }).unwrap() else { panic!() };
    let late = MoveStep::Stage { id, from, piece };
    target.step(&late).unwrap();
    source.run("UPDATE auto SET v = 'new'");
    let at = stage_all(&source, &mut target, 1, &moved, false);
    assert_eq!(target.step(&late).unwrap(), MoveReply::Staged(at));
    carry(&mut source, &mut target, 1, &moved, false);
    assert_eq!(target.value("SELECT count(*) FROM auto WHERE v = 'new'"), Value::Integer(60));
}

/// A row that was copied comes once more, under another slot that is copied later: it is staged once, as it
/// is now.
#[test]
fn a_row_changes_its_slot_during_the_copy() {
    let (mut source, mut target) = pair();
    source.index();
    let (id, moved) = (MoveId(1), SlotSet::all(SLOTS));
    source.step(&ahead(1, &moved)).unwrap();
    target.step(&open(1, &moved)).unwrap();
    let from = Cursor::start(&moved);
    let MoveAnswer::Piece(piece) = source.ask(&MoveQuery::Export { id, from: from.clone() }).unwrap() else { panic!() };
    let piece = cut(piece, 1);
    let (first, last) = (piece.rows[0].slot, Slot(SLOTS - 1));
    assert_ne!(first, last);
    target.step(&MoveStep::Stage { id, from, piece }).unwrap();
    let (old, new) = (key_in(first.0), key_in(last.0));
    source.run(&format!("UPDATE auto SET k = {new} WHERE id = (SELECT min(id) FROM auto WHERE k = {old})"));
    carry(&mut source, &mut target, 1, &moved, false);
    assert_eq!(target.value("SELECT count(*) FROM auto"), Value::Integer(60));
}

/// Each kind of change alone, after the whole copy: it is noted, and what did not change is not.
#[test]
fn each_change_is_noted() {
    for sql in CHANGES {
        let (mut source, _) = wide_pair();
        let step = MoveStep::Index { generation: 1, set: wide_set() };
        while source.step(&step).unwrap() != (MoveReply::Index { done: true }) {}
        let moved = SlotSet::all(SLOTS);
        source.step(&MoveStep::Ahead { id: MoveId(1), set: wide_set(), slots: moved }).unwrap();
        let (before, entry) = (wide_rows(&source), source.log.writes(&[sql]));
        source.apply(entry);
        let from = Cursor::Rest { changes: 0, requests: 0 };
        let MoveAnswer::Piece(piece) = source.ask(&MoveQuery::Export { id: MoveId(1), from }).unwrap() else {
            panic!()
        };
        let after = wide_rows(&source);
        let gone = before.iter().filter(|row| !after.contains(row)).count();
        let come = after.iter().filter(|row| !before.contains(row)).count();
        assert!(piece.changed.len() >= gone.max(come), "{sql}: {} of {gone} and {come}", piece.changed.len());
        // Rowids of `bare` do not show in its rows, nor what is replaced by its like.
        let hidden = 120 * usize::from(sql.contains("rowid") || sql.contains("REPLACE"));
        assert!(piece.changed.len() <= 2 * (gone + come) + hidden, "{sql}: {}", piece.changed.len());
        assert!(piece.rows.len() >= come, "{sql}");
    }
}

/// Many rows go and come in several entries. In between nobody reads some of them, and the move can only
/// go forward, whoever restarts.
#[test]
fn many_rows_in_chunks() {
    let (mut source, mut target) = pair();
    let all = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
               INSERT INTO auto (k, v) SELECT 1, i FROM n";
    source.run(all);
    source.index();
    let (id, moved) = (MoveId(1), slots(&[slot_of_key(1).0]));
    source.step(&ahead(1, &moved)).unwrap();
    assert_ne!(stage_all(&source, &mut target, 1, &moved, false), Cursor::End);
    // Thrown away in chunks, too.
    assert_eq!(target.step(&MoveStep::Cancel { id }).unwrap(), MoveReply::Cancelling);
    target.check();
    while target.step(&MoveStep::Cancel { id }).unwrap() != MoveReply::Cancelled {}
    source.step(&MoveStep::Cancel { id }).unwrap();

    let id = MoveId(2);
    source.step(&ahead(2, &moved)).unwrap();
    stage_all(&source, &mut target, 2, &moved, false);
    source.run("UPDATE auto SET v = 'late' WHERE v % 5 = 0");
    source.step(&MoveStep::Freeze { id }).unwrap();
    assert_eq!(stage_all(&source, &mut target, 2, &moved, false), Cursor::End);
    let compared = content(&source, id);
    assert_eq!(compared, content(&target, id));
    let every = |shard: &Shard, epoch: u64| {
        let claims = vec![Claim { placement: PLACEMENT, epoch: Epoch(epoch), slots: None }];
        let route = Some(Route { schema: SchemaVersion(9), claims });
        shard.replicas[0]
            .read(&Read { route, ..select("SELECT count(*) FROM auto") })
            .map(|rows| rows.values[0][0].clone())
    };
    assert!(every(&source, 1).is_ok() && every(&target, 1).is_ok());
    let release = MoveStep::Release { id, content: compared };
    let first = source.step(&release).unwrap();
    let MoveReply::Released { rows, done: false, .. } = first else { panic!("{first:?}") };
    assert!(rows > 10_000);
    source.check();
    assert_eq!(source.step(&MoveStep::Cancel { id }).unwrap(), first, "only forward");
    assert_eq!(source.step(&ahead(2, &moved)).unwrap(), first);
    assert_eq!(source.step(&MoveStep::Freeze { id }).unwrap(), first);
    assert_eq!(every(&source, 1).unwrap_err().code, Code::StaleRoute);
    // A follower that is behind has the version that the registry names in the end, and rows that are elsewhere.
    assert_eq!(every(&source, 2).unwrap_err().code, Code::StaleRoute);
    assert_eq!(target.step(&MoveStep::Activate { id, rows }).unwrap(), MoveReply::Activating);
    target.check();
    assert_eq!(every(&target, 1).unwrap_err().code, Code::StaleRoute);
    assert_eq!(code(&target.write(77, Some(Shard::route(1, 1)), "DELETE FROM bare WHERE k = 1")), Code::StaleRoute);
    assert_eq!(target.step(&MoveStep::Cancel { id }).unwrap_err().code, Code::Conflict);
    let schema = target.log.schema(3, &["ALTER TABLE auto RENAME TO otto"]);
    assert!(matches!(target.apply(schema), Outcome::Shard(Err(error)) if error.code == Code::Unavailable));
    let mut chunks = 1;
    while target.step(&MoveStep::Activate { id, rows }).unwrap() == MoveReply::Activating {
        chunks += 1;
    }
    assert!(chunks >= 2);
    while let MoveReply::Released { done: false, .. } = source.step(&release).unwrap() {}
    assert!(every(&source, 2).is_ok());
    source.check();
    target.check();
    let count = |shard: &Shard| shard.value("SELECT count(*), sum(v = 'late') FROM auto WHERE v > 1 OR v = 'late'");
    let Value::Integer(arrived) = count(&target) else { panic!() };
    assert!(arrived >= 9999, "{arrived}");
    assert_eq!(target.value("SELECT count(*) FROM auto WHERE v = 'late' AND k = 1"), Value::Integer(2000));
    assert_eq!(source.value("SELECT count(*) FROM auto WHERE k = 1"), Value::Integer(0));
}

/// A table that is defined anew during the copy: the move cannot go on, and leaves nothing.
#[test]
fn a_table_changes_during_the_copy() {
    for sql in ["ALTER TABLE bare ADD COLUMN w", "ALTER TABLE bare RENAME TO bear", "DROP TABLE pair"] {
        let (mut source, mut target) = pair();
        let moved = slots(&[1, 2, 3]);
        source.index();
        source.step(&ahead(1, &moved)).unwrap();
        stage_all(&source, &mut target, 1, &moved, false);
        let schema = source.log.schema(2, &[sql]);
        assert!(matches!(source.apply(schema), Outcome::Shard(Ok(_))));
        source.check();
        let table = if sql.contains("bear") { "bear" } else { "bare" };
        source.run(&format!("INSERT INTO {table} (k) VALUES (1)"));
        for late in [ahead(1, &moved), MoveStep::Freeze { id: MoveId(1) }] {
            assert_eq!(source.step(&late).unwrap_err().code, Code::Conflict, "{sql}");
        }
        let export = MoveQuery::Export { id: MoveId(1), from: Cursor::Rest { changes: 0, requests: 0 } };
        assert_eq!(source.ask(&export).unwrap_err().code, Code::Conflict, "{sql}");
        for shard in [&mut source, &mut target] {
            assert_eq!(shard.step(&MoveStep::Cancel { id: MoveId(1) }).unwrap(), MoveReply::Cancelled);
        }
        while source.step(&MoveStep::DropIndex { generation: GENERATION }).unwrap() != (MoveReply::Index { done: true })
        {
        }
        source.check();
        assert_eq!(
            source.value("SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_flotilla\\_slots%' ESCAPE '\\'"),
            Value::Integer(0)
        );
    }
}
