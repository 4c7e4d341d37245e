//! `flotilla dev`: a whole cluster in one process, over loopback.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use flotilla_node::options::NodeOptions;
use flotilla_node::run::Node;
use flotilla_shared::ids::{GroupId, META, NodeId};

use super::node::ProxyTask;
use super::stop_signal;
use crate::http_client::{BaseUrl, Call, Client};
use crate::logging;

/// Most nodes of a development cluster: all of them share one machine.
const MAX_NODES: u16 = 9;

/// Most shards of one: each is a file per node and a Raft group.
const MAX_SHARDS: u32 = 64;

/// How long the cluster may take to answer its first query.
const READY: Duration = Duration::from_secs(60);

/// Run a whole cluster in this process: nodes, shards and a proxy
#[derive(Debug, clap::Args)]
#[command(after_help = "examples:
  flotilla dev
  flotilla dev --ephemeral --shards 8
  flotilla dev --nodes 1 --shards 1 --port 12345 --data /tmp/my-cluster")]
pub struct DevArgs {
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    pub nodes: u16,
    /// Shards, each with a replica on every node
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    pub shards: u32,
    /// Port of the proxy; node N uses the two ports from this + 2N-1
    #[arg(long, default_value_t = 11000)]
    pub port: u16,
    /// Folder of the data
    #[arg(long, default_value = "./flotilla-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Keep the data in a temporary folder that is deleted at the end
    #[arg(long, conflicts_with = "data")]
    pub ephemeral: bool,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Runs it.
pub async fn run(args: DevArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: DevArgs) -> Result<(), String> {
    logging::start(args.log_level.as_deref(), None, "warn")?;
    let last_port = u32::from(args.port) + 2 * u32::from(args.nodes);
    if args.port == 0 || last_port > u32::from(u16::MAX) {
        return Err(format!("setting `port`: the ports {} to {last_port} are needed", args.port));
    }
    let temporary = match args.ephemeral {
        true => Some(tempfile::tempdir().map_err(|error| error.to_string())?),
        false => None,
    };
    let data = temporary.as_ref().map_or(args.data.clone(), |folder| folder.path().to_owned());
    let address = |port: u16| format!("127.0.0.1:{port}");
    let seeds: Vec<String> = (1..=args.nodes).map(|n| address(args.port + 2 * n)).collect();
    let mut groups = vec![META];
    groups.extend((1..=args.shards).map(GroupId));
    let mut nodes = Vec::new();
    for n in 1..=args.nodes {
        let options = NodeOptions {
            id: NodeId(u64::from(n)),
            data: data.join(format!("node-{n}")),
            http: address(args.port + 2 * n - 1),
            raft: address(args.port + 2 * n),
            seed_nodes: seeds.clone(),
            groups: groups.clone(),
            ..NodeOptions::default()
        };
        options.check().map_err(|bad| bad.to_string())?;
        nodes.push(Node::start(options).await.map_err(|error| error.to_string())?);
    }
    let proxy = ProxyTask::start(&address(args.port), seeds, None).await?;
    let mut outcome = tokio::select! {
        settled = settle(&mut nodes) => settled,
        () = stop_signal() => Ok(()),
    };
    if outcome.is_ok() {
        outcome = tokio::select! {
            ready = wait_ready(args.port) => ready,
            () = stop_signal() => return Ok(()),
        };
    }
    if outcome.is_ok() {
        banner(&args, &data);
        stop_signal().await;
        println!("stopping");
    }
    proxy.stop().await;
    for node in nodes {
        node.stop().await;
    }
    outcome
}

async fn settle(nodes: &mut [Node]) -> Result<(), String> {
    for node in nodes {
        node.settled().await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Waits until the proxy can answer.
async fn wait_ready(port: u16) -> Result<(), String> {
    let url: BaseUrl = format!("http://127.0.0.1:{port}").parse()?;
    let mut client = Client::new(url);
    let deadline = tokio::time::Instant::now() + READY;
    // /readyz tells that the proxy knows the cluster; a query, that its home shard has a leader.
    let query = Call::get("/query?q=SELECT%201");
    while !client.send(&query).await.is_ok_and(|reply| reply.status == 200) {
        if tokio::time::Instant::now() > deadline {
            return Err(format!("the cluster was not ready within {} s", READY.as_secs()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn banner(args: &DevArgs, data: &std::path::Path) {
    let where_to = if args.ephemeral { "nowhere: gone when this ends".to_owned() } else { data.display().to_string() };
    let port = args.port;
    println!("flotilla {} is up", env!("CARGO_PKG_VERSION"));
    println!("  proxy   http://127.0.0.1:{port}");
    println!("  nodes   {} (HTTP on 127.0.0.1:{} and every second port after it)", args.nodes, port + 1);
    println!("  groups  meta and shard1 to shard{}, {} replicas each", args.shards, args.nodes);
    println!("  data    {where_to}");
    println!();
    println!("try");
    println!("  curl -X POST http://localhost:{port}/sql -d '{{\"sql\":\"SELECT sqlite_version()\"}}'");
    println!("  flotilla sql --url http://127.0.0.1:{port}");
    // Whoever waits for these lines reads a pipe.
    std::io::stdout().flush().ok();
}
