//! `flotilla bench mixed`: the core workloads of YCSB (Cooper et al., "Benchmarking Cloud Serving Systems
//! with YCSB", SoCC 2010): reads, updates, inserts, scans and read-modify-writes of rows of text fields.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value as Json, json};

use super::filled;
use super::filled::text_of;
use super::keys::{Distribution, Zipf, draw, mix};
use super::own::Target;
use super::workload::{Turn, Workload, contains, failure_in, fresh_ids, wrote_one};
use crate::commands::sql::Level;
use crate::commands::{CommandError, call};
use crate::http_client::{Call, Reply};

/// Longest scan, in rows: YCSB's.
const MAX_SCAN: u64 = 100;

/// Which workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mix {
    /// Half reads, half updates
    A,
    /// 95 % reads, 5 % updates
    B,
    /// Reads
    C,
    /// 95 % reads, mostly of new rows, 5 % inserts
    D,
    /// 95 % scans of up to 100 rows, 5 % inserts
    E,
    /// Half reads, half read-modify-writes
    F,
}

/// Settings of the workload.
#[derive(Clone, Debug, clap::Args)]
pub struct MixedArgs {
    /// Which of YCSB's workloads
    #[arg(long, value_enum, default_value = "a", value_name = "LETTER")]
    pub ycsb: Mix,
    /// Which rows are asked for; `latest` for workload D unless given, else `zipfian`
    #[arg(long, value_enum, value_name = "DISTRIBUTION")]
    pub keys: Option<Distribution>,
    /// Rows of the table; missing ones are loaded first
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub rows: u64,
    /// Fields of a row
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub fields: u64,
    /// Bytes of a field
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub field_bytes: u64,
    /// How fresh reads are
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub level: Option<Level>,
}

/// What one operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Read,
    Update,
    Insert,
    Scan,
    ReadModifyWrite,
}

/// The workload.
pub struct Mixed {
    args: MixedArgs,
    table: String,
    keys: Distribution,
    zipf: Zipf,
    read_path: String,
    /// Inserted rows have ids from here on.
    first_id: u64,
    /// Inserts that were sent.
    sent: AtomicU64,
    /// Inserts that were acknowledged.
    inserted: AtomicU64,
}

impl Mixed {
    /// For a table.
    pub fn new(table: &str, args: &MixedArgs) -> Self {
        let usual = if args.ycsb == Mix::D { Distribution::Latest } else { Distribution::Zipfian };
        Self {
            args: args.clone(),
            table: table.to_owned(),
            keys: args.keys.unwrap_or(usual),
            zipf: Zipf::new(args.rows),
            read_path: Level::query_path(args.level),
            first_id: fresh_ids(),
            sent: AtomicU64::new(0),
            inserted: AtomicU64::new(0),
        }
    }

    fn operation(&self, client: u32, sequence: u64) -> Operation {
        let percent = draw(client, sequence, 1) % 100;
        match self.args.ycsb {
            Mix::A if percent < 50 => Operation::Update,
            Mix::B if percent < 5 => Operation::Update,
            Mix::D | Mix::E if percent < 5 => Operation::Insert,
            Mix::E => Operation::Scan,
            Mix::F if percent < 50 => Operation::ReadModifyWrite,
            Mix::A | Mix::B | Mix::C | Mix::D | Mix::F => Operation::Read,
        }
    }

    fn key(&self, client: u32, sequence: u64) -> u64 {
        let random = draw(client, sequence, 2);
        match self.keys {
            Distribution::Uniform => 1 + random % self.args.rows,
            Distribution::Zipfian => 1 + mix(self.zipf.rank(random)) % self.args.rows,
            Distribution::Latest => {
                let (rank, inserted) = (self.zipf.rank(random), self.inserted.load(Ordering::Relaxed));
                match rank < inserted {
                    true => self.first_id + inserted - 1 - rank,
                    false => self.args.rows - (rank - inserted),
                }
            }
        }
    }

    /// One text per field, and the row's id first.
    fn row(&self, id: u64) -> Vec<Json> {
        let field = |n| json!(text_of(mix(id).wrapping_add(n), self.args.field_bytes));
        std::iter::once(json!(id)).chain((0..self.args.fields).map(field)).collect()
    }

    fn insert(&self, verb: &str) -> String {
        format!("{verb} INTO {} VALUES (?{})", self.table, ", ?".repeat(self.args.fields as usize))
    }

    fn read(&self, sql: &str, args: Json) -> Call {
        Call::post(self.read_path.as_str(), json!({ "query": sql, "args": args }).to_string())
    }

    fn update(&self, client: u32, sequence: u64) -> Call {
        let random = draw(client, sequence, 3);
        let sql = format!("UPDATE {} SET field{} = ? WHERE id = ?", self.table, random % self.args.fields);
        let args = json!([text_of(random >> 24, self.args.field_bytes), self.key(client, sequence)]);
        Call::post("/execute", json!({ "query": sql, "args": args }).to_string())
    }

    /// Makes and fills the table, unless that was done.
    async fn fill(&self, target: &Target) -> Result<(), CommandError> {
        let fields: Vec<String> = (0..self.args.fields).map(|n| format!("field{n} TEXT")).collect();
        let create =
            format!("CREATE TABLE IF NOT EXISTS {} (id INTEGER PRIMARY KEY, {})", self.table, fields.join(", "));
        filled::make(target, &self.table, &create).await?;
        // Rows are loaded in order of their ids, so the last one stands for all.
        let last = json!({ "query": format!("SELECT 1 FROM {} WHERE id = ?", self.table), "args": [self.args.rows] });
        let found = call(&mut target.client(), &Call::post("/query", last.to_string())).await?;
        if has_rows(&found) {
            return Ok(());
        }
        let loader = Self::new(&self.table, &self.args);
        let insert = loader.insert("INSERT OR REPLACE");
        let row_bytes = self.args.fields * self.args.field_bytes;
        let statement = move |id| json!({ "query": insert, "args": loader.row(id) });
        filled::load(target, &self.table, self.args.rows, row_bytes, statement).await
    }
}

fn has_rows(reply: &Reply) -> bool {
    contains(&reply.body, b"\"values\":[[")
}

impl Workload for Mixed {
    fn name(&self) -> &'static str {
        "mixed"
    }

    fn settings(&self) -> Vec<(&'static str, Json)> {
        let MixedArgs { ycsb, rows, fields, field_bytes, level, .. } = &self.args;
        vec![
            ("ycsb", json!(format!("{ycsb:?}"))),
            ("keys", json!(self.keys.as_str())),
            ("rows", json!(rows)),
            ("fields", json!(fields)),
            ("field_bytes", json!(field_bytes)),
            ("level", json!(level.map_or("default", Level::as_str))),
        ]
    }

    async fn set_up(&self, target: &Target) -> Result<(), CommandError> {
        self.fill(target).await
    }

    fn kind(&self, client: u32, sequence: u64) -> &'static str {
        match self.operation(client, sequence) {
            Operation::Read => "read",
            Operation::Update => "update",
            Operation::Insert => "insert",
            Operation::Scan => "scan",
            Operation::ReadModifyWrite => "read-modify-write",
        }
    }

    fn steps(&self, client: u32, sequence: u64) -> u32 {
        if self.operation(client, sequence) == Operation::ReadModifyWrite { 2 } else { 1 }
    }

    fn request(&self, Turn { client, sequence, step }: Turn) -> Call {
        let table = &self.table;
        match self.operation(client, sequence) {
            Operation::Update => self.update(client, sequence),
            Operation::ReadModifyWrite if step > 0 => self.update(client, sequence),
            Operation::Read | Operation::ReadModifyWrite => {
                self.read(&format!("SELECT * FROM {table} WHERE id = ?"), json!([self.key(client, sequence)]))
            }
            Operation::Scan => {
                let rows = 1 + draw(client, sequence, 4) % MAX_SCAN;
                let sql = format!("SELECT * FROM {table} WHERE id >= ? ORDER BY id LIMIT ?");
                self.read(&sql, json!([self.key(client, sequence), rows]))
            }
            Operation::Insert => {
                let id = self.first_id + self.sent.fetch_add(1, Ordering::Relaxed);
                let body = json!({ "query": self.insert("INSERT"), "args": self.row(id) });
                Call::post("/execute", body.to_string())
            }
        }
    }

    fn check(&self, Turn { client, sequence, step }: Turn, reply: &Reply) -> Result<(), String> {
        match self.operation(client, sequence) {
            Operation::Update => wrote_one(reply, "no_such_row"),
            Operation::ReadModifyWrite if step > 0 => wrote_one(reply, "no_such_row"),
            Operation::Insert => {
                wrote_one(reply, "not_inserted")?;
                self.inserted.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            // Of the newest rows one may be on its way while a later one has arrived.
            Operation::Read if self.keys == Distribution::Latest && contains(&reply.body, b"\"values\":[]") => Ok(()),
            _ if has_rows(reply) => Ok(()),
            _ => Err(failure_in(reply, "no_such_row")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed(ycsb: Mix, keys: Option<Distribution>) -> Mixed {
        Mixed::new("t", &MixedArgs { ycsb, keys, rows: 100, fields: 3, field_bytes: 7, level: None })
    }

    fn share(mixed: &Mixed, kind: &str) -> usize {
        (0..10_000).filter(|sequence| mixed.kind(1, *sequence) == kind).count()
    }

    /// Operations come in YCSB's proportions.
    #[test]
    fn proportions() {
        for (mix, kind, percent) in [
            (Mix::A, "update", 50),
            (Mix::B, "update", 5),
            (Mix::C, "read", 100),
            (Mix::D, "insert", 5),
            (Mix::E, "scan", 95),
            (Mix::F, "read-modify-write", 50),
        ] {
            let found = share(&mixed(mix, None), kind);
            assert!(found.abs_diff(percent * 100) <= 200, "{mix:?}: {found} {kind} of 10000");
        }
    }

    /// Keys are of rows that were loaded; with `latest`, of those that were inserted as soon as there are any.
    #[test]
    fn keys_exist() {
        for keys in [Distribution::Uniform, Distribution::Zipfian, Distribution::Latest] {
            let mixed = mixed(Mix::D, Some(keys));
            assert!((0..1000).all(|sequence| (1..=100).contains(&mixed.key(0, sequence))), "{keys:?}");
        }
        let latest = mixed(Mix::D, None);
        latest.inserted.store(50, Ordering::Relaxed);
        let new = (0..1000).filter(|sequence| latest.key(0, *sequence) >= latest.first_id).count();
        assert!(new > 700, "{new} of 1000 reads are of the 50 newest rows");
        assert!((0..1000).all(|sequence| latest.key(0, sequence) < latest.first_id + 50));
    }

    /// A read-modify-write is a read, then an update of the same row; every id is inserted once.
    #[test]
    fn requests() {
        let rmw = mixed(Mix::F, None);
        let sequence = (0..).find(|n| rmw.kind(0, *n) == "read-modify-write").unwrap();
        assert_eq!(rmw.steps(0, sequence), 2);
        let body =
            |step| -> Json { serde_json::from_slice(&rmw.request(Turn { client: 0, sequence, step }).body).unwrap() };
        assert_eq!(body(0)["args"][0], body(1)["args"][1]);
        let inserts = mixed(Mix::D, None);
        let ids: std::collections::HashSet<u64> = (0..1000)
            .filter(|sequence| inserts.kind(0, *sequence) == "insert")
            .map(|sequence| {
                let call = inserts.request(Turn { client: 0, sequence, step: 0 });
                let body: Json = serde_json::from_slice(&call.body).unwrap();
                assert_eq!(body["args"].as_array().unwrap().len(), 4);
                body["args"][0].as_u64().unwrap()
            })
            .collect();
        assert_eq!(ids.len() as u64, inserts.sent.load(Ordering::Relaxed));
    }
}
