//! Columns by chance: those of primary keys, of every affinity and collation, and those beside them.
//!
//! Input: a random generator. Output: [`Column`]s of which is known what they hold.

use flotilla_shared::value::Value;

use super::schema::{Class, Column};
use super::values::{Source, any_value, long_number, similar_word, value_of};
use crate::sim::random::Rng;

/// A quarter of the values of a column that allows it.
const NULL_PERCENT: u64 = 18;

impl Column {
    /// A value for it, as a client may give it: perhaps one that its affinity changes.
    pub fn value(&self, rng: &mut Rng) -> Value {
        if self.nullable && rng.percent(NULL_PERCENT) {
            return Value::Null;
        }
        if let Some(source) = self.source {
            return source(rng);
        }
        let value = match (self.class, self.tame) {
            // Beyond 64 bits, and text that is no number, where nobody adds it up.
            (Class::Int, false) if rng.percent(30) => match self.strict {
                true => Value::Integer(rng.pick(&[i64::MAX, i64::MIN, 1 << 53])),
                false => any_value(rng),
            },
            (class, _) => value_of(rng, class),
        };
        match value {
            Value::Null if !self.nullable => value_of(rng, Class::Text),
            // Affinity makes the same number of these.
            Value::Integer(n) if self.class == Class::Int && rng.percent(10) => Value::Text(n.to_string()),
            Value::Integer(n) if self.class == Class::Int && n.unsigned_abs() < 1000 && rng.percent(5) => {
                Value::Real(n as f64)
            }
            other => other,
        }
    }
}

/// How a key column may look.
#[derive(Clone, Copy)]
pub enum KeyKind {
    /// INTEGER PRIMARY KEY.
    Rowid,
    /// INT.
    Int,
    /// TEXT.
    Text,
    /// TEXT without regard to case.
    Nocase,
    /// TEXT without regard to spaces at its end.
    Rtrim,
    /// NUMERIC.
    Numeric,
    /// REAL.
    Real,
    /// NUMERIC with numbers of more digits than a real has.
    LongNumeric,
    /// REAL with such numbers.
    LongReal,
    /// TEXT with such numbers.
    LongText,
    /// NOCASE, and the primary key is BINARY: it tells apart what the column takes for equal.
    FineNocase,
    /// RTRIM, and the primary key is BINARY.
    FineRtrim,
    /// BINARY, and the primary key is NOCASE: it takes for equal what the column tells apart.
    CoarseNocase,
    /// BINARY, and the primary key is RTRIM.
    CoarseRtrim,
}

impl KeyKind {
    fn is_long(self) -> bool {
        matches!(self, Self::LongNumeric | Self::LongReal | Self::LongText)
    }

    /// The collation of the primary key, where it is not the column's.
    fn collation(self) -> Option<&'static str> {
        match self {
            Self::FineNocase | Self::FineRtrim => Some("BINARY"),
            Self::CoarseNocase => Some("NOCASE"),
            Self::CoarseRtrim => Some("RTRIM"),
            _ => None,
        }
    }

    /// Has it values or a type that a strict table refuses?
    pub fn needs_affinity(self) -> bool {
        matches!(self, Self::Numeric) || self.is_long()
    }
}

/// A column of a primary key.
pub fn key_column(kind: KeyKind, name: &str, strict: bool) -> Column {
    let (decl, class, exact) = match kind {
        KeyKind::Rowid => ("INTEGER PRIMARY KEY", Class::Int, true),
        KeyKind::Int => ("INT NOT NULL", Class::Int, true),
        KeyKind::Text => ("TEXT NOT NULL", Class::Text, true),
        KeyKind::Nocase => ("TEXT COLLATE NOCASE NOT NULL", Class::Text, false),
        KeyKind::Rtrim => ("TEXT COLLATE RTRIM NOT NULL", Class::Text, false),
        KeyKind::Numeric => ("NUMERIC NOT NULL", Class::Any, true),
        KeyKind::Real => ("REAL NOT NULL", Class::Real, true),
        KeyKind::LongNumeric => ("NUMERIC NOT NULL", Class::Any, true),
        KeyKind::LongReal => ("REAL NOT NULL", Class::Any, true),
        KeyKind::LongText => ("TEXT NOT NULL", Class::Any, true),
        KeyKind::FineNocase => ("TEXT COLLATE NOCASE NOT NULL", Class::Text, false),
        KeyKind::FineRtrim => ("TEXT COLLATE RTRIM NOT NULL", Class::Text, false),
        KeyKind::CoarseNocase | KeyKind::CoarseRtrim => ("TEXT NOT NULL", Class::Text, true),
    };
    // A key that is text in an integer column could not be added.
    let tame = matches!(class, Class::Int | Class::Real);
    let strict = strict || matches!(kind, KeyKind::Rowid);
    let (name, decl) = (name.to_owned(), decl.to_owned());
    let source: Option<Source> = match kind {
        _ if kind.is_long() => Some(long_number),
        _ if kind.collation().is_some() => Some(similar_word),
        _ => None,
    };
    Column { name, decl, class, exact, tame, strict, source, key_collation: kind.collation(), ..Column::default() }
}

fn plain_column(rng: &mut Rng, name: &str, strict: bool) -> Column {
    let choices: &[(&str, Class, bool, bool)] = match strict {
        true => &[
            ("INTEGER", Class::Int, true, true),
            ("INT", Class::Int, true, false),
            ("TEXT", Class::Text, true, false),
            ("TEXT COLLATE NOCASE", Class::Text, false, false),
            ("REAL", Class::Real, true, true),
            ("ANY", Class::Any, false, false),
        ],
        false => &[
            ("INTEGER", Class::Int, true, true),
            ("INT", Class::Int, true, true),
            ("BIGINT", Class::Int, true, false),
            ("TEXT", Class::Text, true, false),
            ("VARCHAR(20)", Class::Text, true, false),
            ("TEXT COLLATE NOCASE", Class::Text, false, false),
            ("TEXT COLLATE RTRIM", Class::Text, false, false),
            ("REAL", Class::Real, true, true),
            ("DOUBLE", Class::Real, true, true),
            ("DECIMAL(10,2)", Class::Any, true, false),
            ("BLOB", Class::Any, false, false),
            ("", Class::Any, false, false),
            ("NUMERIC", Class::Any, true, false),
        ],
    };
    let (decl, class, exact, tame) = rng.pick(choices);
    let nullable = !rng.percent(15);
    // A wild integer column holds other things as well.
    let class_of_values = if class == Class::Int && !tame && !strict { Class::Any } else { class };
    let mut decl = decl.to_owned();
    if !nullable {
        decl.push_str(" NOT NULL");
    }
    let default = match (class, rng.percent(25)) {
        (Class::Int, true) => " DEFAULT 4",
        (Class::Text, true) => " DEFAULT 'dflt'",
        (Class::Real, true) => " DEFAULT 0.5",
        _ => "",
    };
    decl.push_str(default);
    if tame && class == Class::Int && rng.percent(10) {
        decl.push_str(&format!(" CHECK ({name} < 1000)"));
    }
    Column { name: name.to_owned(), decl, class: class_of_values, exact, tame, nullable, strict, ..Column::default() }
}

fn computed_column(rng: &mut Rng, of: &[Column]) -> Option<Column> {
    let tame: Vec<&Column> = of.iter().filter(|column| column.tame && column.class == Class::Int).collect();
    let source = tame.get(rng.below(tame.len() as u64) as usize)?;
    let stored = rng.pick(&["VIRTUAL", "STORED"]);
    Some(Column {
        name: "gen".into(),
        decl: format!("INTEGER GENERATED ALWAYS AS ({} * 2 + 1) {stored}", source.name),
        class: Class::Int,
        exact: true,
        tame: true,
        nullable: true,
        generated: true,
        ..Column::default()
    })
}

/// Names of plain columns: some that several tables have, one that must be quoted.
const NAMES: &[&str] = &["a", "b", "c", "d", "\"odd name\"", "Mixed"];

/// Adds some columns beside the key.
pub fn plain_columns(rng: &mut Rng, strict: bool, columns: &mut Vec<Column>) {
    let count = rng.within(2, 5) as usize;
    let first = rng.below(2) as usize;
    for name in &NAMES[first..(first + count).min(NAMES.len())] {
        columns.push(plain_column(rng, name, strict));
    }
    // Every table has numbers to add and text to compare.
    if !columns.iter().any(|column| column.tame) {
        let mut column = plain_column(rng, "num", true);
        (column.decl, column.class, column.exact, column.tame) = ("INTEGER".into(), Class::Int, true, true);
        (column.nullable, column.strict) = (true, strict);
        columns.push(column);
    }
    if rng.percent(25) {
        columns.extend(computed_column(rng, columns));
    }
}

/// Primary keys.
pub const KEYS: &[&[KeyKind]] = &[
    &[KeyKind::Rowid],
    &[KeyKind::Rowid],
    &[KeyKind::Int],
    &[KeyKind::Text],
    &[KeyKind::Nocase],
    &[KeyKind::Rtrim],
    &[KeyKind::Numeric],
    &[KeyKind::Real],
    &[KeyKind::Text, KeyKind::Int],
    &[KeyKind::Int, KeyKind::Nocase],
    &[KeyKind::LongNumeric],
    &[KeyKind::LongReal],
    &[KeyKind::LongText],
    &[KeyKind::Int, KeyKind::FineNocase],
    &[KeyKind::Int, KeyKind::FineNocase],
    &[KeyKind::Int, KeyKind::FineRtrim],
];

/// Keys whose table is not sharded, because no shard could tell what is equal.
pub const COARSE_KEYS: &[&[KeyKind]] =
    &[&[KeyKind::CoarseNocase], &[KeyKind::CoarseRtrim], &[KeyKind::Int, KeyKind::CoarseNocase]];
