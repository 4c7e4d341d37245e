//! From a key to a slot: affinity, collation, canonical bytes, hash.
//!
//! Two keys that SQLite calls equal *in that column* must hash equal, so a key is first given the
//! column's affinity (SQLite "Datatypes", section 3), then folded by its collation, then written
//! with a tag for its storage class; numbers that are equal write the same bytes. Test vectors pin
//! the result for ever: changing it would lose every row's place.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::ids::Slot;
use crate::numeric;
use crate::value::Value;

/// Slots of a hash placement: enough that 1,000 shards get 16 each, few enough that a map of them
/// fits a cache.
pub const HASH_SLOTS: u16 = 16_384;

/// Column affinity, by SQLite's rules (<https://sqlite.org/datatype3.html>, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Affinity {
    /// Declared type contains `INT`.
    Integer,
    /// `CHAR`, `CLOB` or `TEXT`.
    Text,
    /// `BLOB`, or no declared type.
    Blob,
    /// `REAL`, `FLOA` or `DOUB`.
    Real,
    /// Anything else.
    Numeric,
}

impl Affinity {
    /// The affinity of a declared type.
    pub fn of_declared_type(declared: &str) -> Self {
        let upper = declared.to_ascii_uppercase();
        let has = |part: &str| upper.contains(part);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || upper.trim().is_empty() {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }
}

/// Built-in collations; a key column with any other cannot be a shard key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Collation {
    /// Bytes.
    Binary,
    /// The 26 ASCII letters fold.
    NoCase,
    /// Trailing spaces do not count.
    Rtrim,
}

impl Collation {
    /// The collation of that name, if it is built in.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "BINARY" => Some(Self::Binary),
            "NOCASE" => Some(Self::NoCase),
            "RTRIM" => Some(Self::Rtrim),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "BINARY",
            Self::NoCase => "NOCASE",
            Self::Rtrim => "RTRIM",
        }
    }
}

/// How one key column compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyColumn {
    /// The column's affinity.
    pub affinity: Affinity,
    /// The column's collation.
    pub collation: Collation,
}

/// The slot of a composite key, one value per column in `columns`.
///
/// # Panics
/// When the number of values is not the number of columns, or `slots` is 0.
pub fn slot_of(columns: &[KeyColumn], key: &[Value], slots: u16) -> Slot {
    assert_eq!(columns.len(), key.len(), "one value per key column");
    let mut bytes = Vec::with_capacity(16 * key.len());
    for (column, value) in columns.iter().zip(key) {
        canonical(*column, value, &mut bytes);
    }
    Slot((xxhash_rust::xxh3::xxh3_64(&bytes) % u64::from(slots)) as u16)
}

const TAG_NULL: u8 = 0;
const TAG_INTEGER: u8 = 1;
const TAG_REAL: u8 = 2;
const TAG_TEXT: u8 = 3;
const TAG_BLOB: u8 = 4;

/// Appends the canonical bytes of `value` as `column` would store it.
fn canonical(column: KeyColumn, value: &Value, out: &mut Vec<u8>) {
    match apply_affinity(column.affinity, value) {
        Value::Null => out.push(TAG_NULL),
        Value::Integer(n) => {
            out.push(TAG_INTEGER);
            out.extend_from_slice(&n.to_le_bytes());
        }
        // Equal numbers must write equal bytes: a real that is an exact integer is that integer.
        Value::Real(r) => match exact_integer(r) {
            Some(n) => {
                out.push(TAG_INTEGER);
                out.extend_from_slice(&n.to_le_bytes());
            }
            None => {
                out.push(TAG_REAL);
                out.extend_from_slice(&r.to_bits().to_le_bytes());
            }
        },
        Value::Text(text) => {
            out.push(TAG_TEXT);
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            match column.collation {
                Collation::Binary => out.extend_from_slice(text.as_bytes()),
                Collation::NoCase => out.extend(folded(&text)),
                Collation::Rtrim => out.extend_from_slice(text.trim_end_matches(' ').as_bytes()),
            }
            let length = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        Value::Blob(blob) => {
            out.push(TAG_BLOB);
            out.extend_from_slice(&(blob.len() as u32).to_le_bytes());
            out.extend_from_slice(&blob);
        }
    }
}

/// Text as NOCASE sees it: beyond a NUL only the length counts (`sqlite3StrNICmp` stops there).
fn folded(text: &str) -> impl Iterator<Item = u8> + '_ {
    let mut ended = false;
    text.bytes().map(move |byte| {
        ended |= byte == 0;
        if ended { 0 } else { byte.to_ascii_lowercase() }
    })
}

/// Compares two values that `column` stores, as SQLite sorts them: NULL, numbers, text, blobs
/// (<https://sqlite.org/datatype3.html>, section 4.1).
pub fn compare(column: KeyColumn, a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::Real(a), Value::Real(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
        (Value::Integer(a), Value::Real(b)) => compare_integer(*a, *b),
        (Value::Real(a), Value::Integer(b)) => compare_integer(*b, *a).reverse(),
        (Value::Text(a), Value::Text(b)) => match column.collation {
            Collation::Binary => a.as_bytes().cmp(b.as_bytes()),
            Collation::NoCase => folded(a).cmp(folded(b)),
            Collation::Rtrim => a.trim_end_matches(' ').as_bytes().cmp(b.trim_end_matches(' ').as_bytes()),
        },
        (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
        _ => class(a).cmp(&class(b)),
    }
}

/// Compares lists of values column by column; a list that the other one begins with comes first.
pub fn compare_keys(columns: &[KeyColumn], a: &[Value], b: &[Value]) -> Ordering {
    let pairs = columns.iter().zip(a.iter().zip(b));
    let differ = pairs.map(|(column, (a, b))| compare(*column, a, b)).find(|order| order.is_ne());
    differ.unwrap_or_else(|| a.len().cmp(&b.len()))
}

/// Where the storage class of a value sorts.
fn class(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    }
}

/// An integer against a real, exactly: a conversion would lose the last bits of one of them.
fn compare_integer(integer: i64, real: f64) -> Ordering {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if real >= LIMIT {
        return Ordering::Less;
    }
    if real < -LIMIT {
        return Ordering::Greater;
    }
    integer.cmp(&(real.trunc() as i64)).then(0.0.partial_cmp(&real.fract()).unwrap_or(Ordering::Equal))
}

/// The real as an integer of equal value, if there is one in 64 bits.
fn exact_integer(real: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    (real.fract() == 0.0 && (-LIMIT..LIMIT).contains(&real)).then_some(real as i64)
}

/// What `value` becomes when a column of `affinity` stores it.
pub fn apply_affinity(affinity: Affinity, value: &Value) -> Value {
    match (affinity, value) {
        (Affinity::Text, Value::Integer(_) | Value::Real(_)) => {
            numeric::to_text(value).map_or_else(|| value.clone(), Value::Text)
        }
        (Affinity::Integer | Affinity::Numeric, Value::Text(text)) => {
            numeric::of_text(text).unwrap_or_else(|| value.clone())
        }
        (Affinity::Integer | Affinity::Numeric, Value::Real(_)) => integer_if_exact(value.clone()),
        (Affinity::Real, Value::Text(text)) => match numeric::of_text(text) {
            Some(Value::Integer(n)) => Value::Real(n as f64),
            Some(real) => real,
            None => value.clone(),
        },
        (Affinity::Real, Value::Integer(n)) => Value::Real(*n as f64),
        _ => value.clone(),
    }
}

/// SQLite turns a real into an integer only where `sqlite3VdbeIntegerAffinity` does: exact, and
/// strictly inside the 64-bit range.
fn integer_if_exact(value: Value) -> Value {
    match value {
        Value::Real(r) => match exact_integer(r) {
            Some(n) if n > i64::MIN && n < i64::MAX => Value::Integer(n),
            _ => Value::Real(r),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTEGER: KeyColumn = KeyColumn { affinity: Affinity::Integer, collation: Collation::Binary };

    fn text(s: &str) -> Value {
        Value::Text(s.into())
    }

    /// These vectors may never change: every stored row was placed by them.
    #[test]
    fn pinned_vectors() {
        let nocase = KeyColumn { affinity: Affinity::Text, collation: Collation::NoCase };
        let blob = KeyColumn { affinity: Affinity::Blob, collation: Collation::Binary };
        let slot = |column: KeyColumn, value: Value| slot_of(&[column], &[value], HASH_SLOTS).0;
        let got = [
            slot(INTEGER, Value::Integer(0)),
            slot(INTEGER, Value::Integer(456)),
            slot(INTEGER, Value::Integer(-1)),
            slot(INTEGER, Value::Null),
            slot(nocase, text("Jane@Example.com")),
            slot(blob, Value::Blob(vec![1, 2, 3])),
            slot(blob, Value::Real(0.5)),
            slot_of(&[INTEGER, nocase], &[Value::Integer(7), text("x")], HASH_SLOTS).0,
        ];
        assert_eq!(got, PINNED);
    }
    const PINNED: [u16; 8] = [11904, 15589, 5772, 11483, 2238, 1706, 12506, 1252];

    fn mixed_values() -> Vec<Value> {
        vec![
            Value::Null,
            Value::Integer(0),
            Value::Integer(123),
            Value::Integer(i64::MAX),
            Value::Integer(i64::MIN),
            Value::Real(123.0),
            Value::Real(-0.0),
            Value::Real(0.1),
            Value::Real(1e300),
            Value::Real(9.223_372_036_854_775e18),
            text("123"),
            text(" 123 "),
            text("123.0"),
            text("1.23e2"),
            text("+123"),
            text("0x7b"),
            text("abc"),
            text("ABC"),
            text("abc  "),
            text(""),
            text("1e"),
            text("."),
            text("9223372036854775807"),
            text("9223372036854775808"),
            text("0.1"),
            Value::Blob(b"abc".to_vec()),
            Value::Blob(b"123".to_vec()),
            Value::Real(f64::INFINITY),
            Value::Real(f64::NEG_INFINITY),
            Value::Real(-9_223_372_036_854_775_808.0),
            Value::Real(9_223_372_036_854_775_808.0),
            Value::Integer((1 << 53) + 1),
            Value::Real(9_007_199_254_740_992.0),
            Value::Integer(-3),
            Value::Real(-3.5),
            Value::Real(-2.5),
            text("a\0b"),
            text("A\0c"),
            text("A\0cd"),
            text("a"),
            text("a b "),
            text("é"),
            text("Zebra"),
        ]
    }

    /// Keys that SQLite calls equal in that column share a slot, for a wide mix of pairs; SQLite
    /// itself is the judge. And values compare as SQLite compares them there.
    #[test]
    fn equal_in_sqlite_means_equal_slot() {
        let values = mixed_values();
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let mut compared = 0;
        for declared in ["INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB", ""] {
            for (collate, collation) in
                [("BINARY", Collation::Binary), ("NOCASE", Collation::NoCase), ("RTRIM", Collation::Rtrim)]
            {
                db.execute_batch(&format!(
                    "DROP TABLE IF EXISTS t; CREATE TABLE t (n, k {declared} COLLATE {collate})"
                ))
                .unwrap();
                for (n, value) in values.iter().enumerate() {
                    db.execute("INSERT INTO t VALUES (?, ?)", rusqlite::params![n as i64, value]).unwrap();
                }
                let column = KeyColumn { affinity: Affinity::of_declared_type(declared), collation };
                let mut pairs = db.prepare("SELECT a.n, b.n FROM t a, t b WHERE a.k IS b.k").unwrap();
                let pairs =
                    pairs.query_map([], |r| Ok((r.get::<_, i64>(0)? as usize, r.get::<_, i64>(1)? as usize))).unwrap();
                for pair in pairs {
                    let (a, b) = pair.unwrap();
                    let slot = |n: usize| slot_of(&[column], &[values[n].clone()], HASH_SLOTS);
                    assert_eq!(slot(a), slot(b), "{declared} {collate}: {:?} {:?}", values[a], values[b]);
                    compared += 1;
                }
                let mut pairs =
                    db.prepare("SELECT a.n, b.n, (a.k > b.k) - (a.k < b.k) FROM t a, t b WHERE a.k IS NOT NULL AND b.k IS NOT NULL").unwrap();
                let mut rows = pairs.query([]).unwrap();
                while let Some(row) = rows.next().unwrap() {
                    let [a, b] = [0, 1].map(|at| row.get::<_, i64>(at).unwrap() as usize);
                    let order = compare(
                        column,
                        &apply_affinity(column.affinity, &values[a]),
                        &apply_affinity(column.affinity, &values[b]),
                    );
                    let sqlite: i64 = row.get(2).unwrap();
                    assert_eq!(order as i64, sqlite, "{declared} {collate}: {:?} {:?}", values[a], values[b]);
                }
            }
        }
        assert!(compared > values.len() * 18);
    }
}
