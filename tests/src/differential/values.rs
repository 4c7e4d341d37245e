//! Values by chance: small numbers and words that often meet, and those at the edges of what SQLite tells
//! apart.
//!
//! Input: a random generator. Output: values for rows and for statements.

use flotilla_shared::value::Value;

use super::schema::Class;
use crate::sim::random::Rng;

const WORDS: &[&str] = &[
    "", "a", "A", "ab", "Ab", "aB ", "b", "B ", "b  ", "é", "É", "日本", "12", "012", "1.0", "1e2", " 7", "null", "🚢",
    "a%", "a_b", "it's", "x\"y", "zebra", "Zed", "-3", "0",
];

const WILD: &[Value] = &[
    Value::Integer(i64::MAX),
    Value::Integer(i64::MIN),
    Value::Integer((1 << 53) + 1),
    Value::Integer(-1),
    Value::Real(1e300),
    Value::Real(-1e-300),
    Value::Real(9007199254740993.0),
    Value::Real(-0.5),
    Value::Integer(0),
];

fn word(rng: &mut Rng) -> Value {
    Value::Text(rng.pick(WORDS).to_owned())
}

fn small(rng: &mut Rng) -> Value {
    Value::Integer(rng.below(16) as i64 - 3)
}

fn quarter(rng: &mut Rng) -> Value {
    Value::Real((rng.below(160) as f64 - 60.0) / 4.0)
}

/// Any value at all.
pub fn any_value(rng: &mut Rng) -> Value {
    match rng.below(12) {
        0 => Value::Null,
        1..=3 => small(rng),
        4 | 5 => quarter(rng),
        6..=8 => word(rng),
        9 => Value::Blob(rng.pick(&[b"".as_slice(), b"\0", b"a", b"ab", b"\xff\0\x01"]).to_vec()),
        10 => Value::Real(small_float(rng)),
        _ => WILD[rng.below(WILD.len() as u64) as usize].clone(),
    }
}

fn small_float(rng: &mut Rng) -> f64 {
    rng.below(12) as f64
}

/// A value of a class.
pub fn value_of(rng: &mut Rng, class: Class) -> Value {
    match class {
        Class::Int => small(rng),
        Class::Real => quarter(rng),
        Class::Text => word(rng),
        Class::Any => any_value(rng),
    }
}

/// A function that chooses values.
pub type Source = fn(&mut Rng) -> Value;

/// Powers of two by which 53 bits are multiplied: these reals have 20, 27, 35 and 39 digits.
const LONG_SHIFTS: &[u32] = &[13, 37, 64, 74];

/// Numbers of 20 to 40 digits about the middle between two reals, where a reader of fewer digits rounds to
/// the other one; those reals; and text that looks like a number and is none, or has spaces about it.
pub fn long_number(rng: &mut Rng) -> Value {
    let shift = rng.pick(LONG_SHIFTS);
    let lower = (1_u128 << 52) + 1 + u128::from(rng.below(2));
    let middle = ((2 * lower + 1) << (shift - 1)) + u128::from(rng.below(3)) - 1;
    match rng.below(12) {
        0 => Value::Real((lower << shift) as f64),
        1 => Value::Real(((lower + 1) << shift) as f64),
        2 => Value::Text(format!("-{middle}")),
        3 => Value::Text(format!("{middle}.50")),
        4 => Value::Text(format!(" {middle} ")),
        5 => Value::Text(format!("{middle}e-20")),
        6 => Value::Text(rng.pick(&["0x1F", "0x1f", " 31", "31 ", "31", "+31", "31.0", "3.1e1"]).to_owned()),
        7 => Value::Integer(31),
        _ => Value::Text(middle.to_string()),
    }
}

/// Words that are often equal without regard to case or to spaces at the end, and seldom the same.
pub fn similar_word(rng: &mut Rng) -> Value {
    Value::Text(rng.pick(&["a", "A", "a ", "ab", "Ab", "AB", "b", "B", "b  "]).to_owned())
}

/// Integers whose sum soon leaves 64 bits, with small ones that the mean of large ones hides.
pub fn extreme_integer(rng: &mut Rng) -> Value {
    const HALF: i64 = 1 << 62;
    Value::Integer(match rng.below(4) {
        0 => rng.pick(&[i64::MAX, i64::MAX - 1, i64::MIN, i64::MIN + 1]),
        1 => rng.pick(&[HALF, HALF + 1, -HALF, 1 - HALF]),
        2 => rng.pick(&[(1 << 53) + 1, -(1 << 53) - 1]),
        _ => rng.below(9) as i64 - 4,
    })
}

/// Reals that cancel each other out and leave what is small, seldom infinities. What is lost by adding any
/// two of them is held by a real, so their sum is the same in every order.
pub fn extreme_real(rng: &mut Rng) -> Value {
    Value::Real(match rng.below(12) {
        0 => f64::INFINITY,
        1 => f64::NEG_INFINITY,
        2..=4 => 1e16,
        5..=7 => -1e16,
        8 => 0.25,
        9 => -1.0,
        _ => 1.0,
    })
}

/// Integers, reals, numbers as text, and text that counts as zero.
pub fn extreme_mixture(rng: &mut Rng) -> Value {
    match rng.below(8) {
        0..=3 => extreme_integer(rng),
        4 => Value::Real(rng.pick(&[1e16, -1e16, 0.5, 2.0])),
        5 => Value::Text(rng.pick(&["5", "9223372036854775807", "9223372036854775808"]).to_owned()),
        6 => Value::Text(rng.pick(&["abc", "", "2 apples", "1e16", " 7 "]).to_owned()),
        _ => Value::Integer(1),
    }
}
