//! What tells a row of a table from all others, for writes that name the rows that were read.
//!
//! Input: a table and the [schema](Schema) that it is part of. Output: conditions that hit exactly the rows whose
//! keys they are given. A key is unique by the collations of the PRIMARY KEY, which may be finer or
//! coarser than those of its columns, so rows are compared by these. Refused: a table without a
//! primary key.

use std::collections::BTreeMap;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::registry::Table;
use flotilla_shared::slot::Collation;
use flotilla_shared::value::Value;

use super::split::{Writer, quote};
use crate::mirror::Schema;

/// Rows that one statement inserts, changes or removes: their text is prepared on every shard.
pub const MAX_STATEMENT_ROWS: usize = 500;

/// The same where they are named by keys of several columns: SQLite plans a search for each, in a time that grows
/// faster than their number.
pub const MAX_STATEMENT_KEYS: usize = 100;

/// Arguments of one statement; SQLite takes 32,766.
pub const MAX_STATEMENT_ARGS: usize = 30_000;

/// The primary key of a table.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its columns, in its order, as places in the table's.
    pub columns: Vec<usize>,
    /// Their names in quotes, each with the collation of the key where that is not the column's own.
    terms: Vec<String>,
    /// How the key compares text.
    collations: Vec<Collation>,
}

impl Identity {
    /// The primary key of `table`.
    ///
    /// # Errors
    /// [`Code::Unroutable`] when it has none.
    pub fn of(table: &Table, schema: &Schema) -> Result<Self, Error> {
        let mut columns: Vec<usize> =
            (0..table.columns.len()).filter(|at| table.columns[*at].primary_key > 0).collect();
        columns.sort_by_key(|index| table.columns[*index].primary_key);
        if columns.is_empty() {
            return Err(Error::new(
                Code::Unroutable,
                format!("{} has no primary key by which rows that were read could be written", table.name),
            )
            .hint("give the table a PRIMARY KEY, or fix the shard key and use no subquery"));
        }
        let own = |index: &usize| table.columns[*index].compare.collation;
        let named = schema.key_collations.get(&table.name.to_ascii_lowercase());
        let collations: Vec<Collation> = named
            .filter(|list| list.len() == columns.len())
            .cloned()
            .unwrap_or_else(|| columns.iter().map(own).collect());
        let term = |(index, collation): (&usize, &Collation)| {
            let name = quote(&table.columns[*index].name);
            if own(index) == *collation { name } else { format!("{name} COLLATE {}", collation.name()) }
        };
        let terms = columns.iter().zip(&collations).map(term).collect();
        Ok(Self { columns, terms, collations })
    }

    /// How many columns it has.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Rows that one condition may name.
    pub fn rows_per_statement(&self) -> usize {
        match self.width() {
            1 => MAX_STATEMENT_ROWS,
            _ => MAX_STATEMENT_KEYS,
        }
    }

    /// Writes the condition that these rows satisfy and no others: at most
    /// [`rows_per_statement`](Self::rows_per_statement). SQLite searches the index of the key for each of them;
    /// for a row of values behind IN it would look through the whole table.
    pub fn condition(&self, writer: &mut Writer<'_>, keys: &[&[Value]]) {
        if let [term] = &self.terms[..] {
            writer.push(&format!("{term} IN ("));
            list(writer, &keys.concat());
            writer.push(")");
            return;
        }
        writer.push("(");
        for (n, key) in keys.iter().enumerate() {
            writer.push(if n > 0 { " OR (" } else { "(" });
            for (m, (term, value)) in self.terms.iter().zip(*key).enumerate() {
                writer.push(&format!("{}{term} = ", if m > 0 { " AND " } else { "" }));
                writer.value(value.clone());
            }
            writer.push(")");
        }
        writer.push(")");
    }

    /// A key as one text, equal for keys of which the table holds only one.
    pub fn name(&self, key: &[Value]) -> String {
        let fold = |(collation, value): (&Collation, &Value)| match (collation, value) {
            (Collation::NoCase, Value::Text(text)) => format!("{:?}", text.to_ascii_lowercase()),
            (Collation::Rtrim, Value::Text(text)) => format!("{:?}", text.trim_end_matches(' ')),
            (_, Value::Text(text)) => format!("{text:?}"),
            (_, Value::Real(real)) if *real as i64 as f64 == *real => format!("{:?}", Value::Integer(*real as i64)),
            (_, value) => format!("{value:?}"),
        };
        self.collations.iter().zip(key).map(fold).collect::<Vec<_>>().join(",")
    }
}

/// Each row once, by the `width` values of its key that it begins with. A row of an UPDATE … FROM that
/// matches several times counts once, with the values of the last match, as in SQLite.
///
/// # Errors
/// [`Code::Unroutable`] for a key with NULL in it: there may be several of them.
pub fn distinct(rows: Vec<Vec<Value>>, width: usize) -> Result<Vec<Vec<Value>>, Error> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut list: Vec<Vec<Value>> = Vec::with_capacity(rows.len());
    for row in rows {
        if row.get(..width).is_none_or(|key| key.contains(&Value::Null)) {
            return Err(Error::new(Code::Unroutable, "a row to be written has NULL in its primary key")
                .hint("give the row a key first"));
        }
        let name = format!("{:?}", &row[..width]);
        match places.get(&name) {
            Some(at) => list[*at] = row,
            None => {
                places.insert(name, list.len());
                list.push(row);
            }
        }
    }
    Ok(list)
}

/// Writes values as arguments, with commas between.
pub fn list(writer: &mut Writer<'_>, values: &[Value]) {
    for (n, value) in values.iter().enumerate() {
        if n > 0 {
            writer.push(", ");
        }
        writer.value(value.clone());
    }
}
