//! Are two results the same? The rule of this suite, in one place.
//!
//! - Columns, declared types and the number of rows are equal. So are values, with their types: `1` is
//!   not `1.0`, and text is no blob.
//! - Rows are compared as a sequence where ORDER BY fixes it ([`Order::Fixed`]: it ends in what differs
//!   in every row, or names all that is shown), and as a multiset else.
//! - LIMIT without such an order leaves open which rows there are: their number is compared, and each
//!   must be among those of the statement without LIMIT.
//! - Reals in aggregates are equal within [`TOLERANCE`]: addition of reals depends on its order.
//! - group_concat without ORDER BY is compared as a multiset of its parts.
//! - DISTINCT, GROUP BY and UNION show one of several values that are equal but not identical (`'a'` and
//!   `'A'` under NOCASE; 1 and 1.0 in a column without affinity): such are compared *loosely*, as numbers
//!   or as text without case and trailing spaces. Nothing else is computed from such a value.
//! - An error of SQLite must be an error of Flotilla, with any code that is not a refusal by it nor a
//!   failure. Where SQLite has a result, Flotilla has the same or refuses by one of [`REFUSALS`].
//!
//! Not generated at all: bare columns beside aggregates, rowids of tables without INTEGER PRIMARY KEY,
//! integer keys that a sharded table makes up, the clock, randomness.

use std::cmp::Ordering;

use flotilla_shared::value::Value;
use flotilla_shared::wire::{Rows, StatementResult};

use super::statement::{Order, Rule};

/// Relative difference that reals of aggregates may have.
pub const TOLERANCE: f64 = 1e-9;

/// Codes by which Flotilla may decline what SQLite does.
pub const REFUSALS: &[&str] =
    &["cross_shard_write", "unroutable", "shard_key_update", "no_shard_key", "not_implemented", "too_large"];

/// Codes that say what SQLite says.
const ERRORS: &[&str] = &["sql_error", "no_such_table", "constraint", "forbidden_statement", "wrong_arg_count"];

/// What a statement gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Rows of a read.
    Rows(Rows),
    /// What a write did.
    Write(StatementResult),
    /// An error.
    Failed {
        /// Its code; SQLite's have none.
        code: String,
        /// What it says.
        message: String,
    },
}

/// What a comparison comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Equal.
    Same,
    /// Flotilla declined, by this code.
    Refused(String),
    /// Not equal, and how.
    Different(String),
}

/// Compares what one SQLite gave with what Flotilla gave. `all` are the rows without LIMIT, where the
/// rule needs them.
pub fn compare(wanted: &Outcome, found: &Outcome, rule: &Rule, all: Option<&Outcome>) -> Verdict {
    let same = match (wanted, found) {
        (_, Outcome::Failed { code, .. }) if REFUSALS.contains(&code.as_str()) => {
            return Verdict::Refused(code.clone());
        }
        (Outcome::Failed { .. }, Outcome::Failed { code, message }) => match ERRORS.contains(&code.as_str()) {
            true => Ok(()),
            false => Err(format!("an error that is not SQLite's: {code}: {message}")),
        },
        (Outcome::Failed { message, .. }, _) => Err(format!("SQLite fails: {message}; Flotilla does not")),
        (_, Outcome::Failed { code, message }) => Err(format!("SQLite has a result; Flotilla: {code}: {message}")),
        (Outcome::Rows(wanted), Outcome::Rows(found)) => same_rows(wanted, found, rule, all),
        (Outcome::Write(wanted), Outcome::Write(found)) => same_writes(wanted, found, rule),
        _ => Err("one is a read and the other a write".to_owned()),
    };
    same.map_or_else(Verdict::Different, |()| Verdict::Same)
}

fn same_writes(wanted: &StatementResult, found: &StatementResult, rule: &Rule) -> Result<(), String> {
    if wanted.rows_affected != found.rows_affected {
        return Err(format!("rows_affected {} instead of {}", found.rows_affected, wanted.rows_affected));
    }
    if rule.last_id && wanted.last_insert_id != found.last_insert_id {
        return Err(format!("last_insert_id {} instead of {}", found.last_insert_id, wanted.last_insert_id));
    }
    match (&wanted.rows, &found.rows) {
        (None, None) => Ok(()),
        (Some(wanted), Some(found)) => same_rows(wanted, found, rule, None),
        _ => Err("RETURNING gives rows on one side only".to_owned()),
    }
}

fn same_rows(wanted: &Rows, found: &Rows, rule: &Rule, all: Option<&Outcome>) -> Result<(), String> {
    if wanted.columns != found.columns {
        return Err(format!("columns {:?} instead of {:?}", found.columns, wanted.columns));
    }
    if wanted.types != found.types {
        return Err(format!("types {:?} instead of {:?}", found.types, wanted.types));
    }
    if wanted.values.len() != found.values.len() {
        return Err(format!("{} rows instead of {}", found.values.len(), wanted.values.len()));
    }
    let (mut left, mut right) = (canonical(&wanted.values, rule), canonical(&found.values, rule));
    if let Some(Outcome::Rows(all)) = all {
        let all = canonical(&all.values, rule);
        return among(&right, all, rule);
    }
    if rule.order == Order::Open {
        left.sort_by(|a, b| order_rows(a, b));
        right.sort_by(|a, b| order_rows(a, b));
    }
    let differs = |(a, b): (&Vec<Value>, &Vec<Value>)| !equal_rows(a, b, rule);
    let Some(at) = left.iter().zip(&right).position(differs) else { return Ok(()) };
    // Sorting rows that differ in their last digits may have mixed them up.
    if rule.order == Order::Open && rule.close && among(&right, left.clone(), rule).is_ok() {
        return Ok(());
    }
    let what = if rule.order == Order::Open { "in sorted order" } else { "in order" };
    Err(format!("row {} {what} is {:?} instead of {:?}", at + 1, right[at], left[at]))
}

/// Each of `some` is one of `all`, as often as it is there.
fn among(some: &[Vec<Value>], mut all: Vec<Vec<Value>>, rule: &Rule) -> Result<(), String> {
    for row in some {
        match all.iter().position(|other| equal_rows(other, row, rule)) {
            Some(at) => drop(all.swap_remove(at)),
            None => return Err(format!("row {row:?} is none of those that there are")),
        }
    }
    Ok(())
}

/// Rows in the form in which they are compared.
fn canonical(rows: &[Vec<Value>], rule: &Rule) -> Vec<Vec<Value>> {
    let mut rows = rows.to_vec();
    for row in &mut rows {
        for (at, separator) in &rule.parts {
            if let Some(Value::Text(text)) = row.get_mut(*at) {
                let mut parts: Vec<&str> = text.split(separator.as_str()).collect();
                parts.sort_unstable();
                *text = parts.join(separator);
            }
        }
        if rule.loose {
            row.iter_mut().for_each(loosen);
        }
    }
    rows
}

fn loosen(value: &mut Value) {
    match value {
        Value::Text(text) => *text = text.trim_end_matches(' ').to_ascii_lowercase(),
        // Integers that a real holds exactly.
        Value::Integer(n) if n.unsigned_abs() < 1 << 53 => *value = Value::Real(*n as f64),
        _ => (),
    }
}

fn equal_rows(a: &[Value], b: &[Value], rule: &Rule) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal_values(a, b, rule.close))
}

fn equal_values(a: &Value, b: &Value, close: bool) -> bool {
    match (a, b) {
        (Value::Real(a), Value::Real(b)) if close => a == b || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()),
        // Bits: 0.0 and -0.0 are told apart by what is printed.
        (Value::Real(a), Value::Real(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

fn order_rows(a: &[Value], b: &[Value]) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Integer(_) => 1,
        Value::Real(_) => 2,
        Value::Text(_) => 3,
        Value::Blob(_) => 4,
    };
    let one = |a: &Value, b: &Value| match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
        _ => rank(a).cmp(&rank(b)),
    };
    a.iter().zip(b).map(|(a, b)| one(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
