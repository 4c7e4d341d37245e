//! Whether what was resolved here is what SQLite resolved.
//!
//! SQLite reports three things of a prepared statement: the columns that it reads (to the authorizer), the
//! names of the answer's columns, and the table and column that each of them comes from. All are
//! compared; where they differ, something was misread, and nothing may be built on it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flotilla_shared::registry::Table;

use super::scope::{Frame, Meaning, Place, meaning};
use super::terms::{ResultColumn, is_star};
use crate::analyze::core::{Core, Span};
use crate::analyze::names::{Name, names};
use crate::analyze::syntax::AGGREGATES;
use crate::lex::{Kind, Tokens};
use crate::mirror::Prepared;

/// Why it does not agree, for people.
type Why = &'static str;

/// Columns by table, all in lower case.
type Columns = BTreeMap<String, BTreeSet<String>>;

/// Does SQLite resolve the SELECT `outer`, and those inside it, in the way in which it was done here?
///
/// # Errors
/// What is not clear, or differs.
pub fn agrees(
    tokens: &Tokens<'_>,
    prepared: &Prepared,
    results: &[ResultColumn],
    outer: &Core,
    nested: &[Core],
    tables: &HashMap<String, Table>,
) -> Result<(), Why> {
    const UNCLEAR: Why = "FROM holds more than tables and joins of them";
    if tokens.params != prepared.params.len() {
        return Err("its parameters are not clear to the planner");
    }
    let cores: Vec<&Core> = [outer].into_iter().chain(nested).collect();
    let frames: Vec<Frame<'_>> =
        cores.iter().map(|core| Frame::new(core, tables)).collect::<Option<_>>().ok_or(UNCLEAR)?;
    if !names_fit(tokens, prepared, results, &frames[0]) || !origins_fit(prepared, results, &frames[0]) {
        return Err("SQLite reports other results than the planner reads");
    }
    let mut own = Columns::new();
    for (index, core) in cores.iter().enumerate() {
        let around: Vec<&Frame<'_>> =
            (0..=index).rev().filter(|other| cores[*other].end >= core.end).map(|other| &frames[other]).collect();
        for span in spans(tokens, core) {
            for piece in outside(&span, &nested[index..]) {
                for name in names(tokens, &piece).columns {
                    match meaning(tokens, &around, &name).ok_or("a name is not clear to the planner")? {
                        Meaning::Column(level, place) => note(&mut own, around[level], place),
                        Meaning::Alias(_) | Meaning::Literal => (),
                    }
                }
            }
        }
        if index > 0 && takes_outer_aggregates(tokens, core, &nested[index..], &around) {
            return Err("an aggregate inside a subquery may belong to the query around it");
        }
    }
    results.iter().filter_map(|result| result.place).for_each(|place| note(&mut own, &frames[0], place));
    for (index, core) in cores.iter().enumerate().skip(1) {
        if core.items.iter().any(|item| is_star(tokens, &item.expr)) {
            let scope = &frames[index].scope;
            for source in 0..scope.count() {
                let width = scope.table(source).map_or(0, |table| table.columns.len());
                (0..width).for_each(|at| note(&mut own, &frames[index], Place { source, column: Some(at) }));
            }
        }
    }
    let merged = merged(&cores, &frames);
    let reported: Columns = prepared.analysis.record.columns.clone();
    match without(&own, &merged) == without(&reported, &merged) {
        true => Ok(()),
        false => Err("SQLite reads other columns than the planner sees"),
    }
}

/// Has each column of the answer the name that it must have: the alias, else the name of the column that it is,
/// else its own text?
fn names_fit(tokens: &Tokens<'_>, prepared: &Prepared, results: &[ResultColumn], frame: &Frame<'_>) -> bool {
    let text = |span: &Span| &tokens.sql[tokens.list[span.start].span.start..tokens.list[span.end - 1].span.end];
    let fits = |own: &ResultColumn, name: &String| match (&own.name, own.place, &own.expr) {
        (Some(alias), _, _) => alias == name,
        (None, Some(place), _) => {
            column_name(frame, place).is_some_and(|(_, column)| column == name.to_ascii_lowercase())
        }
        (None, None, expr) => expr.as_ref().is_some_and(|span| text(span) == name),
    };
    results.len() == prepared.columns.len() && results.iter().zip(&prepared.columns).all(|(own, name)| fits(own, name))
}

/// Does each result that is just a column come from that column?
fn origins_fit(prepared: &Prepared, results: &[ResultColumn], frame: &Frame<'_>) -> bool {
    let fits = |(result, origin): (&ResultColumn, &Option<(String, String)>)| {
        let Some(place) = result.place else { return true };
        let named = column_name(frame, place).zip(origin.as_ref());
        named.is_some_and(|((table, column), origin)| table == origin.0 && column == origin.1.to_ascii_lowercase())
    };
    results.iter().zip(&prepared.origins).all(fits)
}

/// A column as SQLite reports it: its table and its name, in lower case.
fn column_name(frame: &Frame<'_>, place: Place) -> Option<(String, String)> {
    let table = frame.scope.table(place.source)?;
    let column = place.column.map_or("rowid", |column| &table.columns[column].name);
    Some((table.name.to_ascii_lowercase(), column.to_ascii_lowercase()))
}

fn note(own: &mut Columns, frame: &Frame<'_>, place: Place) {
    if let Some((table, column)) = column_name(frame, place) {
        own.entry(table).or_default().insert(column);
    }
}

/// Everything that a SELECT computes, its sources' conditions included.
fn spans(tokens: &Tokens<'_>, core: &Core) -> Vec<Span> {
    let items = core.items.iter().map(|item| &item.expr).filter(|span| !is_star(tokens, span));
    let order = core.order_by.iter().map(|term| &term.expr);
    let joins = core.sources.iter().flatten().filter_map(|source| source.on.as_ref());
    let clauses = core.condition.iter().chain(&core.having).chain(&core.limit).chain(&core.offset);
    items.chain(joins).chain(clauses).chain(&core.group_by).chain(order).cloned().collect()
}

/// What of an expression is not inside a SELECT of its own.
pub fn outside<'c>(span: &Span, nested: impl IntoIterator<Item = &'c Core>) -> Vec<Span> {
    let (mut pieces, mut at) = (Vec::new(), span.start);
    for core in nested.into_iter().filter(|core| span.contains(&core.start)) {
        if core.start >= at {
            pieces.push(at..core.start);
            at = core.end;
        }
    }
    pieces.push(at..span.end);
    pieces
}

/// Columns that USING and NATURAL compare, which SQLite does not report on both sides.
fn merged(cores: &[&Core], frames: &[Frame<'_>]) -> BTreeSet<String> {
    let mut merged = BTreeSet::new();
    for (core, frame) in cores.iter().zip(frames) {
        for (index, source) in core.sources.iter().flatten().enumerate().filter(|(_, source)| source.merges_columns) {
            match (source.using.is_empty(), frame.scope.table(index)) {
                (true, Some(table)) => merged.extend(table.columns.iter().map(|c| c.name.to_ascii_lowercase())),
                _ => merged.extend(source.using.iter().cloned()),
            }
        }
    }
    merged
}

/// Without what SQLite reports for a table of which no column is read, and without merged columns.
fn without(columns: &Columns, merged: &BTreeSet<String>) -> Columns {
    let kept = |names: &BTreeSet<String>| -> BTreeSet<String> {
        names.iter().filter(|name| !name.is_empty() && !merged.contains(*name)).cloned().collect()
    };
    let list = columns.iter().map(|(table, names)| (table.clone(), kept(names)));
    list.filter(|(_, names)| !names.is_empty()).collect()
}

/// May an aggregate that stands in a subquery belong to a SELECT around it? It belongs to the innermost one
/// whose columns it names; without any, to its own.
fn takes_outer_aggregates(tokens: &Tokens<'_>, core: &Core, inner: &[Core], around: &[&Frame<'_>]) -> bool {
    let is_own = |name: &Name| matches!(meaning(tokens, around, name), Some(Meaning::Column(0, _)));
    spans(tokens, core).iter().flat_map(|span| outside(span, inner)).any(|piece| {
        names(tokens, &piece).functions.iter().any(|(at, name)| {
            let arguments = names(tokens, &(at + 1..call_end(tokens, *at, &piece)));
            let columns = &arguments.columns;
            AGGREGATES.contains(&name.as_str()) && !columns.is_empty() && !columns.iter().any(is_own)
        })
    })
}

/// Where the call whose name is at `at` ends, its FILTER included.
fn call_end(tokens: &Tokens<'_>, at: usize, within: &Span) -> usize {
    let Some(close) = tokens.closing(at + 1) else { return within.end };
    let filter =
        tokens.is_word(close + 1, "FILTER") && tokens.list.get(close + 2).is_some_and(|token| token.kind == Kind::Mark);
    match filter.then(|| tokens.closing(close + 2)).flatten() {
        Some(closed) => closed + 1,
        None => close + 1,
    }
}
