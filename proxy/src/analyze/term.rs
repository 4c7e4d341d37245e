//! Values that a statement names for a key: literals, parameters, and what is computed from them.

use std::cell::OnceCell;

use flotilla_shared::value::Value;
use rusqlite::Connection;

use crate::analyze::fold::Computed;
use crate::lex::{Kind, Tokens};

/// A value that is known when the arguments are.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// A literal.
    Value(Value),
    /// A parameter, by its number from 1.
    Param(usize),
    /// An expression over parameters.
    Computed(Box<Computed>),
}

impl Term {
    /// The term that the tokens `first..end` of a row of VALUES make, if they are a literal, a signed
    /// number or a parameter.
    pub fn read(tokens: &Tokens<'_>, first: usize, end: usize) -> Option<Self> {
        let (negative, at) = match tokens.text(first) {
            "-" => (true, first + 1),
            "+" => (false, first + 1),
            _ => (false, first),
        };
        if at + 1 != end || (at != first && tokens.list[at].kind != Kind::Number) {
            return None;
        }
        let text = tokens.text(at);
        Some(Self::Value(match tokens.list[at].kind {
            Kind::Param => return Some(Self::Param(tokens.list[at].param)),
            Kind::Number => number(text, negative)?,
            Kind::Text => Value::Text(tokens.name(at)?),
            Kind::Blob => Value::Blob(hex(text.get(2..text.len() - 1)?)?),
            Kind::Word => match text.to_ascii_uppercase().as_str() {
                "NULL" => Value::Null,
                "TRUE" => Value::Integer(1),
                "FALSE" => Value::Integer(0),
                _ => return None,
            },
            // No column is in reach of VALUES, so SQLite has taken it for a text.
            Kind::Quoted if text.starts_with('"') => Value::Text(tokens.name(at)?),
            Kind::Quoted | Kind::Mark => return None,
        }))
    }
}

/// The value of a number literal, as SQLite reads it.
pub fn number(text: &str, negative: bool) -> Option<Value> {
    let digits = text.replace('_', "");
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        let value = u64::from_str_radix(hex, 16).ok()? as i64;
        return match negative {
            true => value.checked_neg().map(Value::Integer),
            false => Some(Value::Integer(value)),
        };
    }
    let signed = if negative { format!("-{digits}") } else { digits };
    match signed.parse() {
        Ok(integer) => Some(Value::Integer(integer)),
        Err(_) => real(&signed).map(Value::Real),
    }
}

thread_local! {
    static SQLITE: OnceCell<Option<Connection>> = const { OnceCell::new() };
}

/// A real, read by SQLite itself: its decimal conversion may differ from Rust's in the last bit, and
/// then a literal and the same value read back would hash apart. Once per statement text.
fn real(text: &str) -> Option<f64> {
    if !text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-')) {
        return None;
    }
    SQLITE.with(|cell| {
        let db = cell.get_or_init(|| Connection::open_in_memory().ok()).as_ref()?;
        db.query_row(&format!("SELECT {text}"), [], |row| row.get(0)).ok()
    })
}

/// Bytes from hexadecimal digits.
pub fn hex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Literals have the value and storage class that SQLite gives them.
    #[test]
    fn literals_are_what_sqlite_says() {
        let db = Connection::open_in_memory().unwrap();
        for sql in [
            "0",
            "456",
            "-456",
            "+7",
            "1_000",
            "0x1F",
            "-0x10",
            "0xffffffffffffffff",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "1.5",
            ".5",
            "5.",
            "1e3",
            "-1.5E-3",
            "0.1",
            "123456789.123456789",
            "'it''s'",
            "''",
            "x'00fF'",
            "X''",
            "NULL",
            "true",
            "FALSE",
        ] {
            let tokens = Tokens::read(sql).unwrap();
            let wanted = db.query_row(&format!("SELECT {sql}"), [], |row| Ok(Value::from(row.get_ref(0)?))).unwrap();
            assert_eq!(Term::read(&tokens, 0, tokens.list.len()), Some(Term::Value(wanted)), "{sql}");
        }
        for sql in ["1+1", "abs(1)", "`a`", "[a]", "a", "- -1", "-'1'", "current_date", "1e400 + 0"] {
            let tokens = Tokens::read(sql).unwrap();
            assert_eq!(Term::read(&tokens, 0, tokens.list.len()), None, "{sql}");
        }
    }
}
