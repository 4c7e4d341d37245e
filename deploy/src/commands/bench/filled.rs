//! Tables that are filled before they are measured, and updates of their rows.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value as Json, json};

use super::keys::{draw, mix};
use super::own::Target;
use super::workload::{self, Turn, Workload, wrote_one};
use crate::commands::{CommandError, call, parse};
use crate::http_client::{Call, Client, Reply};

/// Clients that load at the same time.
const LOADERS: usize = 8;

/// Statements of one request while loading.
const BATCH_ROWS: u64 = 500;

/// And their bytes: a shard's part must fit a log entry beside others.
const BATCH_BYTES: u64 = 512 << 10;

/// A table with rows 1 to `rows`: `(id INTEGER PRIMARY KEY, ts INTEGER, body TEXT)`.
#[derive(Clone, Debug)]
pub struct Filled {
    /// Its name.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// Bytes of each row's text.
    pub row_bytes: u64,
}

/// A text of `bytes` letters and digits that does not repeat, the same for the same row.
pub fn text_of(row: u64, bytes: u64) -> String {
    let words = (0..bytes.div_ceil(16)).map(|word| format!("{:016x}", mix(mix(row).wrapping_add(word))));
    let mut text: String = words.collect();
    text.truncate(bytes as usize);
    text
}

/// Makes the table and fills it.
///
/// # Errors
/// When it has rows already, or the cluster refuses.
pub async fn fill(target: &Target, filled: &Filled) -> Result<(), CommandError> {
    let table = &filled.table;
    let create = format!("CREATE TABLE IF NOT EXISTS {table} (id INTEGER PRIMARY KEY, ts INTEGER, body TEXT)");
    make(target, table, &create).await?;
    let found = count(&mut target.client(), table).await?;
    if found > 0 {
        let why = format!("table {table} has {found} rows already: drop it, or name another with --table");
        return Err(CommandError::Failed(why));
    }
    let insert = format!("INSERT INTO {table} (id, ts, body) VALUES (?, 0, ?)");
    let row_bytes = filled.row_bytes;
    load(target, table, filled.rows, row_bytes, move |id| json!([insert, id, text_of(id, row_bytes)])).await
}

/// Makes a table and shards it by `id`.
pub async fn make(target: &Target, table: &str, create: &str) -> Result<(), CommandError> {
    let mut client = target.client();
    workload::execute(&mut client, json!({ "query": create })).await?;
    workload::register(&mut client, &json!({ "table_name": table, "shard_key": "id", "shard_func": "hash" })).await
}

/// Sends one statement for each row, many in one request, from several clients.
pub async fn load(
    target: &Target,
    table: &str,
    rows: u64,
    row_bytes: u64,
    statement: impl Fn(u64) -> Json + Send + Sync + 'static,
) -> Result<(), CommandError> {
    eprintln!("loading {rows} rows into {table}");
    let batch = (BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS);
    load_pieces(target, 1..rows + 1, batch, move |rows| {
        json!({ "statements": rows.map(&statement).collect::<Vec<Json>>() }).to_string()
    })
    .await
}

/// Sends the numbers of `rows`, `piece` of them in each request, from several clients.
///
/// # Errors
/// What the cluster refuses.
pub async fn load_pieces(
    target: &Target,
    rows: Range<u64>,
    piece: u64,
    body: impl Fn(Range<u64>) -> String + Send + Sync + 'static,
) -> Result<(), CommandError> {
    let next = Arc::new(AtomicU64::new(rows.start));
    let body = Arc::new(body);
    let loaders = (0..LOADERS).map(|_| {
        let (next, body, mut client) = (Arc::clone(&next), Arc::clone(&body), target.client());
        async move {
            loop {
                let first = next.fetch_add(piece, Ordering::Relaxed);
                if first >= rows.end {
                    return Ok(());
                }
                workload::send_execute(&mut client, body(first..(first + piece).min(rows.end))).await?;
            }
        }
    });
    // On this task, so that all of it ends when this is dropped.
    futures::future::try_join_all(loaders).await.map(drop)
}

/// Rows of a table.
///
/// # Errors
/// When the cluster does not tell.
pub async fn count(client: &mut Client, table: &str) -> Result<u64, CommandError> {
    let body = json!({ "query": format!("SELECT count(*) FROM {table}") });
    let answer: Json = parse(&call(client, &Call::post("/query?timeout=60s", body.to_string())).await?)?;
    let count = answer["results"][0]["values"][0][0].as_u64();
    count.ok_or_else(|| CommandError::Failed(format!("{table} could not be counted: {answer}")))
}

/// Updates of one row, any of them as likely as another.
pub struct RandomUpdate {
    update: String,
    rows: u64,
}

impl RandomUpdate {
    /// Of a table that is filled.
    pub fn new(filled: &Filled) -> Self {
        Self { update: format!("UPDATE {} SET ts = ? WHERE id = ?", filled.table), rows: filled.rows }
    }
}

impl Workload for RandomUpdate {
    fn name(&self) -> &'static str {
        "update"
    }

    fn settings(&self) -> Vec<(&'static str, Json)> {
        vec![("rows", json!(self.rows))]
    }

    async fn set_up(&self, _target: &Target) -> Result<(), CommandError> {
        Ok(())
    }

    fn request(&self, Turn { client, sequence, .. }: Turn) -> Call {
        let id = 1 + draw(client, sequence, 0) % self.rows;
        Call::post("/execute", format!("{{\"query\":\"{}\",\"args\":[{sequence},{id}]}}", self.update))
    }

    fn check(&self, _turn: Turn, reply: &Reply) -> Result<(), String> {
        wrote_one(reply, "no_such_row")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts have the size that was asked for and differ; updates stay within the rows.
    #[test]
    fn rows() {
        assert_eq!(text_of(1, 1000).len(), 1000);
        assert_eq!(text_of(1, 3).len(), 3);
        assert_ne!(text_of(1, 100), text_of(2, 100));
        let updates = RandomUpdate::new(&Filled { table: "t".into(), rows: 10, row_bytes: 1 });
        for sequence in 0..100 {
            let call = updates.request(Turn { client: 3, sequence, step: 0 });
            let body: Json = serde_json::from_slice(&call.body).unwrap();
            assert!((1..=10).contains(&body["args"][1].as_u64().unwrap()), "{body}");
        }
    }
}
