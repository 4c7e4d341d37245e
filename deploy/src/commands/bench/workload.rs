//! What the clients send, and what counts as the right answer.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};

use super::keys::draw;
use super::own::Target;
use crate::commands::sql::Level;
use crate::commands::{CommandError, admin, call, output, parse};
use crate::http_client::{ApiError, Call, Client, Reply};
use flotilla_shared::error::Code;
use flotilla_shared::ids::RequestId;

/// Rows per body while loading: as a script's batches.
const LOAD_BATCH_ROWS: u64 = 500;

/// A kind of load. Shared by all clients, so it holds no state that changes.
pub trait Workload: Send + Sync + 'static {
    /// As in `flotilla bench NAME`.
    fn name(&self) -> &'static str;

    /// Settings besides those of every workload, for the report.
    fn settings(&self) -> Vec<(&'static str, Json)>;

    /// Makes the cluster ready.
    fn set_up(&self, target: &Target) -> impl Future<Output = Result<(), CommandError>>;

    /// What operation number `sequence` of a client is, in reports.
    fn kind(&self, _client: u32, _sequence: u64) -> &'static str {
        self.name()
    }

    /// Requests of that operation, one after the other.
    fn steps(&self, _client: u32, _sequence: u64) -> u32 {
        1
    }

    /// A request.
    fn request(&self, turn: Turn) -> Call;

    /// Learns when an operation that succeeded began and ended.
    fn took(&self, _begin: Instant, _end: Instant) {}

    /// Checks the successful reply to that request; the error is the code to count it under.
    ///
    /// # Errors
    /// When the reply does not say what it must.
    fn check(&self, turn: Turn, reply: &Reply) -> Result<(), String>;
}

/// Which request; all numbers are from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The client.
    pub client: u32,
    /// Its operation.
    pub sequence: u64,
    /// The request of that operation.
    pub step: u32,
}

/// A table name that needs no quotes.
pub fn parse_table_name(text: &str) -> Result<String, String> {
    let mut bytes = text.bytes();
    let is_name = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_name { Ok(text.to_owned()) } else { Err("a name of letters, digits and _".into()) }
}

/// Creates the table and registers it by the hash of its key.
async fn create_table(client: &mut Client, table: &str) -> Result<(), CommandError> {
    let create = format!("CREATE TABLE IF NOT EXISTS {table} (id INTEGER PRIMARY KEY, ts INTEGER, name TEXT)");
    execute(client, json!({ "query": create })).await?;
    register(client, &json!({ "table_name": table, "shard_key": "id", "shard_func": "hash" })).await
}

/// Registers a table, unless that was done.
pub async fn register(client: &mut Client, body: &Json) -> Result<(), CommandError> {
    match call(client, &Call::post("/table/register", body.to_string())).await {
        Ok(reply) => admin::follow_if_job(client, &parse(&reply)?).await,
        Err(CommandError::Api(ApiError { code, .. })) if code == Code::AlreadyRegistered.as_str() => Ok(()),
        Err(error) => Err(error),
    }
}

/// A write that must succeed in all its statements.
pub async fn execute(client: &mut Client, body: Json) -> Result<(), CommandError> {
    send_execute(client, body.to_string()).await
}

/// The same with the body as text.
pub async fn send_execute(client: &mut Client, body: String) -> Result<(), CommandError> {
    let request = Call::post("/execute", body).with_key(RequestId::random().to_string());
    let results: output::Results = parse(&call(client, &request).await?)?;
    match results.results.into_iter().find_map(|result| result.error) {
        Some(error) => Err(CommandError::Api(error)),
        None => Ok(()),
    }
}

/// Ids that no run before has used begin here: at the time in milliseconds times 2^20, so runs after each
/// other never meet while they insert fewer than a million rows per millisecond. Below 2^63 until 2248.
pub fn fresh_ids() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_millis() as u64) << 20
}

/// Inserts of one row.
pub struct PointWrite {
    table: String,
    insert: Arc<str>,
    clients: u64,
    first_id: u64,
    started_ms: u64,
}

impl PointWrite {
    /// Inserts with [`fresh_ids`].
    pub fn new(table: &str, clients: u32) -> Self {
        let first_id = fresh_ids();
        Self {
            table: table.to_owned(),
            insert: format!("INSERT INTO {table} (id, ts, name) VALUES (?, ?, ?)").into(),
            clients: clients.into(),
            first_id,
            started_ms: first_id >> 20,
        }
    }

    fn id(&self, client: u32, sequence: u64) -> u64 {
        self.first_id + sequence * self.clients + u64::from(client)
    }
}

impl Workload for PointWrite {
    fn name(&self) -> &'static str {
        "write"
    }

    fn settings(&self) -> Vec<(&'static str, Json)> {
        vec![("first_id", json!(self.first_id))]
    }

    async fn set_up(&self, target: &Target) -> Result<(), CommandError> {
        create_table(&mut target.client(), &self.table).await
    }

    fn request(&self, Turn { client, sequence, .. }: Turn) -> Call {
        // Nothing in it needs escaping, and the generator shares its cores with the cluster.
        let id = self.id(client, sequence);
        let body = format!(
            "{{\"query\":\"{}\",\"args\":[{id},{},\"client {client} row {sequence}\"]}}",
            self.insert, self.started_ms
        );
        Call::post("/execute", body)
    }

    fn check(&self, _turn: Turn, reply: &Reply) -> Result<(), String> {
        wrote_one(reply, "not_inserted")
    }
}

/// Did the statement write one row?
///
/// # Errors
/// The code of the statement's error, or `otherwise`.
pub fn wrote_one(reply: &Reply, otherwise: &str) -> Result<(), String> {
    // As the server writes it; parsed only when it was written otherwise.
    if contains(&reply.body, b"\"rows_affected\":1}") {
        return Ok(());
    }
    let results: output::Results = serde_json::from_slice(&reply.body).map_err(|_| "not_understood".to_owned())?;
    match results.results.as_slice() {
        [one] if one.rows_affected == Some(1) => Ok(()),
        _ => Err(failure_in(reply, otherwise)),
    }
}

/// Reads of one row.
pub struct PointRead {
    table: String,
    select: String,
    rows: u64,
    level: Option<Level>,
    path: String,
}

impl PointRead {
    /// Reads ids 1 to `rows`.
    pub fn new(table: &str, rows: u64, level: Option<Level>) -> Self {
        Self {
            table: table.to_owned(),
            select: format!("SELECT id, ts, name FROM {table} WHERE id = ?"),
            rows,
            level,
            path: Level::query_path(level),
        }
    }

    /// Spread over the rows without a pattern that a cache would like, and the same in every run.
    fn id(&self, client: u32, sequence: u64) -> u64 {
        1 + draw(client, sequence, 0) % self.rows
    }
}

fn row_name(id: u64) -> String {
    format!("loaded row {id}")
}

impl Workload for PointRead {
    fn name(&self) -> &'static str {
        "read"
    }

    fn settings(&self) -> Vec<(&'static str, Json)> {
        vec![("rows", json!(self.rows)), ("level", json!(self.level.map_or("default", Level::as_str)))]
    }

    async fn set_up(&self, target: &Target) -> Result<(), CommandError> {
        let client = &mut target.client();
        create_table(client, &self.table).await?;
        if self.is_loaded(client).await? {
            return Ok(());
        }
        eprintln!("loading {} rows into {}", self.rows, self.table);
        let insert = format!("INSERT OR REPLACE INTO {} (id, ts, name) VALUES (?, ?, ?)", self.table);
        let mut first = 1;
        while first <= self.rows {
            let last = (first + LOAD_BATCH_ROWS - 1).min(self.rows);
            let statements: Vec<Json> =
                (first..=last).map(|id| json!({ "query": insert, "args": [id, 0, row_name(id)] })).collect();
            execute(client, json!({ "statements": statements })).await?;
            first = last + 1;
        }
        Ok(())
    }

    fn request(&self, Turn { client, sequence, .. }: Turn) -> Call {
        let body = format!("{{\"query\":\"{}\",\"args\":[{}]}}", self.select, self.id(client, sequence));
        Call::post(self.path.as_str(), body)
    }

    fn check(&self, Turn { client, sequence, .. }: Turn, reply: &Reply) -> Result<(), String> {
        let expected = format!("\"{}\"", row_name(self.id(client, sequence)));
        if contains(&reply.body, expected.as_bytes()) { Ok(()) } else { Err(failure_in(reply, "wrong_row")) }
    }
}

impl PointRead {
    /// Rows are loaded in order, so the last one stands for all.
    async fn is_loaded(&self, client: &mut Client) -> Result<bool, CommandError> {
        let query = json!({ "query": self.select, "args": [self.rows] });
        let reply = call(client, &Call::post("/query", query.to_string())).await?;
        Ok(contains(&reply.body, format!("\"{}\"", row_name(self.rows)).as_bytes()))
    }
}

/// The code of the statement's error, or `otherwise`.
pub fn failure_in(reply: &Reply, otherwise: &str) -> String {
    serde_json::from_slice::<output::Results>(&reply.body)
        .ok()
        .and_then(|results| results.results.into_iter().find_map(|result| result.error))
        .map_or_else(|| otherwise.to_owned(), |error| error.code)
}

/// Is `needle` somewhere in `haystack`?
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const FIRST: Turn = Turn { client: 0, sequence: 0, step: 0 };

    fn reply(body: &'static str) -> Reply {
        Reply { status: 200, retry_after: None, body: Bytes::from(body) }
    }

    /// No two clients and no two requests insert the same id; bodies are JSON.
    #[test]
    fn write_ids_are_unique() {
        let workload = PointWrite::new("bench", 7);
        let mut seen = std::collections::HashSet::new();
        for client in 0..7 {
            for sequence in 0..100 {
                let body: Json =
                    serde_json::from_slice(&workload.request(Turn { client, sequence, step: 0 }).body).unwrap();
                assert!(seen.insert(body["args"][0].as_i64().unwrap()));
                assert_eq!(body["args"].as_array().unwrap().len(), 3);
            }
        }
        assert_eq!(workload.check(FIRST, &reply(r#"{"results":[{"last_insert_id":1,"rows_affected":1}]}"#)), Ok(()));
        assert_eq!(workload.check(FIRST, &reply(r#"{"results": [{"rows_affected": 1, "x": 0}]}"#)), Ok(()));
        assert_eq!(workload.check(FIRST, &reply(r#"{"results":[{"rows_affected":10}]}"#)), Err("not_inserted".into()));
        let failed = reply(r#"{"results":[{"error":{"code":"constraint","message":"m"}}]}"#);
        assert_eq!(workload.check(FIRST, &failed), Err("constraint".into()));
    }

    /// Reads stay within the rows and reach most of them; another row is not the right answer.
    #[test]
    fn reads_spread() {
        let workload = PointRead::new("bench", 100, Some(Level::Lease));
        let ids: std::collections::HashSet<u64> = (0..1000).map(|sequence| workload.id(0, sequence)).collect();
        assert!(ids.len() > 90 && ids.iter().all(|id| (1..=100).contains(id)));
        let call = workload.request(FIRST);
        assert_eq!(call.path, "/query?level=lease");
        assert_eq!(workload.check(FIRST, &reply(r#"{"results":[{"values":[]}]}"#)), Err("wrong_row".into()));
    }

    /// Names go into SQL as they are.
    #[test]
    fn table_names() {
        assert!(parse_table_name("bench_2").is_ok());
        for bad in ["", "2bench", "a b", "a;b", "a\"", "ä"] {
            assert!(parse_table_name(bad).is_err(), "{bad}");
        }
    }
}
