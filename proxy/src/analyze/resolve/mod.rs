//! What names, parameters and terms of a SELECT mean, by SQLite's rules.
//!
//! Input: tokens of a statement that SQLite has prepared, its [`Core`](super::core::Core)s and the
//! tables of the schema. Output: the column that a name is ([`scope`]), the result that a term of
//! ORDER BY or GROUP BY is ([`terms`]), whether two expressions are one ([`same`]). A caller that gets no
//! answer may not guess: the statement then takes the road on which the tables are pulled and SQLite
//! itself resolves it. Before any other road is taken, [`check`] compares all of it with what SQLite
//! reports for the prepared statement.
//!
//! The rules, with their places in SQLite's source and the tests that state them:
//!
//! 1. A name without a qualifier is, at the innermost SELECT that has one of these: a column of its
//!    sources, the rowid, the alias of one of its results. Then the SELECT around it is asked
//!    (`lookupName` in resolve.c; `tests::names_are_looked_up_from_the_inside`).
//! 2. The alias of a result is not seen by the other results, but by WHERE, ON, GROUP BY, HAVING and
//!    ORDER BY, and by SELECTs inside them. An unclear level ends the search without an answer.
//! 3. A name that is nothing of that kind is a text if it stands in `"…"`, and `TRUE` or `FALSE` if it
//!    stands in no quotes at all. `'…'` is a text unless it qualifies or is qualified
//!    (`tests::what_is_no_column`).
//! 4. Of a star, each column is a result with the column's name, as if it had that alias; a written
//!    item has a name only by its alias (`selectExpander` in select.c;
//!    `tests::results_of_stars`).
//! 5. A term of ORDER BY is looked at without parentheses and without a COLLATE that applies to all of it. A
//!    name is the first result of that name, also where it is a column too; an integer, also behind `+`,
//!    is a result by its number; all else is an expression, in which columns go before aliases
//!    (`resolveOrderGroupBy`; `tests::terms_of_order_by`).
//! 6. A term of GROUP BY is the same, but that a name is a column before it is an alias
//!    (`tests::terms_of_group_by`). `'k'` is a text in both.
//! 7. COLLATE binds more tightly than any operator between two operands, so in `a = b COLLATE c` it belongs to `b`
//!    (parse.y; `tests::the_collation_of_a_term`).
//! 8. Two expressions are one if they are alike token by token, where names are one if they mean one
//!    column, words are one in any case, and literals are one only as written; parameters are one if they
//!    have one number, and each `?` has its own (`sqlite3ExprCompare` in expr.c; `tests::same_expressions`).
//!    This is stricter than SQLite where it must not be laxer.
//! 9. An aggregate inside a subquery belongs to the innermost SELECT whose columns it names
//!    (`sqlite3ReferencesSrcList`; `tests::whose_an_aggregate_is`).
//! 10. The target of an UPDATE or DELETE is a table, also where a CTE has its name (`sqlite3SrcListLookup` in
//!     delete.c; `tests::the_target_is_no_cte`).

pub mod check;
pub mod same;
pub mod scope;
pub mod terms;
#[cfg(test)]
mod tests;

pub use scope::{Frame, Meaning, Place, Scope};
