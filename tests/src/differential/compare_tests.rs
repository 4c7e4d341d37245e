//! The comparison notices what it is there for, and nothing else.

use super::*;

fn rows(values: &[&[Value]]) -> Outcome {
    let width = values.first().map_or(1, |row| row.len());
    let columns = (0..width).map(|n| format!("c{n}")).collect();
    Outcome::Rows(Rows {
        columns,
        types: vec![String::new(); width],
        values: values.iter().map(|r| r.to_vec()).collect(),
    })
}

fn int(n: i64) -> Value {
    Value::Integer(n)
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn failed(code: &str) -> Outcome {
    Outcome::Failed { code: code.to_owned(), message: "words".to_owned() }
}

fn same(wanted: &Outcome, found: &Outcome, rule: &Rule) -> bool {
    compare(wanted, found, rule, None) == Verdict::Same
}

/// Rows in another order are the same where the order is open, and only there.
#[test]
fn order_counts_where_it_is_fixed() {
    let (a, b) = (rows(&[&[int(1)], &[Value::Null]]), rows(&[&[Value::Null], &[int(1)]]));
    assert!(same(&a, &b, &Rule::default()));
    assert!(!same(&a, &b, &Rule { order: Order::Fixed, ..Rule::default() }));
}

/// A row that is missing, doubled, or exchanged for another is noticed.
#[test]
fn rows_are_counted() {
    let wanted = rows(&[&[int(1)], &[int(1)], &[int(2)]]);
    for found in [
        rows(&[&[int(1)], &[int(2)]]),
        rows(&[&[int(1)], &[int(2)], &[int(2)]]),
        rows(&[&[int(1)], &[int(1)], &[int(2)], &[int(2)]]),
        rows(&[&[int(1)], &[int(1)], &[int(3)]]),
    ] {
        assert!(!same(&wanted, &found, &Rule::default()), "{found:?}");
    }
}

/// A value of another type is another value, as are other names and other declared types.
#[test]
fn types_and_names_count() {
    let wanted = rows(&[&[int(1)]]);
    for other in [Value::Real(1.0), text("1"), Value::Blob(b"1".to_vec()), Value::Null] {
        assert!(!same(&wanted, &rows(&[&[other]]), &Rule { close: true, ..Rule::default() }));
    }
    assert!(!same(&rows(&[&[text("a")]]), &rows(&[&[Value::Blob(b"a".to_vec())]]), &Rule::default()));
    for change in [|rows: &mut Rows| rows.columns[0].push('x'), |rows: &mut Rows| rows.types[0].push('x')] {
        let Outcome::Rows(mut changed) = wanted.clone() else { unreachable!() };
        change(&mut changed);
        assert!(!same(&wanted, &Outcome::Rows(changed), &Rule::default()));
    }
}

/// Reals are compared to the last bit, and within the tolerance only where reals were added up.
#[test]
fn reals_are_close_only_where_the_rule_says_so() {
    let (a, b, far) = (Value::Real(0.1 + 0.2), Value::Real(0.3), Value::Real(0.300_001));
    let close = Rule { close: true, ..Rule::default() };
    let [a, b, far] = [a, b, far].map(|value| rows(&[&[value]]));
    assert!(!same(&a, &b, &Rule::default()));
    assert!(same(&a, &b, &close));
    assert!(!same(&a, &far, &close));
    assert!(!same(&rows(&[&[Value::Real(0.0)]]), &rows(&[&[Value::Real(-0.0)]]), &Rule::default()));
}

/// Which of several equal values stands for a group is open, another value is not.
#[test]
fn loose_values_are_equal_ones() {
    let loose = Rule { loose: true, ..Rule::default() };
    assert!(same(&rows(&[&[text("Ab ")], &[int(1)]]), &rows(&[&[Value::Real(1.0)], &[text("aB")]]), &loose));
    assert!(!same(&rows(&[&[text("a")]]), &rows(&[&[text("b")]]), &loose));
    assert!(!same(&rows(&[&[int(1)]]), &rows(&[&[text("1")]]), &loose));
}

/// The parts of an unordered group_concat may come in any order, but all must come.
#[test]
fn parts_are_a_multiset() {
    let rule = Rule { parts: vec![(0, ",".to_owned())], ..Rule::default() };
    assert!(same(&rows(&[&[text("a,b,a")]]), &rows(&[&[text("b,a,a")]]), &rule));
    assert!(!same(&rows(&[&[text("a,b,a")]]), &rows(&[&[text("b,a,b")]]), &rule));
}

/// An unordered LIMIT gives so many of the rows, and no others.
#[test]
fn limited_rows_are_among_all() {
    let all = rows(&[&[int(1)], &[int(2)], &[int(2)], &[int(3)]]);
    let rule = Rule { unlimited: Some(String::new()), ..Rule::default() };
    let wanted = rows(&[&[int(1)], &[int(2)]]);
    let verdict = |found: &[&[Value]]| compare(&wanted, &rows(found), &rule, Some(&all));
    assert_eq!(verdict(&[&[int(3)], &[int(2)]]), Verdict::Same);
    assert_eq!(verdict(&[&[int(2)], &[int(2)]]), Verdict::Same);
    assert!(matches!(verdict(&[&[int(3)], &[int(3)]]), Verdict::Different(_)));
    assert!(matches!(verdict(&[&[int(3)]]), Verdict::Different(_)));
}

/// Errors answer errors, refusals are told apart from both, and a fault is never equal to anything.
#[test]
fn errors_and_refusals() {
    let rule = Rule::default();
    let rows = rows(&[&[int(1)]]);
    assert!(same(&failed(""), &failed("sql_error"), &rule));
    assert_eq!(compare(&rows, &failed("cross_shard_write"), &rule, None), Verdict::Refused("cross_shard_write".into()));
    for (wanted, found) in [
        (&rows, failed("sql_error")),
        (&rows, failed("internal")),
        (&failed(""), failed("internal")),
        (&failed(""), failed("no_result")),
        (&failed(""), rows.clone()),
    ] {
        assert!(matches!(compare(wanted, &found, &rule, None), Verdict::Different(_)), "{wanted:?} {found:?}");
    }
}

/// What a write says of itself is compared.
#[test]
fn writes_are_compared() {
    let wanted = StatementResult { last_insert_id: 7, rows_affected: 2, rows: None };
    let verdict = |found: StatementResult, last_id: bool| {
        same(&Outcome::Write(wanted.clone()), &Outcome::Write(found), &Rule { last_id, ..Rule::default() })
    };
    assert!(verdict(wanted.clone(), true));
    assert!(verdict(StatementResult { last_insert_id: 8, ..wanted.clone() }, false));
    assert!(!verdict(StatementResult { last_insert_id: 8, ..wanted.clone() }, true));
    assert!(!verdict(StatementResult { rows_affected: 1, ..wanted.clone() }, false));
    let Outcome::Rows(rows) = rows(&[&[int(1)]]) else { unreachable!() };
    assert!(!verdict(StatementResult { rows: Some(rows), ..wanted.clone() }, false));
}
