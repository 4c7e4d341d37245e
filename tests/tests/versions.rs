//! Peers and data folders of other versions: refused by name when too far apart, on both sides.

use std::time::Duration;

use flotilla_shared::client::Cluster as Nodes;
use flotilla_shared::error::Code;
use flotilla_shared::ids::META;
use flotilla_shared::rpc::greeting::{GREETING_BYTES, Greeting, OLDEST_PROTOCOL, PROTOCOL_VERSION};
use flotilla_shared::wire::Request;
use flotilla_tests::harness::ports::free_port;
use flotilla_tests::harness::wait::PATIENCE;
use flotilla_tests::harness::{Client, Cluster, Layout, Process, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long a node may take to end when it refuses to start.
const STOP: Duration = Duration::from_secs(15);

/// A peer of the far future.
fn newer() -> Greeting {
    Greeting { version: PROTOCOL_VERSION + 9, oldest: PROTOCOL_VERSION + 5, build: "9.9.9".to_owned() }
}

/// A listener that greets so and then says nothing.
async fn greeter(greeting: Greeting) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let bytes = greeting.to_bytes();
            tokio::spawn(async move {
                socket.write_all(&bytes).await.ok();
                let mut rest = Vec::new();
                socket.read_to_end(&mut rest).await.ok();
            });
        }
    });
    addr
}

/// Whether the node at `addr` talks on after that greeting, and what it says of itself.
async fn greeted(addr: &str, greeting: &Greeting) -> (Greeting, bool) {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(&greeting.to_bytes()).await.unwrap();
    let mut theirs = [0; GREETING_BYTES];
    socket.read_exact(&mut theirs).await.unwrap();
    let request = flotilla_shared::rpc::encode(Request::Identify, STOP);
    let mut frame = (request.len() as u32).to_le_bytes().to_vec();
    frame.push(flotilla_shared::rpc::KIND_REQUEST);
    frame.extend(7_u64.to_le_bytes());
    frame.extend(request);
    // A peer that has hung up may refuse it.
    socket.write_all(&frame).await.ok();
    let answered = socket.read_u8().await.is_ok();
    (Greeting::from_bytes(&theirs).expect("a greeting"), answered)
}

/// A caller whose only peers are of the far future is told so, by code, long before its deadline; while it
/// follows the registry it says why there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_told_that_its_peers_are_too_new() {
    let nodes = Nodes::new(vec![greeter(newer()).await, greeter(newer()).await]);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
    let error = nodes.call(META, Request::Identify, deadline).await.unwrap_err();
    assert_eq!(error.code, Code::IncompatibleVersion, "{error}");
    assert!(error.message.contains("9.9.9") && error.message.contains(env!("CARGO_PKG_VERSION")), "{error}");
    assert!(nodes.unheard().is_none());
    let following = tokio::spawn(std::sync::Arc::clone(&nodes).follow());
    eventually("the reason is known", PATIENCE, async || nodes.unheard().map(drop).ok_or_else(String::new)).await;
    following.abort();
}

/// A real node talks to peers of any version with which it has a protocol in common; to others it tells its
/// own version, hangs up and says why in its log. A real proxy that knows only peers of the far future says so
/// to its clients. A node does not touch a folder of a newer format.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_part_by_name() {
    let mut cluster = Cluster::start(Layout { nodes: 1, shards: 1, ..Layout::default() }).await;
    let addr = cluster.nodes[0].raft.clone();
    let near = Greeting { version: PROTOCOL_VERSION + 1, oldest: OLDEST_PROTOCOL, build: "1.1.1".to_owned() };
    let (theirs, answered) = greeted(&addr, &near).await;
    assert_eq!((theirs, answered), (Greeting::default(), true));
    let (theirs, answered) = greeted(&addr, &newer()).await;
    assert_eq!((theirs, answered), (Greeting::default(), false));
    eventually("the node says why", PATIENCE, async || {
        let log = cluster.nodes[0].process.output();
        let told = ["9.9.9", "no protocol in common", "CHANGELOG"].iter().all(|word| log.contains(word));
        if told { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(!cluster.nodes[0].process.output().contains("1.1.1"));

    let http = format!("127.0.0.1:{}", free_port());
    let args = ["proxy", "--meta", &greeter(newer()).await, "--http", &http].map(str::to_owned);
    let mut proxy = Process::new("proxy of today", args.into(), cluster.folder().join("proxy-today.log"));
    proxy.start();
    let mut client = Client::new(&http);
    eventually("the proxy says why", PATIENCE, async || match client.get("/readyz").await {
        Ok(reply) if reply.code().as_deref() == Some("incompatible_version") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let reply = client.get("/query?q=SELECT%201").await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.code().as_deref()), (502, Some("incompatible_version")), "{reply}");
    assert!(proxy.output().contains("a peer is not talked to"), "{}", proxy.output());
    proxy.kill();

    let node = &mut cluster.nodes[0];
    node.process.kill();
    let path = node.data.join("node.json");
    let written = std::fs::read_to_string(&path).unwrap();
    let newer = written.replace("\"format\": 1", "\"format\": 7");
    assert_ne!(written, newer, "{written}");
    std::fs::write(&path, &newer).unwrap();
    node.process.start();
    let status = node.process.exit(STOP).await;
    let output = node.process.output();
    assert!(!status.success() && output.contains("in format 7") && output.contains("formats up to 1"), "{output}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
    std::fs::write(&path, written).unwrap();
    node.process.start();
    cluster.ready().await;
}
