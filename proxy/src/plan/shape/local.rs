//! Are the rows of a FROM made on one shard each? Then every shard can do its part of the query.
//!
//! That holds when all sharded tables are in one placement, and each but the first is joined to an
//! earlier one by equality of all shard keys: rows that meet have equal keys, so they are on one
//! shard. For outer joins the equality must be in the join's own condition; a row without a match is
//! then without a match on its own shard.

use flotilla_shared::ids::PlacementId;
use flotilla_shared::registry::HOME;

use super::Why;
use crate::analyze::core::{Core, Join, Span};
use crate::analyze::names::{Place, Scope, conjuncts, names};
use crate::lex::Tokens;

/// The placement of the tables, if all rows of the FROM are made on one shard each.
///
/// # Errors
/// Why not.
pub fn placement(tokens: &Tokens<'_>, core: &Core, scope: &Scope<'_>) -> Result<PlacementId, Why> {
    let sources = core.sources.as_deref().unwrap_or_default();
    let mut placement = None;
    let mut sharded: Vec<usize> = Vec::new();
    let outer = sources.iter().any(|source| source.join != Join::Inner);
    for (index, source) in sources.iter().enumerate() {
        let table = scope.table(index).ok_or("FROM holds a subquery or a common table expression")?;
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

/// USING takes the column of the first source before `index` that has it: is `earlier` the only one?
fn only_holder(scope: &Scope<'_>, index: usize, earlier: usize, column: &str) -> bool {
    let holds = |index: &usize| scope.table(*index).is_some_and(|table| table.column(column).is_some());
    (0..index).filter(holds).eq([earlier])
}

/// Does the condition say `a = b` among its conjuncts?
fn equates(tokens: &Tokens<'_>, condition: &Span, scope: &Scope<'_>, a: Place, b: Place) -> bool {
    conjuncts(tokens, condition).iter().any(|part| {
        let Some(equal) = part.clone().find(|at| tokens.is_mark(*at, "=") || tokens.is_mark(*at, "==")) else {
            return false;
        };
        let side = |span: Span| {
            let found = names(tokens, &span);
            match found.columns.as_slice() {
                [name] if name.span == span => scope.place(name),
                _ => None,
            }
        };
        let sides = (side(part.start..equal), side(equal + 1..part.end));
        sides == (Some(a), Some(b)) || sides == (Some(b), Some(a))
    })
}
