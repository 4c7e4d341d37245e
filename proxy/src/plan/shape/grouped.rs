//! GROUP BY and aggregates over rows that are made on one shard each.
//!
//! Each shard computes its groups with partial aggregates; the last query groups the partial rows
//! again and finishes: a count is the sum of counts, and the states of sums are joined by functions of our own
//! ([`sums`](flotilla_shared::sqlite::sums)), so that neither range nor rounding depends on where rows lie. In the
//! statement's own text every grouping expression and every aggregate is replaced by what it has
//! become; what is then left over must be no column, else there is no such plan (a bare column, an
//! aggregate whose result depends on the order of rows). For a DISTINCT aggregate the shards group by its
//! argument as well, so that each value comes once per shard and group.

use flotilla_shared::slot::{Affinity, Collation};

use super::text::{Swap, Writer};
use super::{PARTS, Query, TwoPhase, Why, declared, finishes};
use crate::analyze::core::{OrderTerm, Span, Walk};
use crate::analyze::resolve::Meaning;
use crate::analyze::resolve::same::same;
use crate::analyze::resolve::scope::meaning;
use crate::analyze::resolve::terms::Term;
use crate::analyze::syntax::AGGREGATES;
use crate::lex::Tokens;

/// Is the function whose name is at `at` an aggregate? With several arguments min and max compare these.
pub fn is_aggregate(tokens: &Tokens<'_>, at: usize, name: &str) -> bool {
    AGGREGATES.contains(&name)
        && !(matches!(name, "min" | "max") && arguments(tokens, at).is_some_and(|list| list.len() > 1))
}

/// The arguments of the call whose name is at `at`.
pub fn arguments(tokens: &Tokens<'_>, at: usize) -> Option<Vec<Span>> {
    let close = tokens.closing(at + 1)?;
    let mut walk = Walk::new(tokens);
    let (mut list, mut begin) = (Vec::new(), at + 2);
    for index in at + 2..close {
        if walk.step(index) == Some(true) && tokens.is_mark(index, ",") {
            list.push(begin..index);
            begin = index + 1;
        }
    }
    if begin < close {
        list.push(begin..close);
    }
    Some(list)
}

/// A grouping expression.
struct Group {
    span: Span,
    /// It is just a column: equal names of it are recognized wherever they stand.
    is_column: bool,
}

/// Collects what shards compute.
struct Builder<'q, 'a> {
    query: &'q Query<'a>,
    groups: Vec<Group>,
    columns: Vec<String>,
    /// What each shard selects behind the groups: text pieces of one expression each.
    partials: Vec<Vec<Piece>>,
    /// Arguments of DISTINCT aggregates: the shards group by them, too.
    distinct: Vec<Span>,
}

/// A piece of a partial aggregate.
enum Piece {
    Own(&'static str),
    Copied(Span),
}

/// The plan, if there is one.
///
/// # Errors
/// Why there is none.
pub fn plan(query: &Query<'_>) -> Result<TwoPhase, Why> {
    let core = query.core;
    if query.has_star() || !query.conditions_are_plain() {
        return Err("a star stands beside aggregates, or a condition names something else than columns");
    }
    if query.reads_clock_twice() {
        return Err("both a condition and the last query read the clock");
    }
    let mut builder = Builder {
        query,
        groups: Vec::new(),
        columns: vec!["_flotilla_nothing".to_owned()],
        partials: Vec::new(),
        distinct: Vec::new(),
    };
    for span in &core.group_by {
        builder.group(span).ok_or("an expression of GROUP BY is not clear")?;
    }
    let mut finish = Writer::new(query.tokens);
    finish.push(if core.distinct { "SELECT DISTINCT" } else { "SELECT" });
    for (n, item) in core.items.iter().enumerate() {
        let swaps = builder.swaps(&item.expr, &Leftover::None)?;
        finish.push(if n == 0 { " " } else { ", " }).copy_with(&item.expr, &swaps);
        if let Some(alias) = &item.alias {
            finish.push(&format!(" AS \"{}\"", alias.replace('"', "\"\"")));
        }
    }
    finish.push(&format!(" FROM {PARTS}"));
    if !builder.groups.is_empty() {
        let names: Vec<String> = (0..builder.groups.len()).map(group_name).collect();
        finish.push(&format!(" GROUP BY {}", names.join(", ")));
    }
    if let Some(having) = &core.having {
        let swaps = builder.swaps(having, &Leftover::Alias)?;
        finish.push(" HAVING ").copy_with(having, &swaps);
    }
    for (n, term) in core.order_by.iter().enumerate() {
        let swaps = builder.order(term)?;
        finish.push(if n == 0 { " ORDER BY " } else { ", " }).copy_with(&(term.expr.start..term.suffix.end), &swaps);
    }
    if let Some(limit) = &core.limit {
        finish.push(" LIMIT ").copy(limit);
        if let Some(offset) = &core.offset {
            finish.push(" OFFSET ").copy(offset);
        }
    }
    let finish = finish.finish();
    let (shard, columns) = builder.shard().ok_or("it has no FROM")?;
    let fits = query.is_readable(&shard) && finishes(&columns, &finish);
    let pushed = "GROUP BY and partial aggregates";
    match fits {
        true => Ok(TwoPhase { placement: query.placement, shard, columns, finish, pushed }),
        false => Err("its parts cannot be written as statements of their own"),
    }
}

fn group_name(index: usize) -> String {
    format!("_flotilla_g{index}")
}

fn partial_name(index: usize) -> String {
    format!("_flotilla_p{index}")
}

/// Which names may stay in a piece of the last query.
enum Leftover {
    None,
    /// Those of results that are no columns.
    Alias,
}

impl Builder<'_, '_> {
    fn group(&mut self, span: &Span) -> Option<()> {
        let query = self.query;
        let span = match query.terms().group(span)? {
            Term::Result(index) => query.results.get(index)?.expr.clone()?,
            Term::Expr(span) => span,
        };
        let names = query.names(&span);
        let aggregates = names.functions.iter().any(|(at, name)| is_aggregate(query.tokens, *at, name));
        if names.subquery || names.volatile || names.columns.is_empty() || aggregates || !query.resolves(&names) {
            return None;
        }
        let name = group_name(self.groups.len());
        let column = query.column(&span);
        self.columns.push(match column {
            Some((table, column)) => {
                let strict = query.mirror.schema.strict.contains(&table.name.to_ascii_lowercase());
                let compare = table.columns[column].compare;
                let any = strict && table.columns[column].declared.eq_ignore_ascii_case("ANY");
                declared(&name, if any { Affinity::Blob } else { compare.affinity }, compare.collation)
            }
            None => declared(&name, Affinity::Blob, query.collation(&span)?),
        });
        self.groups.push(Group { span, is_column: column.is_some() });
        Some(())
    }

    /// The group that an expression is.
    fn group_of(&self, span: &Span) -> Option<usize> {
        let query = self.query;
        self.groups.iter().position(|group| same(query.tokens, &query.frame, &group.span, span))
    }

    fn order(&mut self, term: &OrderTerm) -> Result<Vec<Swap>, Why> {
        let sorting = self.query.terms().order(&term.expr).ok_or("a term of ORDER BY is not clear")?;
        match sorting.term {
            // The last query has the same results by the same names and numbers.
            Term::Result(index) => {
                let collation = sorting.collation.map(|name| format!(" COLLATE \"{}\"", name.replace('"', "\"\"")));
                Ok(vec![(term.expr.clone(), format!("{}{}", index + 1, collation.unwrap_or_default()))])
            }
            Term::Expr(_) => self.swaps(&term.expr, &Leftover::None),
        }
    }

    /// What replaces grouping expressions and aggregates in an expression.
    fn swaps(&mut self, span: &Span, leftover: &Leftover) -> Result<Vec<Swap>, Why> {
        if let Some(group) = self.group_of(span) {
            return Ok(vec![(span.clone(), group_name(group))]);
        }
        let query = self.query;
        let names = query.names(span);
        if names.subquery {
            return Err("a subquery stands beside aggregates");
        }
        let mut swaps: Vec<Swap> = Vec::new();
        for (at, name) in &names.functions {
            let inside = swaps.last().is_some_and(|(swapped, _)| *at < swapped.end);
            if is_aggregate(query.tokens, *at, name) {
                if inside {
                    return Err("an aggregate stands inside another");
                }
                swaps.push(
                    self.aggregate(*at, name).ok_or("an aggregate is DISTINCT, ordered, or cannot be made of parts")?,
                );
            }
        }
        for name in &names.columns {
            if swaps.iter().any(|(swapped, _)| swapped.contains(&name.span.start)) {
                continue;
            }
            let group = self.group_of(&name.span).filter(|group| self.groups[*group].is_column);
            match group {
                Some(group) => swaps.push((name.span.clone(), group_name(group))),
                None => match meaning(query.tokens, &[&query.frame], name) {
                    Some(Meaning::Literal) => (),
                    Some(Meaning::Alias(_)) if matches!(leftover, Leftover::Alias) => (),
                    _ => return Err("a column stands outside of GROUP BY and of aggregates"),
                },
            }
        }
        swaps.sort_by_key(|(swapped, _)| swapped.start);
        Ok(swaps)
    }

    /// Replaces the aggregate whose name is at `at`.
    fn aggregate(&mut self, at: usize, name: &str) -> Option<Swap> {
        let query = self.query;
        let tokens = query.tokens;
        let close = tokens.closing(at + 1)?;
        let distinct = tokens.is_word(at + 2, "DISTINCT");
        let inside = at + 2 + usize::from(distinct)..close;
        let list = arguments(tokens, at)?;
        let plain = !inside.clone().any(|at| ["ORDER", "SELECT"].iter().any(|word| tokens.is_word(at, word)));
        if !plain || list.len() > 1 {
            return None;
        }
        let mut end = close + 1;
        let mut filter = None;
        if tokens.is_word(end, "FILTER") && tokens.is_mark(end + 1, "(") {
            let closed = tokens.closing(end + 1)?;
            filter = Some(end..closed + 1);
            end = closed + 1;
        }
        let names = query.names(&(at + 1..end));
        let nested = names.functions.iter().any(|(at, name)| is_aggregate(tokens, *at, name));
        if nested || names.subquery || names.volatile || !query.resolves(&names) {
            return None;
        }
        let collation = match (name, list.first()) {
            ("min" | "max", Some(span)) => query.collation(span)?,
            _ => Collation::Binary,
        };
        if distinct {
            if filter.is_some() || !matches!(name, "count" | "sum" | "total" | "avg" | "min" | "max") {
                return None;
            }
            let column = partial_name(self.partials.len());
            self.columns.push(declared(&column, Affinity::Blob, query.collation(&inside)?));
            self.partials.push(vec![Piece::Copied(inside.clone())]);
            self.distinct.push(inside);
            return Some((at..end, format!("{name}(DISTINCT {column})")));
        }
        let mut partial = |function: &'static str| {
            let mut pieces = vec![Piece::Own(function), Piece::Copied(at + 1..close + 1)];
            pieces.extend(filter.clone().map(Piece::Copied));
            let name = partial_name(self.partials.len());
            self.columns.push(declared(&name, Affinity::Blob, collation));
            self.partials.push(pieces);
            name
        };
        let merged = match name {
            // Without any group there is no row to sum.
            "count" => format!("ifnull(sum({}), 0)", partial("count")),
            "sum" => format!("flotilla_sum({})", partial("flotilla_sum_state")),
            "total" => format!("flotilla_total({})", partial("flotilla_sum_state")),
            "avg" => format!("flotilla_avg({})", partial("flotilla_sum_state")),
            "min" => format!("min({})", partial("min")),
            "max" => format!("max({})", partial("max")),
            _ => return None,
        };
        Some((at..end, merged))
    }

    /// What each shard runs, and the columns of its result.
    fn shard(self) -> Option<(super::text::Template, Vec<String>)> {
        let core = self.query.core;
        let mut shard = Writer::new(self.query.tokens);
        // NULL keeps the list from being empty: a statement may ask for constants alone.
        shard.push("SELECT NULL");
        for group in &self.groups {
            shard.push(", ").copy(&group.span);
        }
        for pieces in &self.partials {
            shard.push(", ");
            for piece in pieces {
                match piece {
                    Piece::Own(text) => shard.push(text),
                    Piece::Copied(span) => shard.copy(span),
                };
            }
        }
        shard.push(" FROM ").copy(core.from.as_ref()?);
        if let Some(condition) = &core.condition {
            shard.push(" WHERE ").copy(condition);
        }
        let groups = self.groups.iter().map(|group| &group.span).chain(&self.distinct);
        for (n, span) in groups.enumerate() {
            shard.push(if n == 0 { " GROUP BY " } else { ", " }).copy(span);
        }
        Some((shard.finish(), self.columns))
    }
}
