//! Writes the part of an `INSERT … VALUES` that one shard gets: some of its rows, with assigned keys
//! put in, and its parameters numbered anew.
//!
//! Works on places in the text; all that lies between them is copied as written. The result is
//! prepared on the mirror before it is sent.

use std::collections::BTreeMap;
use std::ops::Range;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Statement;

use crate::analyze::insert::{InsertShape, Item};
use crate::mirror::Prepared;
use crate::mirror::fold::fold;
use crate::plan::keys::resolve;

/// Where an assigned key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// In place of the item at this position, which is NULL.
    Replace(usize),
    /// Behind the last item, as a further column.
    Append,
}

/// Keys to put in.
#[derive(Clone, Debug)]
pub struct Assigned<'a> {
    /// The column.
    pub column: &'a str,
    /// By row: where and which.
    pub keys: BTreeMap<usize, (KeyPlace, i64)>,
}

/// Writes a statement from pieces of another one.
pub struct Writer<'a> {
    prepared: &'a Prepared,
    /// Parameters of its text, with their places and numbers.
    places: &'a [(Range<usize>, usize)],
    params: &'a Params,
    sql: String,
    args: Vec<Value>,
    /// New number by old number.
    numbers: BTreeMap<usize, usize>,
}

impl<'a> Writer<'a> {
    /// An empty statement.
    pub fn new(prepared: &'a Prepared, places: &'a [(Range<usize>, usize)], params: &'a Params) -> Self {
        Self { prepared, places, params, sql: String::new(), args: Vec::new(), numbers: BTreeMap::new() }
    }

    /// Adds text as it is.
    pub fn push(&mut self, text: &str) {
        self.sql.push_str(text);
    }

    /// Adds a value, as an argument.
    pub fn value(&mut self, value: Value) {
        self.args.push(value);
        self.sql.push_str(&format!("?{}", self.args.len()));
    }

    /// The statement.
    pub fn finish(self) -> Statement {
        Statement { sql: self.sql, params: Params::Positional(self.args) }
    }

    /// Copies a piece of the text with its parameters numbered anew.
    ///
    /// # Errors
    /// [`Code::WrongArgCount`] when an argument is missing.
    pub fn copy(&mut self, piece: Range<usize>) -> Result<(), Error> {
        let params = self.places;
        let first = params.partition_point(|(span, _)| span.start < piece.start);
        let mut at = piece.start;
        for (span, number) in params[first..].iter().take_while(|(span, _)| span.end <= piece.end) {
            self.sql.push_str(&self.prepared.sql[at..span.start]);
            let new = match self.numbers.get(number) {
                Some(new) => *new,
                None => {
                    let value = self.prepared.arg(self.params, *number).ok_or_else(missing)?.clone();
                    self.args.push(value);
                    self.numbers.insert(*number, self.args.len());
                    self.args.len()
                }
            };
            self.sql.push_str(&format!("?{new}"));
            at = span.end;
        }
        self.sql.push_str(&self.prepared.sql[at..piece.end]);
        Ok(())
    }

    fn key(&mut self, key: i64) {
        self.value(Value::Integer(key));
    }
}

fn missing() -> Error {
    Error::new(Code::WrongArgCount, "a parameter has no argument").hint("give one argument for each parameter")
}

/// The statement for the rows `rows`.
///
/// # Errors
/// [`Code::WrongArgCount`] when an argument is missing.
pub fn rewrite(
    prepared: &Prepared,
    shape: &InsertShape,
    params: &Params,
    rows: &[usize],
    assigned: Option<&Assigned<'_>>,
) -> Result<Statement, Error> {
    let mut writer = Writer::new(prepared, &shape.params, params);
    writer.sql.reserve(prepared.sql.len() + 32);
    let appends = assigned.filter(|assigned| assigned.keys.values().any(|(place, _)| *place == KeyPlace::Append));
    writer.copy(0..shape.columns_at)?;
    if let Some(assigned) = appends {
        let column = quote(assigned.column);
        match shape.columns {
            Some(_) => writer.sql.push_str(&format!(", {column}")),
            None => writer.sql.push_str(&format!(" ({column})")),
        }
    }
    writer.copy(shape.columns_at..shape.source.start)?;
    if shape.default_values {
        match assigned.and_then(|assigned| assigned.keys.get(&0)) {
            Some((_, key)) => {
                writer.sql.push_str("VALUES (");
                writer.key(*key);
                writer.sql.push(')');
            }
            None => writer.copy(shape.source.clone())?,
        }
    } else {
        for (n, row) in rows.iter().enumerate() {
            if n > 0 {
                writer.sql.push_str(", ");
            }
            let key = assigned.and_then(|assigned| assigned.keys.get(row)).copied();
            write_row(&mut writer, &shape.rows[*row].span, &shape.rows[*row].items, key)?;
        }
    }
    writer.copy(shape.source.end..prepared.sql.len())?;
    Ok(writer.finish())
}

/// The value of an item of a row: a literal, an argument, or what SQLite makes of a constant
/// expression. `None` when it is not the same each time.
pub fn item_value(prepared: &Prepared, shape: &InsertShape, params: &Params, item: &Item) -> Option<Value> {
    if let Some(term) = &item.term {
        return resolve(term, prepared, params).cloned();
    }
    let mut writer = Writer::new(prepared, &shape.params, params);
    writer.copy(item.span.clone()).ok()?;
    fold(&writer.sql, &writer.args)
}

fn write_row(
    writer: &mut Writer<'_>,
    span: &Range<usize>,
    items: &[Item],
    key: Option<(KeyPlace, i64)>,
) -> Result<(), Error> {
    match key {
        None => writer.copy(span.clone()),
        Some((KeyPlace::Replace(position), key)) => {
            let item = &items[position].span;
            writer.copy(span.start..item.start)?;
            writer.key(key);
            writer.copy(item.end..span.end)
        }
        Some((KeyPlace::Append, key)) => {
            writer.copy(span.start..span.end - 1)?;
            writer.sql.push_str(", ");
            writer.key(key);
            writer.sql.push(')');
            Ok(())
        }
    }
}

/// A statement that fails with a constraint error if one of the keys is taken, and else does nothing.
/// Put before an INSERT that resolves conflicts, in one transaction: without it a generated key that
/// collides would silently replace or skip a row.
pub fn key_guard(table: &str, column: &str, keys: &[i64]) -> Statement {
    let (table, column) = (quote(table), quote(column));
    let marks: Vec<String> = (1..=keys.len()).map(|n| format!("?{n}")).collect();
    Statement {
        sql: format!(
            "INSERT OR ABORT INTO {table} ({column}) SELECT {column} FROM {table} WHERE {column} IN ({})",
            marks.join(", ")
        ),
        params: Params::Positional(keys.iter().map(|key| Value::Integer(*key)).collect()),
    }
}

pub use flotilla_shared::registry::quoted as quote;
