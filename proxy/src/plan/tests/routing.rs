//! Statements and the keys to which they restrict each of their tables.
//!
//! A case is a statement and, for each source that is a sharded table, `name=` followed by `all`,
//! `none`, or the keys: separated by `|`, the columns of one by `,`.

use flotilla_shared::slot::slot_of;

use super::*;
use crate::plan::route::{Keys, slots};

const DDL: &str = "
    CREATE TABLE u (id INTEGER PRIMARY KEY, name TEXT, n INT);
    CREATE TABLE o (k INT, uid INTEGER, v, t TEXT);
    CREATE TABLE i (k INT, line INT, v);
    CREATE TABLE t (k TEXT, v TEXT, c TEXT COLLATE NOCASE);
    CREATE TABLE nc (k TEXT COLLATE NOCASE, v);
    CREATE TABLE b (k, v);
    CREATE TABLE r (k REAL, v);
    CREATE TABLE p (a INT, b TEXT, v);
    CREATE TABLE home (k INT, uid INTEGER, x);
    CREATE VIEW w AS SELECT k AS vk FROM o;";

fn bench() -> Bench {
    let sharded: [(&str, &[&str], u32); 8] = [
        ("u", &["id"], 1),
        ("o", &["k"], 2),
        ("i", &["k"], 2),
        ("t", &["k"], 3),
        ("nc", &["k"], 4),
        ("b", &["k"], 5),
        ("r", &["k"], 6),
        ("p", &["a", "b"], 7),
    ];
    let registry = registry(3, DDL, &sharded);
    Bench { mirror: Mirror::build(Arc::clone(&registry)).unwrap(), registry }
}

fn value(text: &str) -> Value {
    match text {
        "NULL" => Value::Null,
        text => text.parse().map_or_else(|_| Value::Text(text.trim_matches('\'').into()), Value::Integer),
    }
}

/// Checks the sources that `wanted` names; the others must be free.
fn check(bench: &Bench, sql: &str, params: &Params, wanted: &str) {
    let (prepared, _) = bench.mirror.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    prepared.check_args(params).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let Some(predicates) = prepared.analysis.predicates(sql, &bench.registry) else {
        return assert_eq!(wanted, "", "{sql}: not understood");
    };
    let mut named = 0;
    for (index, source) in predicates.sources.iter().enumerate() {
        let Some(table) = source.table.as_deref().and_then(|name| bench.registry.table(name)) else { continue };
        let placement = &bench.registry.placements[&table.placement];
        if table.key.is_empty() {
            continue;
        }
        let got = slots(index, predicates, table, placement, &prepared, params);
        let known_as = source.known_as.as_deref().unwrap_or_default();
        let spec = wanted.split(' ').find_map(|part| part.strip_prefix(known_as)?.strip_prefix('='));
        named += usize::from(spec.is_some());
        let keys = match spec {
            None | Some("all") => Keys::All,
            Some("none") => Keys::None,
            Some(list) => {
                let key = |key: &str| key.split(',').map(value).collect::<Vec<_>>();
                let slot = |list: &str| slot_of(&placement.key, &key(list), placement.slots);
                let mut slots: Vec<_> = list.split('|').map(slot).collect();
                slots.sort_unstable();
                slots.dedup();
                Keys::Some(slots)
            }
        };
        assert_eq!(got, keys, "{sql}\nsource {known_as}, wanted {wanted}");
    }
    let parts = wanted.split(' ').filter(|part| !part.is_empty()).count();
    assert_eq!(named, parts, "{sql}: a source of {wanted} is not there");
}

fn check_all(cases: &[(&str, &str)]) {
    let bench = bench();
    for (sql, wanted) in cases {
        check(&bench, sql, &Params::default(), wanted);
    }
}

/// Comparisons with one column, in all forms.
#[test]
fn comparisons() {
    check_all(&[
        ("SELECT * FROM u WHERE id = 5", "u=5"),
        ("SELECT * FROM u WHERE 5 = id", "u=5"),
        ("SELECT * FROM u WHERE ((u.id)) == ((5))", "u=5"),
        ("SELECT * FROM main.u WHERE main.u.id = 5", "u=5"),
        ("SELECT * FROM u WHERE id = -5", "u=-5"),
        ("SELECT * FROM u WHERE rowid = 5 AND name = 'x'", "u=5"),
        ("SELECT * FROM u x WHERE x._rowid_ = 5", "x=5"),
        ("SELECT * FROM u WHERE id IS 5", "u=5"),
        ("SELECT * FROM u WHERE id IS NOT DISTINCT FROM 5", "u=5"),
        ("SELECT * FROM u WHERE id IS NOT 5", "u=all"),
        ("SELECT * FROM u WHERE id IS DISTINCT FROM 5", "u=all"),
        ("SELECT * FROM o WHERE k IS NULL", "o=NULL"),
        ("SELECT * FROM o WHERE k ISNULL", "o=NULL"),
        ("SELECT * FROM o WHERE k IS NOT NULL AND k NOTNULL AND k NOT NULL", "o=all"),
        ("SELECT * FROM u WHERE id IN (1, 2, NULL, '2')", "u=1|2"),
        ("SELECT * FROM u WHERE id NOT IN (1, 2)", "u=all"),
        ("SELECT * FROM u WHERE (id = 1 OR id IN (2, 3)) OR 4 = id", "u=1|2|3|4"),
        ("SELECT * FROM u WHERE id = 1 OR name = 'x'", "u=all"),
        ("SELECT * FROM u WHERE id = 1 OR name = lower(name)", "u=all"),
        ("SELECT * FROM u WHERE id = 1 OR (id = 2 AND lower(name) = 'x')", "u=1|2"),
        ("SELECT * FROM u WHERE NOT id = 1", "u=all"),
        ("SELECT * FROM u WHERE NOT (id = 1 OR id = 2)", "u=all"),
        ("SELECT * FROM u WHERE +id = 1", "u=all"),
        ("SELECT * FROM u WHERE id + 0 = 1", "u=all"),
        ("SELECT * FROM u WHERE CAST(id AS INT) = 1", "u=all"),
        ("SELECT * FROM u WHERE id = n", "u=all"),
        ("SELECT * FROM u WHERE id = \"5\"", "u=all"),
        ("SELECT * FROM u WHERE id = TRUE", "u=all"),
        ("SELECT * FROM u WHERE id IS TRUE", "u=all"),
        ("SELECT id AS five FROM u WHERE five = 5", "u=all"),
        ("SELECT * FROM u WHERE id BETWEEN 3 AND 5", "u=3|4|5"),
        ("SELECT * FROM u WHERE id > 2 AND id <= 4 AND n > 9", "u=2|3|4"),
        ("SELECT * FROM u WHERE id IN (1, 5, 9) AND id > 4 AND 9 > id", "u=5"),
        ("SELECT * FROM u WHERE id BETWEEN 1 AND 1000", "u=all"),
        ("SELECT * FROM u WHERE id > 5", "u=all"),
        ("SELECT * FROM o WHERE k BETWEEN 3 AND 5", "o=all"),
        ("UPDATE u SET name = 'x' WHERE id = 5 RETURNING id", "u=5"),
        ("UPDATE OR IGNORE u AS x SET n = n IS DISTINCT FROM 4 WHERE x.id = 5", "x=5"),
        ("DELETE FROM u WHERE id IN (5, 6) RETURNING id IS DISTINCT FROM 5", "u=5|6"),
        ("DELETE FROM u AS x NOT INDEXED WHERE x.id = 5;", "x=5"),
        ("SELECT * FROM u WHERE id = 5 GROUP BY name HAVING count(*) > 1 ORDER BY 1 LIMIT 1", "u=5"),
        ("SELECT n IS DISTINCT FROM 1 FROM u WHERE id = 5 WINDOW q AS (ORDER BY id)", "u=5"),
        ("SELECT * FROM u WHERE id = 5 UNION SELECT * FROM u", ""),
    ]);
}

/// Operators group as in SQLite, so that only what really is a conjunct restricts.
#[test]
fn precedence() {
    check_all(&[
        ("SELECT * FROM u WHERE id = 1 = 1", "u=all"),
        ("SELECT * FROM u WHERE 1 = id = 1", "u=all"),
        ("SELECT * FROM u WHERE 3 = id IN (1)", "u=all"),
        ("SELECT * FROM u WHERE id IN (1) = 0", "u=all"),
        ("SELECT * FROM u WHERE id = 1 IS NULL", "u=all"),
        ("SELECT * FROM u WHERE id = 5 ISNULL", "u=all"),
        ("SELECT * FROM u WHERE id = 1 < 2", "u=1"),
        ("SELECT * FROM u WHERE id = 1 | 2 << 1", "u=6"),
        ("SELECT * FROM u WHERE id = 1 || 2 AND n", "u=12"),
        ("SELECT * FROM u WHERE id = 1 + 2 * 3 - -1", "u=8"),
        ("SELECT * FROM u WHERE id BETWEEN 1 AND 2 AND n = 1", "u=1|2"),
        ("SELECT * FROM u WHERE id BETWEEN 1 AND 2 = 0", "u=all"),
        ("SELECT * FROM u WHERE id NOT BETWEEN 1 AND 2", "u=all"),
        ("SELECT * FROM u WHERE id NOT BETWEEN 1 AND 2 AND id = 5", "u=5"),
        ("SELECT * FROM u WHERE n BETWEEN 1 = 1 AND 3 AND id = 5", ""),
        ("SELECT * FROM u WHERE NOT n = 1 AND id = 5", "u=5"),
        ("SELECT * FROM u WHERE NOT n IN (1) AND id = 5 OR 0", "u=5"),
        ("SELECT * FROM u WHERE id = NOT 0", "u=1"),
        ("SELECT * FROM u WHERE id = NOT n AND id = 7", "u=7"),
        ("SELECT * FROM u WHERE id = 1 OR id = 2 AND id = 3", "u=1"),
        ("SELECT * FROM u WHERE (id = 1 OR id = 2) AND id = 2", "u=2"),
        ("SELECT * FROM u WHERE name LIKE 'a%' ESCAPE '!' AND id = 1", "u=1"),
        ("SELECT * FROM u WHERE name LIKE id = 5", "u=all"),
        ("SELECT * FROM u WHERE CASE WHEN id = 1 THEN 1 ELSE 1 END", "u=all"),
        ("SELECT * FROM u WHERE id = CASE WHEN 1 THEN 4 END", "u=4"),
        ("SELECT * FROM t WHERE k = 'a' COLLATE NOCASE", "t=all"),
        ("SELECT * FROM t WHERE k COLLATE NOCASE = 'a'", "t=all"),
        ("SELECT * FROM t WHERE k IN ('a' COLLATE NOCASE)", "t=all"),
        ("SELECT * FROM t WHERE k = ('a' COLLATE NOCASE) || 'b'", "t=all"),
        ("SELECT * FROM t WHERE k = 'a' AND v COLLATE NOCASE = 'b'", "t='a'"),
        ("SELECT * FROM nc WHERE k = 'ABC'", "nc='abc'"),
    ]);
}

/// Constants are what SQLite computes, as the column would compare them; what differs elsewhere or
/// fails is none.
#[test]
fn constants() {
    check_all(&[
        ("SELECT * FROM u WHERE id = 4 + 1", "u=5"),
        ("SELECT * FROM u WHERE id = abs(-5)", "u=5"),
        ("SELECT * FROM u WHERE id = CAST('5' AS INTEGER)", "u=5"),
        ("SELECT * FROM u WHERE id = CAST('5' AS TEXT)", "u=5"),
        ("SELECT * FROM u WHERE id IN (2 + 3, length('abc'), max(1, 7))", "u=5|3|7"),
        ("SELECT * FROM t WHERE k = 'a' || 'b'", "t='ab'"),
        ("SELECT * FROM t WHERE k = 5", "t='5'"),
        ("SELECT * FROM t WHERE k = CAST(5 AS VARCHAR(3))", "t='5'"),
        ("SELECT * FROM t WHERE k = CAST('5' AS INTEGER)", "t=all"),
        ("SELECT * FROM t WHERE k = +CAST('5' AS INTEGER)", "t='5'"),
        ("SELECT * FROM b WHERE k = CAST('5' AS INTEGER)", "b=all"),
        ("SELECT * FROM b WHERE k = CAST(5 AS TEXT)", "b='5'"),
        ("SELECT * FROM b WHERE k = '5'", "b='5'"),
        ("SELECT * FROM u WHERE id = coalesce(NULL, 5) AND n = random()", "u=5"),
        ("SELECT * FROM u WHERE id = abs(random())", "u=all"),
        ("SELECT * FROM u WHERE id = strftime('%s', 'now')", "u=all"),
        ("SELECT * FROM u WHERE id = last_insert_rowid() OR id = changes()", "u=all"),
        ("SELECT * FROM u WHERE id = (SELECT 5)", "u=all"),
        ("SELECT * FROM u WHERE id = abs((SELECT 5))", "u=all"),
        ("SELECT * FROM t WHERE k = CURRENT_DATE", "t=all"),
        ("SELECT * FROM u WHERE id = abs(-9223372036854775807 - 1)", "u=all"),
        ("SELECT * FROM t WHERE k = CAST(x'ff' AS TEXT)", "t=all"),
        ("SELECT * FROM u WHERE id = 1 AND 'a' = 'b'", "u=none"),
        ("SELECT * FROM u WHERE 0", "u=none"),
        ("SELECT * FROM u WHERE 1 = 1", "u=all"),
        ("SELECT * FROM u WHERE NULL OR id = 3", "u=3"),
        ("SELECT * FROM u WHERE 1 OR id = 3", "u=all"),
    ]);
}

/// Conditions that no row can meet leave no slot.
#[test]
fn contradictions() {
    check_all(&[
        ("SELECT * FROM u WHERE id = 1 AND id = 2", "u=none"),
        ("SELECT * FROM u WHERE id = 1 AND id = '1.0'", "u=1"),
        ("SELECT * FROM u WHERE id IN ()", "u=none"),
        ("SELECT * FROM u WHERE id = NULL", "u=none"),
        ("SELECT * FROM u WHERE id IN (NULL)", "u=none"),
        ("SELECT * FROM u WHERE id < NULL", "u=none"),
        ("SELECT * FROM u WHERE id > 5 AND id < 5", "u=none"),
        ("SELECT * FROM u WHERE id >= 5 AND id <= 5", "u=5"),
        ("SELECT * FROM u WHERE id BETWEEN 5 AND 4", "u=none"),
        ("SELECT * FROM u WHERE name = 'a' AND name > 'b'", "u=none"),
        ("SELECT * FROM u WHERE n IN (1, 2) AND n IN (3, 4)", "u=none"),
        ("SELECT * FROM u WHERE id = 3 OR (n = 1 AND n = 2)", "u=3"),
        ("SELECT * FROM nc WHERE k = 'a' AND k = 'A'", "nc='a'"),
        ("SELECT * FROM t WHERE k = 'a' AND k = 'A'", "t=none"),
        ("SELECT * FROM t WHERE c = 'a' AND c = 'A'", "t=all"),
        ("SELECT * FROM r WHERE k > 9007199254740993 AND k < 9007199254740992.5", "r=none"),
        ("DELETE FROM u WHERE id = 1 AND id = 2", "u=none"),
        ("SELECT * FROM o, i WHERE o.v = 1 AND o.v = 2", "o=none i=none"),
    ]);
}

/// Composite keys, by columns, row values, VALUES and alternatives.
#[test]
fn composite_keys() {
    check_all(&[
        ("SELECT * FROM p WHERE a = 1 AND b = 'x'", "p=1,'x'"),
        ("SELECT * FROM p WHERE a = 1", "p=all"),
        ("SELECT * FROM p WHERE a IN (1, 2) AND b IN ('x', 'y')", "p=1,'x'|1,'y'|2,'x'|2,'y'"),
        ("SELECT * FROM p WHERE (a, b) = (1, 'x')", "p=1,'x'"),
        ("SELECT * FROM p WHERE (1, 'x') = (a, b)", "p=1,'x'"),
        ("SELECT * FROM p WHERE (b, v, a) IS ('x', 7, 1)", "p=1,'x'"),
        ("SELECT * FROM p WHERE (a, b) IN (VALUES (1, 'x'), (2, 'y'))", "p=1,'x'|2,'y'"),
        ("SELECT * FROM p WHERE (a, b) IN (VALUES (1, 'x'), (2, NULL))", "p=1,'x'"),
        ("SELECT * FROM p WHERE (a, b) IN (VALUES (1, 'x') UNION SELECT 2, 'y')", "p=all"),
        ("SELECT * FROM p WHERE (a, b) IN (SELECT 1, 'x')", "p=all"),
        ("SELECT * FROM p WHERE (a, b) IN (VALUES (1, CAST(2 AS INT)))", "p=all"),
        ("SELECT * FROM p WHERE (a = 1 AND b = 'x') OR (b = 'y' AND a = 2)", "p=1,'x'|2,'y'"),
        ("SELECT * FROM p WHERE a = 1 AND (b = 'x' OR b = 'y' AND v = 3)", "p=1,'x'|1,'y'"),
        ("SELECT * FROM p WHERE (a = 1 OR a = 2 AND v) AND (b = 'x' AND v OR b = 'y')", "p=1,'x'|1,'y'|2,'x'|2,'y'"),
        ("SELECT * FROM p WHERE (a = 1 AND b = 'x') OR b = 'y'", "p=all"),
        ("SELECT * FROM p WHERE a IS NULL AND b = 'x'", "p=NULL,'x'"),
        ("SELECT * FROM p WHERE (a, b) < (1, 'x') AND a > 1", "p=none"),
        ("SELECT * FROM u WHERE id IN (VALUES (1), (1 + 1))", "u=1|2"),
    ]);
}

/// Equal columns share what is known of either, through every kind of join that allows it.
#[test]
fn joins() {
    check_all(&[
        ("SELECT * FROM o JOIN i ON o.k = i.k WHERE o.k = 5", "o=5 i=5"),
        ("SELECT * FROM o JOIN i ON o.k = i.k AND i.k IN (5, 6)", "o=5|6 i=5|6"),
        ("SELECT * FROM o, i WHERE o.k = i.k AND i.k = 5", "o=5 i=5"),
        ("SELECT * FROM o a CROSS JOIN o b INNER JOIN i c USING (k) WHERE a.k = b.k AND b.k = 5", "a=5 b=5 c=5"),
        ("SELECT * FROM o JOIN i USING (k) WHERE k = 5", "o=5 i=5"),
        ("SELECT * FROM o NATURAL JOIN i WHERE i.k = 5", "o=5 i=5"),
        ("SELECT * FROM o, i WHERE o.k = 5", "o=5 i=all"),
        ("SELECT * FROM o, i WHERE line = 3 AND o.k = line AND i.k = line", "o=3 i=3"),
        ("SELECT * FROM o, home h, i WHERE o.k = h.k AND h.k = i.k AND i.k = 5", "o=5 i=5"),
        ("SELECT * FROM o JOIN i ON (o.k, 1) = (i.k, 1) AND o.k = 5", "o=5 i=5"),
        ("SELECT * FROM o JOIN i ON o.k IS i.k WHERE o.k = 5", "o=5 i=all"),
        ("SELECT * FROM o JOIN i ON o.k = +i.k WHERE o.k = 5", "o=5 i=all"),
        ("SELECT * FROM o JOIN u ON o.k = u.id WHERE o.k = 5", "o=5 u=5"),
        ("SELECT * FROM o JOIN r ON o.k = r.k WHERE o.k = 5", "o=5 r=all"),
        ("SELECT * FROM o JOIN u ON uid = u.id WHERE uid = 5", "o=all u=5"),
        ("SELECT * FROM t JOIN nc ON t.k = nc.k WHERE t.k = 'a'", "t='a' nc=all"),
        ("SELECT * FROM t JOIN o ON t.k = o.k WHERE t.k = '5'", "t='5' o=all"),
        ("SELECT * FROM t JOIN nc ON t.c = nc.k WHERE t.c = 'A'", "t=all nc='a'"),
        ("SELECT * FROM (SELECT * FROM i) s JOIN o ON o.k = s.k WHERE o.k = 5", "o=5"),
        ("SELECT * FROM (SELECT line FROM i) s JOIN o ON o.k = line WHERE k = 5", "o=5"),
        ("SELECT * FROM (SELECT * FROM i) s JOIN o USING (k) WHERE k = 5", "o=all"),
        ("SELECT * FROM w JOIN o ON w.vk = o.k WHERE k = 5", "o=5"),
        ("SELECT * FROM json_each('[1]') j JOIN o ON o.k = j.value WHERE o.k = 5", "o=5"),
        ("WITH o AS (SELECT 5 AS k) SELECT * FROM o WHERE k = 5", ""),
        ("WITH x AS (SELECT 5 AS k) SELECT * FROM o, x WHERE o.k = x.k AND o.k = 5", "o=5"),
        ("SELECT * FROM (o JOIN i USING (k)) WHERE k = 5", ""),
        ("SELECT * FROM o a, o b WHERE a.k = 1 AND b.k = 2", "a=1 b=2"),
        ("SELECT * FROM o WHERE k = 5 AND v IN (SELECT v FROM i)", "o=5"),
        ("SELECT (SELECT max(v) FROM i WHERE i.k = 9) FROM o WHERE o.k = 5", "o=5"),
        ("UPDATE o SET v = h.x FROM home h WHERE o.k = h.k AND h.k = 5", "o=5"),
        ("UPDATE o SET v = 1 FROM home h JOIN i ON h.k = i.k WHERE o.k = 5", ""),
    ]);
}

/// On the right of a LEFT JOIN only what surely decides; its left side is never restricted by it.
#[test]
fn outer_joins() {
    check_all(&[
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k WHERE o.k = 5", "o=5 i=5"),
        ("SELECT * FROM o LEFT JOIN i USING (k) WHERE k = 5", "o=5 i=5"),
        ("SELECT * FROM o NATURAL LEFT OUTER JOIN i WHERE o.k = 5", "o=5 i=5"),
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k AND i.k = 5", "o=all i=5"),
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k AND o.k = 5", "o=all i=5"),
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k WHERE i.k IS NULL", "o=all i=all"),
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k WHERE i.k IS NULL AND o.k = 5", "o=5 i=5"),
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k WHERE i.k IS 5", "o=all i=all"),
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k WHERE i.k = 5 OR o.v = 1", "o=all i=all"),
        ("SELECT * FROM o LEFT JOIN i ON 0 WHERE o.k = 5", "o=5 i=none"),
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k AND i.k = 1 AND i.k = 2", "o=all i=none"),
        // The row with NULLs does not pass WHERE, so this is an inner join.
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k WHERE i.line = 3 AND i.k = 5", "o=5 i=5"),
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k JOIN i j ON j.k = i.k WHERE o.k = 5", "o=5 i=5 j=5"),
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k LEFT JOIN i j ON i.k = j.k WHERE o.k = 5", "o=5 i=5 j=5"),
        ("SELECT * FROM o LEFT JOIN i ON o.k = i.k LEFT JOIN i j ON i.k IS 5 AND j.k = 5", "o=all i=all j=5"),
        ("SELECT * FROM o RIGHT JOIN i ON o.k = i.k WHERE o.k = 5 AND i.k = 5", ""),
        ("SELECT * FROM o FULL JOIN i ON o.k = i.k WHERE o.k = 5", ""),
    ]);
}

/// Arguments by number and by name, and in expressions.
#[test]
fn arguments() {
    let bench = bench();
    let named = |list: &[(&str, Value)]| {
        Params::Named(list.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    };
    for (sql, params, wanted) in [
        ("SELECT * FROM u WHERE id = ?", Params::Positional(vec![int(5)]), "u=5"),
        ("SELECT * FROM u WHERE id = ?", Params::Positional(vec![text(" 5 ")]), "u=5"),
        ("SELECT * FROM u WHERE id = ?", Params::Positional(vec![Value::Null]), "u=none"),
        ("SELECT * FROM o WHERE k IS ?", Params::Positional(vec![Value::Null]), "o=NULL"),
        ("SELECT * FROM u WHERE n = ?2 AND id IN (?1, ?2)", Params::Positional(vec![int(5), int(6)]), "u=5|6"),
        ("SELECT * FROM u WHERE id = :id AND n = $n", named(&[("n", int(1)), (":id", int(5))]), "u=5"),
        ("SELECT * FROM u WHERE id = ?2 + ?1 * ?2", Params::Positional(vec![int(2), int(3)]), "u=9"),
        ("SELECT * FROM t WHERE k = lower(:a || @b)", named(&[("a", text("X")), ("b", text("Y"))]), "t='xy'"),
        ("SELECT * FROM u WHERE id = abs(?)", Params::Positional(vec![int(i64::MIN)]), "u=all"),
        ("SELECT * FROM u WHERE id = length(?)", Params::Positional(vec![text(&"x".repeat(20_000))]), "u=all"),
        ("SELECT * FROM u WHERE ? AND id = 4", Params::Positional(vec![int(0)]), "u=none"),
        ("SELECT * FROM u WHERE id = ? AND id = ?", Params::Positional(vec![int(1), int(2)]), "u=none"),
        ("SELECT * FROM u WHERE id BETWEEN ? AND ?", Params::Positional(vec![int(1), int(2)]), "u=1|2"),
        (
            "SELECT * FROM p WHERE (a, b) IN (VALUES (?, ?), (?, ?))",
            Params::Positional(vec![int(1), text("x"), int(2), text("y")]),
            "p=1,'x'|2,'y'",
        ),
    ] {
        check(&bench, sql, &params, wanted);
    }
}

/// Large conditions cost little and end at a bound, past which fewer of them count.
#[test]
fn bounded() {
    let bench = bench();
    let many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    check(&bench, &format!("SELECT * FROM u WHERE id IN ({})", many.join(",")), &Params::default(), "u=all");
    check(&bench, &format!("SELECT * FROM u WHERE id IN ({}) AND id = 3", many.join(",")), &Params::default(), "u=3");
    let pairs: Vec<String> = (0..900).map(|n| format!("(a = {n} AND b = 'x')")).collect();
    let keys: Vec<String> = (0..900).map(|n| format!("{n},'x'")).collect();
    let sql = format!("SELECT * FROM p WHERE {}", pairs.join(" OR "));
    check(&bench, &sql, &Params::default(), &format!("p={}", keys.join("|")));
    let mut long = "'a'".to_owned();
    for _ in 0..4 {
        long = format!("replace({long}, 'a', '{}')", "a".repeat(30));
    }
    check(&bench, &format!("SELECT * FROM u WHERE id = length({long})"), &Params::default(), "u=all");
    let choices: Vec<String> = (0..30).map(|n| format!("(n < {n} OR name > '{n}')")).collect();
    let start = std::time::Instant::now();
    let sql = format!("SELECT * FROM u WHERE id IN (1, 2) AND {}", choices.join(" AND "));
    check(&bench, &sql, &Params::default(), "u=1|2");
    assert!(start.elapsed().as_millis() < 1000, "{:?}", start.elapsed());
}

/// A join whose tables are all fixed to one shard goes there as written, and relies on the slots of
/// each placement; any other does not.
#[test]
fn joins_go_to_one_shard() {
    let bench = Bench::new();
    let home = bench.shard("SELECT * FROM orders WHERE o_id = 7", &[]);
    for sql in [
        "SELECT * FROM orders JOIN items USING (o_id) WHERE o_id = 7",
        "SELECT total, count(*) FROM orders o LEFT JOIN items i ON i.o_id = o.o_id WHERE o.o_id = 7 GROUP BY total",
        "SELECT * FROM orders a, orders b, items WHERE a.o_id = b.o_id AND b.o_id = items.o_id AND items.o_id = 7",
    ] {
        assert_eq!(bench.plan(sql, &[]), format!("one {home} [placement 3: 1 slots]"), "{sql}");
    }
    let other = "SELECT * FROM orders o, users u WHERE o.o_id = 7 AND u.id = ?";
    let plans: Vec<String> = (0..40).map(|id| bench.plan(other, &[int(id)])).collect();
    assert!(plans.contains(&format!("one {home} [placement 3: 1 slots] [placement 1: 1 slots]")), "{plans:?}");
    assert!(plans.iter().any(|plan| !plan.starts_with("one")), "{plans:?}");
    for sql in [
        "SELECT * FROM orders, items WHERE orders.o_id = 7",
        "SELECT * FROM orders LEFT JOIN items USING (o_id) WHERE items.o_id IS 7",
        "SELECT * FROM orders WHERE o_id = 7 AND total IN (SELECT price FROM items)",
        "SELECT * FROM lone WHERE k = 7 AND k + 1 IN lone",
        "SELECT * FROM lone WHERE k = 7 AND k + 1 NOT IN \"lone\"",
        "SELECT * FROM orders WHERE o_id = 7 AND total IN main.lone",
        "DELETE FROM lone WHERE k = 7 AND k + 1 IN lone",
    ] {
        assert!(!bench.plan(sql, &[]).starts_with("one"), "{sql}");
    }
    assert!(bench.plan("SELECT * FROM pair WHERE (a, b) IN (VALUES (1, 'x'))", &[]).starts_with("one"));
    assert!(bench.plan("DELETE FROM pair WHERE (a, b) IN (VALUES (1, 'x'))", &[]).starts_with("one"));
    for sql in [
        "SELECT * FROM orders JOIN items USING (o_id) WHERE o_id = 7 AND items.o_id = 8",
        "SELECT count(*), max(total) FROM orders, items WHERE total = NULL",
    ] {
        assert_eq!(bench.plan(sql, &[]), "local", "{sql}");
    }
}

/// What is pulled for a join comes from those shards alone that can have rows for it.
#[test]
fn pulls_ask_the_shards_of_the_keys() {
    let bench = Bench::new();
    let pulls = |sql: &str| match bench.plan_with(sql, &Params::default(), false) {
        Plan::Merge(merge) => {
            merge.pulls.iter().map(|pull| format!("{}={}", pull.table, pull.parts.len())).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    for (sql, wanted) in [
        ("SELECT u.id, key FROM users u JOIN kv ON value = name WHERE u.id = 5", "kv=3 users=1"),
        ("SELECT u.id, key FROM users u LEFT JOIN kv ON value = name AND key = 'a'", "kv=1 users=3"),
        ("SELECT a.id, b.id FROM users a JOIN users b USING (name) WHERE a.id = 5", "users=3"),
        ("SELECT a.id, b.id FROM users a JOIN users b USING (name) WHERE a.id = 5 AND b.id = 5", "one"),
        ("SELECT u.id FROM users u LEFT JOIN kv ON value = name AND key = NULL", "kv=1 users=3"),
        ("SELECT u.id, key FROM users u JOIN kv ON value = name WHERE u.id = 5 AND key IN (SELECT 1)", "kv=3 users=3"),
    ] {
        let got = pulls(sql);
        assert!(got == wanted || (wanted == "one" && got.starts_with("one")), "{sql}: {got}");
    }
}

/// Joined or nested by shard keys, all tables are where the first one's keys are.
#[test]
fn colocated_tables_follow_the_first() {
    let bench = Bench::new();
    let home = bench.shard("SELECT * FROM orders WHERE o_id = 7", &[]);
    for sql in [
        "SELECT * FROM orders WHERE o_id = 7 AND EXISTS (SELECT 1 FROM items WHERE items.o_id = orders.o_id)",
        "SELECT total, (SELECT max(price) FROM items i WHERE i.o_id = o.o_id) FROM orders o WHERE o.o_id = 7",
        "SELECT count(*) FROM orders o WHERE o_id = 7 AND EXISTS (SELECT 1 FROM items i WHERE i.o_id = o.o_id)",
    ] {
        assert_eq!(bench.plan(sql, &[]), format!("one {home} [placement 3: 1 slots]"), "{sql}");
    }
    let keys = "IN (1, 2, 3, 4, 5, 6, 7, 8)";
    for sql in [
        format!("SELECT * FROM orders JOIN items USING (o_id) WHERE o_id {keys}"),
        format!("SELECT * FROM orders o WHERE o.o_id {keys} AND EXISTS (SELECT 1 FROM items i WHERE i.o_id = o.o_id)"),
    ] {
        let Plan::Some(parts) = bench.plan_with(&sql, &Params::default(), false) else { panic!("{sql}") };
        // Each gets all keys, so a row that moves between two of them must not be seen by both.
        assert!(parts.iter().all(|part| part.claims[0].slots.is_none()), "{sql}");
    }
    for sql in [
        "SELECT * FROM orders WHERE o_id = 7 AND EXISTS (SELECT 1 FROM items WHERE items.line = orders.o_id)",
        "SELECT * FROM orders WHERE o_id = 7 OR EXISTS (SELECT 1 FROM items WHERE items.o_id = orders.o_id)",
        "SELECT * FROM orders WHERE EXISTS (SELECT 1 FROM items i WHERE i.o_id = orders.o_id AND i.o_id = 7)",
    ] {
        assert!(!bench.plan(sql, &[]).starts_with("one"), "{sql}");
    }
}

/// `IN table` reads a whole table without the word SELECT: no shard answers it from its own rows.
#[test]
fn in_table_reads_all_of_it() {
    let bench = Bench::new();
    for sql in [
        "SELECT * FROM lone WHERE k + 1 IN lone",
        "SELECT o_id FROM orders WHERE total NOT IN main.lone AND o_id > 3",
        "SELECT count(*) FROM lone WHERE k + 1 IN \"lone\"",
    ] {
        match bench.plan_with(sql, &Params::default(), false) {
            Plan::Merge(merge) => {
                let lone = merge.pulls.iter().find(|pull| pull.table == "lone").unwrap();
                assert_eq!(lone.parts.len(), 3, "{sql}");
                assert!(
                    merge.pulls.iter().flat_map(|pull| &pull.parts).all(|part| {
                        part.statement.as_ref().is_some_and(|statement| !statement.sql.contains(" IN "))
                    })
                );
            }
            other => panic!("{sql}: {other}"),
        }
    }
}
