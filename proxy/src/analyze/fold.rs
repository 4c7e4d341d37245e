//! Constant expressions, computed by SQLite itself.
//!
//! Input: an expression that [`grammar`](crate::analyze::grammar) found to be the same everywhere.
//! Output: a [`Term`]; without parameters its value at once, else a [`Computed`] for when they are
//! known. It runs on a connection of its own that holds no tables, within the bounds below. An
//! error, or text that is not UTF-8, gives no value; it is never an error of the statement, which
//! SQLite may not even come to compute.

use std::cell::{Cell, OnceCell};
use std::time::{Duration, Instant};

use flotilla_shared::sqlite;
use flotilla_shared::value::Value;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, limits::Limit, params_from_iter};

use crate::analyze::expr::{Expr, Node};
use crate::analyze::term::Term;
use crate::lex::{Kind, Tokens};

/// Longest expression, in tokens: keys are computed by a call or two.
const MAX_TOKENS: usize = 64;

/// Largest value that appears while folding, in bytes. Functions such as `replace` take time by the
/// product of their arguments' lengths, so this bounds time as well.
const MAX_FOLD_BYTES: usize = 16 << 10;

/// Longest run of SQLite's machine for one expression; it looks at the clock between steps.
const WORK_LIMIT: Duration = Duration::from_millis(5);

/// Steps between two looks at the clock.
const STEPS_PER_CHECK: i32 = 100;

/// Prepared expressions kept by each thread.
const CACHED_STATEMENTS: usize = 64;

/// An expression over parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Computed {
    /// `SELECT` of it, its parameters numbered from 1.
    sql: String,
    /// The statement's parameters that these are.
    params: Vec<usize>,
}

impl Computed {
    /// The term that a constant expression is; none when it cannot be computed.
    pub fn term(tokens: &Tokens<'_>, expr: &Expr) -> Option<Term> {
        if let Node::Term(term) = &expr.node {
            return Some(term.clone());
        }
        if expr.end - expr.first > MAX_TOKENS {
            return None;
        }
        let mut computed = Self { sql: "SELECT ".to_owned(), params: vec![] };
        for index in expr.first..expr.end {
            match tokens.list[index].kind {
                Kind::Param => {
                    computed.params.push(tokens.list[index].param);
                    computed.sql += &format!("?{}", computed.params.len());
                }
                _ => computed.sql += tokens.text(index),
            }
            computed.sql.push(' ');
        }
        match computed.params[..] {
            [] => computed.value(|_| None).map(Term::Value),
            _ => Some(Term::Computed(Box::new(computed))),
        }
    }

    /// Its value; `arg` gives the statement's arguments.
    pub fn value<'v>(&self, arg: impl Fn(usize) -> Option<&'v Value>) -> Option<Value> {
        let args: Vec<&Value> = self.params.iter().map(|index| arg(*index)).collect::<Option<_>>()?;
        if args.iter().map(|value| value.size_bytes()).sum::<usize>() > MAX_FOLD_BYTES {
            return None;
        }
        SCRATCH.with(|cell| {
            let db = cell.get_or_init(|| open().ok()).as_ref()?;
            START.set(Instant::now());
            let mut statement = db.prepare_cached(&self.sql).ok()?;
            let read = |row: &rusqlite::Row<'_>| {
                let value = row.get_ref(0)?;
                let valid = !matches!(value, ValueRef::Text(text) if std::str::from_utf8(text).is_err());
                Ok(valid.then(|| Value::from(value)))
            };
            statement.query_row(params_from_iter(args), read).ok()?
        })
    }
}

thread_local! {
    static SCRATCH: OnceCell<Option<Connection>> = const { OnceCell::new() };
    static START: Cell<Instant> = Cell::new(Instant::now());
}

fn open() -> rusqlite::Result<Connection> {
    let mut db = sqlite::open_in_memory()?;
    db.progress_handler(STEPS_PER_CHECK, Some(|| START.get().elapsed() > WORK_LIMIT))?;
    db.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_FOLD_BYTES as i32)?;
    db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    db.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    Ok(db)
}
