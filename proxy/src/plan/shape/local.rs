//! Are the rows of a FROM made on one shard each? Then every shard can do its part of the query.
//!
//! That holds when all sharded tables are in one placement, and each but the first is joined to an
//! earlier one by equality of all shard keys: rows that meet have equal keys, so they are on one
//! shard. For outer joins the equality must be in the join's own condition; a row without a match is
//! then without a match on its own shard. Reference tables, with a copy on every shard, may be joined to
//! these; as the side that keeps its rows they would give them once per shard, so there they may not be.

use flotilla_shared::ids::PlacementId;
use flotilla_shared::registry::HOME;

use super::Why;
use crate::analyze::core::{Core, Join, Span};
use crate::analyze::names::{Name, conjuncts, names};
use crate::analyze::resolve::scope::meaning;
use crate::analyze::resolve::{Frame, Meaning, Place, Scope};
use crate::lex::Tokens;
use crate::mirror::Schema;

/// The placement of the tables, if all rows of the FROM are made on one shard each.
///
/// # Errors
/// Why not.
pub fn placement(tokens: &Tokens<'_>, core: &Core, scope: &Scope<'_>, schema: &Schema) -> Result<PlacementId, Why> {
    let sources = core.sources.as_deref().unwrap_or_default();
    let mut placement = None;
    let mut sharded: Vec<usize> = Vec::new();
    let outer = sources.iter().any(|source| source.join != Join::Inner);
    for (index, source) in sources.iter().enumerate() {
        let table = scope.table(index).ok_or("FROM holds a subquery or a common table expression")?;
        if schema.is_reference(table.placement) {
            // With an outer join, whoever comes first may be a side that keeps its rows.
            let keeps_rows = outer && sharded.is_empty();
            if keeps_rows || sources.iter().any(|source| matches!(source.join, Join::Right | Join::Full)) {
                return Err("a reference table would keep its rows on each shard");
            }
            continue;
        }
        if table.placement == HOME || *placement.get_or_insert(table.placement) != table.placement {
            return Err("it joins tables that are not in one placement");
        }
        if !sharded.is_empty() {
            let mut conditions: Vec<Span> = source.on.iter().cloned().collect();
            if !outer {
                conditions.extend(core.condition.clone());
                conditions.extend(sources.iter().filter_map(|other| other.on.clone()));
            }
            let linked = |earlier: &usize| {
                let earlier_table = scope.table(*earlier);
                earlier_table.is_some_and(|other| {
                    other.key.iter().zip(&table.key).all(|(left, right)| {
                        let named = &table.columns[*right].name;
                        let merged = source.using.iter().any(|name| named.eq_ignore_ascii_case(name))
                            && other.columns[*left].name.eq_ignore_ascii_case(named)
                            && only_holder(scope, index, *earlier, named);
                        merged
                            || conditions.iter().any(|condition| {
                                equates(
                                    tokens,
                                    condition,
                                    scope,
                                    Place { source: *earlier, column: Some(*left) },
                                    Place { source: index, column: Some(*right) },
                                )
                            })
                    })
                })
            };
            if !sharded.iter().any(linked) {
                return Err("it joins tables by other columns than their shard keys");
            }
        }
        sharded.push(index);
    }
    placement.ok_or("it reads no sharded table")
}

/// Do the SELECTs inside another one find all their rows on the shard where that one's row is? Each must
/// be joined by its shard keys to a table of a SELECT around it.
///
/// # Errors
/// Why not.
pub fn nested(
    tokens: &Tokens<'_>,
    outer: &Core,
    nested: &[Core],
    schema: &Schema,
    wanted: PlacementId,
) -> Result<(), Why> {
    const APART: Why = "a subquery is not joined to the query around it by shard keys";
    for (index, core) in nested.iter().enumerate() {
        if core.compound || core.window || tokens.has_word("WITH") {
            return Err("a subquery is more than a plain SELECT");
        }
        let sources = core.sources.as_deref().ok_or(APART)?;
        let inside = Frame::new(core, &schema.tables).ok_or(APART)?;
        let scope = &inside.scope;
        // Of copies, every shard has all.
        let copies = (0..scope.count()).all(|n| scope.table(n).is_some_and(|t| schema.is_reference(t.placement)));
        if copies {
            continue;
        }
        if placement(tokens, core, scope, schema)? != wanted || sources.iter().any(|source| source.join != Join::Inner)
        {
            return Err(APART);
        }
        // The closest one first: that is where SQLite looks first for a name that is not found inside.
        let around = nested[..index].iter().rev().chain([outer]).filter(|around| around.end >= core.end);
        let around: Vec<Frame<'_>> =
            around.map(|around| Frame::new(around, &schema.tables)).collect::<Option<_>>().ok_or(APART)?;
        let frames: Vec<&Frame<'_>> = [&inside].into_iter().chain(&around).collect();
        let linked = core.condition.as_ref().is_some_and(|condition| is_linked(tokens, condition, &frames, wanted));
        if !linked {
            return Err(APART);
        }
    }
    Ok(())
}

/// Does a condition equate all shard keys of a table inside with those of one in a scope around it?
fn is_linked(tokens: &Tokens<'_>, condition: &Span, frames: &[&Frame<'_>], wanted: PlacementId) -> bool {
    let sharded = |scope: &Scope<'_>| -> Vec<usize> {
        (0..scope.count()).filter(|n| scope.table(*n).is_some_and(|table| table.placement == wanted)).collect()
    };
    let column = |name: &Name| match meaning(tokens, frames, name)? {
        Meaning::Column(level, place) => Some((level, place)),
        Meaning::Alias(_) | Meaning::Literal => None,
    };
    let pairs: Vec<(Place, (usize, Place))> = conjuncts(tokens, condition)
        .iter()
        .filter_map(|part| {
            let (left, right) = sides(tokens, part)?;
            match (column(&left)?, column(&right)?) {
                ((0, inner), outer) | (outer, (0, inner)) if outer.0 > 0 => Some((inner, outer)),
                _ => None,
            }
        })
        .collect();
    let inside = &frames[0].scope;
    sharded(inside).iter().any(|inner| {
        frames.iter().enumerate().skip(1).any(|(level, frame)| {
            sharded(&frame.scope).iter().any(|outer| {
                let (Some(a), Some(b)) = (inside.table(*inner), frame.scope.table(*outer)) else { return false };
                a.key.iter().zip(&b.key).all(|(left, right)| {
                    let left = Place { source: *inner, column: Some(*left) };
                    let right = Place { source: *outer, column: Some(*right) };
                    pairs.contains(&(left, (level, right)))
                })
            })
        })
    })
}

/// USING takes the column of the first source before `index` that has it: is `earlier` the only one?
fn only_holder(scope: &Scope<'_>, index: usize, earlier: usize, column: &str) -> bool {
    let holds = |index: &usize| scope.table(*index).is_some_and(|table| table.column(column).is_some());
    (0..index).filter(holds).eq([earlier])
}

/// Does the condition say `a = b` among its conjuncts?
fn equates(tokens: &Tokens<'_>, condition: &Span, scope: &Scope<'_>, a: Place, b: Place) -> bool {
    conjuncts(tokens, condition).iter().any(|part| {
        let Some((left, right)) = sides(tokens, part) else { return false };
        let found = (scope.place(&left), scope.place(&right));
        found == (Some(a), Some(b)) || found == (Some(b), Some(a))
    })
}

/// The two columns that a conjunct equates, if that is all it does.
fn sides(tokens: &Tokens<'_>, part: &Span) -> Option<(Name, Name)> {
    let equal = part.clone().find(|at| tokens.is_mark(*at, "=") || tokens.is_mark(*at, "=="))?;
    let side = |span: Span| {
        let mut found = names(tokens, &span).columns;
        found.pop().filter(|name| found.is_empty() && name.span == span)
    };
    Some((side(part.start..equal)?, side(equal + 1..part.end)?))
}
