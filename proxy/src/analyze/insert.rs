//! The parts of an `INSERT … VALUES`, as places in its text: column list, rows, and the literals and
//! parameters in them.
//!
//! Input: the tokens. Output: [`InsertShape`], or `None` for any other source of rows, which the
//! plan then treats as unknown. Grammar: <https://sqlite.org/lang_insert.html>.

use std::ops::Range;

use crate::analyze::term::Term;
use crate::lex::{Kind, Tokens};

/// One value of a row.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where it is.
    pub span: Range<usize>,
    /// What it is, if that is known without computing.
    pub term: Option<Term>,
}

/// One row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Where it is, with its parentheses.
    pub span: Range<usize>,
    /// Its values.
    pub items: Vec<Item>,
}

/// An `INSERT … VALUES` or `INSERT … DEFAULT VALUES`.
#[derive(Clone, Debug)]
pub struct InsertShape {
    /// Columns as listed; `None` without a list.
    pub columns: Option<Vec<String>>,
    /// Where the list ends, before its `)`; without a list, where one may be put.
    pub columns_at: usize,
    /// Where the rows are: from the first `(` to behind the last `)`; with `DEFAULT VALUES` these two
    /// words.
    pub source: Range<usize>,
    /// The rows; with `DEFAULT VALUES` one row without items.
    pub rows: Vec<Row>,
    /// `DEFAULT VALUES`.
    pub default_values: bool,
    /// `REPLACE`, `OR …` or `ON CONFLICT`: a row that collides is not simply an error.
    pub resolves_conflicts: bool,
    /// Parameters with their places and numbers.
    pub params: Vec<(Range<usize>, usize)>,
}

impl InsertShape {
    /// Reads the shape of an INSERT.
    pub fn read(tokens: &Tokens<'_>) -> Option<Self> {
        // A subquery could read rows of any shard.
        if tokens.has_word("SELECT") || tokens.has_word("WITH") {
            return None;
        }
        let mut at = 0;
        let mut resolves_conflicts = tokens.is_word(at, "REPLACE");
        at += 1;
        if tokens.is_word(at, "OR") {
            resolves_conflicts = true;
            at += 2;
        }
        if !tokens.is_word(at, "INTO") {
            return None;
        }
        at += 1;
        if tokens.is_mark(at + 1, ".") {
            at += 2;
        }
        tokens.name(at)?;
        at += 1;
        if tokens.is_word(at, "AS") {
            at += 2;
        }
        let mut columns_at = tokens.list.get(at.checked_sub(1)?)?.span.end;
        let mut columns = None;
        if tokens.is_mark(at, "(") {
            let close = tokens.closing(at)?;
            let names = (at + 1..close).step_by(2).map(|index| tokens.name(index)).collect::<Option<Vec<_>>>()?;
            columns = Some(names);
            columns_at = tokens.list[close].span.start;
            at = close + 1;
        }
        let params = tokens.list.iter().filter(|t| t.kind == Kind::Param).map(|t| (t.span.clone(), t.param)).collect();
        let start = tokens.list.get(at)?.span.start;
        let mut shape = Self {
            columns,
            columns_at,
            source: start..start,
            rows: Vec::new(),
            default_values: false,
            resolves_conflicts: resolves_conflicts || tokens.has_word("CONFLICT"),
            params,
        };
        if tokens.is_word(at, "DEFAULT") && tokens.is_word(at + 1, "VALUES") {
            shape.source.end = tokens.list[at + 1].span.end;
            shape.default_values = true;
            shape.rows.push(Row { span: shape.source.clone(), items: Vec::new() });
            return Some(shape);
        }
        if !tokens.is_word(at, "VALUES") {
            return None;
        }
        at += 1;
        shape.source.start = tokens.list.get(at)?.span.start;
        loop {
            let close = tokens.closing(at)?;
            shape.rows.push(row(tokens, at, close));
            shape.source.end = tokens.list[close].span.end;
            if !tokens.is_mark(close + 1, ",") {
                return Some(shape);
            }
            at = close + 2;
        }
    }
}

fn row(tokens: &Tokens<'_>, open: usize, close: usize) -> Row {
    let mut items = Vec::new();
    let (mut first, mut depth) = (open + 1, 0usize);
    for index in open + 1..=close {
        if tokens.is_mark(index, "(") {
            depth += 1;
        } else if tokens.is_mark(index, ")") && index != close {
            depth = depth.saturating_sub(1);
        } else if index == close || (depth == 0 && tokens.is_mark(index, ",")) {
            if first < index {
                let span = tokens.list[first].span.start..tokens.list[index - 1].span.end;
                items.push(Item { span, term: Term::read(tokens, first, index) });
            }
            first = index + 1;
        }
    }
    Row { span: tokens.list[open].span.start..tokens.list[close].span.end, items }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_shared::value::Value;

    fn shape(sql: &str) -> Option<InsertShape> {
        InsertShape::read(&Tokens::read(sql).unwrap())
    }

    /// Rows, columns and terms are found over all forms of the statement.
    #[test]
    fn forms() {
        let sql = "INSERT INTO main.t AS x (\"id\", name) VALUES (?1, 'a,('), (-5, f(1, ?)) ON CONFLICT DO NOTHING RETURNING *";
        let s = shape(sql).unwrap();
        assert_eq!(s.columns.as_ref().unwrap(), &["id", "name"]);
        assert_eq!(&sql[s.source.clone()], "(?1, 'a,('), (-5, f(1, ?))");
        assert_eq!(s.rows.len(), 2);
        assert_eq!(s.rows[0].items[0].term, Some(Term::Param(1)));
        assert_eq!(s.rows[1].items[0].term, Some(Term::Value(Value::Integer(-5))));
        assert_eq!(s.rows[1].items[1].term, None);
        assert!(s.resolves_conflicts);
        assert_eq!(s.params.iter().map(|p| p.1).collect::<Vec<_>>(), [1, 2]);
        let s = shape("replace into t values(1)").unwrap();
        assert!(s.columns.is_none() && s.resolves_conflicts);
        let s = shape("insert into t default values").unwrap();
        assert!(s.default_values && !s.resolves_conflicts && s.rows.len() == 1);
        assert!(shape("INSERT INTO t SELECT 1").is_none());
        assert!(shape("INSERT INTO t VALUES ((SELECT 1))").is_none());
        assert!(shape("WITH a AS (VALUES (1)) INSERT INTO t VALUES (1)").is_none());
    }
}
