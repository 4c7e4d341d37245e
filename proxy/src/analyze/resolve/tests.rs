//! The rules of the module page, one test each.

use std::sync::Arc;

use super::scope::meaning;
use super::terms::{ResultColumn, Term, Terms, results, without_collation};
use super::*;
use crate::analyze::core::{Core, Span, cores};
use crate::analyze::names::names;
use crate::analyze::predicate::Predicates;
use crate::lex::Tokens;
use crate::mirror::Mirror;
use crate::plan::shape::Shape;
use crate::testing::registry;

fn mirror() -> Mirror {
    let ddl = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b INT); CREATE TABLE u(id INTEGER PRIMARY KEY, v, w);
        CREATE TABLE bare(rowid TEXT, x)";
    Mirror::build(registry(3, ddl, &[("t", &["id"], 1), ("u", &["id"], 1)])).unwrap()
}

/// Runs `work` on the outermost SELECT of a statement.
fn with<T>(sql: &str, work: impl FnOnce(&Tokens<'_>, &[Core], &Frame<'_>, &[ResultColumn]) -> T) -> T {
    let (mirror, tokens) = (mirror(), Tokens::read(sql).unwrap());
    mirror.prepare(sql).unwrap();
    let cores = cores(&tokens).unwrap();
    let frame = Frame::new(&cores[0], &mirror.schema.tables).unwrap();
    let results = results(&tokens, &cores[0], &frame).unwrap();
    work(&tokens, &cores, &frame, &results)
}

fn shown(tokens: &Tokens<'_>, term: Option<Term>) -> String {
    match term {
        None => "unclear".to_owned(),
        Some(Term::Result(index)) => (index + 1).to_string(),
        Some(Term::Expr(span)) => span.map(|at| tokens.text(at)).collect::<Vec<_>>().join(" "),
    }
}

/// What each term of ORDER BY is: the number of a result, or an expression.
fn order(sql: &str) -> Vec<String> {
    with(sql, |tokens, cores, frame, results| {
        let terms = Terms { tokens, frame, results };
        let list = cores[0].order_by.iter().map(|term| terms.order(&term.expr).map(|sorting| sorting.term));
        list.map(|term| shown(tokens, term)).collect()
    })
}

/// The same of GROUP BY.
fn group(sql: &str) -> Vec<String> {
    with(sql, |tokens, cores, frame, results| {
        let terms = Terms { tokens, frame, results };
        cores[0].group_by.iter().map(|span| shown(tokens, terms.group(span))).collect()
    })
}

/// Rule 1 and 2: columns, then the rowid, then aliases, and all of a level before the next one.
#[test]
fn names_are_looked_up_from_the_inside() {
    let mirror = mirror();
    for (sql, wanted) in [
        ("SELECT 1 FROM t WHERE EXISTS (SELECT v FROM u WHERE w = b)", ["0 u.w", "1 t.b"]),
        ("SELECT 1 FROM t WHERE EXISTS (SELECT v FROM u WHERE id = t.id)", ["0 u.id", "1 t.id"]),
        ("SELECT 1 FROM t WHERE EXISTS (SELECT v AS b FROM u WHERE id = b)", ["0 u.id", "alias 0"]),
        ("SELECT v AS z FROM u WHERE EXISTS (SELECT a FROM t WHERE b = z)", ["0 t.b", "alias 1"]),
        ("SELECT 1 FROM t WHERE EXISTS (SELECT v AS _rowid_ FROM u WHERE oid = _rowid_)", ["0 u.id", "0 u.id"]),
        ("SELECT 1 FROM t WHERE EXISTS (SELECT x FROM bare WHERE oid = rowid)", ["0 bare.-", "0 bare.rowid"]),
        ("SELECT 1 FROM t WHERE EXISTS (SELECT 1 FROM u WHERE 't'.'id' = \"u\".id)", ["1 t.id", "0 u.id"]),
    ] {
        let tokens = Tokens::read(sql).unwrap();
        mirror.prepare(sql).unwrap();
        let cores = cores(&tokens).unwrap();
        let frames: Vec<Frame<'_>> =
            cores.iter().rev().map(|core| Frame::new(core, &mirror.schema.tables).unwrap()).collect();
        let frames: Vec<&Frame<'_>> = frames.iter().collect();
        let found = names(&tokens, cores[1].condition.as_ref().unwrap()).columns;
        let seen: Vec<String> = found
            .iter()
            .map(|name| match meaning(&tokens, &frames, name) {
                Some(Meaning::Column(level, place)) => {
                    let table = frames[level].scope.table(place.source).unwrap();
                    let column = place.column.map_or("-", |column| &table.columns[column].name);
                    format!("{level} {}.{column}", table.name)
                }
                Some(Meaning::Alias(level)) => format!("alias {level}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(seen, wanted, "{sql}");
    }
}

/// Rule 3: what is a text or a truth value, and what is neither.
#[test]
fn what_is_no_column() {
    for (sql, wanted) in [
        ("SELECT \"nope\" FROM t", Some(Meaning::Literal)),
        ("SELECT true FROM t", Some(Meaning::Literal)),
        ("SELECT \"FALSE\" FROM t", Some(Meaning::Literal)),
        ("SELECT b AS \"nope\" FROM t ORDER BY -\"nope\"", Some(Meaning::Alias(0))),
        ("SELECT b AS true FROM t ORDER BY -true", Some(Meaning::Alias(0))),
        ("SELECT \"A\" FROM t", Some(Meaning::Column(0, Place { source: 0, column: Some(1) }))),
    ] {
        with(sql, |tokens, cores, frame, _| {
            let span = cores[0].order_by.first().map_or(&cores[0].items[0].expr, |term| &term.expr);
            assert_eq!(meaning(tokens, &[frame], &names(tokens, span).columns[0]), wanted, "{sql}");
        });
    }
}

/// Rule 4: a star gives its columns with their names; merged columns come once.
#[test]
fn results_of_stars() {
    for (sql, wanted) in [
        ("SELECT *, -b AS b FROM t", "id a b b"),
        ("SELECT u.*, a, (b), b c FROM t JOIN u ON t.id = u.id", "id v w - - c"),
        ("SELECT * FROM t JOIN u USING (id)", "id a b v w"),
        ("SELECT \"U\".* FROM t JOIN u USING (id)", "id v w"),
    ] {
        with(sql, |_, _, _, results| {
            let names: Vec<&str> = results.iter().map(|result| result.name.as_deref().unwrap_or("-")).collect();
            assert_eq!(names.join(" "), wanted, "{sql}");
        });
    }
}

/// Rule 5: names of results first, then numbers, then expressions.
#[test]
fn terms_of_order_by() {
    for (sql, wanted) in [
        ("SELECT a AS b, b AS x FROM t ORDER BY b, (B), \"b\", [b] COLLATE NOCASE, x", ["1", "1", "1", "1", "2"]),
        ("SELECT *, lower(a) AS a FROM t ORDER BY a, t.a, lower(a), 4, id", ["2", "2", "4", "4", "1"]),
        ("SELECT a, b FROM t ORDER BY 2, (2), +2, ((+(1))), - -1", ["2", "2", "2", "1", "1"]),
        (
            "SELECT a, b FROM t ORDER BY 'b', 2.0, likely(2), 0x1, 99999999999",
            ["'b'", "unclear", "unclear", "unclear", "unclear"],
        ),
        ("SELECT a AS x FROM t ORDER BY -x, +a, -a, (a), a COLLATE NOCASE", ["unclear", "+ a", "- a", "1", "1"]),
        (
            "SELECT a || 'x', a || 'X', b FROM t ORDER BY a || 'X', A||'x', a||'y', (a || 'x'), t.b",
            ["2", "1", "a || 'y'", "1", "3"],
        ),
        (
            "SELECT b + ?, b + ? FROM t ORDER BY b + ?2, b + ?, b + ?1, CURRENT_DATE, null",
            ["2", "b + ?", "1", "CURRENT_DATE", "null"],
        ),
    ] {
        assert_eq!(order(sql), wanted, "{sql}");
    }
}

/// Rule 6: a column goes before an alias, and a text is a text.
#[test]
fn terms_of_group_by() {
    for (sql, wanted) in [
        ("SELECT b + 1 AS a, count(*) FROM t GROUP BY a, (a)", ["a", "a"]),
        ("SELECT b + 1 AS k, count(*) FROM t GROUP BY k, 'k'", ["1", "'k'"]),
        ("SELECT b + 1 AS k, count(*) FROM t GROUP BY (1), +1", ["1", "1"]),
        ("SELECT a AS k, count(*) FROM t GROUP BY k COLLATE NOCASE, -k", ["unclear", "unclear"]),
        ("SELECT a AS rowid, count(*) FROM t GROUP BY rowid, oid", ["rowid", "oid"]),
    ] {
        assert_eq!(group(sql), wanted, "{sql}");
    }
}

/// Rule 7: which COLLATE is about the whole term.
#[test]
fn the_collation_of_a_term() {
    for (term, wanted) in [
        ("a COLLATE nocase", Some("nocase")),
        ("(a || b COLLATE rtrim)", None),
        ("(a || b) COLLATE rtrim", Some("rtrim")),
        ("a = 'x' COLLATE nocase", None),
        ("b BETWEEN 1 AND 2 COLLATE nocase", None),
        ("NOT a COLLATE nocase", None),
        ("-a COLLATE nocase", Some("nocase")),
        ("a COLLATE rtrim COLLATE nocase", Some("nocase")),
        ("(a COLLATE rtrim) COLLATE nocase", Some("nocase")),
        ("lower(a) COLLATE \"nocase\"", Some("nocase")),
        ("CASE WHEN a THEN b END COLLATE nocase", Some("nocase")),
        ("a IS NULL COLLATE nocase", None),
        ("b - -a COLLATE nocase", None),
        ("(a COLLATE nocase)", Some("nocase")),
    ] {
        let sql = format!("SELECT 1 FROM t ORDER BY {term}");
        let found = with(&sql, |tokens, cores, _, _| without_collation(tokens, &cores[0].order_by[0].expr).1);
        assert_eq!(found.as_deref(), wanted, "{term}");
    }
}

/// Rule 8: what is one expression and what is not.
#[test]
fn same_expressions() {
    for (a, b, wanted) in [
        ("a || 'x'", "A||'x'", true),
        ("a || 'x'", "t.\"a\" || 'x'", true),
        ("((a || 'x'))", "a || 'x'", true),
        ("LOWER(a)", "lower(a)", true),
        ("a COLLATE nocase", "a collate NOCASE", true),
        ("a || 'x'", "a || 'X'", false),
        ("strftime('%m', a)", "strftime('%M', a)", false),
        ("a = x'ab'", "a = X'ab'", false),
        ("a || \"nope\"", "a || \"NOPE\"", false),
        ("a || \"nope\"", "a || \"nope\"", true),
        ("a || 'a'", "a || a", false),
        ("b + ?", "b + ?", false),
        ("b + ?1", "b + ?01", true),
        ("b + :n", "b + :n", true),
        ("b + :n", "b + :N", false),
        ("b", "a", false),
        ("b + 1", "b + 1.0", false),
        ("a COLLATE nocase", "a", false),
        ("iif(b, true, false)", "iif(b, TRUE, false)", false),
        ("max(a, b)", "max(a, b, 1)", false),
    ] {
        let same = with(&format!("SELECT {a}, {b} FROM t"), |tokens, cores, frame, _| {
            let spans: Vec<&Span> = cores[0].items.iter().map(|item| &item.expr).collect();
            same::same(tokens, frame, spans[0], spans[1])
        });
        assert_eq!(same, wanted, "{a} beside {b}");
    }
}

/// Rule 9: an aggregate of outer columns alone makes the outer SELECT one of groups, which no plan here does.
#[test]
fn whose_an_aggregate_is() {
    let mirror = mirror();
    for (sql, wanted) in [
        ("SELECT id, (SELECT max(u.v) FROM u WHERE u.id = t.id) FROM t", true),
        ("SELECT id, (SELECT count(*) FROM u WHERE u.id = t.id) FROM t", true),
        ("SELECT id, (SELECT sum(v + t.b) FROM u WHERE u.id = t.id) FROM t", true),
        ("SELECT id, (SELECT max(t.b) FROM u WHERE u.id = t.id) FROM t", false),
        ("SELECT id, (SELECT count(b) FROM u WHERE u.id = t.id) FROM t", false),
        ("SELECT id, (SELECT sum(b) FILTER (WHERE u.v > 1) FROM u WHERE u.id = t.id) FROM t", true),
        ("SELECT id, (SELECT v FROM u WHERE u.id = t.id ORDER BY sum(t.b)) FROM t", false),
    ] {
        let prepared = mirror.prepare(sql).unwrap().0;
        assert_eq!(matches!(mirror.shape(&prepared), Shape::Concat { .. }), wanted, "{sql}");
    }
}

/// Rule 10: a CTE hides a table from FROM, and not from what is written.
#[test]
fn the_target_is_no_cte() {
    let registry = mirror().registry().clone();
    for (sql, wanted) in [
        ("WITH t AS (SELECT 1 AS id) DELETE FROM t WHERE id = 1", [Some("t"), None]),
        ("WITH t AS (SELECT 1 AS id) UPDATE t SET a = 1 FROM u WHERE t.id = u.id", [Some("t"), Some("u")]),
        ("WITH u AS (SELECT 1 AS id) UPDATE OR IGNORE t SET a = 1 FROM u WHERE t.id = u.id", [Some("t"), None]),
        ("WITH t AS (SELECT 1 AS id) SELECT * FROM t, u", [None, Some("u")]),
    ] {
        let predicates = Predicates::read(&Tokens::read(sql).unwrap(), |name| registry.table(name)).unwrap();
        let table = |index: usize| predicates.sources.get(index).and_then(|source| source.table.as_deref());
        assert_eq!([table(0), table(1)], wanted, "{sql}");
    }
}

/// What is misread is noticed: results, columns and parameters are those that SQLite reports.
#[test]
fn sqlite_has_the_last_word() {
    let mirror = mirror();
    let agrees = |sql: &str, change: &dyn Fn(&mut crate::mirror::Prepared)| {
        let tokens = Tokens::read(sql).unwrap();
        let mut prepared = Arc::into_inner({
            let fresh = Mirror::build(Arc::new(mirror.registry().clone())).unwrap();
            fresh.prepare(sql).unwrap().0
        })
        .unwrap();
        change(&mut prepared);
        let cores = cores(&tokens).unwrap();
        let frame = Frame::new(&cores[0], &mirror.schema.tables).unwrap();
        let results = results(&tokens, &cores[0], &frame).unwrap();
        check::agrees(&tokens, &prepared, &results, &cores[0], &cores[1..], &mirror.schema.tables)
    };
    let sql = "SELECT a AS x, b, t.rowid FROM t JOIN u USING (id) WHERE v > ? ORDER BY w";
    assert_eq!(agrees(sql, &|_| ()), Ok(()));
    assert!(agrees(sql, &|p| p.columns[0] = "y".to_owned()).is_err());
    assert!(agrees(sql, &|p| p.origins[1] = Some(("t".to_owned(), "a".to_owned()))).is_err());
    assert!(agrees(sql, &|p| p.params.clear()).is_err());
    assert!(agrees(sql, &|p| assert!(p.analysis.record.columns.get_mut("u").unwrap().remove("w"))).is_err());
    assert!(agrees(sql, &|p| assert!(p.analysis.record.columns.get_mut("t").unwrap().insert("c".to_owned()))).is_err());
}

/// Every aggregate that SQLite has is known here as one.
#[test]
fn aggregates_are_known() {
    let db = rusqlite::Connection::open_in_memory().unwrap();
    let mut list = db.prepare("SELECT DISTINCT name FROM pragma_function_list WHERE type IN ('a', 'w')").unwrap();
    let names: Vec<String> = list.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    // These are functions of windows alone, which need OVER.
    let windows = "row_number rank dense_rank percent_rank cume_dist ntile lead lag first_value last_value nth_value";
    let unknown: Vec<&String> = names
        .iter()
        .filter(|name| !crate::analyze::syntax::AGGREGATES.contains(&name.as_str()))
        .filter(|name| !windows.split(' ').any(|window| window == name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
