//! A real column of SQLite is the judge of all conversions.

use std::collections::BTreeSet;

use crate::slot::{Affinity, Collation, HASH_SLOTS, KeyColumn, apply_affinity, slot_of};
use crate::value::Value;

/// Numbers by a linear congruential generator (Knuth's MMIX constants): the texts are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound as u64) as usize
    }

    fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// The exact decimal digits of the number halfway between two neighbouring reals, and such that differ from it in
/// what follows: 53 bits and one more, times a power of two.
fn halfway(random: &mut Random) -> String {
    let mantissa = (1u128 << 53 | u128::from(random.0 >> 11)) | 1;
    match random.below(3) {
        0 => (mantissa << random.below(60)).to_string(),
        1 => format!("{}{}", mantissa << random.below(40), random.pick(&[".0", ".5", ".00000000001", "e0"])),
        // mantissa / 2^shift = mantissa * 5^shift / 10^shift
        _ => {
            let shift = 1 + random.below(20);
            let digits = format!("{:0>40}", mantissa * 5u128.pow(shift as u32));
            format!("{}.{}", digits[..40 - shift].trim_start_matches('0'), &digits[40 - shift..])
        }
    }
}

fn text(random: &mut Random) -> String {
    let number = match random.below(8) {
        0 | 1 => halfway(random),
        2 => {
            let count = 1 + random.below(40);
            random.digits(count)
        }
        3 | 4 => {
            let (before, after) = (random.below(21), random.below(21));
            format!("{}.{}", random.digits(before), random.digits(after))
        }
        5 => {
            let (before, after, exponent) = (1 + random.below(19), random.below(20), random.below(345));
            let sign = random.pick(&["", "-", "+"]);
            format!("{}.{}e{sign}{exponent}", random.digits(before), random.digits(after))
        }
        // Below the smallest normal number.
        6 => {
            let (count, exponent) = (1 + random.below(25), 300 + random.below(50));
            format!("{}E-{exponent}", random.digits(count))
        }
        _ => {
            let around: u128 = random.pick(BORDERS).parse().unwrap();
            (around + random.below(5) as u128).saturating_sub(2).to_string()
        }
    };
    let lead = random.pick(&["", "", "", "", " ", "\t\n", "0", "000000000000000000000000"]);
    let sign = random.pick(&["", "", "", "-", "+"]);
    let trail = random.pick(&["", "", "", "", " ", "\r\u{b}\u{c}", "\0", "\0x", "\u{a0}", "_", "x", "e", "e+", "."]);
    match random.below(2) {
        0 => format!("{lead}{sign}{number}{trail}"),
        _ => format!("{sign}{lead}{number}{trail}"),
    }
}

const BORDERS: &[&str] =
    &["9223372036854775808", "9007199254740992", "2251799813685248", "18446744073709551616", "1000000000000000000"];

const CASES: &[&str] = &[
    "",
    " ",
    ".",
    "+",
    "-",
    "+-1",
    "- 1",
    "e",
    "e5",
    ".e5",
    "1e",
    "1e+",
    "1e5",
    "1E5",
    "1.e5",
    ".5e1",
    "5.",
    ".5",
    "1e400",
    "-1e400",
    "1e-400",
    "1e999999999999",
    "0e999999999999",
    "-0",
    "-0.0",
    "+0",
    "0x10",
    "0X1F",
    "-0x1",
    "1_000",
    "inf",
    "nan",
    "Infinity",
    "1.7976931348623157e308",
    "1.7976931348623159e308",
    "4.9e-324",
    "2.4703282292062327e-324",
    "2.4703282292062328e-324",
    "2.2250738585072011e-308",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "9223372036854775807.0",
    "9223372036854774784.0",
    "9223372036854774785.0",
    "9007199254740993",
    "9007199254740993.0",
    "9007199254740993\0",
    "12\0",
    "12\0x",
    "12 \0",
    "\0",
    "\u{0}12",
    "123456789012345678901234567890",
    "0.12345678901234567890",
    "1\u{2003}",
    "\u{2003}1",
    "１",
    "1.5.5",
    "1e5.5",
    "999999999999999.9",
    "99999999999999.95",
];

fn stored(db: &rusqlite::Connection, given: &Value) -> Vec<Value> {
    let mut insert = db.prepare_cached("REPLACE INTO t VALUES (1, ?1, ?1, ?1, ?1, ?1)").unwrap();
    insert.execute([given]).unwrap();
    let mut read = db.prepare_cached("SELECT i, n, r, t, b FROM t").unwrap();
    read.query_row([], |row| (0..5).map(|at| Ok(Value::from(row.get_ref(at)?))).collect()).unwrap()
}

const AFFINITIES: [Affinity; 5] =
    [Affinity::Integer, Affinity::Numeric, Affinity::Real, Affinity::Text, Affinity::Blob];

/// The bits count, but for the sign of zero, which a column of REAL affinity loses on disk.
fn bits(value: &Value) -> String {
    match value {
        Value::Real(real) => format!("real {:x}", (real + 0.0).to_bits()),
        other => format!("{other:?}"),
    }
}

fn check(db: &rusqlite::Connection, given: &Value) {
    for (affinity, stored) in AFFINITIES.into_iter().zip(stored(db, given)) {
        assert_eq!(bits(&apply_affinity(affinity, given)), bits(&stored), "{affinity:?} {given:?}");
        let column = KeyColumn { affinity, collation: Collation::Binary };
        let slot = |value: &Value| slot_of(&[column], std::slice::from_ref(value), HASH_SLOTS);
        assert_eq!(slot(given), slot(&stored), "{affinity:?} {given:?}");
    }
}

/// What a column of each affinity stores for a text is what SQLite stores: one to forty digits, fractions,
/// exponents, halfway cases, subnormal numbers, the ends of the integers, signs, spaces, NUL, and what
/// is nearly a number. And the slot of the text is that of what is stored.
#[test]
fn texts_become_what_sqlite_stores() {
    let db = database();
    CASES.iter().for_each(|case| check(&db, &Value::Text((*case).to_owned())));
    let mut random = Random(7);
    let texts: BTreeSet<String> = (0..60_000).map(|_| text(&mut random)).collect();
    assert!(texts.len() > 50_000);
    texts.into_iter().for_each(|text| check(&db, &Value::Text(text)));
}

/// Reals of all sizes, and integers that no real equals, become what SQLite stores.
#[test]
fn numbers_become_what_sqlite_stores() {
    let db = database();
    let mut random = Random(11);
    for _ in 0..20_000 {
        random.below(2);
        let real = f64::from_bits(random.0);
        if real.is_nan() {
            continue;
        }
        check(&db, &Value::Real(real));
        check(&db, &Value::Real((random.0 as i64 >> random.below(64)) as f64));
        check(&db, &Value::Integer(random.0 as i64 >> random.below(64)));
    }
    for real in
        [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE, 5e-324, f64::MAX, 0.1, 1e15, 1e16, 1e17]
    {
        check(&db, &Value::Real(real));
    }
}

fn database() -> rusqlite::Connection {
    let db = rusqlite::Connection::open_in_memory().unwrap();
    db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, i INTEGER, n NUMERIC, r REAL, t TEXT, b BLOB)").unwrap();
    db
}
