//! Answers of SELECTs over several shards, against one SQLite with all rows: forms whose names,
//! parameters, ordinals, aliases or collations are easily misread.

mod random;

use flotilla_shared::registry::Spread;
use flotilla_shared::value::Value;

use super::partitions::Partitions;
use super::*;
use crate::testing::place;

const TABLES: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INT, d);
    CREATE TABLE u(id INTEGER PRIMARY KEY, v, b INT);
    CREATE TABLE n(id INTEGER PRIMARY KEY, a TEXT COLLATE NOCASE, b INT);
    CREATE TABLE h(rowid TEXT, x INT);
    CREATE TABLE r(id INTEGER PRIMARY KEY, name TEXT);
    CREATE INDEX tb ON t(b);
    CREATE VIEW hinted AS SELECT id, b FROM t INDEXED BY tb WHERE b > 0;
    CREATE VIEW unhinted AS SELECT id AS indexed, b FROM t NOT INDEXED;
    CREATE TABLE w(rowid TEXT PRIMARY KEY, x) WITHOUT ROWID;";

fn partitions() -> Partitions {
    let mut registry = registry(3, TABLES, &[("t", &["id"], 1), ("u", &["id"], 1), ("n", &["id"], 1)]);
    place(&mut registry, "r", &[], 2, &Spread::Reference);
    let p = Partitions::new(registry);
    p.insert(
        "t",
        "VALUES (1,'x',5,'2024-03-01 10:15:20'), (2,'X',5,'2024-03-02 10:16:20'), (3,'y',7,'2024-04-01 10:15:21'),
         (4,'x',NULL,'2024-04-02 10:16:21'), (5,'xa',9,'2023-05-02 11:16:21'), (6,'xA',2,'2023-05-02 11:16:21'),
         (7,NULL,9,NULL), (8,'b',1,'{\"a\":1,\"b\":9,\"A\":3}'), (9,'a',8,'{\"a\":2,\"b\":8,\"A\":2}')",
    );
    p.insert("u", "VALUES (1,3,1), (2,1,5), (3,2,5), (4,2,7), (7,9,9), (11,4,2)");
    p.insert("n", "VALUES (1,'x',1), (2,'X',1), (3,'y',2), (4,'Y',3), (5,'z',2)");
    p.insert("h(oid, rowid, x)", "VALUES (10,'r',1), (20,'s',4)");
    p.insert("r", "VALUES (1,'one'), (2,'two'), (5,'five')");
    p.insert("w", "VALUES ('r', 1), ('s', 2)");
    p
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Literals are one expression only as written: letter case, quotes and blobs count.
#[test]
fn literals_that_differ_in_case_only() {
    let p = partitions();
    for sql in [
        "SELECT a='x', a='X', count(*) FROM t GROUP BY a='x', a='X' ORDER BY count(*) DESC, 1, 2",
        "SELECT instr(a,'x')>0 AS lo, instr(a,'X')>0 AS up, count(*) FROM t GROUP BY instr(a,'x')>0, instr(a,'X')>0 ORDER BY lo, up",
        "SELECT strftime('%m',d), strftime('%M',d), count(*) FROM t WHERE id < 8 GROUP BY strftime('%m',d), strftime('%M',d) ORDER BY 1,2",
        "SELECT strftime('%m',d) FROM t ORDER BY strftime('%M',d), id",
        "SELECT id, a='x' FROM t ORDER BY a='X' DESC, id LIMIT 1",
        "SELECT id, replace(a,'a','') FROM t ORDER BY replace(a,'A',''), id",
        "SELECT id, a GLOB 'x*' FROM t ORDER BY a GLOB 'X*' DESC, id LIMIT 2",
        "SELECT json_extract(d,'$.a') v FROM t WHERE id > 7 ORDER BY json_extract(d,'$.A')",
        "SELECT DISTINCT a || 'x' FROM t ORDER BY a || 'x'",
        "SELECT DISTINCT a || 'x', a || 'X' FROM t ORDER BY a || 'X', 1",
        "SELECT hex(a)=x'58' q FROM t ORDER BY hex(a)=X'58', id",
        "SELECT CASE WHEN a='x' THEN 'low' WHEN a='X' THEN 'up' END k, count(*) FROM t GROUP BY CASE WHEN a='x' THEN 'low' WHEN a='X' THEN 'up' END ORDER BY 1",
        "SELECT a || \"zz\", count(*) FROM t GROUP BY a || \"ZZ\" ORDER BY 1",
    ] {
        p.check(sql, &[]);
    }
}

/// Each `?` is a parameter of its own.
#[test]
fn anonymous_parameters() {
    let p = partitions();
    for (sql, args) in [
        (
            "SELECT json_extract(d, ?), id FROM t WHERE id > 7 ORDER BY json_extract(d, ?)",
            vec![text("$.a"), text("$.b")],
        ),
        (
            "SELECT json_extract(d, ?), id FROM t WHERE id > 7 ORDER BY json_extract(d, ?) LIMIT ?",
            vec![text("$.a"), text("$.b"), Value::Integer(1)],
        ),
        ("SELECT b % ?, count(*) FROM t GROUP BY b % ? ORDER BY 1, 2", vec![Value::Integer(2), Value::Integer(2)]),
        ("SELECT a = ?, count(*) FROM t GROUP BY a = ? ORDER BY 2, 1", vec![text("x"), text("x")]),
        ("SELECT a = ?1, count(*) FROM t GROUP BY a = ?1 ORDER BY a = ?1", vec![text("x")]),
        ("SELECT a = ?1, count(*) FROM t GROUP BY a = ?1 ORDER BY a = ?", vec![text("x"), text("x")]),
    ] {
        p.check(sql, &args);
    }
}

/// Terms of ORDER BY: names before numbers before expressions, and a COLLATE where it belongs.
#[test]
fn terms_of_order_by() {
    let p = partitions();
    for sql in [
        "SELECT id FROM t ORDER BY a = 'x' COLLATE NOCASE DESC, id LIMIT 3",
        "SELECT id FROM t ORDER BY b BETWEEN 'a' AND 'X' COLLATE NOCASE, id LIMIT 3",
        "SELECT id, a FROM t ORDER BY (a) COLLATE NOCASE DESC, id LIMIT 4",
        "SELECT id, a FROM t ORDER BY (a COLLATE NOCASE) DESC, id LIMIT 4",
        "SELECT id, a FROM t ORDER BY a COLLATE BINARY COLLATE NOCASE, id LIMIT 4",
        "SELECT *, lower(a) AS a FROM t ORDER BY a, id",
        "SELECT t.*, u.v AS b FROM t JOIN u ON t.id=u.id ORDER BY b, t.id",
        "SELECT t.*, u.v AS b FROM t JOIN u USING (id) ORDER BY b, id LIMIT 3",
        "SELECT *, -id AS id FROM t ORDER BY id LIMIT 2",
        "SELECT -id AS id, * FROM t ORDER BY id LIMIT 2",
        "SELECT DISTINCT *, 1 AS b FROM t ORDER BY b, id LIMIT 2",
        "SELECT id, b FROM t ORDER BY (2) DESC, 1 LIMIT 3",
        "SELECT id, b FROM t ORDER BY +2, 1 LIMIT 3",
        "SELECT id, b FROM t ORDER BY - -2, ((1)) LIMIT 3",
        "SELECT id, b FROM t ORDER BY likely(2), (1) DESC LIMIT 3",
        "SELECT id, b FROM t ORDER BY likely(b), 1 LIMIT 3",
        "SELECT -b AS id, id AS b FROM t ORDER BY (b), id LIMIT 3",
        "SELECT -b AS x, id FROM t ORDER BY -x, id LIMIT 3",
        "SELECT -b AS b, id FROM t ORDER BY -b, id LIMIT 3",
        "SELECT -b AS b, id FROM t ORDER BY 'b', id LIMIT 3",
        "SELECT -b AS rowid, id FROM t ORDER BY rowid, oid LIMIT 3",
        "SELECT -b AS true, id FROM t ORDER BY -true, id LIMIT 3",
        "SELECT id, \"nope\" || 'x' AS y, b AS nope FROM t ORDER BY \"nope\" || 'x', id LIMIT 3",
        "SELECT a, id FROM n ORDER BY a || '', id LIMIT 3",
        "SELECT id FROM n ORDER BY (a) DESC, id LIMIT 3",
    ] {
        p.check(sql, &[]);
    }
}

/// Terms of GROUP BY, and what HAVING and ORDER BY make of groups.
#[test]
fn terms_of_group_by() {
    let p = partitions();
    for sql in [
        "SELECT b+1 AS k, max(b), count(*) FROM t GROUP BY 'k'",
        "SELECT b+1 AS k, count(*) FROM t GROUP BY \"k\" ORDER BY 1",
        "SELECT b+1 AS a, count(*) FROM t GROUP BY a ORDER BY 2, 1",
        "SELECT max(b) AS a, count(*) FROM t GROUP BY a ORDER BY (a), 2",
        "SELECT max(b) AS a, count(*) FROM t GROUP BY t.a ORDER BY (1) DESC, +2",
        "SELECT a, count(*) FROM t GROUP BY a ORDER BY a='x' COLLATE NOCASE DESC, 1",
        "SELECT b AS rowid, count(*) FROM t GROUP BY rowid HAVING rowid > 1 ORDER BY rowid, 2",
        "SELECT b AS rowid, count(*) FROM t GROUP BY b HAVING rowid > 1 ORDER BY 1",
        "SELECT sum(b) AS true, count(*) FROM t GROUP BY a HAVING true > 8 ORDER BY 1, 2",
        "SELECT (b), count(*) FROM t GROUP BY (b) HAVING (b) > 1 ORDER BY ((b))",
        "SELECT count(*) AS b, a FROM t GROUP BY a ORDER BY b DESC, a LIMIT 2",
        "SELECT a, count(*) FROM n GROUP BY (a) ORDER BY count(*), lower(a)",
    ] {
        p.check(sql, &[]);
    }
}

/// An aggregate of outer columns alone belongs to the outer query, and a name inside means what it
/// means to SQLite: aliases of the inner results hide outer columns.
#[test]
fn names_inside_subqueries() {
    let p = partitions();
    for sql in [
        "SELECT (SELECT max(t.b) FROM t x WHERE x.id = t.id) FROM t",
        "SELECT (SELECT sum(t.b) FROM n JOIN t x USING (id) WHERE n.id = t.id OR n.id = 1) FROM t WHERE t.id < 6",
        "SELECT (SELECT count(b) FROM n x WHERE x.id = t.id) FROM t WHERE t.id < 6",
        "SELECT (SELECT count(t.b) FROM r) FROM t",
        "SELECT id, (SELECT max(v) FROM u WHERE u.id = t.id) m FROM t ORDER BY id",
        "SELECT id FROM t WHERE EXISTS (SELECT v AS a FROM u WHERE u.id = a) ORDER BY id",
        "SELECT id FROM t x WHERE EXISTS (SELECT u.b AS key FROM u WHERE u.id = key AND x.id > 0) ORDER BY id",
        "SELECT t.id, u.v FROM t, u WHERE t.id = u.id AND EXISTS (SELECT n.b AS v FROM n WHERE n.id = t.id AND v > 1) ORDER BY 1",
        "WITH t AS (SELECT id, v AS a, b, 0 AS d FROM u) SELECT id, a FROM t ORDER BY a, id LIMIT 3",
        "WITH u AS (SELECT id + 1 AS id, a AS v FROM t) SELECT t.id, u.v FROM t JOIN u ON t.id = u.id ORDER BY 1",
    ] {
        p.check(sql, &[]);
    }
    for (sql, placed) in [
        // `g` inside is the alias, not a column of the table around it.
        ("SELECT g FROM k WHERE EXISTS (SELECT x AS g FROM l WHERE l.i = g)", false),
        ("SELECT g FROM k WHERE EXISTS (SELECT x FROM l WHERE l.i = g)", true),
    ] {
        let ddl = "CREATE TABLE k(g INT NOT NULL); CREATE TABLE l(i INT NOT NULL, x INT)";
        let p = Partitions::new(registry(3, ddl, &[("k", &["g"], 1), ("l", &["i"], 1)]));
        p.insert("k", "VALUES (1), (2), (3), (4), (5)");
        p.insert("l", "VALUES (1, 1), (2, 9), (3, 4), (8, 8)");
        let sql = format!("{sql} ORDER BY 1");
        let plan = p.check(&sql, &[]);
        assert_eq!(matches!(&plan, Plan::Merge(merge) if !merge.pulls_tables()), placed, "{plan}");
    }
}

/// LIMIT and OFFSET take whatever SQLite takes, up to the ends of the range of integers.
#[test]
fn limits_at_the_ends_of_their_range() {
    let p = partitions();
    let values = [
        Value::Integer(0),
        Value::Integer(2),
        Value::Integer(-1),
        Value::Integer(i64::MAX),
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX - 1),
        Value::Real(3.0),
        Value::Real(2.5),
        Value::Real(1e30),
        text("2"),
        text("-3"),
        text(" 3 "),
        text("1e0"),
        text("2x"),
        Value::Null,
        Value::Blob(vec![0x32]),
    ];
    let literal = |value: &Value| match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Real(r) => format!("{r:?}"),
        Value::Text(text) => format!("'{text}'"),
        Value::Blob(_) => "x'32'".to_owned(),
    };
    for limit in &values {
        for offset in &values {
            let args = [limit.clone(), offset.clone()];
            let (l, o) = (literal(limit), literal(offset));
            for (sql, args) in [
                ("SELECT id FROM t ORDER BY id LIMIT ? OFFSET ?".to_owned(), &args[..]),
                ("SELECT DISTINCT b FROM t ORDER BY b LIMIT ?1 OFFSET ?2".to_owned(), &args[..]),
                ("SELECT b, count(*) FROM t GROUP BY b ORDER BY b LIMIT ? OFFSET ?".to_owned(), &args[..]),
                ("SELECT 1 FROM t LIMIT ? OFFSET ?".to_owned(), &args[..]),
                (format!("SELECT id FROM t ORDER BY id LIMIT {l} OFFSET {o}"), &[]),
                (format!("SELECT id FROM t ORDER BY id LIMIT {o}, {l}"), &[]),
            ] {
                match p.wanted(&sql, args) {
                    Ok(wanted) => assert_eq!(p.answer(&sql, args).unwrap().0, wanted, "{sql} {args:?}"),
                    Err(error) => {
                        assert_eq!(p.answer(&sql, args).unwrap_err().message, error.message, "{sql} {args:?}")
                    }
                }
            }
        }
    }
}

/// Hints about indexes in views, and tables with columns called like the rowid.
#[test]
fn hints_and_rowids() {
    let p = partitions();
    for sql in [
        "SELECT * FROM hinted ORDER BY id",
        "SELECT count(*) FROM hinted WHERE b > 4",
        "SELECT indexed FROM unhinted WHERE NOT indexed OR b > 7 ORDER BY 1",
        "SELECT a.id FROM t a NOT INDEXED JOIN t AS z INDEXED BY tb ON a.id = z.b ORDER BY 1",
        "SELECT h.oid, id FROM h, t ORDER BY 1, 2",
        "SELECT h.rowid, h._rowid_, id FROM h, t ORDER BY 1, 3",
        "SELECT w.rowid, id FROM w, t ORDER BY 1, 2",
    ] {
        p.check(sql, &[]);
    }
}
