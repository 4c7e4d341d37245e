//! Whether an UPDATE reads, row after row, what it has changed before.
//!
//! SQLite changes one row after the other. A subquery in SET that it evaluates anew for each row, or for the first time
//! at a later row, sees the rows before as they are by then. A write in two steps reads everything before it
//! changes anything, so such a statement would mean something else. (SQLite itself reads everything first where there is
//! a FROM, and for what WHERE holds in queries.)
//!
//! Input: a [`Change`]. All names are resolved by SQLite: the subquery is prepared on the mirror over a stand-in for the
//! row at hand, which tells what it reads of the table itself, and without one, which tells whether it needs
//! the row at all.

use std::ops::Range;

use flotilla_shared::error::Error;

use super::split::quote;
use super::stage::Change;
use crate::analyze::Verb;
use crate::lex::{Kind, Tokens};

/// Words behind which an operand may not be evaluated at all.
const LAZY: [&str; 7] = ["CASE", "AND", "OR", "IIF", "IF", "COALESCE", "IFNULL"];

/// A subquery of a value.
struct Subquery {
    /// Its text, in parentheses.
    sql: String,
    /// It stands behind IN, where SQLite may look into the table itself, or at a place that is not always evaluated.
    late: bool,
}

impl Change<'_> {
    /// Does a subquery of SET read what the statement changes, as it is after some of the changes?
    ///
    /// # Errors
    /// A statement that is none.
    pub(super) fn sees_itself(&self) -> Result<bool, Error> {
        if self.prepared.analysis.verb != Verb::Update || self.shape.from.is_some() {
            return Ok(false);
        }
        let tokens = Tokens::read(&self.prepared.sql)?;
        let values = self.shape.set.iter().filter(|one| one.queries).flat_map(|one| &one.values);
        let subqueries = values.flat_map(|span| subqueries(&tokens, span));
        let sees = |one: Subquery| self.reads_changes(&one.sql) && (one.late || self.needs_row(&one.sql));
        Ok(subqueries.into_iter().any(sees))
    }

    /// Does a subquery read columns of the target, in rows of its own, that the statement changes?
    fn reads_changes(&self, subquery: &str) -> bool {
        let named = self.table.columns.iter().map(|column| column.name.as_str());
        let rowid = ["rowid", "oid", "_rowid_"].into_iter().filter(|name| self.table.column(name).is_none());
        let row: Vec<String> = named.chain(rowid).map(|name| format!("NULL AS {}", quote(name))).collect();
        let known_as = quote(&self.shape.known_as);
        let sql = self.with(&format!("SELECT EXISTS {subquery} FROM (SELECT {}) AS {known_as}", row.join(", ")));
        let Ok((prepared, _)) = self.mirror.prepare(&sql) else { return true };
        let read = prepared.analysis.record.columns.get(&self.table.name.to_ascii_lowercase());
        let updated = &self.prepared.analysis.record.updated;
        read.is_some_and(|read| !read.is_disjoint(updated))
    }

    /// Does a subquery need the row at hand?
    fn needs_row(&self, subquery: &str) -> bool {
        self.mirror.prepare(&self.with(&format!("SELECT EXISTS {subquery}"))).is_err()
    }

    fn with(&self, sql: &str) -> String {
        format!("{} {sql}", &self.prepared.sql[self.shape.with.clone()])
    }
}

/// The outermost subqueries of a value.
fn subqueries(tokens: &Tokens<'_>, value: &Range<usize>) -> Vec<Subquery> {
    let within = |at: &usize| tokens.list[*at].span.start >= value.start && tokens.list[*at].span.end <= value.end;
    let places: Vec<usize> = (0..tokens.list.len()).filter(within).collect();
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return vec![] };
    let (mut found, mut lazy, mut at) = (Vec::new(), false, *first);
    while at <= *last {
        let query = ["SELECT", "WITH", "VALUES"].iter().any(|word| tokens.is_word(at + 1, word));
        if tokens.is_mark(at, "(") && query {
            let end = tokens.closing(at).unwrap_or(*last);
            let behind_in = at > 0 && tokens.is_word(at - 1, "IN");
            found.push(Subquery { sql: spell(tokens, at..end + 1), late: behind_in });
            at = end + 1;
            continue;
        }
        if tokens.is_in_table(at) && !tokens.is_mark(at + 1, "(") {
            let end = if tokens.is_mark(at + 2, ".") { at + 4 } else { at + 2 };
            found.push(Subquery { sql: format!("(SELECT * FROM {})", spell(tokens, at + 1..end)), late: true });
            at = end;
            continue;
        }
        lazy |= LAZY.iter().any(|word| tokens.is_word(at, word));
        at += 1;
    }
    found.iter_mut().for_each(|one| one.late |= lazy);
    found
}

/// Tokens as text. What is in double quotes is a name and nothing else: SQLite would take one that it
/// does not know for text.
fn spell(tokens: &Tokens<'_>, span: Range<usize>) -> String {
    let word = |at: usize| match (tokens.list[at].kind, tokens.name(at)) {
        (Kind::Quoted, Some(name)) => format!("`{}`", name.replace('`', "``")),
        _ => tokens.text(at).to_owned(),
    };
    span.map(word).collect::<Vec<_>>().join(" ")
}
