//! `flotilla status`: what `GET /status` says, as tables.
//!
//! Fields that a server does not give are left empty, never an error: an old command shows what it
//! knows of a newer server. Fails when a group has no leader, so that scripts and health checks can
//! ask.

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::Value as Json;

use super::output::{count, escape, new_table, plain};
use super::{CommandError, Endpoint, call_once, finish, parse};
use crate::http_client::Call;

/// Show nodes, groups, leaders, lag, tables and running jobs
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  flotilla status
  flotilla status --url http://db1:11000
  flotilla status --json | jq '.groups[] | select(.leader == null)'

Exit code: 0 every group has a leader, 1 some group has none or nobody answers, 2 wrong usage.")]
pub struct StatusArgs {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Print the reply as it came
    #[arg(long)]
    json: bool,
}

/// The reply of `GET /status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the process that answered.
    pub version: Option<String>,
    /// Id of the cluster.
    pub cluster: Option<String>,
    /// Version of the registry.
    pub registry_version: Option<u64>,
    /// Version of the schema.
    pub schema_version: Option<u64>,
    /// The processes that host replicas.
    pub nodes: Vec<Node>,
    /// The Raft groups.
    pub groups: Vec<Group>,
    /// The tables of the registry.
    pub tables: Vec<Table>,
    /// Long work.
    pub jobs: Vec<Job>,
}

/// One process.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its id.
    pub id: Option<u64>,
    /// Its internal port.
    pub raft_addr: String,
    /// Its HTTP port.
    pub http_addr: String,
    /// Where it stands.
    pub zone: Option<String>,
    /// `up`, `down` or `removed`.
    pub state: String,
}

/// One Raft group.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Group {
    /// `meta`, `shard1`, …
    pub id: String,
    /// The node that leads it.
    pub leader: Option<u64>,
    /// Its term.
    pub term: Option<u64>,
    /// Its copies.
    pub replicas: Vec<Replica>,
}

/// One copy of a group.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Replica {
    /// The node that hosts it.
    pub node: Option<u64>,
    /// Its raft id.
    pub replica: Option<u64>,
    /// `leader`, `follower`, `learner`, `candidate` or `unreachable`.
    pub role: String,
    /// Index of its last log entry.
    pub last_log: Option<u64>,
    /// Index up to which it knows entries to be committed.
    pub committed: Option<u64>,
    /// Index up to which its database has them.
    pub applied: Option<u64>,
    /// Entries behind the leader.
    pub lag: Option<u64>,
}

/// One table.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The placement that it shares with the tables colocated with it; 0 for unsharded tables.
    pub placement: Json,
    /// The columns of its shard key.
    pub key: Json,
    /// The shards that hold it: objects with an `id` and how many `slots` each owns.
    pub shards: Vec<Json>,
}

/// One job.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Its id.
    pub id: Json,
    /// What it does.
    pub kind: String,
    /// `running`, `paused`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// How far it is.
    pub percent: Option<f64>,
    /// What it does now.
    pub step: Json,
    /// Why it failed.
    pub error: Json,
}

/// Runs `flotilla status`.
pub async fn run(args: StatusArgs) -> ExitCode {
    finish(run_inner(args).await)
}

async fn run_inner(args: StatusArgs) -> Result<(), CommandError> {
    let mut client = args.endpoint.client();
    let reply = call_once(&mut client, &Call::get("/status")).await?;
    let status: Status = parse(&reply)?;
    if args.json {
        println!("{}", String::from_utf8_lossy(&reply.body).trim_end());
    } else {
        print!("{}", render(&status));
    }
    let headless = headless(&status);
    if headless.is_empty() {
        return Ok(());
    }
    Err(CommandError::Failed(format!("no leader: {}", headless.join(", "))))
}

/// The groups without a leader.
fn headless(status: &Status) -> Vec<&str> {
    status.groups.iter().filter(|group| group.leader.is_none()).map(|group| group.id.as_str()).collect()
}

/// The cluster in one line.
pub fn one_line(status: &Status) -> String {
    let running = status.jobs.iter().filter(|job| job.state == "running").count();
    let mut line = format!(
        "flotilla {}, {}, {}, {}",
        status.version.as_deref().unwrap_or("(unknown version)"),
        count(status.nodes.len() as u64, "node"),
        count(status.groups.len() as u64, "group"),
        count(status.tables.len() as u64, "table"),
    );
    if running > 0 {
        line.push_str(&format!(", {} running", count(running as u64, "job")));
    }
    let headless = headless(status);
    if !headless.is_empty() {
        line.push_str(&format!("; NO LEADER: {}", headless.join(", ")));
    }
    line
}

/// The whole reply as tables.
pub fn render(status: &Status) -> String {
    let mut out = format!("{}\n", one_line(status));
    let versions = [("registry version", status.registry_version), ("schema version", status.schema_version)];
    let details: Vec<String> = status
        .cluster
        .iter()
        .map(|id| format!("cluster {}", escape(id)))
        .chain(versions.iter().filter_map(|(name, version)| version.map(|version| format!("{name} {version}"))))
        .collect();
    if !details.is_empty() {
        out.push_str(&format!("{}\n", details.join(", ")));
    }
    section(&mut out, "nodes", nodes(status));
    section(&mut out, "groups", groups(status));
    section(&mut out, "tables", tables(status));
    section(&mut out, "jobs", jobs(status));
    out
}

fn section(out: &mut String, title: &str, table: comfy_table::Table) {
    if !table.is_empty() {
        out.push_str(&format!("\n{title}\n{}\n", table.trim_fmt()));
    }
}

fn nodes(status: &Status) -> comfy_table::Table {
    let mut table = new_table(["id", "http", "internal", "zone", "state", "groups", "leads"]);
    for node in &status.nodes {
        let hosted: Vec<&str> = status
            .groups
            .iter()
            .filter(|group| node.id.is_some() && group.replicas.iter().any(|replica| replica.node == node.id))
            .map(|group| group.id.as_str())
            .collect();
        let leads = status.groups.iter().filter(|group| node.id.is_some() && group.leader == node.id).count();
        table.add_row([
            number(node.id),
            escape(&node.http_addr),
            escape(&node.raft_addr),
            escape(node.zone.as_deref().unwrap_or_default()),
            escape(&node.state),
            escape(&hosted.join(", ")),
            leads.to_string(),
        ]);
    }
    table
}

fn groups(status: &Status) -> comfy_table::Table {
    let mut table =
        new_table(["group", "leader", "term", "node", "replica", "role", "last log", "committed", "applied", "lag"]);
    for group in &status.groups {
        let leader = group.leader.map_or_else(|| "NONE".to_owned(), |id| format!("node {id}"));
        let mut head = [escape(&group.id), leader, number(group.term)];
        if group.replicas.is_empty() {
            table.add_row(head.iter());
        }
        for replica in &group.replicas {
            let row = head.iter().cloned().chain([
                number(replica.node),
                number(replica.replica),
                escape(&replica.role),
                number(replica.last_log),
                number(replica.committed),
                number(replica.applied),
                number(replica.lag),
            ]);
            table.add_row(row);
            // A group's name and leader stand in its first line only.
            head = Default::default();
        }
    }
    table
}

fn tables(status: &Status) -> comfy_table::Table {
    let mut table = new_table(["table", "placement", "key", "shards"]);
    for entry in &status.tables {
        table.add_row([
            escape(&entry.name),
            plain(&entry.placement),
            plain(&entry.key),
            escape(&entry.shards.iter().map(shard).collect::<Vec<_>>().join(", ")),
        ]);
    }
    table
}

/// `shard1 (5462 slots)`; without the number for what does not tell it.
fn shard(shard: &Json) -> String {
    match (shard["id"].as_str(), shard["slots"].as_u64()) {
        (Some(id), Some(slots)) => format!("{id} ({})", count(slots, "slot")),
        (Some(id), None) => id.to_owned(),
        (None, _) => plain(shard),
    }
}

fn jobs(status: &Status) -> comfy_table::Table {
    let mut table = new_table(["job", "kind", "state", "percent", "step", "error"]);
    for job in &status.jobs {
        table.add_row([
            plain(&job.id),
            escape(&job.kind),
            escape(&job.state),
            job.percent.map(|percent| format!("{percent:.0}")).unwrap_or_default(),
            plain(&job.step),
            plain(&job.error),
        ]);
    }
    table
}

fn number(n: Option<u64>) -> String {
    n.map(|n| n.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"version":"0.1.0","cluster":"ab12","registry_version":7,"schema_version":2,
        "nodes":[{"id":1,"raft_addr":"h:2","http_addr":"h:1","zone":"north","state":"up"},{"id":2,"raft_addr":"h:4","http_addr":"h:3","state":"down"}],
        "groups":[{"id":"meta","leader":1,"term":3,"replicas":[
            {"node":1,"replica":101,"role":"leader","last_log":120,"committed":120,"applied":120,"lag":0},
            {"node":2,"replica":102,"role":"unreachable"}]},
          {"id":"shard1","leader":null,"term":4,"replicas":[]}],
        "tables":[{"name":"users","placement":1,"key":["id"],"shards":[{"id":"shard1","slots":2,"epoch":1},{"id":"shard2"}]}],
        "jobs":[{"id":"1","kind":"schema","state":"running","percent":10,"step":"apply","zone":"new field"}]}"#;

    /// Every part shows; a group's head only once; a group without a leader is named.
    #[test]
    fn full() {
        let status: Status = serde_json::from_str(FULL).unwrap();
        let text = render(&status);
        for part in [
            "flotilla 0.1.0, 2 nodes, 2 groups, 1 table, 1 job running; NO LEADER: shard1\n",
            "cluster ab12, registry version 7, schema version 2\n",
            "| 1  | h:1  | h:2      | north | up    | meta   | 1     |",
            "| 2  | h:3  | h:4      |       | down  | meta   | 0     |",
            "| meta   | node 1 | 3    | 1    | 101     | leader      | 120      | 120       | 120     | 0   |",
            "|        |        |      | 2    | 102     | unreachable |          |           |         |     |",
            "| shard1 | NONE   | 4    |",
            "| users | 1         | id  | shard1 (2 slots), shard2 |",
            "| 1   | schema | running | 10      | apply |       |",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(headless(&status), ["shard1"]);
    }

    /// A reply with nothing in it is shown, not refused.
    #[test]
    fn empty() {
        let status: Status = serde_json::from_str("{}").unwrap();
        assert_eq!(render(&status), "flotilla (unknown version), 0 nodes, 0 groups, 0 tables\n");
        assert!(headless(&status).is_empty());
    }

    /// The exit code tells a group without a leader, and a cluster that is not there.
    #[tokio::test]
    async fn exit_codes() {
        use crate::commands::test_server::{Answer, TestServer};

        let server = TestServer::start(|_| Answer::Json(200, serde_json::from_str(FULL).unwrap())).await;
        let args = |url: &str| StatusArgs { endpoint: Endpoint { url: url.parse().unwrap() }, json: true };
        let failed = run_inner(args(&server.url.to_string())).await.unwrap_err();
        assert_eq!((failed.to_string().as_str(), failed.exit_code()), ("error: no leader: shard1", 1));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let failed = run_inner(args(&free.to_string())).await.unwrap_err();
        assert!(failed.to_string().contains("flotilla dev"), "{failed}");
    }
}
