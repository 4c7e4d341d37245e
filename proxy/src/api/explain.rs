//! `GET` and `POST /explain`: the plan of a statement, without running it.

use flotilla_shared::error::Error;
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use hyper::Method;
use serde_json::json;

use super::params::SQL_OPTIONS;
use super::sql;
use crate::Proxy;

/// Answers the plan of the request's statement.
pub async fn explain(proxy: &Proxy, mut request: HttpRequest) -> Result<HttpResponse, Error> {
    let body = match request.method {
        Method::POST => Some(request.json()?),
        _ => None,
    };
    let fields = sql::fields(&request, body.as_ref())?;
    let options = fields.options(proxy, false)?;
    let statement = match body {
        Some(body) => sql::statement(body, SQL_OPTIONS)?,
        None => sql::from_query(&request)?,
    };
    let json = match proxy.explain(&statement, &options).await? {
        Some(explanation) => explanation.json,
        None => json!({
            "class": "schema",
            "text": "a schema statement: a job runs it on every shard that holds the table",
        }),
    };
    Ok(http::json(200, &json))
}
