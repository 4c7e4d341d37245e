//! `flotilla bench scatter`: queries that need all shards: aggregates, groups, the first rows of an order.
//! What each must answer is computed here, and compared.

use serde_json::{Value as Json, json};

use super::filled;
use super::keys::mix;
use super::own::Target;
use super::workload::{Turn, Workload, failure_in};
use crate::commands::CommandError;
use crate::commands::sql::Level;
use crate::http_client::{Call, Reply};

/// Amounts are below this: the first rows of an order then have equals, which the id decides.
const AMOUNTS: u64 = 10_000;

/// Bytes of a row's name.
const NAME_BYTES: u64 = 40;

/// A query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Query {
    /// Count, sum, smallest and largest of all rows
    Aggregate,
    /// Count and sum by group
    Group,
    /// The ten rows with the largest amounts
    Top,
}

/// Settings of the workload.
#[derive(Clone, Debug, clap::Args)]
pub struct ScatterArgs {
    /// Queries, taken in turn
    #[arg(long, value_enum, value_delimiter = ',', default_value = "aggregate,group,top", value_name = "QUERY,…")]
    pub query: Vec<Query>,
    /// Rows of the table, which is loaded first
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub rows: u64,
    /// Groups of rows
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub groups: u64,
    /// How fresh reads are
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub level: Option<Level>,
}

/// The workload: each query with its name, its request and its right answer.
pub struct Scatter {
    args: ScatterArgs,
    table: String,
    queries: Vec<(&'static str, Call, Json)>,
}

fn amount(id: u64) -> u64 {
    mix(id) % AMOUNTS
}

impl Scatter {
    /// For a table.
    pub fn new(table: &str, args: &ScatterArgs) -> Self {
        let path = Level::query_path(args.level);
        let query = |query: &Query| {
            let (name, sql, rows) = match query {
                Query::Aggregate => {
                    let sql = format!("SELECT count(*), sum(amount), min(amount), max(amount) FROM {table}");
                    ("aggregate", sql, aggregate(args.rows))
                }
                Query::Group => {
                    let sql = format!("SELECT grp, count(*), sum(amount) FROM {table} GROUP BY grp ORDER BY grp");
                    ("group", sql, groups(args.rows, args.groups))
                }
                Query::Top => {
                    let sql = format!("SELECT id, amount FROM {table} ORDER BY amount DESC, id LIMIT 10");
                    ("top", sql, top(args.rows))
                }
            };
            (name, Call::post(path.as_str(), json!({ "query": sql }).to_string()), rows)
        };
        Self { table: table.to_owned(), queries: args.query.iter().map(query).collect(), args: args.clone() }
    }

    fn query(&self, client: u32, sequence: u64) -> &(&'static str, Call, Json) {
        // Clients begin with different queries.
        &self.queries[((u64::from(client) + sequence) % self.queries.len() as u64) as usize]
    }
}

fn aggregate(rows: u64) -> Json {
    let amounts = || (1..=rows).map(amount);
    json!([[rows, amounts().sum::<u64>(), amounts().min(), amounts().max()]])
}

fn groups(rows: u64, groups: u64) -> Json {
    let mut found = vec![(0, 0); groups as usize];
    for id in 1..=rows {
        let (count, sum) = &mut found[(id % groups) as usize];
        *count += 1;
        *sum += amount(id);
    }
    let filled = found.iter().enumerate().filter(|(_, (count, _))| *count > 0);
    filled.map(|(group, (count, sum))| json!([group, count, sum])).collect()
}

fn top(rows: u64) -> Json {
    let mut all: Vec<(u64, u64)> = (1..=rows).map(|id| (AMOUNTS - amount(id), id)).collect();
    all.sort_unstable();
    all.iter().take(10).map(|(below, id)| json!([id, AMOUNTS - below])).collect()
}

impl Workload for Scatter {
    fn name(&self) -> &'static str {
        "scatter"
    }

    fn settings(&self) -> Vec<(&'static str, Json)> {
        vec![
            ("rows", json!(self.args.rows)),
            ("groups", json!(self.args.groups)),
            ("queries", json!(self.queries.iter().map(|(name, ..)| *name).collect::<Vec<_>>())),
            ("level", json!(self.args.level.map_or("default", Level::as_str))),
        ]
    }

    async fn set_up(&self, target: &Target) -> Result<(), CommandError> {
        let table = &self.table;
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {table} (id INTEGER PRIMARY KEY, grp INTEGER, amount INTEGER, name TEXT)"
        );
        filled::make(target, table, &create).await?;
        match filled::count(&mut target.client(), table).await? {
            0 => (),
            found if found == self.args.rows => return Ok(()),
            found => {
                let why = format!("table {table} has {found} rows, not {}: drop it, or say --rows", self.args.rows);
                return Err(CommandError::Failed(why));
            }
        }
        let insert = format!("INSERT INTO {table} (id, grp, amount, name) VALUES (?, ?, ?, ?)");
        let groups = self.args.groups;
        let statement = move |id| json!([insert, id, id % groups, amount(id), filled::text_of(id, NAME_BYTES)]);
        filled::load(target, table, self.args.rows, NAME_BYTES, statement).await
    }

    fn kind(&self, client: u32, sequence: u64) -> &'static str {
        self.query(client, sequence).0
    }

    fn request(&self, Turn { client, sequence, .. }: Turn) -> Call {
        self.query(client, sequence).1.clone()
    }

    fn check(&self, Turn { client, sequence, .. }: Turn, reply: &Reply) -> Result<(), String> {
        let answer: Json = serde_json::from_slice(&reply.body).map_err(|_| "not_understood".to_owned())?;
        match answer["results"][0]["values"] == self.query(client, sequence).2 {
            true => Ok(()),
            false => Err(failure_in(reply, "wrong_answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right answers are those of SQLite on the same rows.
    #[test]
    fn answers_are_sqlites() {
        let args = ScatterArgs {
            query: vec![Query::Aggregate, Query::Group, Query::Top],
            rows: 500,
            groups: 7,
            level: Some(Level::None),
        };
        let scatter = Scatter::new("t", &args);
        let db = rusqlite::Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, grp INTEGER, amount INTEGER, name TEXT)").unwrap();
        for id in 1..=500u64 {
            db.execute("INSERT INTO t VALUES (?, ?, ?, '')", [id as i64, (id % 7) as i64, amount(id) as i64]).unwrap();
        }
        for (name, call, wanted) in &scatter.queries {
            assert_eq!(call.path, "/query?level=none");
            let body: Json = serde_json::from_slice(&call.body).unwrap();
            let mut query = db.prepare(body["query"].as_str().unwrap()).unwrap();
            let width = query.column_count();
            let rows =
                query.query_map([], |row| (0..width).map(|n| row.get::<_, i64>(n)).collect::<Result<Vec<_>, _>>());
            let rows: Vec<Vec<i64>> = rows.unwrap().map(Result::unwrap).collect();
            assert_eq!(json!(rows), *wanted, "{name}");
        }
    }
}
