//! ORDER BY, LIMIT and DISTINCT over rows that are made on one shard each.
//!
//! A shard runs the statement as written, with what it sorts by as further columns, and with
//! `LIMIT n + offset` where there is a limit: a row that is not among the first n + offset of its shard is
//! not among those of all. The last query sorts, makes distinct and limits what came. That needs the
//! collation of each of these expressions; where it is not certain, there is no such plan.

use flotilla_shared::slot::{Affinity, Collation};

use super::text::Writer;
use super::{PARTS, Query, TwoPhase, Why, collation_name, declared, finishes};
use crate::analyze::core::{Item, OrderTerm, Span};
use crate::lex::Kind;

const COLLATION: Why = "the collation of a result or of a term of ORDER BY is not certain";

/// A term of ORDER BY: a column of the parts, or an expression that becomes one.
enum Term {
    Column(usize),
    Expr(Span),
}

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
        let (name, collation) = match resolve(query, term).ok_or("a term of ORDER BY is not clear")? {
            Term::Column(index) => (format!("c{index}"), result_collation(query, index)),
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
        let collation = match &term.collation {
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
        shard.push(" LIMIT CASE WHEN 0 + (").copy(limit).push(") < 0 THEN -1 ELSE (").copy(limit).push(")");
        if let Some(offset) = &core.offset {
            shard.push(" + max(0, (").copy(offset).push("))");
        }
        shard.push(" END");
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

/// What a term of ORDER BY means: a number or a name of a result before anything else.
fn resolve(query: &Query<'_>, term: &OrderTerm) -> Option<Term> {
    let (tokens, items) = (query.tokens, &query.core.items);
    let span = &term.expr;
    if span.len() == 1 {
        let at = span.start;
        if tokens.list[at].kind == Kind::Number {
            let index: usize = tokens.text(at).parse().ok()?;
            return (1..=query.prepared.columns.len()).contains(&index).then(|| Term::Column(index - 1));
        }
        if let Some(name) = tokens.name(at).filter(|_| tokens.list[at].kind != Kind::Text) {
            let named = |item: &Item| item.alias.as_ref().is_some_and(|a| a.eq_ignore_ascii_case(&name));
            if let Some(index) = items.iter().position(named) {
                return Some(match query.has_star() {
                    true => Term::Expr(items[index].expr.clone()),
                    false => Term::Column(index),
                });
            }
        }
    }
    // With DISTINCT only results can be sorted by: the same text is the same value.
    let same = |item: &Item| {
        item.expr.len() == span.len()
            && item.expr.clone().zip(span.clone()).all(|(a, b)| tokens.text(a).eq_ignore_ascii_case(tokens.text(b)))
    };
    match items.iter().position(same) {
        Some(index) if !query.has_star() => Some(Term::Column(index)),
        _ => Some(Term::Expr(span.clone())),
    }
}

/// The collation of a result.
fn result_collation(query: &Query<'_>, index: usize) -> Option<Collation> {
    if query.has_star() {
        let (table, column) = query.prepared.origins.get(index)?.as_ref()?;
        let table = query.mirror.schema.tables.get(table)?;
        return Some(table.columns[table.column(column)?].compare.collation);
    }
    query.collation(&query.core.items.get(index)?.expr)
}
