//! What clients can see of a slot index and of a move under way: nothing.

use super::*;

/// Clients see nothing of the index and of a copy under way: counts, ids and returned rows are those of a shard
/// without them.
#[test]
fn the_index_is_invisible() {
    let (mut with, _) = pair();
    let (mut without, _) = pair();
    with.index();
    let alter = "ALTER TABLE bare RENAME COLUMN";
    let columns = [format!("{alter} v TO w"), format!("{alter} w TO v")];
    let tables = ["ALTER TABLE pair RENAME TO couple", "ALTER TABLE couple RENAME TO pair"];
    let renamed = [&columns[0], &columns[1], tables[0], tables[1]];
    for shard in [&mut with, &mut without] {
        let schema = shard.log.schema(2, &renamed);
        let outcome = shard.apply(schema);
        assert!(matches!(&outcome, Outcome::Shard(Ok(_))), "{outcome:?}");
    }
    // The definitions are others now: there is an index of what they are.
    with.index();
    with.step(&ahead(1, &SlotSet::all(SLOTS))).unwrap();
    for (n, sql) in [
        "INSERT INTO auto (k, v) VALUES (1, 2), (3, 4) RETURNING id, twice",
        "INSERT INTO bare VALUES (5, 6), (7, 6)",
        "UPDATE auto SET k = k + 1 WHERE k < 30 RETURNING k, changes()",
        "DELETE FROM pair WHERE k < 9 RETURNING name",
        "INSERT INTO noted SELECT changes() + last_insert_rowid()",
        "DELETE FROM hidden",
        "SELECT slot FROM _flotilla_slots_7_0",
        "DELETE FROM _flotilla_slots_7_0",
        "WITH _flotilla_slots_7_0 AS (SELECT * FROM _flotilla_state) INSERT INTO noted SELECT 1 FROM _flotilla_slots_7_0",
        "UPDATE bare SET k = k + 1 RETURNING total_changes()",
        "INSERT INTO noted SELECT total_changes() FROM bare",
        "SELECT n FROM noted",
    ]
    .into_iter()
    .enumerate()
    {
        let id = 1 << 100 | n as u128;
        let (seen, wanted) = (with.write(id, None, sql), without.write(id, None, sql));
        let shown = |result: WriteResult| result.map_err(|error| error.code);
        if sql.contains("_flotilla_slots_7_0") {
            assert_eq!(shown(seen), Err(Code::Forbidden), "{sql}");
        } else {
            assert_eq!(shown(seen), shown(wanted), "{sql}");
        }
    }
    let noted = with.replicas[0].handle().lock();
    let changed: i64 = noted.db().query_row("SELECT count(*) FROM _flotilla_changed", [], |row| row.get(0)).unwrap();
    drop(noted);
    assert!(changed > 0);
    with.step(&MoveStep::Cancel { id: MoveId(1) }).unwrap();
    let dropped = |shard: &mut Shard| shard.step(&MoveStep::DropIndex { generation: GENERATION }).unwrap();
    while dropped(&mut with) != (MoveReply::Index { done: true }) {}
    assert_eq!(with.rows(), without.rows());
    let schema = "SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema ORDER BY name)";
    assert_eq!(with.value(schema), without.value(schema), "nothing is left of it");
    let late = with.step(&MoveStep::Index { generation: GENERATION, set: set() });
    assert_eq!(late.unwrap_err().code, Code::Conflict, "a late step does not bring it back");
}
