//! Writes that hold a query and still are for one shard alone: it has all that the query reads and all
//! that is written. They go there as written, and are one transaction.
//!
//! Input: the read that such a write would begin with, if it took two steps. What is not surely on one
//! shard gives `None`, and takes the two steps.

use std::collections::BTreeMap;

use flotilla_shared::registry::Registry;
use flotilla_shared::wire::Statement;

use super::keys::{is_column, merge_claims};
use super::route::{Keys, slots};
use super::split::quote;
use super::stage::Change;
use super::{Input, Part, Plan, pinned_parts};
use crate::analyze::core::cores;
use crate::analyze::predicate::Predicates;
use crate::lex::{Kind, Tokens};

/// The shard that gives the whole answer to a read that is part of a write.
pub(super) fn one_shard(input: Input<'_>, registry: &Registry, read: &Statement) -> Option<Part> {
    let (prepared, _) = input.mirror.prepare(&read.sql).ok()?;
    prepared.check_args(&read.params).ok()?;
    let keys = BTreeMap::new();
    let input = Input { prepared: &prepared, params: &read.params, keys: &keys, ..input };
    match super::plan(input, registry) {
        Plan::One(part) if part.statement.is_none() && part.guard.is_none() => Some(part),
        Plan::Refused(_) => None,
        _ => all_fixed(input, registry),
    }
}

/// The shard to which each SELECT of a statement, subqueries included, is fixed by its own condition.
fn all_fixed(input: Input<'_>, registry: &Registry) -> Option<Part> {
    let tokens = Tokens::read(&input.prepared.sql).ok()?;
    if input.prepared.analysis.view.is_some() || names_tables(&tokens) {
        return None;
    }
    let mut only: Option<Part> = None;
    for core in cores(&tokens)? {
        let sources = core.sources.as_ref()?;
        let tables: Vec<_> = sources.iter().filter(|source| source.table.is_some()).collect();
        // Of a subquery or a CTE, which is a SELECT of its own.
        if tables.is_empty() {
            continue;
        }
        // A join may need rows that its condition does not name.
        let ([source], 1) = (&tables[..], sources.len()) else { return None };
        let table = registry.table(source.table.as_deref()?)?;
        let placement = registry.placements.get(&table.placement)?;
        // Every shard has a copy; what it claims is added to the plan.
        if placement.is_reference() {
            continue;
        }
        let condition = spell(&tokens, core.condition.clone()?);
        let alone = format!("SELECT 1 FROM {} AS {} WHERE {condition}", quote(&table.name), quote(&source.known_as));
        let predicates = Predicates::read(&Tokens::read(&alone).ok()?, |name| registry.table(name))?;
        let Keys::Some(slots) = slots(0, &predicates, table, placement, input.prepared, input.params) else {
            return None;
        };
        let mut parts = pinned_parts(placement, &slots).ok()?;
        let part = parts.pop().filter(|_| parts.is_empty())?;
        match &mut only {
            None => only = Some(part),
            Some(known) if known.shard == part.shard => {
                known.claims.extend(part.claims);
                known.claims = merge_claims(std::mem::take(&mut known.claims));
            }
            Some(_) => return None,
        }
    }
    only
}

/// `x IN name` reads a table without a SELECT; so may VALUES hold anything.
fn names_tables(tokens: &Tokens<'_>) -> bool {
    (0..tokens.list.len())
        .any(|at| tokens.is_word(at, "VALUES") || (tokens.is_word(at, "IN") && !tokens.is_mark(at + 1, "(")))
}

/// A span of tokens as text, with its parameters by number: those of the whole statement.
fn spell(tokens: &Tokens<'_>, span: std::ops::Range<usize>) -> String {
    let word = |at: usize| match tokens.list[at].kind {
        Kind::Param => format!("?{}", tokens.list[at].param),
        _ => tokens.text(at).to_owned(),
    };
    span.map(word).collect::<Vec<_>>().join(" ")
}

/// Does an INSERT take the shard key of each row from the shard key of the row that it reads, in one
/// placement? Then the rows stay where they were read.
pub(super) fn keeps_keys(input: Input<'_>, registry: &Registry, change: Change<'_>, read: &Statement) -> bool {
    let table = change.table;
    let holds = || {
        let tokens = Tokens::read(&read.sql).ok()?;
        let cores = cores(&tokens)?;
        let [core] = &cores[..] else { return None };
        let [source] = &core.sources.as_ref()?[..] else { return None };
        let from = registry.table(source.table.as_deref()?)?;
        let width = core.items.len();
        let columns = match &change.shape.columns {
            Some(names) => {
                names.iter().map(|name| (0..table.columns.len()).find(|at| is_column(table, *at, name))).collect()
            }
            None => (0..table.columns.len()).filter(|at| !table.columns[*at].generated).map(Some).collect::<Vec<_>>(),
        };
        let taken = |(to, from_key): (&usize, &usize)| {
            let item = core.items.get(columns.iter().position(|column| *column == Some(*to))?)?;
            let qualified = tokens.is_mark(item.expr.start + 1, ".")
                && tokens.name(item.expr.start).is_some_and(|name| name.eq_ignore_ascii_case(&source.known_as));
            let at = if qualified { item.expr.start + 2 } else { item.expr.start };
            let bare = at + 1 == item.expr.end && tokens.list[at].kind != Kind::Text;
            (bare && is_column(from, *from_key, &tokens.name(at)?)).then_some(())
        };
        let generated = table.rowid_alias.is_some_and(|alias| !table.key.contains(&alias));
        let plain = !core.compound && width == columns.len() && !generated && from.placement == table.placement;
        let all = table.key.iter().zip(&from.key).map(taken).collect::<Option<Vec<_>>>()?;
        Some(plain && !all.is_empty() && input.prepared.analysis.placements == [table.placement])
    };
    holds().unwrap_or(false)
}
