//! Results as newline-delimited JSON: for `Accept: application/x-ndjson`.
//!
//! The first line is `{"columns":[…],"types":[…]}`, then comes one line per row, a JSON array, and at
//! the end `{"rows":N}` or `{"error":{…}}`; a body without such a last line is not complete. Rows are
//! read from the shards as the client takes them ([`RowStream`]), so memory is bounded, not their
//! number. Errors before the first line are answered as anywhere else.

use bytes::Bytes;
use flotilla_shared::error::Error;
use flotilla_shared::http::{self, HttpRequest, HttpResponse};
use flotilla_shared::wire::Statement;
use hyper::header::{ACCEPT, HeaderValue};
use serde_json::json;
use tokio::sync::mpsc;

use crate::Proxy;
use crate::execute::Options;
use crate::execute::stream::RowStream;
use crate::respond::{head_line, row_line};

const CONTENT_TYPE: &str = "application/x-ndjson";

/// Bytes of lines that are handed on together.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks that may wait for the client: one to send while the next is made.
const WAITING_CHUNKS: usize = 1;

/// Does the client ask for one?
pub fn is_wanted(request: &HttpRequest) -> bool {
    let accepted = request.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).filter_map(|kind| kind.split(';').next());
    types.any(|kind| kind.trim().eq_ignore_ascii_case(CONTENT_TYPE))
}

/// Answers one read.
pub async fn run(proxy: &Proxy, statement: &Statement, options: &Options) -> Result<HttpResponse, Error> {
    let rows = proxy.open_stream(statement, options).await?;
    let (sender, pieces) = mpsc::channel(WAITING_CHUNKS);
    tokio::spawn(async move {
        let end = rows.end;
        // A client that neither reads nor leaves is left with an incomplete body.
        tokio::time::timeout_at(end, send(rows, sender)).await.ok();
    });
    Ok(http::stream(HeaderValue::from_static(CONTENT_TYPE), pieces))
}

/// Sends all lines; stops when the client has gone.
async fn send(mut rows: RowStream, sender: mpsc::Sender<Bytes>) {
    let mut out = Vec::with_capacity(CHUNK_BYTES);
    head_line(&rows.columns, &rows.types, &mut out);
    let mut count = 0u64;
    let last = loop {
        match rows.next().await {
            Ok(Some(values)) => {
                for row in values {
                    row_line(&row, &mut out);
                    count += 1;
                    if out.len() >= CHUNK_BYTES && sender.send(std::mem::take(&mut out).into()).await.is_err() {
                        return;
                    }
                }
            }
            Ok(None) => break json!({ "rows": count }),
            Err(error) => break error.to_json(),
        }
    };
    out.extend_from_slice(format!("{last}\n").as_bytes());
    sender.send(out.into()).await.ok();
}
