//! Aggregates over rows of several shards, against one SQLite with all rows.

use flotilla_shared::value::Value;
use rusqlite::{Connection, params_from_iter};

use super::*;

/// Aggregates of one argument that shards compute in part.
const AGGREGATES: &[&str] = &["count", "sum", "total", "avg", "min", "max"];

/// Values that are added or compared in ways of their own.
fn pool() -> Vec<Value> {
    let mut values = vec![Value::Null, Value::Blob(b"2".to_vec()), Value::Text("x".into())];
    values.extend(["12", "1.5", "9223372036854775807"].map(|text| Value::Text(text.into())));
    values
        .extend([1, -1, i64::MAX, i64::MIN, 4_600_000_000_000_000_001, -4_600_000_000_000_000_000].map(Value::Integer));
    values.extend([(1_i64 << 53) + 1, 9_000_000_000_000_000_000].map(Value::Integer));
    values.extend([f64::INFINITY, f64::NEG_INFINITY, 1e16, -1e16, 1.0, 0.1, -0.0, 1e308, -1e308].map(Value::Real));
    values
}

impl Bench {
    /// Rows of a sharded table: groups and values.
    async fn fill(&self, rows: &[(i64, Value)]) {
        let (status, json) = self.post("/sql?allow_partial=true", r#"{"sql":"DELETE FROM t"}"#).await;
        assert_eq!(status, 200, "{json}");
        for (id, (group, value)) in rows.iter().enumerate() {
            self.sql("INSERT INTO t VALUES (?, ?, ?)", json!([id, group, value.to_json()])).await;
        }
    }

    /// The rows of an answer, or the message of an error.
    async fn try_sql(&self, sql: &str) -> Result<Json, String> {
        let (status, mut json) = self.post("/sql", &json!({ "sql": sql }).to_string()).await;
        match status {
            200 => Ok(json["results"][0]["values"].take()),
            _ => Err(json["error"]["message"].as_str().unwrap().to_owned()),
        }
    }
}

async fn table() -> Bench {
    let b = Bench::new().await;
    b.sql("CREATE TABLE t (id INTEGER PRIMARY KEY, g INT, x)", json!([])).await;
    assert_eq!(b.post("/table/register", r#"{"table_name":"t","shard_key":"id"}"#).await.0, 200);
    b
}

/// What SQLite answers for these values in this order.
fn plain(one: &Connection, call: &str, values: &[Value]) -> Result<Json, String> {
    let rows = vec!["(?)"; values.len()].join(",");
    let sql = format!("SELECT {call} FROM (SELECT column1 AS x FROM (VALUES {rows}))");
    let answer = one.query_row(&sql, params_from_iter(values), |row| Ok(Value::from(row.get_ref(0)?).to_json()));
    answer.map_err(|error| flotilla_shared::error::Error::from_sqlite(&error).message)
}

/// Does SQLite give this answer in some order of the values?
fn in_some_order(one: &Connection, call: &str, values: &mut [Value], fixed: usize, got: &Result<Json, String>) -> bool {
    if fixed + 1 >= values.len() {
        return plain(one, call, values) == *got;
    }
    (fixed..values.len()).any(|at| {
        values.swap(fixed, at);
        let found = in_some_order(one, call, values, fixed + 1, got);
        values.swap(fixed, at);
        found
    })
}

/// Random values of all kinds: every aggregate, alone, DISTINCT, with FILTER, by groups, is what one SQLite gives in
/// some order of the rows.
#[tokio::test]
async fn aggregates_are_those_of_some_order() {
    let b = table().await;
    let one = Connection::open_in_memory().unwrap();
    let pool = pool();
    let mut state = 3_u64;
    let mut pick = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for round in 0..25 {
        let rows: Vec<(i64, Value)> = (0..10).map(|n| (n % 2, pool[pick(pool.len())].clone())).collect();
        b.fill(&rows).await;
        let mut values: Vec<Value> = rows.iter().filter(|(g, _)| *g == 1).map(|(_, value)| value.clone()).collect();
        for function in AGGREGATES {
            for distinct in ["", "DISTINCT "] {
                let call = format!("{function}({distinct}x)");
                for sql in [
                    format!("SELECT {call} FROM t WHERE g = 1"),
                    format!("SELECT {call} FROM t GROUP BY g HAVING g = 1"),
                    format!("SELECT {call} FILTER (WHERE g = 1) FROM t"),
                ] {
                    let got = b.try_sql(&sql).await.map(|rows| rows[0][0].clone());
                    // A group that is not asked for may overflow as well.
                    if sql.contains("HAVING") && got == Err("integer overflow".into()) {
                        continue;
                    }
                    let found = in_some_order(&one, &call, &mut values, 0, &got);
                    assert!(found, "round {round}: {sql} of {values:?} is {got:?}");
                }
            }
        }
    }
}

/// Sums that neither 64 bits nor two doubles of each shard can carry, wherever the rows lie.
#[tokio::test]
async fn sums_do_not_depend_on_where_rows_lie() {
    let b = table().await;
    let (int, real) = (Value::Integer, Value::Real);
    let inf = f64::INFINITY;
    for (values, wanted) in [
        (vec![real(inf), real(-inf), real(5.0)], json!([null, null, null])),
        (vec![real(inf), int(7), real(5.0)], json!([{"real":"inf"}, {"real":"inf"}, {"real":"inf"}])),
        (vec![int(4_600_000_000_000_000_001), int(-4_600_000_000_000_000_000)], json!([1, 1.0, 0.5])),
        (vec![real(1e16), real(1.0), real(-1e16), real(1.0)], json!([2.0, 2.0, 0.5])),
        (vec![int(i64::MAX), int(1), int(-1)], json!([i64::MAX, i64::MAX as f64, i64::MAX as f64 / 3.0])),
        (
            vec![int(i64::MAX), int(i64::MAX), real(0.5), int(i64::MAX)],
            json!([27670116110564327424.0, 27670116110564327424.0, 6917529027641081856.0]),
        ),
        (vec![real(1e308), real(1e308), real(-1e308), real(-1e308)], json!([0.0, 0.0, 0.0])),
        (vec![Value::Null, Value::Null], json!([null, 0.0, null])),
        (vec![], json!([null, 0.0, null])),
    ] {
        // Each id once, so that values meet on one shard and on several.
        for shift in 0..8 {
            let rows: Vec<(i64, Value)> =
                (0..8).map(|n| (1, values.get((n + shift) % 8).cloned().unwrap_or(Value::Null))).collect();
            b.fill(&rows).await;
            let got = b.try_sql("SELECT sum(x), total(x), avg(x) FROM t").await.unwrap();
            assert_eq!(got[0], wanted, "{rows:?}");
        }
    }
    b.fill(&[(1, int(i64::MAX)), (1, int(1)), (2, int(3))]).await;
    assert_eq!(b.try_sql("SELECT g, sum(x) FROM t GROUP BY g").await, Err("integer overflow".into()));
    let got = b.try_sql("SELECT g, total(x) FROM t GROUP BY g HAVING sum(id) < 9 ORDER BY avg(x)").await.unwrap();
    assert_eq!(got, json!([[2, 3.0], [1, 9223372036854775808.0]]));
}

/// Aggregates that no partial result can carry get all rows.
#[tokio::test]
async fn aggregates_of_all_rows() {
    let b = table().await;
    let rows: Vec<(i64, Value)> = (0..9).map(|n| (n % 2, Value::Integer(n * n))).collect();
    b.fill(&rows).await;
    for (sql, wanted) in [
        ("SELECT median(x), percentile(x, 25), percentile_cont(x, 0.1) FROM t", json!([[16.0, 4.0, 0.8]])),
        ("SELECT g, median(x) FROM t GROUP BY g ORDER BY g", json!([[0, 16.0], [1, 17.0]])),
        ("SELECT percentile_disc(x, 0.5) FROM t", json!([[16.0]])),
        ("SELECT group_concat(x, '-') FROM (SELECT x FROM t ORDER BY x DESC)", json!([["64-49-36-25-16-9-4-1-0"]])),
        ("SELECT json_group_array(x ORDER BY x) FROM t WHERE g = 1", json!([["[1,9,25,49]"]])),
        ("SELECT string_agg(x, ',' ORDER BY x) FILTER (WHERE x < 5) FROM t", json!([["0,1,4"]])),
    ] {
        assert_eq!(b.try_sql(sql).await, Ok(wanted), "{sql}");
    }
}

/// Functions that shards and proxy use between them are unknown to clients, in reads, writes and schemas.
#[tokio::test]
async fn internal_functions_are_unknown() {
    let b = table().await;
    for sql in [
        "SELECT flotilla_sum_state(x) FROM t",
        "SELECT FLOTILLA_SUM(x) FROM t WHERE id = 1",
        "SELECT g FROM t GROUP BY g HAVING \"flotilla_avg\"(x) > 1",
        "INSERT INTO t VALUES (1, 1, (SELECT flotilla_total(NULL)))",
    ] {
        let error = b.try_sql(sql).await.expect_err(sql);
        assert!(error.to_ascii_lowercase().starts_with("no such function: flotilla_"), "{sql}: {error}");
    }
    b.sql("CREATE VIEW v AS SELECT flotilla_sum_state(x) AS s FROM t", json!([])).await;
    assert_eq!(b.try_sql("SELECT s FROM v").await, Err("no such function: flotilla_sum_state".into()));
}
