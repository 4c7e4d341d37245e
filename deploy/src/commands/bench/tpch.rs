//! `flotilla bench tpch`: the 22 queries of TPC-H on a running cluster and on one SQLite file with the
//! same rows.
//!
//! [`data`] makes the tables, [`queries`] are the texts. The rows go to the cluster over HTTP, unless
//! they are there, and into the file. Then each query runs on both, some rounds each; the quickest
//! counts. What crossed the network is the difference of the proxy's own counters, so nobody else may
//! use that proxy meanwhile. Output: a line per query. Refused: tables that hold other rows. A query
//! without a result, or with another one, makes the command fail.

// The tests of the cluster load the same tables, and look at their keys.
#[allow(dead_code)]
pub mod data;
pub mod queries;

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use flotilla_shared::value::Value;
use rusqlite::Connection;
use serde_json::{Value as Json, json};

use self::data::{Row, TableData};
use self::queries::QUERIES;
use super::own::{Target, TargetArgs, until_stopped};
use super::workload;
use crate::commands::{CommandError, call, call_once, output, parse};
use crate::http_client::{ApiError, Call, Client};

/// Statements of one request while loading.
const BATCH_STATEMENTS: usize = 250;

/// Rows of one statement while loading: SQLite takes 32,766 arguments, and few of them are planned faster.
const ROWS_PER_STATEMENT: usize = 40;

/// Clients that load at the same time.
const LOADERS: usize = 8;

/// Sums of the same numbers in another order differ by this part of them at most.
const TOLERANCE: f64 = 1e-9;

/// Below it some tables would be empty.
const SMALLEST_SCALE: f64 = 0.001;

/// What a query may take: the longest that a proxy allows.
const QUERY_PATH: &str = "/query?timeout=60s";

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct TpchArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Size: 1 is six million line items. All rows are held in memory while they are loaded
    #[arg(long, default_value_t = 0.01, value_parser = parse_scale)]
    scale: f64,
    /// The SQLite file to compare with, made or used again; a temporary one unless given
    #[arg(long, value_name = "FILE")]
    sqlite: Option<PathBuf>,
    /// How often each query runs on each side; the quickest counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

fn parse_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (SMALLEST_SCALE..=1.0).contains(&scale) => Ok(scale),
        _ => Err(format!("a number from {SMALLEST_SCALE} to 1")),
    }
}

/// What one query took and gave.
struct Measured {
    rows: usize,
    flotilla_ms: f64,
    sqlite_ms: f64,
    class: String,
    pulled_rows: u64,
    pulled_bytes: u64,
    table_rows: usize,
    same: bool,
}

/// What one query measured, or why it has no result.
type Outcome = Result<Measured, ApiError>;

/// Loads what is missing, measures, prints.
pub async fn run(args: TpchArgs) -> Result<(), CommandError> {
    let target = args.target.ready().await?;
    until_stopped(measure_all(&args, &target)).await?
}

async fn measure_all(args: &TpchArgs, target: &Target) -> Result<(), CommandError> {
    let mut client = target.client();
    let tables = data::tables(args.scale);
    for table in &tables {
        load(target, &mut client, table).await?;
    }
    let folder = tempfile::tempdir().map_err(|error| CommandError::io("a temporary folder", &error))?;
    let path = args.sqlite.clone().unwrap_or_else(|| folder.path().join("tpch.db"));
    let db = local(&path, &tables)?;
    let mut lines = Vec::new();
    for (name, sql) in QUERIES {
        match measure(&mut client, &db, &tables, sql, args.rounds).await {
            Ok(measured) => lines.push((name, Ok(measured))),
            // The others are worth knowing all the same.
            Err(CommandError::Api(error)) => lines.push((name, Err(error))),
            Err(error) => return Err(error),
        }
    }
    print(args, &lines);
    let right = |line: &Outcome| line.as_ref().is_ok_and(|measured| measured.same);
    match lines.iter().filter(|(_, line)| !right(line)).map(|(name, _)| *name).collect::<Vec<_>>()[..] {
        [] => Ok(()),
        ref wrong => Err(CommandError::Failed(format!("no result, or another one: {}", wrong.join(", ")))),
    }
}

/// Makes a table in the cluster and fills it, unless that was done.
async fn load(target: &Target, client: &mut Client, table: &TableData) -> Result<(), CommandError> {
    let create = table.create.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1);
    workload::execute(client, json!({ "query": create })).await?;
    if !table.shard_key.is_empty() {
        let register = json!({
            "table_name": table.name, "shard_key": table.shard_key, "colocate_with": table.colocate_with
        });
        workload::register(client, &register).await?;
    }
    let count = format!("SELECT count(*) FROM {}", table.name);
    match rows(client, &count).await?.first().and_then(|row| row.first()) {
        Some(Value::Integer(found)) if *found == table.rows.len() as i64 => return Ok(()),
        Some(Value::Integer(0)) => (),
        found => {
            let (name, wanted) = (table.name, table.rows.len());
            return Err(CommandError::Failed(format!(
                "table {name} has {found:?} rows, not {wanted}: drop it, or name the scale that it was made with"
            )));
        }
    }
    eprintln!("loading {} rows into {}", table.rows.len(), table.name);
    let queue: VecDeque<String> =
        inserts(table).chunks(BATCH_STATEMENTS).map(|batch| json!({ "statements": batch }).to_string()).collect();
    let queue = Arc::new(Mutex::new(queue));
    let loaders = (0..LOADERS).map(|_| {
        let (queue, mut client) = (Arc::clone(&queue), target.client());
        tokio::spawn(async move {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(body) = next else { return Ok(()) };
                workload::send_execute(&mut client, body).await?;
            }
        })
    });
    for loader in loaders.collect::<Vec<_>>() {
        loader.await.map_err(|error| CommandError::Failed(error.to_string()))??;
    }
    Ok(())
}

/// The rows as statements that one shard takes each: rows of a sharded table go together when they
/// have the same key.
fn inserts(table: &TableData) -> Vec<Json> {
    let key = table.columns.iter().position(|column| *column == table.shard_key);
    let together = |a: &Row, b: &Row| key.is_none_or(|key| a[key] == b[key]);
    let groups = table.rows.chunk_by(together).flat_map(|rows| rows.chunks(ROWS_PER_STATEMENT));
    let statement = |rows: &[Row]| {
        let one = format!("({})", vec!["?"; table.columns.len()].join(", "));
        let sql = format!("INSERT INTO {} VALUES {}", table.name, vec![one; rows.len()].join(", "));
        json!({ "query": sql, "args": rows.iter().flatten().map(Value::to_json).collect::<Vec<_>>() })
    };
    groups.map(statement).collect()
}

/// The same rows in one SQLite file.
fn local(path: &Path, tables: &[TableData]) -> Result<Connection, CommandError> {
    let fill = || -> rusqlite::Result<Connection> {
        let db = Connection::open(path)?;
        for table in tables {
            db.execute_batch(&table.create.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1))?;
            let count = format!("SELECT count(*) FROM {}", table.name);
            if db.query_row(&count, [], |row| row.get::<_, i64>(0))? == table.rows.len() as i64 {
                continue;
            }
            let insert = format!("INSERT INTO {} VALUES ({})", table.name, vec!["?"; table.columns.len()].join(", "));
            db.execute_batch(&format!("BEGIN; DELETE FROM {}", table.name))?;
            let mut insert = db.prepare(&insert)?;
            for row in &table.rows {
                insert.execute(rusqlite::params_from_iter(row))?;
            }
            drop(insert);
            db.execute_batch("COMMIT")?;
        }
        Ok(db)
    };
    fill().map_err(|error| sqlite_failed(&error))
}

fn sqlite_failed(error: &rusqlite::Error) -> CommandError {
    CommandError::Failed(format!("SQLite: {error}"))
}

async fn measure(
    client: &mut Client,
    db: &Connection,
    tables: &[TableData],
    sql: &str,
    rounds: u32,
) -> Result<Measured, CommandError> {
    let explained: Json = parse(&call(client, &Call::post("/explain", json!({ "query": sql }).to_string())).await?)?;
    let before = pulled(client).await?;
    let (mut got, mut flotilla_ms) = timed(rows(client, sql)).await?;
    let after = pulled(client).await?;
    for _ in 1..rounds {
        let (again, took_ms) = timed(rows(client, sql)).await?;
        flotilla_ms = flotilla_ms.min(took_ms);
        got = again;
    }
    let (mut wanted, mut sqlite_ms) = (vec![], f64::INFINITY);
    for _ in 0..rounds {
        let start = Instant::now();
        wanted = local_rows(db, sql).map_err(|error| sqlite_failed(&error))?;
        sqlite_ms = sqlite_ms.min(start.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(Measured {
        rows: got.len(),
        flotilla_ms,
        sqlite_ms,
        class: explained["class"].as_str().unwrap_or("unknown").to_owned(),
        pulled_rows: after.0 - before.0,
        pulled_bytes: after.1 - before.1,
        table_rows: used(sql, tables).map(|table| table.rows.len()).sum(),
        same: same(got, wanted),
    })
}

/// The tables that a query names.
fn used<'a>(sql: &str, tables: &'a [TableData]) -> impl Iterator<Item = &'a TableData> {
    let words: Vec<String> = sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned).collect();
    tables.iter().filter(move |table| words.iter().any(|word| word == table.name))
}

async fn timed<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<(T, f64), CommandError> {
    let start = Instant::now();
    let done = work.await?;
    Ok((done, start.elapsed().as_secs_f64() * 1000.0))
}

/// The rows of a read on the cluster.
async fn rows(client: &mut Client, sql: &str) -> Result<Vec<Row>, CommandError> {
    let body: Json = parse(&call_once(client, &Call::post(QUERY_PATH, json!({ "query": sql }).to_string())).await?)?;
    let unexpected = || {
        CommandError::Api(ApiError {
            code: "unexpected".into(),
            message: "the answer has no rows".into(),
            ..ApiError::default()
        })
    };
    let rows = body["results"][0]["values"].as_array().ok_or_else(unexpected)?;
    let row =
        |row: &Json| -> Option<Row> { row.as_array()?.iter().map(|value| Value::from_json(value).ok()).collect() };
    rows.iter().map(|json| row(json).ok_or_else(unexpected)).collect()
}

fn local_rows(db: &Connection, sql: &str) -> rusqlite::Result<Vec<Row>> {
    let mut statement = db.prepare(sql)?;
    let width = statement.column_count();
    let rows = statement.query_map([], |row| (0..width).map(|at| row.get_ref(at).map(Value::from)).collect())?;
    rows.collect()
}

/// Rows and bytes that shards have answered to this proxy so far.
async fn pulled(client: &mut Client) -> Result<(u64, u64), CommandError> {
    let reply = call_once(client, &Call::get("/metrics")).await?;
    let text = String::from_utf8_lossy(&reply.body);
    let counter = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.ok_or_else(|| CommandError::Failed(format!("/metrics has no {name}; is this a proxy?")))
    };
    Ok((counter("flotilla_proxy_rows_pulled_total")?, counter("flotilla_proxy_bytes_pulled_total")?))
}

/// Are these the same rows, in any order, sums of reals aside by [`TOLERANCE`]?
fn same(mut a: Vec<Row>, mut b: Vec<Row>) -> bool {
    a.sort_by(compare_rows);
    b.sort_by(compare_rows);
    let equal = |a: &Value, b: &Value| match (a, b) {
        (Value::Real(a), Value::Real(b)) => (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()),
        _ => a == b,
    };
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)))
}

/// By everything else first, so that reals which differ a little do not put rows in another order.
fn compare_rows(a: &Row, b: &Row) -> Ordering {
    let key = |row: &Row, reals: bool| -> Vec<String> {
        let wanted = row.iter().filter(|value| matches!(value, Value::Real(_)) == reals);
        wanted
            .map(|value| match value {
                Value::Real(real) => format!("{real:+.5e}"),
                other => other.to_json().to_string(),
            })
            .collect()
    };
    key(a, false).cmp(&key(b, false)).then_with(|| key(a, true).cmp(&key(b, true)))
}

fn print(args: &TpchArgs, lines: &[(&str, Outcome)]) {
    let round = |ms: f64| (ms * 100.0).round() / 100.0;
    let list: Vec<Json> = lines
        .iter()
        .map(|(name, line)| match line {
            Err(error) => json!({ "query": name, "error": error.code }),
            Ok(m) => json!({
                "query": name,
                "rows": m.rows,
                "flotilla_ms": round(m.flotilla_ms),
                "sqlite_ms": round(m.sqlite_ms),
                "ratio": round(m.flotilla_ms / m.sqlite_ms.max(0.001)),
                "plan": m.class,
                "rows_pulled": m.pulled_rows,
                "bytes_pulled": m.pulled_bytes,
                "table_rows": m.table_rows,
                "same": m.same,
            }),
        })
        .collect();
    if args.json {
        println!("{}", json!({ "workload": "tpch", "scale": args.scale, "rounds": args.rounds, "queries": list }));
        return;
    }
    let columns = [
        "query",
        "rows",
        "flotilla_ms",
        "sqlite_ms",
        "ratio",
        "plan",
        "rows_pulled",
        "bytes_pulled",
        "table_rows",
        "same",
        "error",
    ];
    print!("{}", output::objects(&list, &columns));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every query is one for SQLite over the tables as they are made, and says which of them it reads.
    #[test]
    fn queries_fit_the_tables() {
        let tables: Vec<TableData> =
            data::tables(SMALLEST_SCALE).into_iter().map(|table| TableData { rows: vec![], ..table }).collect();
        let folder = tempfile::tempdir().unwrap();
        let db = local(&folder.path().join("tpch.db"), &tables).unwrap();
        for (name, sql) in QUERIES {
            local_rows(&db, sql).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(used(sql, &tables).count() > 0, "{name}");
        }
    }

    /// Order and the last digits of sums are left open, everything else is not.
    #[test]
    fn sameness() {
        let row = |n: i64, r: f64| vec![Value::Integer(n), Value::Real(r)];
        assert!(same(vec![row(1, 0.1 + 0.2), row(2, 5.0)], vec![row(2, 5.0), row(1, 0.3)]));
        assert!(!same(vec![row(1, 0.3)], vec![row(1, 0.3), row(1, 0.3)]));
        assert!(!same(vec![row(1, 0.3)], vec![row(1, 0.31)]));
        assert!(!same(vec![vec![Value::Integer(1)]], vec![vec![Value::Real(1.0)]]));
        assert!(same(vec![vec![Value::Null]], vec![vec![Value::Null]]));
    }
}
