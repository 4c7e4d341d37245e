//! The parts of a write as places in its text: of an `INSERT … SELECT`, an UPDATE or a DELETE, with
//! any WITH, subquery, `ON CONFLICT` and RETURNING.
//!
//! Input: the tokens of a statement that SQLite has prepared, so its grammar is not checked again.
//! Output: [`ChangeShape`], from which the [plan](crate::plan) writes the reads and writes that carry
//! it out in steps. `None` for a form that is not known here; the plan refuses it then.
//! Grammar: <https://sqlite.org/lang_insert.html>, <https://sqlite.org/lang_update.html>.

use std::ops::Range;

use crate::lex::{Kind, Tokens};

/// One assignment of an UPDATE: columns, and one value each.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Columns as named.
    pub columns: Vec<String>,
    /// The value; of a row of values, one place each; a single place for a subquery that gives a row.
    pub values: Vec<Range<usize>>,
    /// It holds a query.
    pub queries: bool,
}

/// The parts of a write.
#[derive(Clone, Debug)]
pub struct ChangeShape {
    /// `WITH …` before the verb.
    pub with: Range<usize>,
    /// From the verb to before the target's name: `UPDATE OR IGNORE`.
    pub verb: Range<usize>,
    /// `OR …`, its word in upper case.
    pub or: Option<String>,
    /// The target as it may stand in a FROM, with its alias.
    pub target: Range<usize>,
    /// What the statement calls its target.
    pub known_as: String,
    /// Of an INSERT: columns as listed.
    pub columns: Option<Vec<String>>,
    /// Of an INSERT: from the verb to before the source of the rows.
    pub head: Range<usize>,
    /// Of an INSERT: the query that gives the rows.
    pub source: Range<usize>,
    /// Of an UPDATE: what is assigned.
    pub set: Vec<Assignment>,
    /// Of an UPDATE: the text of all assignments.
    pub set_span: Range<usize>,
    /// Of an UPDATE: what stands behind FROM.
    pub from: Option<Range<usize>>,
    /// Of an UPDATE: FROM has several sources.
    pub from_joins: bool,
    /// What stands behind WHERE.
    pub condition: Option<Range<usize>>,
    /// `ON CONFLICT …` and `RETURNING …`.
    pub tail: Range<usize>,
    /// A query is in the tail.
    pub tail_queries: bool,
    /// A query is anywhere else: in WITH, FROM, WHERE or an assignment.
    pub queries: bool,
    /// Parameters with their places and numbers.
    pub params: Vec<(Range<usize>, usize)>,
}

impl ChangeShape {
    /// Reads the shape of an INSERT, UPDATE or DELETE.
    pub fn read(tokens: &Tokens<'_>) -> Option<Self> {
        let end = (0..tokens.list.len()).rev().find(|index| !tokens.is_mark(*index, ";"))? + 1;
        let verbs = ["INSERT", "REPLACE", "UPDATE", "DELETE"];
        let first = at_depth_0(tokens, 0, end, |index| verbs.iter().any(|verb| tokens.is_word(index, verb)))?;
        let insert = tokens.is_word(first, "INSERT") || tokens.is_word(first, "REPLACE");
        let update = tokens.is_word(first, "UPDATE");
        let mut at = first + 1;
        let mut or = None;
        if tokens.is_word(at, "OR") {
            or = Some(tokens.text(at + 1).to_ascii_uppercase());
            at += 2;
        }
        if !update {
            at += 1;
        }
        let name_at = at;
        if tokens.is_mark(at + 1, ".") {
            at += 2;
        }
        let mut known_as = tokens.name(at)?;
        at += 1;
        if tokens.is_word(at, "AS") {
            known_as = tokens.name(at + 1)?;
            at += 2;
        }
        let start = |index: usize| tokens.list.get(index).map_or(tokens.sql.len(), |token| token.span.start);
        let stop = |index: usize| tokens.list[index - 1].span.end;
        let span = |from: usize, to: usize| if from < to { start(from)..stop(to) } else { stop(from)..stop(from) };
        let params = tokens.list.iter().filter(|t| t.kind == Kind::Param).map(|t| (t.span.clone(), t.param)).collect();
        let mut shape = Self {
            with: if first > 0 { span(0, first) } else { 0..0 },
            verb: span(first, name_at),
            or,
            target: span(name_at, at),
            known_as,
            columns: None,
            head: 0..0,
            source: 0..0,
            set: Vec::new(),
            set_span: 0..0,
            from: None,
            from_joins: false,
            condition: None,
            tail: stop(end)..stop(end),
            tail_queries: false,
            queries: first > 0,
            params,
        };
        if tokens.is_word(at, "INDEXED") {
            at += 3;
        } else if tokens.is_word(at, "NOT") {
            at += 2;
        }
        let tail = at_depth_0(tokens, at, end, |index| is_tail(tokens, index)).unwrap_or(end);
        if tail < end {
            shape.tail = span(tail, end);
            shape.tail_queries = queries(tokens, tail, end);
        }
        if insert {
            if tokens.is_mark(at, "(") && !tokens.is_word(at + 1, "SELECT") {
                let close = tokens.closing(at)?;
                let names = (at + 1..close).step_by(2).map(|index| tokens.name(index)).collect::<Option<Vec<_>>>()?;
                shape.columns = Some(names);
                at = close + 1;
            }
            shape.head = span(first, at);
            shape.source = span(at, tail);
            shape.queries = true;
            return (at < tail && !tokens.is_word(at, "DEFAULT")).then_some(shape);
        }
        let mut clauses: Vec<usize> = Vec::new();
        for word in ["SET", "FROM", "WHERE"] {
            let from = clauses.last().map_or(at, |last| last + 1);
            // `IS DISTINCT FROM` is an operator.
            let found = at_depth_0(tokens, from, tail, |index| {
                tokens.is_word(index, word) && !tokens.is_word(index - 1, "DISTINCT")
            });
            match (word, found) {
                ("SET", Some(index)) if update => clauses.push(index),
                ("SET", None) if update => return None,
                ("FROM", Some(index)) if update => {
                    let before = at_depth_0(tokens, from, index, |index| tokens.is_word(index, "WHERE"));
                    if before.is_none() {
                        clauses.push(index);
                    }
                }
                ("WHERE", Some(index)) => clauses.push(index),
                _ => (),
            }
        }
        for (n, clause) in clauses.iter().enumerate() {
            let (from, to) = (clause + 1, clauses.get(n + 1).copied().unwrap_or(tail));
            match tokens.text(*clause).to_ascii_uppercase().as_str() {
                "SET" => {
                    shape.set_span = span(from, to);
                    shape.set = assignments(tokens, from, to)?;
                }
                "FROM" => {
                    shape.from = Some(span(from, to));
                    // JOIN is no name unless it is quoted.
                    let joins = |index: usize| tokens.is_mark(index, ",") || tokens.is_word(index, "JOIN");
                    shape.from_joins = at_depth_0(tokens, from, to, joins).is_some();
                }
                _ => shape.condition = Some(span(from, to)),
            }
            shape.queries |= queries(tokens, from, to);
        }
        shape.queries |= shape.from.is_some();
        Some(shape)
    }
}

/// The first token outside parentheses, of `from..to`, that satisfies `found`.
fn at_depth_0(tokens: &Tokens<'_>, from: usize, to: usize, found: impl Fn(usize) -> bool) -> Option<usize> {
    let mut depth = 0usize;
    for index in from..to {
        if depth == 0 && found(index) {
            return Some(index);
        }
        if tokens.is_mark(index, "(") {
            depth += 1;
        } else if tokens.is_mark(index, ")") {
            depth = depth.saturating_sub(1);
        }
    }
    None
}

/// `CONFLICT` may also name a column in the ON of a join; nothing but the clause goes on like this.
fn is_tail(tokens: &Tokens<'_>, index: usize) -> bool {
    tokens.is_word(index, "RETURNING")
        || (tokens.is_word(index, "ON")
            && tokens.is_word(index + 1, "CONFLICT")
            && (tokens.is_mark(index + 2, "(") || tokens.is_word(index + 2, "DO")))
}

/// Is there a query among the tokens? `x IN name` is one as well.
fn queries(tokens: &Tokens<'_>, from: usize, to: usize) -> bool {
    (from..to).any(|index| {
        tokens.is_word(index, "SELECT")
            || tokens.is_word(index, "VALUES")
            || (tokens.is_word(index, "IN") && !tokens.is_mark(index + 1, "("))
    })
}

fn assignments(tokens: &Tokens<'_>, from: usize, to: usize) -> Option<Vec<Assignment>> {
    let mut list = Vec::new();
    let mut at = from;
    while at < to {
        let end = at_depth_0(tokens, at, to, |index| tokens.is_mark(index, ",")).unwrap_or(to);
        let row = tokens.is_mark(at, "(");
        let (columns, equals) = if row {
            let close = tokens.closing(at)?;
            ((at + 1..close).step_by(2).map(|index| tokens.name(index)).collect::<Option<Vec<_>>>()?, close + 1)
        } else {
            (vec![tokens.name(at)?], at + 1)
        };
        if !(tokens.is_mark(equals, "=") || tokens.is_mark(equals, "==")) || equals + 1 >= end {
            return None;
        }
        let first = equals + 1;
        let whole = || tokens.list[first].span.start..tokens.list[end - 1].span.end;
        let opened = row && tokens.is_mark(first, "(") && tokens.closing(first) == Some(end - 1);
        let values = if opened && !tokens.is_word(first + 1, "SELECT") && !tokens.is_word(first + 1, "WITH") {
            items(tokens, first + 1, end - 1)
        } else {
            vec![whole()]
        };
        list.push(Assignment { columns, values, queries: queries(tokens, first, end) });
        at = end + 1;
    }
    Some(list)
}

fn items(tokens: &Tokens<'_>, from: usize, to: usize) -> Vec<Range<usize>> {
    let mut list = Vec::new();
    let mut at = from;
    while at < to {
        let end = at_depth_0(tokens, at, to, |index| tokens.is_mark(index, ",")).unwrap_or(to);
        list.push(tokens.list[at].span.start..tokens.list[end - 1].span.end);
        at = end + 1;
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(sql: &'a str) -> (ChangeShape, impl Fn(&Range<usize>) -> &'a str) {
        (ChangeShape::read(&Tokens::read(sql).unwrap()).unwrap(), move |span: &Range<usize>| &sql[span.clone()])
    }

    /// The query of an INSERT lies between its columns and what follows the query.
    #[test]
    fn inserts() {
        let (s, text) = parts(
            "WITH c AS (SELECT 1) INSERT OR IGNORE INTO main.t AS x (a, \"b\") SELECT * FROM c JOIN d ON conflict = 1 WHERE true ON CONFLICT (a) DO NOTHING RETURNING *;",
        );
        assert_eq!(text(&s.with), "WITH c AS (SELECT 1)");
        assert_eq!(text(&s.head), "INSERT OR IGNORE INTO main.t AS x (a, \"b\")");
        assert_eq!(text(&s.source), "SELECT * FROM c JOIN d ON conflict = 1 WHERE true");
        assert_eq!(text(&s.tail), "ON CONFLICT (a) DO NOTHING RETURNING *");
        assert_eq!(s.columns.unwrap(), ["a", "b"]);
        assert!(!s.tail_queries && s.or.as_deref() == Some("IGNORE"));
        let (s, text) = parts("INSERT INTO t VALUES ((SELECT 1), 2) RETURNING (SELECT 3)");
        assert_eq!(text(&s.source), "VALUES ((SELECT 1), 2)");
        assert!(s.tail_queries);
    }

    /// Clauses of an UPDATE and a DELETE are found past operators that look like them.
    #[test]
    fn changes() {
        let (s, text) = parts(
            "UPDATE t AS x INDEXED BY i SET a = b IS DISTINCT FROM 3, (c, d) = (?1, f(2, 3)), e = (SELECT 1) FROM u, v WHERE x.a IS NOT DISTINCT FROM u.a RETURNING a",
        );
        assert_eq!((text(&s.target), s.known_as.as_str()), ("t AS x", "x"));
        assert_eq!(text(&s.set[0].values[0]), "b IS DISTINCT FROM 3");
        assert_eq!(s.set[1].columns, ["c", "d"]);
        assert_eq!(s.set[1].values.iter().map(&text).collect::<Vec<_>>(), ["?1", "f(2, 3)"]);
        assert!(s.set[2].queries && !s.set[1].queries);
        assert_eq!(text(s.from.as_ref().unwrap()), "u, v");
        assert_eq!(text(s.condition.as_ref().unwrap()), "x.a IS NOT DISTINCT FROM u.a");
        assert_eq!(text(&s.tail), "RETURNING a");
        let (s, text) = parts("DELETE FROM t WHERE a IS DISTINCT FROM 2 AND b IN u");
        assert_eq!(text(s.condition.as_ref().unwrap()), "a IS DISTINCT FROM 2 AND b IN u");
        assert!(s.queries && s.from.is_none() && text(&s.tail).is_empty());
        let (s, _) = parts("UPDATE t SET a = 1 WHERE b = (SELECT c FROM d)");
        assert!(s.from.is_none() && s.queries);
        assert!(parts("DELETE FROM t").0.condition.is_none());
    }
}
