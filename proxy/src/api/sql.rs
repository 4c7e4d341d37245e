//! `POST /execute`, `GET` and `POST /query`, `POST /sql`: statements in, results out.
//!
//! A body is an object with `query` (or `sql`, or `q`) and `args`, or with `statements`, or just
//! the list of statements. A statement of a list is a text, a list of text and arguments, or such an
//! object. With `transaction` they take effect together, and `foreign_keys` may say what foreign keys do meanwhile;
//! with `stop_on_error` none runs after one that failed. With `Accept: application/x-ndjson` one read is answered by
//! a [`stream`]. A field or parameter that is not known, or given twice, is refused: left out in silence,
//! `"transction": true` would run without a transaction.

use bytes::Bytes;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::json;
use flotilla_shared::script::ForeignKeys;
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Statement;
use hyper::Method;
use hyper::header::HeaderValue;
use serde_json::Value as Json;
use tokio::time::Instant;

use super::params::{Fields, SQL_OPTIONS, bad, known_fields};
use super::stream;
use crate::Proxy;
use crate::metrics::Stage;
use crate::mirror::MAX_SQL_BYTES;
use crate::respond;

/// Statements of one body: with the largest body, some kilobytes each.
pub const MAX_STATEMENTS: usize = 10_000;

/// Runs the statements of a request. `reads_only` refuses all but reads.
pub async fn run(proxy: &Proxy, reads_only: bool, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let arrived = Instant::now();
    let body = match request.method {
        Method::POST => Some(request.json()?),
        _ => None,
    };
    let fields = fields(&request, body.as_ref())?;
    let options = fields.options(proxy, reads_only)?;
    let transaction = fields.flag("transaction")?.unwrap_or(false);
    let stop_on_error = fields.flag("stop_on_error")?.unwrap_or(false);
    let foreign_keys = foreign_keys(&fields)?;
    if foreign_keys.is_some() && !transaction {
        return Err(bad("`foreign_keys` is for a transaction").hint("set `transaction` to true as well"));
    }
    let (statements, single) = match body {
        Some(body) => statements(body)?,
        None => (vec![from_query(&request)?], true),
    };
    proxy.metrics.took(Stage::Parse, arrived.elapsed());
    if let Some(long) = statements.iter().find(|statement| statement.sql.len() > MAX_SQL_BYTES) {
        return Err(Error::new(
            Code::TooLarge,
            format!("a statement has {} bytes, over {MAX_SQL_BYTES}", long.sql.len()),
        )
        .hint("pass values as arguments, or split the statement"));
    }
    if stream::is_wanted(&request) {
        let [statement] = &statements[..] else {
            return Err(
                bad("a stream is the result of one read").hint("send one statement, or ask for application/json")
            );
        };
        return Box::pin(stream::run(proxy, statement, &options)).await;
    }
    let outcomes = match (transaction && !statements.is_empty(), single) {
        (true, _) => Box::pin(proxy.run_unit(&statements, foreign_keys, &options)).await?.into_iter().map(Ok).collect(),
        (false, true) => vec![Ok(proxy.run(&statements[0], 0, &options).await?)],
        (false, false) if stop_on_error => Box::pin(proxy.run_in_order(&statements, &options)).await,
        (false, false) => Box::pin(proxy.run_batch(&statements, &options)).await,
    };
    let known = Instant::now();
    let body = Bytes::from(respond::results(&outcomes));
    proxy.metrics.took(Stage::Respond, known.elapsed());
    Ok(http::bytes(200, HeaderValue::from_static("application/json"), body))
}

/// The names of a statement's text.
const TEXTS: &[&str] = &["query", "sql", "q"];

/// The options of a request that brings statements, which has no other parameters.
pub(super) fn fields<'a>(request: &'a HttpRequest, body: Option<&'a Json>) -> Result<Fields<'a>, Error> {
    let statement: &[&str] = if body.is_some() { &[] } else { &["q", "args"] };
    let known = [statement, SQL_OPTIONS].concat();
    Fields::new(request, body).only(&known)
}

/// What foreign keys do in a transaction.
fn foreign_keys(fields: &Fields<'_>) -> Result<Option<ForeignKeys>, Error> {
    Ok(match fields.text("foreign_keys")?.as_deref() {
        None => None,
        Some("on") => Some(ForeignKeys::Enforced),
        Some("off" | "deferred") => Some(ForeignKeys::Checked),
        Some("unchecked") => Some(ForeignKeys::Unchecked),
        Some(other) => {
            return Err(bad(format!("`foreign_keys` is on, off, deferred or unchecked, not `{other}`"))
                .hint("off and deferred check at the end; unchecked leaves that to PRAGMA foreign_key_check"));
        }
    })
}

pub(super) fn from_query(request: &HttpRequest) -> Result<Statement, Error> {
    let sql = request.param("q").ok_or_else(|| bad("`q` is missing").hint("GET /query?q=SELECT…"))?;
    let args = request.param("args").map(|text| json::read(text.as_bytes())).transpose();
    let args = args.map_err(|error| bad(format!("`args` is no JSON: {error}")))?;
    Ok(Statement { sql: sql.to_owned(), params: Params::from_json(args.as_ref())? })
}

/// The statements of a body, and whether it was a single one, whose error is the answer's.
fn statements(body: Json) -> Result<(Vec<Statement>, bool), Error> {
    let list = match body {
        Json::Array(list) => list,
        Json::Object(mut map) => match map.remove("statements") {
            None => return Ok((vec![statement(Json::Object(map), SQL_OPTIONS)?], true)),
            Some(Json::Array(_)) if TEXTS.iter().any(|name| map.contains_key(*name)) => {
                return Err(bad("the body has both `statements` and `query`"));
            }
            Some(Json::Array(list)) => {
                known_fields(&map, &[&["statements"], SQL_OPTIONS].concat())?;
                list
            }
            Some(_) => return Err(bad("`statements` is a list")),
        },
        _ => return Err(bad("the body is an object").hint("send {\"query\": \"…\", \"args\": […]}")),
    };
    if list.len() > MAX_STATEMENTS {
        return Err(Error::new(Code::TooLarge, format!("{} statements, over {MAX_STATEMENTS}", list.len()))
            .hint("send smaller batches"));
    }
    let read = |(n, item)| {
        statement(item, &[])
            .map_err(|error| Error { message: format!("statement {}: {}", n + 1, error.message), ..error })
    };
    Ok((list.into_iter().enumerate().map(read).collect::<Result<_, _>>()?, false))
}

/// A statement in one of its forms; an object may have these options beside it.
pub(super) fn statement(item: Json, options: &[&str]) -> Result<Statement, Error> {
    let hint = "a statement is a text, [text, argument…] or {\"query\": text, \"args\": […]}";
    match item {
        Json::String(sql) => Ok(Statement::bare(sql)),
        Json::Array(mut list) => {
            if list.is_empty() {
                return Err(bad("an empty list is no statement").hint(hint));
            }
            let Json::String(sql) = list.remove(0) else {
                return Err(bad("a statement begins with its text").hint(hint));
            };
            let args = list.iter().map(Value::from_json).collect::<Result<_, _>>()?;
            Ok(Statement { sql, params: Params::Positional(args) })
        }
        Json::Object(mut map) => {
            let sql = TEXTS.iter().find_map(|name| map.remove(*name));
            let Some(Json::String(sql)) = sql else { return Err(bad("`query` is missing or not a text").hint(hint)) };
            if let Some(second) = TEXTS.iter().find(|name| map.contains_key(**name)) {
                return Err(bad(format!("the text is given twice, once as `{second}`")).hint("give it once"));
            }
            known_fields(&map, &[&["query", "args"], options].concat())?;
            Ok(Statement { sql, params: Params::from_json(map.get("args"))? })
        }
        _ => Err(bad("a number is no statement").hint(hint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// All forms of a body give the same statements.
    #[test]
    fn forms_of_bodies() {
        let one = Statement { sql: "SELECT ?".into(), params: Params::Positional(vec![Value::Integer(1)]) };
        for body in [
            json!({"query": "SELECT ?", "args": [1]}),
            json!({"sql": "SELECT ?", "args": [1]}),
            json!({"q": "SELECT ?", "args": [true]}),
        ] {
            assert_eq!(statements(body).unwrap(), (vec![one.clone()], true));
        }
        let list = json!([["SELECT ?", 1], {"query": "SELECT ?", "args": [1]}, "SELECT 2"]);
        let wanted = vec![one.clone(), one, Statement::bare("SELECT 2")];
        assert_eq!(statements(list.clone()).unwrap(), (wanted.clone(), false));
        assert_eq!(statements(json!({"statements": list, "transaction": true})).unwrap(), (wanted, false));
        for bad in [
            json!(1),
            json!({}),
            json!({"statements": 1}),
            json!([[]]),
            json!([[1]]),
            json!([1]),
            json!({"query": 1}),
            json!({"query": "x", "args": 3}),
            json!({"query": "x", "statements": []}),
            json!({"query": "x", "sql": "x"}),
            json!({"query": "x", "transction": true}),
            json!({"query": "x", "arg": [1]}),
            json!({"statements": ["x"], "args": [1]}),
            json!({"statements": ["x"], "transction": true}),
            json!({"statements": [{"query": "x", "transaction": true}]}),
            json!([{"query": "x", "timeout": "5s"}]),
            json!([{"query": "x", "q": "x"}]),
        ] {
            assert_eq!(statements(bad.clone()).unwrap_err().code, Code::BadRequest, "{bad}");
        }
    }
}
