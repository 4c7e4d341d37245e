//! A cluster: node and proxy processes, where they listen, and who leads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value as Json;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use super::http::Client;
use super::ports::free_port;
use super::process::Process;
use super::relay::Relay;
use super::session::Session;
use super::wait::{PATIENCE, eventually};

/// Held by the one cluster that may run.
static TURN: Mutex<()> = Mutex::const_new(());

/// What to start.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Nodes; each has a replica of every group.
    pub nodes: usize,
    /// Shards.
    pub shards: u32,
    /// Proxies.
    pub proxies: usize,
    /// `meta` is on the first node alone, and nothing else is.
    pub meta_alone: bool,
    /// Put a [`Relay`] before the internal port of each node.
    pub relays: bool,
    /// Flags of every node.
    pub flags: Vec<String>,
    /// More flags of single nodes, by index from 0.
    pub node_flags: BTreeMap<usize, Vec<String>>,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            nodes: 3,
            shards: 3,
            proxies: 1,
            meta_alone: false,
            relays: false,
            flags: vec![],
            node_flags: BTreeMap::new(),
        }
    }
}

/// A node.
pub struct Member {
    /// Its id, from 1.
    pub id: u64,
    /// Its process.
    pub process: Process,
    /// Where its HTTP API is.
    pub http: String,
    /// The internal address that it announces.
    pub raft: String,
    /// Its data folder.
    pub data: PathBuf,
    /// What others reach it through.
    pub relay: Option<Relay>,
}

/// A proxy.
pub struct ProxyProcess {
    /// Its process.
    pub process: Process,
    /// Where its HTTP API is.
    pub http: String,
}

/// A running cluster; it ends with this value.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Member>,
    /// The proxies.
    pub proxies: Vec<ProxyProcess>,
    layout: Layout,
    // Behind the processes, so that their folder is removed after they have ended.
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

fn flag(name: &str, value: impl ToString) -> [String; 2] {
    [name.to_owned(), value.to_string()]
}

impl Cluster {
    /// Starts a cluster and waits until every process is ready.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(layout: Layout) -> Self {
        let turn = TURN.lock().await;
        super::binary::flotilla();
        let folder = tempfile::tempdir().expect("a folder for the cluster");
        let mut cluster = Self { nodes: vec![], proxies: vec![], layout: layout.clone(), folder, _turn: turn };
        for index in 0..layout.nodes {
            let member = cluster.member(index, &layout);
            cluster.nodes.push(member);
        }
        let seeds: Vec<&str> = cluster.nodes.iter().map(|node| node.raft.as_str()).collect();
        let seeds = seeds.join(",");
        let shards: Vec<String> = cluster.shard_names().collect();
        for node in &mut cluster.nodes {
            let groups = match (layout.meta_alone, node.id) {
                (false, _) => format!("meta,{}", shards.join(",")),
                (true, 1) => "meta".to_owned(),
                (true, _) => shards.join(","),
            };
            node.process.args_mut().extend(flag("--seed-nodes", &seeds));
            node.process.args_mut().extend(flag("--groups", groups));
            if let Some(relay) = &mut node.relay {
                relay.open().await.expect("the relay can listen");
            }
            node.process.start();
        }
        for number in 1..=layout.proxies {
            let http = format!("127.0.0.1:{}", free_port());
            let args = [vec!["proxy".to_owned()], flag("--meta", &seeds).into(), flag("--http", &http).into()].concat();
            let log = cluster.folder.path().join(format!("proxy-{number}.log"));
            let mut process = Process::new(format!("proxy {number}"), args, log);
            process.start();
            cluster.proxies.push(ProxyProcess { process, http });
        }
        cluster.ready().await;
        cluster
    }

    fn member(&self, index: usize, layout: &Layout) -> Member {
        let id = index as u64 + 1;
        let (announced, own) = match layout.relays {
            true => (format!("127.0.1.{id}"), format!("127.0.2.{id}")),
            false => ("127.0.0.1".to_owned(), "127.0.0.1".to_owned()),
        };
        let (raft_port, http_port) = (free_port(), free_port());
        let raft = format!("{announced}:{raft_port}");
        let http = format!("{own}:{http_port}");
        let data = self.folder.path().join(format!("node-{id}"));
        let mut args = vec!["node".to_owned()];
        args.extend(flag("--id", id));
        args.extend(flag("--data", data.display()));
        args.extend(flag("--http", &http));
        args.extend(flag("--raft", &raft));
        if layout.relays {
            args.extend(flag("--bind-address", &own));
        }
        args.extend(layout.flags.iter().chain(layout.node_flags.get(&index).into_iter().flatten()).cloned());
        let log = self.folder.path().join(format!("node-{id}.log"));
        let relay = layout.relays.then(|| Relay::new(raft.clone(), format!("{own}:{raft_port}")));
        Member { id, process: Process::new(format!("node {id}"), args, log), http, raft, data, relay }
    }

    /// Adds a node that joins through node 1 and asks for these groups, perhaps none, and starts it.
    pub fn join(&mut self, groups: &str) -> usize {
        let index = self.nodes.len();
        let mut member = self.member(index, &Layout { relays: false, ..self.layout.clone() });
        member.process.args_mut().extend(flag("--join", &self.nodes[0].raft));
        if !groups.is_empty() {
            member.process.args_mut().extend(flag("--groups", groups));
        }
        member.process.start();
        self.nodes.push(member);
        index
    }

    /// Where files of the test can lie as long as the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `shard1`, `shard2`, …
    pub fn shard_names(&self) -> impl Iterator<Item = String> + use<> {
        (1..=self.layout.shards).map(|shard| format!("shard{shard}"))
    }

    /// A client of the proxies.
    pub fn session(&self) -> Session {
        Session::new(self.proxies.iter().map(|proxy| proxy.http.clone()))
    }

    /// Waits until every process that runs says that it is ready, and every shard can be read.
    ///
    /// # Panics
    /// When it takes longer than [`PATIENCE`], or a process ends instead.
    pub async fn ready(&mut self) {
        for process in self
            .nodes
            .iter_mut()
            .map(|node| (&mut node.process, node.http.clone()))
            .chain(self.proxies.iter_mut().map(|proxy| (&mut proxy.process, proxy.http.clone())))
        {
            if process.0.is_running() {
                process_ready(process.0, &process.1).await;
            }
        }
        for group in std::iter::once("meta".to_owned()).chain(self.shard_names()) {
            self.leader(&group).await;
        }
        let Some(proxy) =
            self.proxies.iter_mut().find_map(|proxy| proxy.process.is_running().then(|| proxy.http.clone()))
        else {
            return;
        };
        let mut session = Session::new([proxy]);
        for shard in self.shard_names() {
            let path = format!("/query?auto_route=false&shard={shard}");
            session.insist(&path, &serde_json::json!({ "query": "SELECT 1" }), None).await;
        }
    }

    /// The node, by index, that leads a group.
    ///
    /// # Panics
    /// When nobody leads it within [`PATIENCE`].
    pub async fn leader(&self, group: &str) -> usize {
        eventually(&format!("{group} has a leader"), PATIENCE, async || {
            let mut found = None;
            for (index, node) in self.nodes.iter().enumerate() {
                let Some(replica) = replica(node, group).await else { continue };
                let term = replica["term"].as_u64();
                if replica["role"] == "leader" && found.is_none_or(|(other, _)| other < term) {
                    found = Some((term, index));
                }
            }
            found.map(|(_, index)| index).ok_or_else(|| "nobody says that it leads".to_owned())
        })
        .await
    }

    /// What a node says of its replica of a group: `role`, `term`, `applied`, `purged`, …
    pub async fn replica(&self, node: usize, group: &str) -> Option<Json> {
        replica(&self.nodes[node], group).await
    }

    /// Starts every process that does not run.
    pub fn start_all(&mut self) {
        for process in self.processes() {
            if !process.is_running() {
                process.start();
            }
        }
    }

    /// Ends all processes at one moment with SIGKILL.
    pub fn kill_all(&mut self) {
        for process in self.processes() {
            process.kill_only();
        }
        for process in self.processes() {
            process.reap();
        }
    }

    /// Stops all processes with SIGTERM and waits for their ends.
    ///
    /// # Panics
    /// When one ends with an error, or not at all.
    pub async fn stop_all(&mut self, limit: Duration) {
        let mut running: Vec<&mut Process> = self.processes().filter_map(|p| p.is_running().then_some(p)).collect();
        for process in &mut running {
            process.signal(Signal::TERM);
        }
        for process in running {
            let status = process.exit(limit).await;
            assert!(status.success(), "{} ended with {status}", process.name());
        }
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        let proxies = self.proxies.iter_mut().map(|proxy| &mut proxy.process);
        self.nodes.iter_mut().map(|node| &mut node.process).chain(proxies)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.processes() {
                process.show_log();
            }
        }
        self.kill_all();
    }
}

async fn replica(node: &Member, group: &str) -> Option<Json> {
    // A stopped process takes connections and never answers.
    let mut client = Client::new(&node.http);
    let status = tokio::time::timeout(Duration::from_secs(1), client.get("/status")).await.ok()?.ok()?.json();
    let group = status["groups"].as_array()?.iter().find(|known| known["id"] == group)?.clone();
    let mut replica = group["replicas"][0].clone();
    replica["term"] = group["term"].clone();
    replica["leader"] = group["leader"].clone();
    Some(replica)
}

/// Waits until `/readyz` of a process says yes.
///
/// # Panics
/// After [`PATIENCE`], or when the process ends.
pub async fn process_ready(process: &mut Process, http: &str) {
    let mut client = Client::new(http);
    let what = format!("{} is ready", process.name());
    eventually(&what, PATIENCE, async || {
        assert!(process.is_running(), "{} has ended", process.name());
        match client.get("/readyz").await {
            Ok(reply) if reply.status.is_success() => Ok(()),
            Ok(reply) => Err(reply.to_string()),
            Err(why) => Err(why),
        }
    })
    .await;
}
