//! Reads: routes, bounds, and what they see.

use std::time::Instant;

use crate::state::reads::PIECE_BYTES;

use super::*;

/// A statement that never ends.
const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c";

fn filled() -> (Replica, Log) {
    let (replica, mut log) = with_schema(&["CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"]);
    replica.apply(&[log.writes(&["INSERT INTO t (v) VALUES ('a'), ('b'), ('c')"])]);
    (replica, log)
}

/// Rows come with names and declared types, arguments are bound, and a blank text is refused.
#[test]
fn rows() {
    let (replica, _) = filled();
    let statement = Statement {
        sql: "SELECT id, v, id + 1 AS n FROM t WHERE id > ?1 ORDER BY id".into(),
        params: Params::Positional(vec![Value::Integer(1)]),
    };
    let rows = replica.read(&Read { statement, ..select("") }).unwrap();
    assert_eq!(rows.columns, ["id", "v", "n"]);
    assert_eq!(rows.types, ["integer", "text", ""]);
    assert_eq!(rows.values[1], [Value::Integer(3), Value::Text("c".into()), Value::Integer(4)]);
    let empty = replica.read(&select("SELECT v FROM t WHERE 0")).unwrap();
    assert_eq!((empty.columns.len(), empty.types[0].as_str(), empty.values.len()), (1, "text", 0));
    let code = |sql: &str| replica.read(&select(sql)).unwrap_err().code;
    assert_eq!(code("SELECT * FROM t WHERE id = ?"), Code::WrongArgCount);
    assert_eq!(code("SELECT * FROM nope"), Code::NoSuchTable);
    assert_eq!(code("SELECT 1; SELECT 2"), Code::BadRequest);
    assert_eq!([code(""), code("  ;"), code("-- x")], [Code::SqlError; 3]);
}

/// A statement that writes is refused as not a read, whatever it writes.
#[test]
fn writes_are_not_reads() {
    let (replica, _) = filled();
    let writes = [
        "INSERT INTO t (v) VALUES (1)",
        "UPDATE t SET v = 1 RETURNING id",
        "DELETE FROM t",
        "WITH x AS (SELECT 1) INSERT INTO t (v) SELECT * FROM x",
        "CREATE TABLE x (v)",
        "CREATE INDEX x ON t (v)",
        "CREATE VIEW x AS SELECT 1",
        "DROP TABLE t",
        "ALTER TABLE t ADD COLUMN w",
        "REINDEX",
        "VACUUM",
        "VACUUM INTO '/tmp/copy.db'",
    ];
    for sql in writes {
        let error = replica.read(&select(sql)).expect_err(sql);
        assert_eq!(error.code, Code::NotARead, "{sql}: {error}");
    }
    assert_eq!(replica.count("t"), Value::Integer(3));
}

/// The route is checked in the transaction that reads, against what this replica has applied.
#[test]
fn routes() {
    let (replica, mut log) = filled();
    let all = || SlotSet::all(16);
    let placement = PlacementId(1);
    let claim = |epoch, slots| Claim { placement, epoch: Epoch(epoch), slots };
    let read = |schema, claims: Vec<Claim>| {
        let route = Some(Route { schema: SchemaVersion(schema), claims });
        replica.read(&Read { route, ..select("SELECT count(*) FROM t") }).map(|rows| rows.values[0][0].clone())
    };
    let stale = |result: Result<Value, Error>| assert_eq!(result.unwrap_err().code, Code::StaleRoute);
    assert_eq!(read(1, vec![]), Ok(Value::Integer(3)));
    stale(read(0, vec![]));
    stale(read(1, vec![claim(0, Some(all()))]));
    replica.apply(&[log.entry(Body::Shard(ShardCommand::Own { placement, epoch: Epoch(4), slots: all() }))]);
    assert!(read(1, vec![claim(4, None)]).is_ok() && read(1, vec![claim(3, Some(all()))]).is_ok());
    stale(read(1, vec![claim(3, None)]));
    stale(read(1, vec![claim(4, Some(SlotSet::all(17)))]));
    stale(read(1, vec![claim(4, None), Claim { placement: PlacementId(2), ..claim(4, None) }]));
    replica.apply(&[log.schema(2, &["CREATE TABLE other (v)"])]);
    stale(read(1, vec![]));
    assert_eq!(read(2, vec![]), Ok(Value::Integer(3)));
}

/// A read that goes on past its deadline is stopped, and its connection serves the next one.
#[test]
fn deadlines() {
    let (replica, _) = filled();
    let readers = replica.handle().store().readers();
    for _ in 0..3 {
        let start = Instant::now();
        let error = readers.read(&select(ENDLESS), Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.code, Code::Timeout);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(readers.read(&select("SELECT 1"), Duration::MAX).unwrap().values[0][0], Value::Integer(1));
    }
}

/// Results over the bounds on rows and bytes are refused, and end early.
#[test]
fn too_large() {
    let (replica, _) = filled();
    let rows = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c";
    let bytes = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT zeroblob(10000000) FROM c";
    let value = "SELECT zeroblob(20000000)";
    for sql in [rows, bytes, value] {
        let error = replica.handle().store().readers().read(&select(sql), Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.code, Code::TooLarge, "{sql}: {error}");
    }
}

/// A read sees one moment although writes go on: here one write happens between two of its rows.
#[test]
fn stable_snapshot() {
    let (replica, mut log) = filled();
    let entry = log.writes(&["INSERT INTO t (v) VALUES ('d')", "UPDATE t SET v = 'x'", "DELETE FROM t WHERE id = 2"]);
    let seen = replica
        .handle()
        .store()
        .readers()
        .inspect(|db| {
            db.execute_batch("BEGIN")?;
            let mut query = db.prepare("SELECT v FROM t ORDER BY id")?;
            let mut rows = query.query([])?;
            let mut seen: Vec<String> = vec![rows.next()?.unwrap().get(0)?];
            assert!(replica.apply(std::slice::from_ref(&entry)).iter().all(|outcome| *outcome != Outcome::Empty));
            while let Some(row) = rows.next()? {
                seen.push(row.get(0)?);
            }
            drop(rows);
            drop(query);
            db.execute_batch("ROLLBACK")?;
            Ok(seen)
        })
        .unwrap();
    assert_eq!(seen, ["a", "b", "c"]);
    assert_eq!(replica.count("t"), Value::Integer(3));
    assert_eq!(replica.query("SELECT DISTINCT v FROM t").len(), 1);
}

/// Reads from several threads while entries are applied: sums that every entry keeps are never seen
/// broken.
#[test]
fn reads_beside_writes() {
    let (replica, mut log) = with_schema(&["CREATE TABLE account (id INTEGER PRIMARY KEY, cents)"]);
    replica.apply(&[log.writes(&["INSERT INTO account (cents) VALUES (500), (500)"])]);
    let store = Arc::clone(replica.handle().store());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let read = select("SELECT sum(cents), count(*) FROM account");
                    let rows = store.readers().read(&read, Duration::from_secs(5)).unwrap();
                    assert_eq!(rows.values[0], [Value::Integer(1000), Value::Integer(2)]);
                }
            });
        }
        for _ in 0..300 {
            let transfer = log.write_of(vec![
                Statement::bare("UPDATE account SET cents = cents - 7 WHERE id = 1"),
                Statement::bare("UPDATE account SET cents = cents + 7 WHERE id = 2"),
            ]);
            assert!(only(&replica.apply(&[log.entry(Body::Writes(vec![transfer]))])).is_ok());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// A cached SELECT * tells the columns that the table has now.
#[test]
fn columns_after_a_schema_change() {
    let (replica, mut log) = filled();
    let all = || replica.read(&select("SELECT * FROM t WHERE id = 1")).unwrap();
    assert_eq!(all().columns, ["id", "v"]);
    replica.apply(&[log.schema(2, &["ALTER TABLE t ADD COLUMN w DEFAULT 4"])]);
    assert_eq!((all().columns, all().values[0].len()), (vec!["id".into(), "v".into(), "w".into()], 3));
    replica.apply(&[log.schema(3, &["ALTER TABLE t DROP COLUMN v"])]);
    assert_eq!((all().columns, all().values[0].len()), (vec!["id".into(), "w".into()], 2));
}

/// Pieces hold all rows in order, each of bounded size, all of the moment in which the read began; who
/// says no gets no more of them.
#[test]
fn pieces() {
    let (replica, mut log) = filled();
    let readers = replica.handle().store().readers();
    let read = select(
        "SELECT id, (SELECT hex(zeroblob(100000))) AS wide FROM t, (VALUES (1), (2), (3), (4), (5)) ORDER BY id",
    );
    let mut sizes = Vec::new();
    let mut ids = Vec::new();
    let mut give = |values: Vec<Vec<Value>>, more: bool| {
        if sizes.is_empty() {
            replica.apply(&[log.writes(&["DELETE FROM t"])]);
        }
        let bytes: usize = values.iter().flatten().map(Value::size_bytes).sum();
        assert!(bytes <= PIECE_BYTES, "{bytes}");
        sizes.push((values.len(), more));
        ids.extend(values.into_iter().map(|row| row[0].clone()));
        true
    };
    readers.read_in_pieces(&read, None, Duration::from_secs(60), &mut give).unwrap();
    assert_eq!(sizes, [[(2, true); 7].as_slice(), &[(1, false)]].concat());
    assert_eq!(ids, [1, 2, 3].map(|id| vec![Value::Integer(id); 5]).concat());
    assert_eq!(replica.count("t"), Value::Integer(0));

    let mut seen = Vec::new();
    let mut give = |values: Vec<Vec<Value>>, more: bool| {
        seen.push((values.len(), more));
        false
    };
    readers.read_in_pieces(&select("SELECT id FROM t"), None, Duration::from_secs(60), &mut give).unwrap();
    let endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT hex(zeroblob(x)) FROM c";
    readers.read_in_pieces(&select(endless), None, Duration::from_secs(60), &mut give).unwrap();
    assert_eq!((seen.len(), seen[0], seen[1].1), (2, (0, false), true));
    let error = readers.read_in_pieces(&select(ENDLESS), None, Duration::from_millis(100), |_, _| true).unwrap_err();
    assert_eq!(error.code, Code::Timeout);
}

/// Reads in one go are of one moment: a write between two of them is seen by neither, and one that fails or is
/// stopped leaves the others alone. The next go sees the write.
#[test]
fn one_moment() {
    let (replica, mut log) = filled();
    let entry = log.writes(&["INSERT INTO t (v) VALUES ('d')"]);
    let stale = Some(Route { schema: SchemaVersion(0), claims: vec![] });
    let count = || select("SELECT count(*) FROM t");
    let all = |first: &mut dyn FnMut()| {
        let reads = vec![count(), select("SELEC"), select(ENDLESS), Read { route: stale.clone(), ..count() }, count()];
        let mut seen = Vec::new();
        let readers = replica.handle().store().readers();
        readers.read_each(
            reads,
            |read| (read, None),
            Duration::from_millis(50),
            |_, rows| {
                if seen.is_empty() {
                    first();
                }
                seen.push(rows.map(|rows| rows.values[0][0].clone()).map_err(|error| error.code));
            },
        );
        seen
    };
    let expected = |rows| {
        let rows = Ok(Value::Integer(rows));
        [rows.clone(), Err(Code::SqlError), Err(Code::Timeout), Err(Code::StaleRoute), rows]
    };
    let mut write = || assert_eq!(replica.apply(std::slice::from_ref(&entry)).len(), 1);
    assert_eq!(all(&mut write), expected(3));
    assert_eq!(all(&mut || ()), expected(4));
}

/// A read that brings its time sees no other clock: by all names, through views, and where a row's own value
/// says 'now'. The next read sees the machine's clock again.
#[test]
fn the_time_of_a_read() {
    let (replica, mut log) = with_schema(&[
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
        "CREATE VIEW clock AS SELECT CURRENT_TIMESTAMP AS at",
    ]);
    replica.apply(&[log.writes(&["INSERT INTO t (v) VALUES ('now')"])]);
    let readers = replica.handle().store().readers();
    let read = select(
        "SELECT datetime('now'), CURRENT_TIMESTAMP, unixepoch('now', 'subsec'), (SELECT at FROM clock), datetime(v),
         strftime('%f') FROM t",
    );
    let at_us = 1_234_567_890_123_000;
    let moment = Value::Text("2009-02-13 23:31:30".into());
    let wanted = [vec![
        moment.clone(),
        moment.clone(),
        Value::Real(1_234_567_890.123),
        moment.clone(),
        moment,
        Value::Text("30.123".into()),
    ]];
    let limit = Duration::from_secs(5);
    assert_eq!(readers.read_at(&read, Some(at_us), limit).unwrap().values, wanted);
    assert_ne!(readers.read_at(&read, None, limit).unwrap().values, wanted);
    let mut seen = vec![];
    readers.read_each(
        [None, Some(at_us), None].map(|at_us| (&read, at_us)).to_vec(),
        |(read, at_us)| (read, *at_us),
        limit,
        |_, rows| seen.push(rows.unwrap().values == wanted),
    );
    assert_eq!(seen, [false, true, false]);
    let mut pieces = vec![];
    let give = |values: Vec<Vec<Value>>, _| {
        pieces.extend(values);
        true
    };
    readers.read_in_pieces(&read, Some(at_us), limit, give).unwrap();
    assert_eq!(pieces, wanted);
}
