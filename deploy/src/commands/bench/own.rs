//! A cluster that a benchmark starts for itself (`--self`): node and proxy processes of this same
//! program, on free ports of the loopback, with their data in a temporary folder.
//!
//! It ends with its value, whatever the reason: [`Process`] kills its process when it is dropped, and the
//! folder goes last. The processes have a process group of their own, so that Ctrl-C in a terminal
//! reaches the benchmark alone, which then prints what it has measured.

pub mod ports;
pub mod process;
// The tests of the cluster also cut the links.
#[allow(dead_code)]
pub mod relay;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use self::process::Process;
use self::relay::Relay;
use crate::commands::duration;
use crate::commands::{CommandError, Endpoint, stop_signal};
use crate::http_client::{BaseUrl, Call, Client};

/// How long the cluster may take to answer on every shard: debug builds on a busy machine take seconds.
const READY: Duration = Duration::from_secs(120);

/// Pause between two looks at a cluster that starts.
const LOOK: Duration = Duration::from_millis(20);

/// Most nodes: all of them share one machine.
const MAX_NODES: u16 = 9;

/// Most shards: each is a file per node and a Raft group.
const MAX_SHARDS: u32 = 256;

/// Which cluster to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct TargetArgs {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Start a cluster for this run, separate processes on this machine, and end it afterwards
    #[arg(long = "self")]
    own: bool,
    /// Nodes of that cluster
    #[arg(long, default_value_t = 3, requires = "own", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    nodes: u16,
    /// Its shards, each with a replica on every node
    #[arg(long, default_value_t = 1, requires = "own", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS)))]
    shards: u32,
    /// Folder in which its temporary folder is made; this decides which disk is measured
    #[arg(long, value_name = "DIR", requires = "own")]
    folder: Option<PathBuf>,
    /// Round trip that is added between any two of its nodes
    #[arg(long, value_name = "TIME", requires = "own", value_parser = duration::parse)]
    rtt: Option<Duration>,
}

/// What is measured: a cluster that runs, or one that was started for it.
pub struct Target {
    /// Where its proxy answers.
    pub url: BaseUrl,
    /// The cluster, if it was started.
    pub own: Option<Own>,
}

impl TargetArgs {
    /// Starts the cluster if that was asked for.
    ///
    /// # Errors
    /// When it does not come up, or somebody stops it.
    pub async fn ready(&self) -> Result<Target, CommandError> {
        if !self.own {
            return Ok(Target { url: self.endpoint.url.clone(), own: None });
        }
        let own = until_stopped(Own::start(self)).await??;
        Ok(Target { url: own.url.clone(), own: Some(own) })
    }
}

impl Target {
    /// A client of the proxy.
    pub fn client(&self) -> Client {
        Client::new(self.url.clone())
    }

    /// What a report says of it.
    pub async fn describe(&self) -> Json {
        let status = match self.client().send(&Call::get("/status")).await {
            Ok(reply) if reply.status == 200 => serde_json::from_slice(&reply.body).unwrap_or_default(),
            _ => Json::Null,
        };
        let count = |name: &str| status[name].as_array().map_or(0, Vec::len);
        json!({
            "version": status["version"],
            "nodes": count("nodes"),
            "shards": count("groups").saturating_sub(1),
            "started_for_this_run": self.own.is_some(),
            "rtt_ms": self.own.as_ref().map(|own| own.rtt.as_secs_f64() * 1e3),
            "url": self.url.to_string(),
        })
    }
}

/// Does some work unless SIGINT or SIGTERM comes first; what the work held is dropped then.
///
/// # Errors
/// That it was stopped.
pub async fn until_stopped<T>(work: impl Future<Output = T>) -> Result<T, CommandError> {
    tokio::select! {
        // First of all listen for signals: one that comes while nobody does ends this process at once, and
        // leaves the others behind.
        biased;
        () = stop_signal() => Err(CommandError::Failed("stopped before the end".into())),
        done = work => Ok(done),
    }
}

/// The cluster.
pub struct Own {
    url: BaseUrl,
    rtt: Duration,
    /// The processes of its nodes, in order, then its proxy.
    pub processes: Vec<Process>,
    /// Where its nodes answer HTTP, in the same order.
    pub nodes: Vec<BaseUrl>,
    // In front of the nodes' internal ports, if there is a delay.
    relays: Vec<Relay>,
    // Behind the processes, so that their folder is removed after they have ended.
    folder: TempDir,
}

fn flag(name: &str, value: impl ToString) -> [String; 2] {
    [name.to_owned(), value.to_string()]
}

/// A port that is free now.
///
/// # Errors
/// When none is.
pub fn free_port() -> Result<u16, CommandError> {
    ports::free_ports(1).ok_or_else(|| CommandError::Failed("no port is free".into()))
}

impl Own {
    async fn start(args: &TargetArgs) -> Result<Self, CommandError> {
        let parent = args.folder.clone().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new().prefix("flotilla-bench-").tempdir_in(&parent);
        let folder = folder.map_err(|error| CommandError::io(parent.display(), &error))?;
        let rtt = args.rtt.unwrap_or_default();
        let proxy_http = format!("127.0.0.1:{}", free_port()?);
        let url = parsed(&proxy_http)?;
        let mut own = Self { url, rtt, processes: vec![], nodes: vec![], relays: vec![], folder };
        let mut places = vec![];
        for id in 1..=args.nodes {
            // With relays what others reach and where the node listens are two addresses with one port.
            let (announced, listens) = match rtt.is_zero() {
                true => ("127.0.0.1".to_owned(), "127.0.0.1".to_owned()),
                false => (format!("127.0.1.{id}"), format!("127.0.2.{id}")),
            };
            places.push((id, announced, listens, free_port()?, free_port()?));
        }
        let seeds: Vec<String> =
            places.iter().map(|(_, announced, _, port, _)| format!("{announced}:{port}")).collect();
        let groups: Vec<String> =
            std::iter::once("meta".to_owned()).chain((1..=args.shards).map(|n| format!("shard{n}"))).collect();
        for ((id, _, listens, raft, http), announced) in places.iter().zip(&seeds) {
            if !rtt.is_zero() {
                let mut relay = Relay::new(announced.clone(), format!("{listens}:{raft}"));
                relay.delay(rtt / 2, rtt - rtt / 2);
                relay.open().await.map_err(|error| CommandError::io(announced, &error))?;
                own.relays.push(relay);
            }
            let http = format!("{listens}:{http}");
            own.nodes.push(parsed(&http)?);
            let data = own.node_folder(usize::from(*id) - 1);
            let arguments = [
                flag("--id", id),
                flag("--data", data.display()),
                flag("--http", &http),
                flag("--raft", announced),
                flag("--bind-address", listens),
                flag("--seed-nodes", seeds.join(",")),
                flag("--groups", groups.join(",")),
            ];
            own.spawn("node", &format!("node {id}"), arguments.concat())?;
        }
        // The delay is that between nodes: a proxy stands beside the leader that it talks to.
        let nodes: Vec<u32> = own.processes.iter().map(Process::id).collect();
        for relay in &own.relays {
            let nodes = nodes.clone();
            relay.spare(move |client| relay::belongs_to_others(client, &nodes));
        }
        let arguments = [flag("--meta", seeds.join(",")), flag("--http", &proxy_http)];
        own.spawn("proxy", "proxy", arguments.concat())?;
        own.wait_ready(args.shards).await?;
        Ok(own)
    }

    fn spawn(&mut self, command: &str, name: &str, mut arguments: Vec<String>) -> Result<(), CommandError> {
        arguments.insert(0, command.to_owned());
        arguments.extend(flag("--log-level", "warn"));
        let log = self.folder.path().join(format!("{}.log", name.replace(' ', "-")));
        self.processes.push(Process::start(name, &arguments, log)?);
        Ok(())
    }

    /// Waits until the proxy gets an answer from every shard.
    async fn wait_ready(&mut self, shards: u32) -> Result<(), CommandError> {
        let deadline = Instant::now() + READY;
        let mut client = Client::new(self.url.clone());
        for shard in 1..=shards {
            let path = format!("/query?auto_route=false&shard=shard{shard}&q=SELECT%201");
            while !client.send(&Call::get(&path)).await.is_ok_and(|reply| reply.status == 200) {
                self.check()?;
                if Instant::now() > deadline {
                    let why = format!("shard{shard} was not ready within {} s", READY.as_secs());
                    return Err(CommandError::Failed(why));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Do all processes still run?
    ///
    /// # Errors
    /// Which one does not, with its last words.
    pub fn check(&mut self) -> Result<(), CommandError> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// The data folder of a node, counted from 0.
    pub fn node_folder(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{}", node + 1))
    }

    /// The folder that holds everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The URL of an address.
///
/// # Errors
/// When it is none.
pub fn parsed(address: &str) -> Result<BaseUrl, CommandError> {
    format!("http://{address}").parse().map_err(CommandError::Failed)
}
