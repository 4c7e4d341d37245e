//! What it costs to find out where a statement runs: `cargo bench -p flotilla-proxy`.
//!
//! A statement that was seen before is looked up, its arguments are checked, and it is planned; a new
//! one is read, prepared on the mirror and analyzed first. The targets: under 2 µs for a cached
//! statement of one shard, under 100 µs for a new one. And what it costs to put the groups of three
//! shards together.

// The same registry that the unit tests plan with; they use more of it.
#[path = "../src/testing/mod.rs"]
#[allow(dead_code)]
mod testing;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use flotilla_proxy::merge::{Bounds, Session, until};
use flotilla_proxy::mirror::Mirror;
use flotilla_proxy::plan::{Input, Plan, missing_keys, plan};
use flotilla_shared::registry::Registry;
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Statement;

const DDL: &str = "
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, email TEXT);
    CREATE TABLE orders (o_id INT NOT NULL PRIMARY KEY, u_id INT, total REAL);
    CREATE TABLE items (o_id INT NOT NULL, line INT, price REAL, PRIMARY KEY (o_id, line));
    CREATE INDEX by_user ON orders (u_id);";

/// Name, text, how many arguments it takes, and the class of its plan where that is
/// what matters. A new text is made by a comment at its end.
const STATEMENTS: &[(&str, &str, usize, &str)] = &[
    ("select_by_key", "SELECT id, name, email FROM users WHERE id = ?", 1, "one"),
    ("insert", "INSERT INTO users (id, name, email) VALUES (?, ?, ?)", 3, "one"),
    ("update_by_key", "UPDATE users SET name = ?2 WHERE id = ?1", 2, "one"),
    (
        "join_by_key",
        "SELECT * FROM orders o JOIN items i ON i.o_id = o.o_id WHERE o.o_id = ? AND i.o_id = o.o_id",
        1,
        "",
    ),
    ("select_all", "SELECT id, name FROM users WHERE name LIKE ?", 1, "all"),
    (
        "group_by",
        "SELECT u_id, sum(total) AS s FROM orders GROUP BY u_id HAVING s > ? ORDER BY s DESC LIMIT 10",
        1,
        "merge",
    ),
];

struct Bench {
    registry: Arc<Registry>,
    mirror: Mirror,
}

impl Bench {
    fn new() -> Self {
        let sharded: &[(&str, &[&str], u32)] =
            &[("users", &["id"], 1), ("orders", &["o_id"], 2), ("items", &["o_id"], 2)];
        let registry = testing::registry(3, DDL, sharded);
        Self { mirror: Mirror::build(Arc::clone(&registry)).expect("the schema is one"), registry }
    }

    /// All that is done before the first byte goes to a shard.
    fn plan(&self, sql: &str, params: &Params) -> Plan {
        let (prepared, _) = self.mirror.prepare(sql).expect("SQLite takes it");
        prepared.check_args(params).expect("they fit");
        let none = BTreeMap::new();
        let input = Input { mirror: &self.mirror, prepared: &prepared, params, allow_partial: false, keys: &none };
        assert!(missing_keys(input, &self.registry).is_empty());
        plan(input, &self.registry)
    }
}

fn named(bench: &Bench, name: &str) -> (&'static str, Params) {
    let (_, sql, count, class) = STATEMENTS.iter().find(|(known, ..)| *known == name).expect("it is listed");
    let params = Params::Positional((0..*count as i64).map(|n| Value::Integer(456 + n)).collect());
    let plan = bench.plan(sql, &params);
    assert!(plan.class() == *class || class.is_empty() && plan.class() != "refused", "{name}: {plan}");
    (sql, params)
}

fn cached(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cached");
    for (name, ..) in STATEMENTS {
        let bench = Bench::new();
        let (sql, params) = named(&bench, name);
        group.bench_function(*name, |bencher| bencher.iter(|| bench.plan(black_box(sql), black_box(&params))));
    }
    group.finish();
}

fn uncached(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("uncached");
    for (name, ..) in STATEMENTS {
        let bench = Bench::new();
        let (sql, params) = named(&bench, name);
        // Opens the mirror's connections, which is done once per schema.
        for n in 0..8 {
            bench.plan(&format!("{sql} -- first {n}"), &params);
        }
        let mut next = 0;
        group.bench_function(*name, |bencher| {
            let new = || {
                next += 1;
                format!("{sql} -- {next}")
            };
            bencher.iter_batched_ref(new, |sql| bench.plan(sql, &params), BatchSize::SmallInput);
        });
    }
    group.finish();
}

/// Three shards' groups become the groups of all rows.
fn merge(criterion: &mut Criterion) {
    let bounds = Bounds { pulled_rows: 1 << 20, pulled_bytes: 1 << 30, result_rows: 1 << 20, result_bytes: 1 << 30 };
    let setup = ["CREATE TABLE p (k, n, s)".to_owned()];
    let finish = Statement::bare("SELECT k, sum(n), sum(s) FROM p GROUP BY k ORDER BY 3 DESC LIMIT 10");
    let mut group = criterion.benchmark_group("merge");
    for groups in [10, 1000] {
        let row = |k| vec![Value::Integer(k), Value::Integer(k % 7), Value::Integer(k * 31 % 1000)];
        let rows: Vec<Vec<Value>> = (0..groups).map(row).collect();
        group.throughput(Throughput::Elements(3 * groups as u64));
        group.bench_function(BenchmarkId::from_parameter(groups), |bencher| {
            bencher.iter(|| {
                let deadline = until(Duration::from_secs(60));
                let mut session = Session::open(&setup, bounds, deadline).expect("a database");
                for _shard in 0..3 {
                    session.load("INSERT INTO p VALUES (?, ?, ?)", black_box(&rows)).expect("they fit");
                }
                session.finish(&finish).expect("a result")
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    cached(&mut criterion);
    uncached(&mut criterion);
    merge(&mut criterion);
    criterion.final_summary();
}
