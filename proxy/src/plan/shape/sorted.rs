//! ORDER BY, LIMIT and DISTINCT over rows that are made on one shard each.
//!
//! A shard runs the statement as written, with what it sorts by as further columns, and with
//! `LIMIT n + offset` where there is a limit: a row that is not among the first n + offset of its shard is
//! not among those of all. The last query sorts, makes distinct and limits what came. That needs the
//! collation of each of these expressions; where it is not certain, there is no such plan.

use flotilla_shared::slot::{Affinity, Collation};

use super::text::Writer;
use super::{PARTS, Query, TwoPhase, Why, collation_name, declared, finishes};
use crate::analyze::core::Span;
use crate::analyze::resolve::Place;
use crate::analyze::resolve::terms::Term;
use crate::lex::{Kind, Tokens};

const COLLATION: Why = "the collation of a result or of a term of ORDER BY is not certain";

/// The plan, if there is one.
///
/// # Errors
/// Why there is none.
pub fn plan(query: &Query<'_>) -> Result<TwoPhase, Why> {
    let core = query.core;
    if core.distinct && !query.conditions_are_plain() {
        return Err("a condition names something else than columns");
    }
    let width = query.prepared.columns.len();
    let mut columns = Vec::with_capacity(width + core.order_by.len());
    for index in 0..width {
        let collation = match core.distinct {
            true => result_collation(query, index).ok_or(COLLATION)?,
            false => Collation::Binary,
        };
        columns.push(declared(&format!("c{index}"), Affinity::Blob, collation));
    }
    let mut extra: Vec<Span> = Vec::new();
    let mut order: Vec<String> = Vec::new();
    for term in &core.order_by {
        let sorting = query.terms().order(&term.expr).ok_or("a term of ORDER BY is not clear")?;
        let (name, collation) = match sorting.term {
            Term::Result(index) => (format!("c{index}"), result_collation(query, index)),
            Term::Expr(_) if core.distinct => return Err("DISTINCT is sorted by something else than its results"),
            Term::Expr(span) => {
                let names = query.names(&span);
                if names.subquery || names.volatile || !query.resolves(&names) {
                    return Err("it is sorted by more than columns and functions of them");
                }
                let name = format!("o{}", extra.len());
                columns.push(declared(&name, Affinity::Blob, Collation::Binary));
                extra.push(span.clone());
                (name, query.collation(&span))
            }
        };
        let collation = match &sorting.collation {
            Some(given) => format!("\"{}\"", given.replace('"', "\"\"")),
            None => collation_name(collation.ok_or(COLLATION)?).to_owned(),
        };
        let suffix: Vec<&str> = term.suffix.clone().map(|at| query.tokens.text(at)).collect();
        order.push(format!("{name} COLLATE {collation} {}", suffix.join(" ")));
    }
    let from = core.from.clone().ok_or("it has no FROM")?;
    let mut shard = Writer::new(query.tokens);
    shard.copy(&(core.start..from.start - 1));
    for span in &extra {
        shard.push(", (").copy(span).push(")");
    }
    shard.push(" FROM ").copy(&from);
    if let Some(condition) = &core.condition {
        shard.push(" WHERE ").copy(condition);
    }
    if let Some(limit) = &core.limit {
        for (n, term) in core.order_by.iter().enumerate() {
            let end = term.suffix.end;
            shard.push(if n == 0 { " ORDER BY " } else { ", " }).copy(&(term.expr.start..end));
        }
        shard_limit(query, &mut shard, limit, core.offset.as_ref())?;
    }
    let shard = shard.finish();
    let mut finish = Writer::new(query.tokens);
    let results: Vec<String> = (0..width).map(|index| format!("c{index}")).collect();
    finish.push(if core.distinct { "SELECT DISTINCT " } else { "SELECT " });
    finish.push(&format!("{} FROM {PARTS}", results.join(", ")));
    if !order.is_empty() {
        finish.push(&format!(" ORDER BY {}", order.join(", ")));
    }
    if let Some(limit) = &core.limit {
        finish.push(" LIMIT ").copy(limit);
        if let Some(offset) = &core.offset {
            finish.push(" OFFSET ").copy(offset);
        }
    }
    let finish = finish.finish();
    let pushed = match (core.distinct, core.limit.is_some()) {
        (true, true) => "DISTINCT, ORDER BY and LIMIT",
        (true, false) => "DISTINCT",
        (false, true) => "ORDER BY and LIMIT",
        (false, false) => "all but ORDER BY",
    };
    let fits = query.is_readable(&shard) && finishes(&columns, &finish);
    match fits {
        true => Ok(TwoPhase { placement: query.placement, shard, columns, finish, pushed }),
        false => Err("its parts cannot be written as statements of their own"),
    }
}

/// Rows that each shard gives: `limit + offset`, or all where there is no limit or the sum is over the range of
/// integers. SQLite takes any value that numeric affinity makes an integer, and counts a negative offset
/// as none; what it refuses, it refuses in the last query.
fn shard_limit(query: &Query<'_>, shard: &mut Writer<'_, '_>, limit: &Span, offset: Option<&Span>) -> Result<(), Why> {
    let names = [Some(limit), offset].into_iter().flatten().map(|span| query.names(span));
    if names.into_iter().any(|names| names.volatile) {
        return Err("LIMIT is not the same each time");
    }
    if let Some(rows) = literal_limit(query.tokens, limit, offset) {
        shard.push(&format!(" LIMIT {rows}"));
        return Ok(());
    }
    shard.push(" LIMIT (SELECT CASE WHEN l < 0 THEN -1 WHEN o <= 0 THEN l WHEN l > 9223372036854775807 - o THEN -1 ELSE l + o END FROM (SELECT ");
    let number = |shard: &mut Writer<'_, '_>, span: &Span, otherwise: &str| {
        shard.push("ifnull(CAST(CAST((").copy(span).push(&format!(") AS NUMERIC) AS INTEGER), {otherwise})"));
    };
    number(shard, limit, "-1");
    shard.push(" AS l, ");
    match offset {
        Some(offset) => number(shard, offset, "0"),
        None => {
            shard.push("0");
        }
    }
    shard.push(" AS o))");
    Ok(())
}

/// The same where both are plain digits.
fn literal_limit(tokens: &Tokens<'_>, limit: &Span, offset: Option<&Span>) -> Option<i64> {
    let number = |span: &Span| {
        let digits = span.len() == 1 && tokens.list[span.start].kind == Kind::Number;
        tokens.text(span.start).parse::<i64>().ok().filter(|_| digits)
    };
    let rows = number(limit)?.checked_add(offset.map_or(Some(0), number)?);
    Some(rows.unwrap_or(-1))
}

/// The collation of a result.
fn result_collation(query: &Query<'_>, index: usize) -> Option<Collation> {
    let result = query.results.get(index)?;
    match (&result.expr, result.place) {
        (Some(expr), _) => query.collation(expr),
        (None, place) => {
            let Place { source, column } = place?;
            Some(query.frame.scope.table(source)?.columns[column?].compare.collation)
        }
    }
}
