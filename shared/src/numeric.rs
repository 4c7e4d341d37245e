//! Text to number and number to text, as SQLite converts them.
//!
//! Input: a text that a column of numeric affinity is given, or a number for a column of TEXT affinity.
//! Output: what SQLite would store. Its decimal conversion is its own: it keeps 19 digits of a number and
//! drops the others, so Rust's conversion, which is exact, differs from it in the last bit of many
//! numbers; and a text ends for it at its first NUL. Therefore only what both convert exactly, which is nearly all
//! keys, is converted here, and SQLite itself converts everything else, on a connection without a file,
//! one per thread.

use rusqlite::Connection;

use crate::value::Value;

/// Digits of a decimal fraction that Rust and SQLite both convert without a rounding error: the
/// digits are an integer below 2^53, and the power of ten is exact, too, so that one division, correctly
/// rounded, gives the number.
const EXACT_DIGITS: usize = 15;

/// Digits of an integer that surely fits 64 bits.
const INTEGER_DIGITS: usize = 18;

/// The number that a column of NUMERIC affinity stores for a text; none when it stores the text.
pub fn of_text(text: &str) -> Option<Value> {
    let bytes = text.as_bytes();
    if let Some(number) = plain(text) {
        return Some(number);
    }
    // Whatever SQLite takes for a number has no other bytes before its first NUL.
    let until_nul = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let possible = until_nul.iter().any(u8::is_ascii_digit)
        && until_nul.iter().all(|byte| {
            byte.is_ascii_digit()
                || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-' | b' ' | b'\t' | b'\n' | 0xb | 0xc | b'\r')
        });
    if !possible {
        return None;
    }
    let stored = SQLITE.with(|db| {
        let mut insert = db.prepare_cached("REPLACE INTO number (id, k) VALUES (1, ?1) RETURNING k")?;
        insert.query_row([text], |row| Ok(Value::from(row.get_ref(0)?)))
    });
    match stored.expect("SQLite converts a text in memory") {
        Value::Text(_) => None,
        number => Some(number),
    }
}

/// A number without spaces and exponent, short enough to be exact.
fn plain(text: &str) -> Option<Value> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text).as_bytes();
    let count = digits.iter().filter(|byte| byte.is_ascii_digit()).count();
    match digits.len() - count {
        0 if (1..=INTEGER_DIGITS).contains(&count) => text.parse().ok().map(Value::Integer),
        1 if (1..=EXACT_DIGITS).contains(&count) && digits.contains(&b'.') => {
            let real: f64 = text.parse().ok()?;
            // All of them lie far within 64 bits.
            Some(if real.fract() == 0.0 { Value::Integer(real as i64) } else { Value::Real(real) })
        }
        _ => None,
    }
}

/// The text that a column of TEXT affinity stores for a number; none for what is no number.
pub fn to_text(number: &Value) -> Option<String> {
    match number {
        Value::Integer(n) => Some(n.to_string()),
        Value::Real(real) => SQLITE.with(|db| {
            let mut cast = db.prepare_cached("SELECT CAST(?1 AS TEXT)").expect("a constant text is prepared");
            cast.query_row([real], |row| row.get(0)).expect("SQLite converts a number in memory")
        }),
        _ => None,
    }
}

thread_local! {
    static SQLITE: Connection = Connection::open_in_memory()
        .and_then(|db| {
            db.execute_batch("CREATE TABLE number (id INTEGER PRIMARY KEY, k NUMERIC)")?;
            Ok(db)
        })
        .expect("SQLite opens a database in memory");
}

#[cfg(test)]
mod tests;
