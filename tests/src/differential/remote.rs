//! A cluster under comparison, spoken to over HTTP in batches.

use std::time::Duration;

use flotilla_shared::error::{Class, Code};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{Rows, Statement, StatementResult};
use serde_json::{Value as Json, json};

use super::bugs::Bug;
use super::compare::Outcome;
use super::schema::{Placement, Schema, Table};
use crate::harness::{Client, Dev};

/// How often a statement is sent again that may succeed later.
const MAX_REPEATS: u32 = 8;

/// Pause before that.
const PAUSE: Duration = Duration::from_millis(200);

/// A cluster of one process.
pub struct Remote {
    /// How many shards it has.
    pub shards: u32,
    client: Client,
    requests: u64,
    /// What is wrong with it on purpose.
    pub bug: Option<Bug>,
    _dev: Option<Dev>,
}

impl Remote {
    /// Starts a cluster: one node with a replica of each shard.
    pub async fn start(shards: u32) -> Self {
        let dev = Dev::start(1, shards).await;
        Self { shards, client: Client::new(&dev.address), requests: 0, bug: None, _dev: Some(dev) }
    }

    /// Talks to a proxy that runs already.
    pub fn at(address: &str, shards: u32) -> Self {
        Self { shards, client: Client::new(address), requests: 0, bug: None, _dev: None }
    }

    /// Posts until nothing in the answer asks to be tried again, under one key, so that writes are done
    /// once. What goes on to fail is the answer in the end.
    ///
    /// # Panics
    /// When there is no answer at all.
    async fn post(&mut self, path: &str, body: &Json) -> Json {
        self.requests += 1;
        // Two programs that talk to one cluster must not take each other's keys.
        let key = format!("request {} of {}", self.requests, std::process::id());
        let text = body.to_string();
        let (mut last, mut why) = (None, String::new());
        for _ in 0..MAX_REPEATS {
            match self.client.send("POST", path, &[("idempotency-key", &key)], text.clone()).await {
                Ok(reply) => {
                    let answer = reply.json();
                    let results = answer["results"].as_array().into_iter().flatten();
                    if !results.chain([&answer]).any(may_succeed_later) {
                        return answer;
                    }
                    last = Some(answer);
                }
                Err(error) => why = error,
            }
            tokio::time::sleep(PAUSE).await;
        }
        last.unwrap_or_else(|| panic!("{path}: no answer from the cluster with {} shards: {why}", self.shards))
    }

    /// Runs statements, each for itself and in order.
    pub async fn run(&mut self, statements: &[Statement]) -> Vec<Outcome> {
        let sent: Vec<Vec<Statement>> = statements.iter().map(|statement| self.sent(statement)).collect();
        let list: Vec<Json> = sent.iter().flatten().map(body).collect();
        let answer = self.post("/sql", &json!({ "statements": list })).await;
        let Some(results) = answer["results"].as_array() else {
            return vec![outcome(&answer); statements.len()];
        };
        let mut at = 0;
        let mut outcomes = Vec::with_capacity(statements.len());
        for sent in &sent {
            let mut outcome = outcome(&results[at]);
            self.bug.iter().for_each(|bug| bug.received(&mut outcome));
            outcomes.push(outcome);
            at += sent.len();
        }
        outcomes
    }

    fn sent(&self, statement: &Statement) -> Vec<Statement> {
        self.bug.map_or_else(|| vec![statement.clone()], |bug| bug.sent(statement))
    }

    /// Runs one statement that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn setup(&mut self, sql: &str) {
        let statement = Statement { sql: sql.to_owned(), params: Params::default() };
        if let Outcome::Failed { code, message } = &self.run(&[statement]).await[0] {
            panic!("{} shards: {sql}: {code}: {message}", self.shards);
        }
    }

    /// Shards a table, if it is to be sharded.
    ///
    /// # Panics
    /// When it is refused and may not be.
    pub async fn register(&mut self, table: &Table) {
        if table.shard_key.is_empty() && table.placement != Placement::Reference {
            return;
        }
        let answer = self.post("/table/register", &registration(table, self.shards)).await;
        let refused = table.refusable && !may_succeed_later(&answer);
        assert!(answer["error"].is_null() || refused, "{}: {answer}", table.create());
    }

    /// Shards a table by its column `id`.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn shard_by_id(&mut self, table: &str) {
        let answer = self.post("/table/register", &json!({ "table_name": table, "shard_key": "id" })).await;
        assert!(answer["error"].is_null(), "{table}: {answer}");
    }

    /// Makes a schema, and takes those of its indexes away that are refused and may be.
    ///
    /// # Panics
    /// When something else is refused.
    pub async fn create(&mut self, schema: &mut Schema) {
        for table in &schema.tables {
            self.setup(&table.create()).await;
            self.register(table).await;
        }
        let mut made = vec![];
        for index in std::mem::take(&mut schema.indexes) {
            if index.refusable {
                let statement = Statement { sql: index.create.clone(), params: Params::default() };
                if let Outcome::Failed { .. } = &self.run(&[statement]).await[0] {
                    continue;
                }
            } else {
                self.setup(&index.create).await;
            }
            made.push(index);
        }
        schema.indexes = made;
        for view in &schema.views {
            self.setup(&view.create).await;
        }
    }

    /// Removes a schema.
    pub async fn remove(&mut self, schema: &Schema) {
        for view in &schema.views {
            self.setup(&format!("DROP VIEW IF EXISTS {}", view.name)).await;
        }
        for table in schema.tables.iter().rev() {
            self.setup(&format!("DROP TABLE IF EXISTS {}", table.name)).await;
        }
    }
}

/// The body that registers a table.
pub fn registration(table: &Table, shards: u32) -> Json {
    let key: Vec<&str> = table.shard_key.iter().map(|at| table.columns[*at].name.trim_matches('"')).collect();
    let list = |values: &[Value]| values.iter().map(Value::to_json).collect::<Vec<Json>>();
    let mut body = json!({ "table_name": table.name, "shard_key": key });
    if let Some(beside) = &table.colocate_with {
        body["colocate_with"] = json!(beside);
        return body;
    }
    match &table.placement {
        Placement::Hash => body["shard_func"] = json!("hash"),
        Placement::Range(points) => {
            body["shard_func"] = json!("range");
            body["split_points"] = json!(list(points));
        }
        Placement::List(first, last) => {
            body["shard_func"] = json!("list");
            let last_shard = format!("shard{shards}");
            body["values"] = match shards {
                1 => json!({ "shard1": list(&[first.as_slice(), last].concat()) }),
                _ => json!({ "shard1": list(first), last_shard: list(last) }),
            };
            body["default"] = json!("shard1");
        }
        Placement::Reference => return json!({ "table_name": table.name, "shard_func": "reference" }),
    }
    body
}

/// Is the error of an answer or a result one that goes away by itself?
fn may_succeed_later(result: &Json) -> bool {
    let code = Code::ALL.iter().find(|known| result["error"]["code"] == known.as_str());
    code.is_some_and(|code| matches!(code.class(), Class::Retry | Class::Unknown) && *code != Code::Internal)
}

/// A statement as it is sent.
pub fn body(statement: &Statement) -> Json {
    let args = match &statement.params {
        Params::Positional(list) => Json::from(list.iter().map(Value::to_json).collect::<Vec<_>>()),
        Params::Named(list) => list.iter().map(|(name, value)| (name.clone(), value.to_json())).collect(),
    };
    json!({ "query": statement.sql, "args": args })
}

/// What the JSON of a result says.
pub fn outcome(json: &Json) -> Outcome {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let failed = |code: &str, message: String| Outcome::Failed { code: code.to_owned(), message };
    let error = &json["error"];
    if !error.is_null() {
        return failed(error["code"].as_str().unwrap_or_default(), text(&error["message"]));
    }
    let rows = json["columns"].as_array().map(|columns| {
        let list = |json: &Json| json.as_array().into_iter().flatten().map(text).collect();
        let values = json["values"].as_array().into_iter().flatten().map(|row| {
            let row = row.as_array().into_iter().flatten();
            row.map(|value| Value::from_json(value).unwrap_or_else(|why| panic!("{value}: {why}"))).collect()
        });
        Rows { columns: columns.iter().map(text).collect(), types: list(&json["types"]), values: values.collect() }
    });
    match (json["rows_affected"].as_u64(), rows) {
        (Some(rows_affected), rows) => Outcome::Write(StatementResult {
            last_insert_id: json["last_insert_id"].as_i64().unwrap_or_default(),
            rows_affected,
            rows,
        }),
        (None, Some(rows)) => Outcome::Rows(rows),
        (None, None) => failed("no_result", json.to_string()),
    }
}
