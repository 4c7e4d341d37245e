//! `flotilla admin replicas`, `repair`, `drain` and `undrain`: which nodes hold what.

use serde_json::{Map, Value as Json, json};

use super::{job, post};
use crate::commands::{CommandError, output};
use crate::http_client::{Client, percent_encode};

/// How a job is to be started.
#[derive(Clone, Debug, clap::Args)]
pub struct Start {
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not wait for the job's end
    #[arg(long, conflicts_with = "dry_run")]
    pub no_wait: bool,
    /// Give a new replica up that comes no closer for that long, such as 90s or 5m
    #[arg(long, value_name = "TIME")]
    pub patience: Option<String>,
}

#[derive(Clone, Debug, clap::Args)]
pub struct ReplicasArgs {
    /// meta, shard1, shard2, …
    pub group: String,
    /// Nodes that get a replica, with commas
    #[arg(long, value_delimiter = ',', value_name = "NODE,...")]
    pub add: Vec<u64>,
    /// Nodes that get a replica that does not vote and serves reads
    #[arg(long, value_delimiter = ',', value_name = "NODE,...")]
    pub add_reader: Vec<u64>,
    /// Nodes whose replica shall vote from now on
    #[arg(long, value_delimiter = ',', value_name = "NODE,...")]
    pub promote: Vec<u64>,
    /// A node whose replica another node shall have
    #[arg(long, value_name = "NODE=NODE", value_parser = pair)]
    pub replace: Vec<(u64, u64)>,
    /// Nodes that lose their replica
    #[arg(long, value_delimiter = ',', value_name = "NODE,...")]
    pub remove: Vec<u64>,
    #[command(flatten)]
    pub start: Start,
}

#[derive(Clone, Debug, clap::Args)]
pub struct RepairArgs {
    /// How long a node must have been silent to count as dead
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub dead_after: String,
    /// Only these nodes, with commas; all dead ones when absent
    #[arg(long, value_delimiter = ',', value_name = "NODE,...")]
    pub nodes: Vec<u64>,
    #[command(flatten)]
    pub start: Start,
}

#[derive(Clone, Debug, clap::Args)]
pub struct DrainArgs {
    /// The node's id
    pub node: u64,
    #[command(flatten)]
    pub start: Start,
}

fn pair(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once('=').ok_or("write 2=4 for node 4 in the place of node 2")?;
    let id = |text: &str| text.parse().map_err(|_| format!("`{text}` is no node id"));
    Ok((id(from)?, id(to)?))
}

/// Runs `flotilla admin replicas`.
pub async fn replicas(client: &mut Client, args: &ReplicasArgs) -> Result<(), CommandError> {
    let mut body = json!({});
    for (name, nodes) in
        [("add", &args.add), ("add_readers", &args.add_reader), ("promote", &args.promote), ("remove", &args.remove)]
    {
        if !nodes.is_empty() {
            body[name] = json!(nodes);
        }
    }
    if !args.replace.is_empty() {
        body["replace"] =
            args.replace.iter().map(|(from, to)| (from.to_string(), json!(to))).collect::<Map<_, _>>().into();
    }
    let path = format!("/shard/{}/replicas", percent_encode(&args.group));
    let done = format!("the replicas of {} are what they are to be", args.group);
    start(client, &path, body, &args.start, &done).await
}

/// Runs `flotilla admin repair`.
pub async fn repair(client: &mut Client, args: &RepairArgs) -> Result<(), CommandError> {
    let mut body = json!({ "dead_after": args.dead_after });
    if !args.nodes.is_empty() {
        body["nodes"] = json!(args.nodes);
    }
    start(client, "/repair", body, &args.start, "every replica is on a node that answers").await
}

/// Runs `flotilla admin drain`.
pub async fn drain(client: &mut Client, args: &DrainArgs) -> Result<(), CommandError> {
    let done = format!("node {} holds nothing; it gets no replica until `flotilla admin undrain {0}`", args.node);
    start(client, &format!("/node/{}/drain", args.node), json!({}), &args.start, &done).await
}

/// Runs `flotilla admin undrain`.
pub async fn undrain(client: &mut Client, node: u64) -> Result<(), CommandError> {
    post(client, &format!("/node/{node}/undrain"), &json!({})).await?;
    println!("node {node} may hold replicas");
    Ok(())
}

/// Shows the plan, then follows the job; what nobody but a person can mend goes last.
async fn start(client: &mut Client, path: &str, mut body: Json, how: &Start, done: &str) -> Result<(), CommandError> {
    body["dry_run"] = json!(how.dry_run);
    if let Some(patience) = &how.patience {
        body["patience"] = json!(patience);
    }
    let mut reply = post(client, path, &body).await?;
    let steps: Vec<Json> = output::items(json!({ "steps": reply["steps"].take() }), "steps").iter().map(step).collect();
    if !steps.is_empty() {
        print!("{}", output::objects(&steps, &["group", "add", "remove"]));
    }
    for left in reply["left"].as_array().into_iter().flatten() {
        eprintln!("left to do: {}: {}", output::plain(&left["message"]), output::plain(&left["hint"]));
    }
    if how.dry_run {
        if steps.is_empty() {
            println!("nothing to do");
        }
        return Ok(());
    }
    job::conclude(client, &reply, !how.no_wait, done).await
}

/// One exchange in words.
fn step(step: &Json) -> Json {
    let add = match &step["add"] {
        Json::Null => String::new(),
        add if add["promote"] == true => format!("node {} votes", add["node"]),
        add if add["votes"] == false => format!("node {}, reader", add["node"]),
        add => format!("node {}", add["node"]),
    };
    let remove = match &step["remove"] {
        Json::Null => String::new(),
        remove => format!("node {}", remove["node"]),
    };
    json!({ "group": step["group"], "add": add, "remove": remove })
}

#[cfg(test)]
mod tests {
    use super::super::{AdminArgs, AdminCommand, run_inner};
    use super::*;
    use crate::commands::Endpoint;
    use crate::commands::test_server::{Answer, TestServer};

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: AdminArgs,
    }

    fn command(line: &str) -> Result<AdminCommand, clap::Error> {
        Ok(<Cli as clap::Parser>::try_parse_from(line.split(' '))?.args.command)
    }

    /// What is asked for goes to the right place as one body; a plan is shown, a job is followed.
    #[tokio::test]
    async fn calls() {
        let server = TestServer::start(|seen| match (seen.path.as_str(), &seen.body) {
            ("/shard/shard1/replicas", body)
                if *body == json!({ "add": [4, 5], "replace": { "2": 6 }, "dry_run": true, "patience": "5s" }) =>
            {
                Answer::Json(
                    200,
                    json!({ "dry_run": true, "steps": [
                    { "group": "shard1", "add": { "node": 4, "votes": true }, "remove": null }] }),
                )
            }
            ("/node/3/drain", body) if *body == json!({ "dry_run": false }) => Answer::Json(202, json!({ "job": "7" })),
            ("/node/3/undrain", _) => Answer::Json(200, json!({ "node": 3, "draining": false })),
            ("/repair", body) if *body == json!({ "dead_after": "10s", "dry_run": false }) => {
                Answer::Json(202, json!({ "job": "8", "steps": [], "left": [{ "message": "no", "hint": "more" }] }))
            }
            ("/job/7", _) => Answer::Json(200, json!({ "id": "7", "state": "done", "percent": 100 })),
            ("/job/8", _) => Answer::Json(200, json!({ "id": "8", "state": "failed", "error": "shard1" })),
            _ => Answer::Json(404, json!({})),
        })
        .await;
        let run = async |line: &str| {
            let endpoint = Endpoint { url: server.url.clone() };
            run_inner(AdminArgs { endpoint, command: command(line).unwrap() }).await
        };
        run("admin replicas shard1 --add 4,5 --replace 2=6 --patience 5s --dry-run").await.unwrap();
        run("admin drain 3").await.unwrap();
        run("admin undrain 3").await.unwrap();
        let failed = run("admin repair --dead-after 10s").await.unwrap_err();
        assert_eq!(failed.to_string(), "error: job 8 failed: shard1");
        assert!(command("admin replicas shard1 --replace 2").is_err());
        assert!(matches!(command("admin drain 3").unwrap(), AdminCommand::Drain(_)));
    }
}
