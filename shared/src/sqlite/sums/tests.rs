//! Sums of states against SQLite's own aggregates, and against sums of a wide integer.

use rusqlite::Connection;

use crate::sqlite;
use crate::value::Value;

/// Every value that sums treat in a way of its own.
fn values() -> Vec<Value> {
    let text = |text: &str| Value::Text(text.into());
    let mut values = vec![Value::Null, text("12"), text("1.5"), text(" 7x"), text(""), text("9223372036854775807")];
    values.extend([text("9223372036854775808"), Value::Blob(b"2.5".to_vec()), Value::Blob(vec![])]);
    values.extend(
        [0, 1, -1, i64::MAX, i64::MIN, 9_000_000_000_000_000_000, -9_000_000_000_000_000_000].map(Value::Integer),
    );
    values.extend([1_i64 << 53, (1 << 53) + 1, -(1 << 60) - 1].map(Value::Integer));
    values.extend([0.0, -0.0, 0.1, 1.0, 1e16, -1e16, 1e308, -1e308, f64::INFINITY, f64::NEG_INFINITY].map(Value::Real));
    values.extend([f64::MAX, f64::MIN_POSITIVE, 5e-324, -5e-324, 4.6e18, -4.6e18, 1e-300].map(Value::Real));
    values
}

/// Numbers that follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// What an aggregate gives for values in this order; an error is its message.
fn aggregate(db: &Connection, function: &str, values: &[Value]) -> Result<Value, String> {
    let rows = match values.len() {
        0 => "(1)) WHERE false".to_owned(),
        count => vec!["(?)"; count].join(",") + ")",
    };
    let sql = format!("SELECT {function}(column1) FROM (VALUES {rows}");
    db.query_row(&sql, rusqlite::params_from_iter(values), |row| Ok(Value::from(row.get_ref(0)?))).map_err(|error| {
        match error {
            rusqlite::Error::SqliteFailure(_, Some(message)) => message,
            other => other.to_string(),
        }
    })
}

/// The answer over shards.
fn over_shards(db: &Connection, function: &str, shards: &[Vec<Value>]) -> Result<Value, String> {
    let state = |rows: &Vec<Value>| aggregate(db, "flotilla_sum_state", rows).unwrap();
    let states: Vec<Value> = shards.iter().map(state).collect();
    aggregate(db, &format!("flotilla_{function}"), &states)
}

/// Equal to the bit, so that -0.0 is not 0.0.
fn same(a: &Result<Value, String>, b: &Result<Value, String>) -> bool {
    match (a, b) {
        (Ok(Value::Real(a)), Ok(Value::Real(b))) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

/// All orders of a list, by Heap's algorithm, until one fits.
fn any_order(values: &mut [Value], size: usize, fits: &mut impl FnMut(&[Value]) -> bool) -> bool {
    if size <= 1 {
        return fits(values);
    }
    (0..size).any(|n| {
        let found = any_order(values, size - 1, fits);
        values.swap(if size.is_multiple_of(2) { n } else { 0 }, size - 1);
        found
    })
}

/// Random values on 1 to 7 shards: `sum`, `total` and `avg` are what SQLite gives in some order of the rows.
#[test]
fn states_give_what_sqlite_gives_in_some_order() {
    let db = sqlite::open_in_memory().unwrap();
    let pool = values();
    let mut random = Random(7);
    for round in 0..1500 {
        let count = random.below(6);
        let mut rows: Vec<Value> = (0..count).map(|_| pool[random.below(pool.len())].clone()).collect();
        let mut shards = vec![vec![]; 1 + random.below(7)];
        for row in &rows {
            let at = random.below(shards.len());
            shards[at].push(row.clone());
        }
        for function in ["sum", "total", "avg"] {
            let got = over_shards(&db, function, &shards);
            let written = rows.clone();
            let found = any_order(&mut rows, count, &mut |order| same(&aggregate(&db, function, order), &got));
            assert!(found, "round {round}: {function} of {written:?} is {got:?}");
        }
    }
}

/// The answer depends neither on the order of rows nor on the shard that each lies on.
#[test]
fn placement_does_not_matter() {
    let db = sqlite::open_in_memory().unwrap();
    let pool = values();
    let mut random = Random(11);
    for round in 0..300 {
        let rows: Vec<Value> = (0..random.below(40)).map(|_| pool[random.below(pool.len())].clone()).collect();
        let function = ["sum", "total", "avg"][round % 3];
        let wanted = over_shards(&db, function, std::slice::from_ref(&rows));
        for _ in 0..5 {
            let mut shards = vec![vec![]; 1 + random.below(7)];
            for row in &rows {
                let shard = random.below(shards.len());
                let at = random.below(shards[shard].len() + 1);
                shards[shard].insert(at, row.clone());
            }
            let got = over_shards(&db, function, &shards);
            assert!(same(&got, &wanted), "round {round}: {function} of {shards:?} is {got:?}, not {wanted:?}");
        }
    }
}

/// Sums that a 64-bit integer or two doubles cannot carry, each with its right value.
#[test]
fn known_sums() {
    let db = sqlite::open_in_memory().unwrap();
    let (int, real) = (Value::Integer, Value::Real);
    let max = i64::MAX;
    let overflow = || Err("integer overflow".to_owned());
    for (shards, sum, total, average) in [
        (vec![], Ok(Value::Null), real(0.0), Value::Null),
        (vec![vec![], vec![Value::Null]], Ok(Value::Null), real(0.0), Value::Null),
        (
            vec![vec![int(max), int(max)], vec![int(-max), int(0)]],
            Ok(int(max)),
            real(max as f64),
            real(max as f64 / 4.0),
        ),
        (vec![vec![int(max)], vec![int(1)]], overflow(), real(max as f64), real(max as f64 / 2.0)),
        (vec![vec![int(i64::MIN)], vec![int(-1)]], overflow(), real(i64::MIN as f64), real(i64::MIN as f64 / 2.0)),
        (
            vec![vec![int(max); 6], vec![real(0.0)]],
            Ok(real(6.0 * max as f64)),
            real(6.0 * max as f64),
            real(6.0 * max as f64 / 7.0),
        ),
        (
            vec![vec![int(4_600_000_000_000_000_001)], vec![int(-4_600_000_000_000_000_000)]],
            Ok(int(1)),
            real(1.0),
            real(0.5),
        ),
        (vec![vec![real(1e16), real(1.0)], vec![real(-1e16)]], Ok(real(1.0)), real(1.0), real(1.0 / 3.0)),
        (vec![vec![real(1e308), real(1e308)], vec![real(-1e308), real(-1e308)]], Ok(real(0.0)), real(0.0), real(0.0)),
        (
            vec![vec![real(f64::INFINITY), real(5.0)], vec![real(f64::NEG_INFINITY)]],
            Ok(Value::Null),
            Value::Null,
            Value::Null,
        ),
        (
            vec![vec![real(f64::NEG_INFINITY)], vec![int(max)]],
            Ok(real(f64::NEG_INFINITY)),
            real(f64::NEG_INFINITY),
            real(f64::NEG_INFINITY),
        ),
        (
            vec![vec![real(f64::MAX)], vec![real(f64::MAX)]],
            Ok(real(f64::INFINITY)),
            real(f64::INFINITY),
            real(f64::INFINITY),
        ),
        (vec![vec![real(5e-324)], vec![real(-0.0)]], Ok(real(5e-324)), real(5e-324), real(0.0)),
    ] {
        assert_eq!(over_shards(&db, "sum", &shards), sum, "sum of {shards:?}");
        assert_eq!(over_shards(&db, "total", &shards), Ok(total), "total of {shards:?}");
        assert_eq!(over_shards(&db, "avg", &shards), Ok(average), "avg of {shards:?}");
    }
}

/// What is no state is an error, never a number and never a panic.
#[test]
fn other_values_are_refused() {
    let db = sqlite::open_in_memory().unwrap();
    for value in [Value::Integer(1), Value::Text("x".into()), Value::Blob(vec![]), Value::Blob(vec![255; 40])] {
        assert!(aggregate(&db, "flotilla_sum", std::slice::from_ref(&value)).is_err(), "{value:?}");
    }
}
