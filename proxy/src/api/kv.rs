//! `/kv`: keys with values, in a sharded table of its own.
//!
//! `GET`, `PUT` and `DELETE /kv/{key}`; `GET /kv?prefix=&after=&limit=` lists keys in order. Each call
//! is one SQL statement on table [`TABLE`], so routing, freshness, request ids and errors are those of
//! any statement, and SQL reads the same rows. Input: a path with its key percent-encoded; for `PUT`
//! the body is the value, taken as bytes whatever its type. Output: a value as
//! `application/octet-stream`, all else as JSON. Refused: keys and values over a bound, and a table of
//! that name that somebody made for another purpose.
//!
//! The first `PUT` makes the table and shards it, by two jobs. Proxies that come at once ask for the
//! same jobs ([`job_name`]), and what another one has done already is left as it is. Before that, all
//! keys are absent.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::form::path_piece;
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::ids::RequestId;
use flotilla_shared::registry::{HOME, JobKind, Registration, Registry, Spread, Table};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{Rows, Statement, StatementResult};
use hyper::Method;
use hyper::header::HeaderValue;
use serde_json::json;

use super::params::{Fields, bad};
use crate::Proxy;
use crate::execute::Options;
use crate::respond::Output;

/// The table.
pub const TABLE: &str = "kv";

const CREATE: &str = "CREATE TABLE IF NOT EXISTS kv (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL) WITHOUT ROWID";

/// Longest key: it is part of a URL, which clients and what lies between bound at some kilobytes.
pub const MAX_KEY_BYTES: usize = 1024;

/// Largest value: half of the largest write.
pub const MAX_VALUE_BYTES: usize = 2 << 20;

/// Keys of a page unless the request says otherwise.
pub const DEFAULT_PAGE: usize = 100;

/// Most keys of a page: with the longest keys, a megabyte.
pub const MAX_PAGE: usize = 1000;

/// Parameters of all calls.
const OPTIONS: &[&str] = &["timeout", "level", "freshness", "idempotency_key", "auto_route", "shard"];

/// Further parameters of a list.
const PAGE: &[&str] = &["prefix", "after", "limit"];

/// How often the table is looked for after a job that should have made it: more than two steps only
/// happen when others make and drop it at the same time.
const MAX_STEPS: usize = 6;

/// Answers one call.
pub async fn run(proxy: &Proxy, request: HttpRequest) -> Result<HttpResponse, Error> {
    let lists = !request.path.starts_with("/kv/");
    let fields = Fields::new(&request, None).only(&[OPTIONS, if lists { PAGE } else { &[] }].concat())?;
    let reads = !matches!(request.method, Method::PUT | Method::DELETE);
    let options = fields.options(proxy, reads)?;
    if options.shard.is_some() {
        return Err(bad("the shard of a key follows from the key").hint("leave out shard and auto_route"));
    }
    let Some(key) = request.path.strip_prefix("/kv/") else { return list(proxy, &request, &options).await };
    let key = checked(path_piece(key)?)?;
    match request.method {
        Method::PUT => put(proxy, key, &request, &options).await,
        Method::DELETE => delete(proxy, key, &options).await,
        _ => get(proxy, key, &options).await,
    }
}

fn checked(key: String) -> Result<String, Error> {
    match key.len() {
        0 => Err(bad("the key is empty").hint("call /kv/{key}")),
        1..=MAX_KEY_BYTES => Ok(key),
        long => Err(Error::new(Code::TooLarge, format!("the key has {long} bytes, over {MAX_KEY_BYTES}"))
            .hint("use shorter keys, such as a hash of the long one")),
    }
}

async fn get(proxy: &Proxy, key: String, options: &Options) -> Result<HttpResponse, Error> {
    // SQL may have put a text or a number there; its bytes are what a text of it has.
    let sql = "SELECT CAST(value AS BLOB) FROM kv WHERE key = ?";
    let rows = read(proxy, sql, vec![Value::Text(key)], options).await?;
    match rows.values.into_iter().flatten().next() {
        Some(Value::Blob(value)) => {
            Ok(http::bytes(200, HeaderValue::from_static("application/octet-stream"), value.into()))
        }
        _ => Err(Error::new(Code::NoSuchObject, "there is no such key").hint("PUT /kv/{key} sets it")),
    }
}

async fn put(proxy: &Proxy, key: String, request: &HttpRequest, options: &Options) -> Result<HttpResponse, Error> {
    if request.body.len() > MAX_VALUE_BYTES {
        return Err(Error::new(
            Code::TooLarge,
            format!("the value has {} bytes, over {MAX_VALUE_BYTES}", request.body.len()),
        )
        .hint("store it in pieces under several keys"));
    }
    let value = Value::Blob(request.body.to_vec());
    let statement = Statement {
        sql: "INSERT INTO kv (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value".into(),
        params: Params::Positional(vec![Value::Text(key.clone()), value]),
    };
    if !proxy.registry(options.deadline).await?.table(TABLE).is_some_and(is_ready) {
        make_table(proxy, options).await?;
    }
    match proxy.run(&statement, 0, options).await {
        // It was there in an older schema only.
        Err(error) if error.code == Code::NoSuchTable => {
            make_table(proxy, options).await?;
            proxy.run(&statement, 0, options).await?;
        }
        outcome => drop(outcome?),
    }
    Ok(http::json(200, &json!({ "key": key, "bytes": request.body.len() })))
}

async fn delete(proxy: &Proxy, key: String, options: &Options) -> Result<HttpResponse, Error> {
    let statement = Statement {
        sql: "DELETE FROM kv WHERE key = ?".into(),
        params: Params::Positional(vec![Value::Text(key.clone())]),
    };
    let deleted = match proxy.run(&statement, 0, options).await {
        Ok(Output::Write(StatementResult { rows_affected, .. })) => rows_affected > 0,
        Ok(_) => return Err(Error::new(Code::Internal, "a key was not deleted on one shard")),
        Err(error) if error.code == Code::NoSuchTable => false,
        Err(error) => return Err(error),
    };
    Ok(http::json(200, &json!({ "key": key, "deleted": deleted })))
}

async fn list(proxy: &Proxy, request: &HttpRequest, options: &Options) -> Result<HttpResponse, Error> {
    let prefix = request.param("prefix").unwrap_or("");
    let after = request.param("after").unwrap_or("");
    let limit = request.parsed::<usize>("limit")?.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(bad(format!("`limit` is 1 to {MAX_PAGE}")).hint("ask for the next page with `after`"));
    }
    let (sql, from) = match after >= prefix && !after.is_empty() {
        true => ("SELECT key FROM kv WHERE key > ? AND key < ? ORDER BY key LIMIT ?", after),
        false => ("SELECT key FROM kv WHERE key >= ? AND key < ? ORDER BY key LIMIT ?", prefix),
    };
    // One more than the page tells whether another follows.
    let args = vec![Value::Text(from.to_owned()), end_of(prefix), Value::Integer(limit as i64 + 1)];
    let mut keys: Vec<String> = Vec::new();
    for value in read(proxy, sql, args, options).await?.values.into_iter().flatten() {
        match value {
            Value::Text(key) => keys.push(key),
            _ => return Err(Error::new(Code::Internal, "a key is no text")),
        }
    }
    let more = keys.len() > limit;
    keys.truncate(limit);
    Ok(http::json(200, &json!({ "keys": keys, "more": more })))
}

async fn read(proxy: &Proxy, sql: &str, args: Vec<Value>, options: &Options) -> Result<Rows, Error> {
    let statement = Statement { sql: sql.to_owned(), params: Params::Positional(args) };
    match proxy.run(&statement, 0, options).await {
        Ok(Output::Rows(rows)) => Ok(rows),
        Ok(_) => Err(Error::new(Code::Internal, "a read gave no rows")),
        Err(error) if error.code == Code::NoSuchTable => Ok(Rows::default()),
        Err(error) => Err(error),
    }
}

/// The first value behind all texts that begin with `prefix`: the text with its last character raised,
/// or the least blob where no text is. In UTF-8 bytes sort as code points do.
fn end_of(prefix: &str) -> Value {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        let raised = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(raised) = raised {
            text.push(raised);
            return Value::Text(text);
        }
    }
    Value::Blob(vec![])
}

/// Is this the table that the calls need, sharded?
fn is_ready(table: &Table) -> bool {
    table.placement != HOME && fits(table)
}

fn fits(table: &Table) -> bool {
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let by_key = table.unique.iter().any(|set| set == &["key"]);
    names == ["key", "value"] && by_key && (table.placement == HOME || table.key == [0])
}

/// Makes the table and shards it, as far as that is not done.
async fn make_table(proxy: &Proxy, options: &Options) -> Result<(), Error> {
    for _ in 0..MAX_STEPS {
        let registry = proxy.refreshed(options.deadline).await?;
        let kind = match registry.table(TABLE) {
            None => JobKind::Schema { sql: CREATE.to_owned(), table: None },
            Some(table) if !fits(table) => {
                return Err(Error::new(Code::Conflict, format!("table {TABLE} was made for something else"))
                    .hint("the /kv calls need that name: rename the table, and they make their own"));
            }
            Some(table) if table.placement == HOME => JobKind::Register(Registration {
                table: TABLE.to_owned(),
                key: vec!["key".to_owned()],
                spread: Spread::Hash,
                nullable: false,
                colocate_with: None,
                shards: vec![],
            }),
            Some(_) => return Ok(()),
        };
        let job = proxy.start(job_name(&registry, &kind), kind, options.deadline).await?;
        match proxy.finish(job, options.deadline).await {
            // Another proxy was faster.
            Err(error) if error.code == Code::AlreadyRegistered => (),
            outcome => outcome?,
        }
    }
    Err(Error::new(Code::Conflict, format!("table {TABLE} is made and dropped by others")).hint("retry"))
}

/// The request id of a job: proxies that see the same registry share it, and so the job; one that
/// looks at a later registry, where the table was dropped, gets a new one.
fn job_name(registry: &Registry, kind: &JobKind) -> RequestId {
    let step = if matches!(kind, JobKind::Schema { .. }) { "make" } else { "shard" };
    RequestId::from_key(&format!("{step} table {TABLE} after schema {}", registry.schema_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The range of a prefix ends right behind its last text, also at the borders of Unicode.
    #[test]
    fn ends_of_prefixes() {
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(end_of("a"), text("b"));
        assert_eq!(end_of("a/"), text("a0"));
        assert_eq!(end_of("\u{7f}"), text("\u{80}"));
        assert_eq!(end_of("x\u{d7ff}"), text("x\u{e000}"));
        assert_eq!(end_of("a\u{10ffff}"), text("b"));
        assert_eq!(end_of("\u{10ffff}\u{10ffff}"), Value::Blob(vec![]));
        assert_eq!(end_of(""), Value::Blob(vec![]));
    }
}
