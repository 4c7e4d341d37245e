//! A client that does what the API's documentation says: on a lost answer, or one that says "try
//! again" or "outcome unknown", it repeats the request with the same `Idempotency-Key`, at any proxy.

use std::time::{Duration, Instant};

use flotilla_shared::error::{Class, Code};
use serde_json::{Value as Json, json};

use super::http::{Client, Reply};
use super::wait::PATIENCE;

/// Pause before a request is repeated.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a request has no result.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It may be repeated; nothing is known, or nothing was done.
    Again(String),
    /// It was refused for good.
    Refused(String),
}

/// A connection to one of several proxies.
pub struct Session {
    clients: Vec<Client>,
    at: usize,
    repeats: u64,
}

impl Session {
    /// Uses these proxies, the first one first.
    pub fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        Self { clients: addresses.into_iter().map(Client::new).collect(), at: 0, repeats: 0 }
    }

    /// How many requests were sent again.
    pub fn repeats(&self) -> u64 {
        self.repeats
    }

    /// Starts with another proxy.
    #[must_use]
    pub fn starting_at(mut self, at: usize) -> Self {
        self.at = at % self.clients.len();
        self
    }

    /// The client of the proxy in use.
    pub fn client(&mut self) -> &mut Client {
        &mut self.clients[self.at]
    }

    /// One try of a POST; the next goes to another proxy if this one was not heard.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn attempt(&mut self, path: &str, body: &Json, key: Option<&str>) -> Result<Json, Trouble> {
        let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
        match self.client().send("POST", path, &headers, body.to_string()).await {
            Ok(reply) => judge(&reply),
            Err(why) => {
                self.at = (self.at + 1) % self.clients.len();
                Err(Trouble::Again(why))
            }
        }
    }

    /// Repeats a POST, a write under one key, until it has a result.
    ///
    /// # Panics
    /// When it is refused, or has no result within [`PATIENCE`].
    pub async fn insist(&mut self, path: &str, body: &Json, key: Option<&str>) -> Json {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.attempt(path, body, key).await {
                Ok(result) => return result,
                Err(Trouble::Refused(why)) => panic!("refused: {why}"),
                Err(Trouble::Again(why)) => {
                    assert!(Instant::now() < deadline, "no result within {PATIENCE:?}: {why}");
                    self.repeats += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Repeats a GET until it is answered.
    ///
    /// # Panics
    /// When it is refused, or not answered within [`PATIENCE`].
    pub async fn insist_get(&mut self, path: &str) -> Json {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let why = match self.client().get(path).await {
                // What a job says of its last error is not an error of this request.
                Ok(reply) if reply.status.is_success() => return reply.json(),
                Ok(reply) => match judge(&reply) {
                    Ok(body) => return body,
                    Err(Trouble::Refused(why)) => panic!("{path} is refused: {why}"),
                    Err(Trouble::Again(why)) => why,
                },
                Err(why) => {
                    self.at = (self.at + 1) % self.clients.len();
                    why
                }
            };
            assert!(Instant::now() < deadline, "{path}: no answer within {PATIENCE:?}: {why}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One POST.
    ///
    /// # Panics
    /// When it has no result.
    pub async fn post(&mut self, path: &str, body: Json) -> Json {
        self.attempt(path, &body, None).await.unwrap_or_else(|why| panic!("{path} {body}: {why:?}"))
    }

    /// Runs one statement once.
    ///
    /// # Panics
    /// When it fails.
    pub async fn execute(&mut self, sql: &str, args: Json) -> Json {
        let result = self.attempt("/execute", &json!({ "query": sql, "args": args }), None).await;
        result.unwrap_or_else(|trouble| panic!("{sql}: {trouble:?}"))["results"][0].take()
    }

    /// Makes a table, and shards it by `key` unless that is empty.
    ///
    /// # Panics
    /// When it fails.
    pub async fn create(&mut self, sql: &str, table: &str, key: &str, colocate_with: Option<&str>) {
        self.execute(sql, json!([])).await;
        if !key.is_empty() {
            let body = json!({ "table_name": table, "shard_key": key, "colocate_with": colocate_with });
            self.attempt("/table/register", &body, None).await.unwrap_or_else(|why| panic!("{table}: {why:?}"));
        }
    }

    /// The rows of a read, which is repeated until it is answered.
    ///
    /// # Panics
    /// When it is refused, or not answered within [`PATIENCE`].
    pub async fn rows(&mut self, sql: &str, args: Json) -> Vec<Vec<Json>> {
        let result = self.insist("/query", &json!({ "query": sql, "args": args }), None).await;
        rows_of(&result["results"][0])
    }
}

/// The rows of one result.
///
/// # Panics
/// When it has none.
pub fn rows_of(result: &Json) -> Vec<Vec<Json>> {
    let rows = result["values"].as_array().unwrap_or_else(|| panic!("no rows: {result}"));
    rows.iter().map(|row| row.as_array().expect("a row is a list").clone()).collect()
}

fn judge(reply: &Reply) -> Result<Json, Trouble> {
    let body = reply.json();
    let mut errors: Vec<&Json> = vec![&body["error"]];
    errors.extend(body["results"].as_array().into_iter().flatten().map(|result| &result["error"]));
    let mut again = None;
    for error in errors.into_iter().filter(|error| !error.is_null()) {
        let code = Code::ALL.iter().find(|code| error["code"] == code.as_str());
        match code.map(|code| code.class()) {
            Some(Class::Retry | Class::Unknown) => again = Some(Trouble::Again(error.to_string())),
            Some(Class::Refused) | None => return Err(Trouble::Refused(format!("{} {error}", reply.status))),
        }
    }
    match again {
        Some(trouble) => Err(trouble),
        None if reply.status.is_success() => Ok(body),
        None => Err(Trouble::Refused(reply.to_string())),
    }
}
