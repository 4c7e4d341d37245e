//! Results as newline-delimited JSON from real processes: larger than any frame and any bound on
//! results, in little memory, and never cut short without saying so.

use std::io::BufRead;

use bytes::Bytes;
use flotilla_tests::harness::{Cluster, Layout};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;

/// What a row of [`WIDE`] takes, and more rows of that than any result may have in memory.
const ROW_BYTES: usize = 1 << 20;
const ROWS: usize = 128;
const WIDE: &str = "SELECT id, hex(zeroblob(524288)) AS wide FROM t";

/// What a proxy may take while it passes on results of any size; they are 128 MiB here.
const PROXY_LIMIT_KIB: u64 = 80 << 10;

async fn open(address: &str, sql: &str) -> Incoming {
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("/query")
        .header("host", address)
        .header("accept", "application/x-ndjson")
        .body(Full::new(Bytes::from(json!({ "query": sql }).to_string())))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body()
}

/// Reads on to the end; how many lines there were, and the last one.
async fn rest(mut body: Incoming, lines: &mut usize) -> Json {
    let mut last = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        let mut data = &data[..];
        while !data.is_empty() {
            if last.ends_with(b"\n") {
                last.clear();
            }
            data.read_until(b'\n', &mut last).unwrap();
            *lines += usize::from(last.ends_with(b"\n"));
        }
    }
    serde_json::from_slice(&last).unwrap()
}

/// 128 MiB come from three shards while the proxy holds little of them, where a plain answer is refused.
/// A second stream, whose client does not read, sees its moment after all rows were deleted; and when
/// the node dies under a third, its last line says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_of_any_size() {
    let mut cluster = Cluster::start(Layout { nodes: 1, ..Layout::default() }).await;
    let mut session = cluster.session();
    session.create("CREATE TABLE t (id INTEGER PRIMARY KEY)", "t", "id", None).await;
    let inserts: Vec<Json> = (1..=ROWS).map(|id| json!(["INSERT INTO t VALUES (?)", id])).collect();
    session.insist("/execute", &json!(inserts), Some("rows")).await;
    let refused = session.client().post("/query", &json!({ "query": WIDE })).await.unwrap();
    assert_eq!(refused.code().as_deref(), Some("too_large"));

    // The refused answer took its part of memory; another process is measured.
    let address = cluster.proxies[0].http.clone();
    cluster.proxies[0].process.kill();
    cluster.proxies[0].process.start();
    cluster.ready().await;
    let mut lines = 0;
    let last = rest(open(&address, WIDE).await, &mut lines).await;
    assert_eq!((last, lines), (json!({ "rows": ROWS }), ROWS + 2));
    let peak = cluster.proxies[0].process.peak_memory_kib();
    println!("{} MiB passed through a proxy that held {} MiB at most", (ROWS * ROW_BYTES) >> 20, peak >> 10);
    assert!(peak < PROXY_LIMIT_KIB, "the proxy held {peak} KiB");

    let (waiting, mut cut) = (open(&address, WIDE).await, open(&address, WIDE).await);
    session.insist("/execute?allow_partial=true", &json!({ "query": "DELETE FROM t" }), Some("delete")).await;
    assert!(session.rows("SELECT id FROM t", json!([])).await.is_empty());
    let mut lines = 0;
    let last = rest(waiting, &mut lines).await;
    assert_eq!((last, lines), (json!({ "rows": ROWS }), ROWS + 2));

    let first = cut.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"{\"columns\":[\"id\",\"wide\"]"));
    cluster.nodes[0].process.kill();
    let last = rest(cut, &mut lines).await;
    assert_eq!(last["error"]["code"], "unavailable", "{last}");
    let peak = cluster.proxies[0].process.peak_memory_kib();
    println!("with clients that did not read it held {} MiB at most", peak >> 10);
    assert!(peak < PROXY_LIMIT_KIB, "the proxy held {peak} KiB for clients that do not read");
}
