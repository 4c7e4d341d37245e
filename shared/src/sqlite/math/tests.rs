//! The math functions against SQLite's own.

use rusqlite::Connection;

use crate::sqlite;
use crate::value::Value;

/// Functions of one number that must agree to the bit, because their results are exact or rounded once.
const EXACT: &[&str] = &["ceil", "ceiling", "floor", "trunc", "sqrt", "radians", "degrees"];

/// Functions of one number whose results may differ in the last two bits.
const NEAR: &[&str] = &[
    "ln", "log", "log10", "log2", "exp", "acos", "asin", "atan", "cos", "sin", "tan", "cosh", "sinh", "tanh", "acosh",
    "asinh", "atanh",
];

/// Units in the last place by which a result may differ from that of the C library.
const MAX_ULPS: u64 = 2;

/// Arguments of every kind, small and large, at and near the ends of what functions take.
fn values() -> Vec<Value> {
    let mut values = vec![Value::Null, Value::Blob(b"2".to_vec())];
    values.extend(["", "x", "2", " 2.5 ", "2x", "1e3", "0x10", "inf"].map(|text| Value::Text(text.into())));
    values.extend([0, 1, -1, 2, 10, 1 << 53, (1 << 53) + 1, i64::MAX, i64::MIN].map(Value::Integer));
    values.extend([f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324].map(Value::Real));
    let near =
        [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, std::f64::consts::E, std::f64::consts::PI, 10.0, 100.0, 709.78, 1e9, 1e22];
    for value in near {
        values.extend([value, -value, value.next_up(), value.next_down(), value / 3.0, -value / 7.0].map(Value::Real));
    }
    // A geometric series over the range, and steps through the range where most arguments lie.
    values.extend((-300..300).map(|n| Value::Real(1.07_f64.powi(n) * if n % 2 == 0 { 1.0 } else { -1.0 })));
    values.extend((-400..400).map(|n| Value::Real(f64::from(n) / 37.0)));
    values
}

fn call(db: &Connection, sql: &str, arguments: &[&Value]) -> Value {
    let mut query = db.prepare_cached(sql).unwrap();
    query.query_row(rusqlite::params_from_iter(arguments), |row| Ok(Value::from(row.get_ref(0)?))).unwrap()
}

/// Doubles between two of them.
fn ulps(a: f64, b: f64) -> u64 {
    let ordered = |value: f64| match value.to_bits() {
        bits if bits >> 63 == 1 => -i128::from(bits & !(1 << 63)),
        bits => i128::from(bits),
    };
    (ordered(a) - ordered(b)).unsigned_abs() as u64
}

/// Compares one call on both connections.
fn compare(own: &Connection, plain: &Connection, sql: &str, arguments: &[&Value], max_ulps: u64) {
    let (got, wanted) = (call(own, sql, arguments), call(plain, sql, arguments));
    let near = match (&got, &wanted) {
        (Value::Real(got), Value::Real(wanted)) => {
            ulps(*got, *wanted) <= max_ulps && got.is_sign_negative() == wanted.is_sign_negative()
        }
        _ => got == wanted,
    };
    assert!(near, "{sql} of {arguments:?} is {got:?}, SQLite says {wanted:?}");
}

/// Each function gives what SQLite's own gives, in value and type, for numbers, text, blobs and NULL.
#[test]
fn functions_of_one_number() {
    let (own, plain) = (sqlite::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
    for value in &values() {
        for name in EXACT {
            compare(&own, &plain, &format!("SELECT {name}(?1)"), &[value], 0);
        }
        for name in NEAR {
            compare(&own, &plain, &format!("SELECT {name}(?1)"), &[value], MAX_ULPS);
        }
    }
}

/// The same for functions of two numbers.
#[test]
fn functions_of_two_numbers() {
    let (own, plain) = (sqlite::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
    let values = values();
    for (a, first) in values.iter().enumerate().step_by(3) {
        for second in values.iter().skip(a % 11).step_by(11) {
            compare(&own, &plain, "SELECT mod(?1, ?2)", &[first, second], 0);
            for name in ["pow", "power", "atan2"] {
                compare(&own, &plain, &format!("SELECT {name}(?1, ?2)"), &[first, second], MAX_ULPS);
            }
            // A quotient of two logarithms: the errors of both and that of the division.
            compare(&own, &plain, "SELECT log(?1, ?2)", &[first, second], 3 * MAX_ULPS);
        }
    }
}

/// They may stand where SQLite takes only deterministic functions, and in a schema that is not trusted.
#[test]
fn functions_may_be_indexed() {
    let db = sqlite::open_in_memory().unwrap();
    db.pragma_update(None, "trusted_schema", false).unwrap();
    db.execute_batch(
        "CREATE TABLE t (a, b AS (sqrt(a)) STORED, CHECK (sin(a) > -2));
         CREATE INDEX i ON t (log(2, a)) WHERE power(a, 2) > 1;
         INSERT INTO t (a) VALUES (4), (16);",
    )
    .unwrap();
    let sum: f64 = db.query_row("SELECT sum(b) FROM t WHERE log(2, a) = 4", [], |row| row.get(0)).unwrap();
    assert_eq!(sum, 4.0);
}
