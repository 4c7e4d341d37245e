//! `flotilla admin`: tables, jobs, replicas, and nodes that leave.
//!
//! Each subcommand is one call of the API; what starts a job is followed to its end ([`job`]).

mod job;
mod moves;
mod replicas;

use std::process::ExitCode;

use serde_json::{Value as Json, json};

use super::{CommandError, Endpoint, call, call_once, finish, output, parse};
use crate::http_client::{Call, Client, percent_encode};

/// Change and inspect the cluster: tables, jobs, nodes
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  flotilla admin tables
  flotilla admin register users --key id
  flotilla admin register lineitem --key l_orderkey --colocate-with orders
  flotilla admin register days --key day --func range --split 2024-01-01 --split 2025-01-01
  flotilla admin register people --key country --func list --values shard1=de,fr --values shard2=us
  flotilla admin register countries --reference
  flotilla admin rebalance users --watch
  flotilla admin rebalance users --by bytes --weight shard1=2 --dry-run
  flotilla admin remove-from-shard users shard3 --watch
  flotilla admin remove-shard shard3 --watch
  flotilla admin split people --value de --to shard2
  flotilla admin split days --at 2026-01-01 --to shard3 --watch
  flotilla admin transfer-leader shard1 --to 2
  flotilla admin replicas shard1 --add 4
  flotilla admin replicas shard1 --replace 2=4 --dry-run
  flotilla admin replicas shard1 --add-reader 5
  flotilla admin repair --dry-run      what would be made anew, of nodes that are dead
  flotilla admin drain 3               move node 3's leaders and replicas to others
  flotilla admin remove 3              take node 3's replicas away and let it leave
  flotilla admin prefer-zone shard1 eu-west
  flotilla admin balance-leaders off
  flotilla admin job 7 --follow
  flotilla admin job 7 pause           resume or cancel it; what has moved stays

Exit code: 0 done, 1 refused or failed, 2 wrong usage.")]
pub struct AdminArgs {
    #[command(flatten)]
    endpoint: Endpoint,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum AdminCommand {
    /// List the registered tables
    Tables {
        /// Print the reply as it came
        #[arg(long)]
        json: bool,
    },
    /// Register a table by its shard key
    Register(RegisterArgs),
    /// Spread a table's slots evenly over its shards, while clients read and write
    Rebalance(moves::RebalanceArgs),
    /// Take a table off a shard, with those colocated with it
    RemoveFromShard(moves::LeaveArgs),
    /// Take all tables off a shard, then the shard out of the cluster
    RemoveShard(moves::RemoveShardArgs),
    /// Split ranges, or bring the slots that hold given keys to a shard
    Split(moves::SplitArgs),
    /// List the jobs, show one, or ask something of one that moves slots
    Job {
        /// The job's id; all jobs when absent
        id: Option<String>,
        /// Halt it, let it go on, or end it with what it has done
        #[arg(value_parser = ["pause", "resume", "cancel"], conflicts_with = "json")]
        wish: Option<String>,
        /// Wait until it ends, and fail if it failed
        #[arg(long, alias = "watch", requires = "id")]
        follow: bool,
        /// Print the reply as it came
        #[arg(long, conflicts_with = "follow")]
        json: bool,
    },
    /// Let another node lead a group
    TransferLeader {
        /// meta, shard1, shard2, …
        group: String,
        /// The node that shall lead; it holds a replica
        #[arg(long, value_name = "NODE")]
        to: u64,
    },
    /// Add, promote, replace or remove replicas of a group
    Replicas(replicas::ReplicasArgs),
    /// Make the replicas of dead nodes anew on others
    Repair(replicas::RepairArgs),
    /// Move a node's leaders and replicas to others; it gets no new ones
    Drain(replicas::DrainArgs),
    /// Let a node have replicas again
    Undrain {
        /// The node's id
        node: u64,
    },
    /// Spread leaders evenly over the nodes (the default), or leave them where they are
    BalanceLeaders {
        /// on or off
        #[arg(value_parser = ["on", "off"])]
        wish: String,
    },
    /// Keep the leader of a group in a zone
    PreferZone {
        /// meta, shard1, shard2, …
        group: String,
        /// The zone of nodes that hold a replica; any zone when absent
        zone: Option<String>,
    },
    /// Let a node leave; its groups have one replica less then
    Remove {
        /// The node's id
        #[arg(value_name = "NODE")]
        node: u64,
        /// Do not wait for the job's end
        #[arg(long)]
        no_wait: bool,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct RegisterArgs {
    /// The table
    table: String,
    /// Columns of the shard key, with commas
    #[arg(long, value_delimiter = ',', value_name = "COLUMN,...", required_unless_present = "reference")]
    key: Vec<String>,
    /// How the key chooses the shard: hash, range, list or reference
    #[arg(long, value_name = "FUNCTION", default_value = "hash")]
    func: String,
    /// A full copy on every shard; short for `--func reference`
    #[arg(long, conflicts_with_all = ["func", "key", "colocate_with"])]
    reference: bool,
    /// Keep rows of equal keys on the same shard as this table's
    #[arg(long, value_name = "TABLE")]
    colocate_with: Option<String>,
    /// With `--func range`: where a new slot begins; a text, or any value as JSON
    #[arg(long, value_name = "VALUE")]
    split: Vec<String>,
    /// With `--func list`: the values of one shard, with commas
    #[arg(long, value_name = "SHARD=VALUE,...")]
    values: Vec<String>,
    /// With `--func list`: the shard of all other values
    #[arg(long, value_name = "SHARD")]
    default: Option<String>,
    /// The shard key may hold NULL
    #[arg(long)]
    nullable: bool,
}

/// A value as JSON, or else as text.
fn value(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

/// Runs `flotilla admin`.
pub async fn run(args: AdminArgs) -> ExitCode {
    finish(run_inner(args).await)
}

async fn run_inner(args: AdminArgs) -> Result<(), CommandError> {
    let mut client = args.endpoint.client();
    match args.command {
        AdminCommand::Tables { json } => {
            list(&mut client, "/table", "tables", &["name", "placement", "key", "func", "shards"], json).await
        }
        AdminCommand::Register(args) => register(&mut client, &args).await,
        AdminCommand::Rebalance(args) => moves::rebalance(&mut client, &args).await,
        AdminCommand::RemoveFromShard(args) => moves::leave(&mut client, &args).await,
        AdminCommand::RemoveShard(args) => moves::remove_shard(&mut client, &args).await,
        AdminCommand::Split(args) => moves::split(&mut client, &args).await,
        AdminCommand::Job { id: Some(id), wish: Some(wish), follow, .. } => {
            let path = format!("/job/{}/{wish}", percent_encode(&id));
            let reply = post(&mut client, &path, &json!({})).await?;
            println!("job {id} is {}, to {wish}", output::plain(&reply["state"]));
            if follow { job::follow(&mut client, &id).await } else { Ok(()) }
        }
        AdminCommand::Job { id: None, json, .. } => {
            list(&mut client, "/job", "jobs", &["id", "kind", "state", "percent", "step", "error"], json).await
        }
        AdminCommand::Job { id: Some(id), follow: true, .. } => job::follow(&mut client, &id).await,
        AdminCommand::Job { id: Some(id), json, .. } => {
            let reply = call_once(&mut client, &Call::get(format!("/job/{}", percent_encode(&id)))).await?;
            if json {
                print_raw(&reply.body);
                return Ok(());
            }
            let job: Json = parse(&reply)?;
            print!("{}", output::objects(&[job], &["id", "kind", "state", "percent", "step", "error"]));
            Ok(())
        }
        AdminCommand::TransferLeader { group, to } => {
            let path = format!("/shard/{}/leader", percent_encode(&group));
            let reply = post(&mut client, &path, &json!({ "node": to })).await?;
            println!("node {} leads {group}", output::plain(&reply["leader"]));
            Ok(())
        }
        AdminCommand::Replicas(args) => replicas::replicas(&mut client, &args).await,
        AdminCommand::Repair(args) => replicas::repair(&mut client, &args).await,
        AdminCommand::Drain(args) => replicas::drain(&mut client, &args).await,
        AdminCommand::Undrain { node } => replicas::undrain(&mut client, node).await,
        AdminCommand::BalanceLeaders { wish } => {
            post(&mut client, "/leaders", &json!({ "balance": wish == "on" })).await?;
            println!("leaders are balanced: {wish}");
            Ok(())
        }
        AdminCommand::PreferZone { group, zone } => {
            let path = format!("/shard/{}", percent_encode(&group));
            post(&mut client, &path, &json!({ "preferred_zone": zone })).await?;
            println!("{group} prefers {}", zone.as_deref().map_or("no zone".to_owned(), |zone| format!("zone {zone}")));
            Ok(())
        }
        AdminCommand::Remove { node, no_wait } => {
            let started = post(&mut client, "/remove", &json!({ "node": node })).await?;
            job::conclude(&mut client, &started, !no_wait, &format!("node {node} has left")).await
        }
    }
}

fn print_raw(body: &[u8]) {
    println!("{}", String::from_utf8_lossy(body).trim_end());
}

async fn list(
    client: &mut Client,
    path: &str,
    field: &str,
    columns: &[&str],
    as_json: bool,
) -> Result<(), CommandError> {
    let reply = call_once(client, &Call::get(path)).await?;
    if as_json {
        print_raw(&reply.body);
        return Ok(());
    }
    let items = output::items(parse(&reply)?, field);
    if items.is_empty() {
        eprintln!("no {field}");
    } else {
        print!("{}", output::objects(&items, columns));
    }
    Ok(())
}

/// The body of `POST /table/register`.
fn registration(args: &RegisterArgs) -> Json {
    let mut body = json!({
        "table_name": args.table,
        "shard_func": if args.reference { "reference" } else { args.func.as_str() },
    });
    match args.key.as_slice() {
        [] => {}
        [one] => body["shard_key"] = json!(one),
        several => body["shard_key"] = json!(several),
    }
    if let Some(table) = &args.colocate_with {
        body["colocate_with"] = json!(table);
    }
    if !args.split.is_empty() {
        body["split_points"] = args.split.iter().map(|text| value(text)).collect();
    }
    for list in &args.values {
        let (shard, values) = list.split_once('=').unwrap_or((list, ""));
        let values = values.split(',').filter(|text| !text.is_empty());
        body["values"][shard] = values.map(value).collect();
    }
    if let Some(shard) = &args.default {
        body["default"] = json!(shard);
    }
    if args.nullable {
        body["nullable"] = json!(true);
    }
    body
}

async fn register(client: &mut Client, args: &RegisterArgs) -> Result<(), CommandError> {
    let reply = post(client, "/table/register", &registration(args)).await?;
    job::conclude(client, &reply, true, &format!("table {} is registered", args.table)).await
}

async fn post(client: &mut Client, path: &str, body: &Json) -> Result<Json, CommandError> {
    parse(&call(client, &Call::post(path, body.to_string())).await?)
}

/// Follows the job that `reply` names, if it names one; for commands that register tables.
pub(crate) async fn follow_if_job(client: &mut Client, reply: &Json) -> Result<(), CommandError> {
    match job::id_in(reply) {
        Some(id) => job::follow(client, &id).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: AdminArgs,
    }

    fn registration_of(line: &str) -> Json {
        let cli = <Cli as clap::Parser>::try_parse_from(line.split(' ')).unwrap();
        match cli.args.command {
            AdminCommand::Register(args) => registration(&args),
            other => panic!("{other:?}"),
        }
    }

    /// One column is a string, several are a list; colocation and reference tables.
    #[test]
    fn registrations() {
        assert_eq!(
            registration_of("admin register users --key id"),
            json!({"table_name": "users", "shard_key": "id", "shard_func": "hash"})
        );
        assert_eq!(
            registration_of("admin register t --key a,b --func range --colocate-with u"),
            json!({"table_name": "t", "shard_key": ["a", "b"], "shard_func": "range", "colocate_with": "u"})
        );
        assert_eq!(
            registration_of("admin register zones --reference"),
            json!({"table_name": "zones", "shard_func": "reference"})
        );
        assert_eq!(
            registration_of("admin register t --key a --func range --split 10 --split b --nullable"),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "range", "split_points": [10, "b"], "nullable": true})
        );
        assert_eq!(
            registration_of(
                "admin register t --key a --func list --values shard1=de,fr --values shard2=1 --default shard3"
            ),
            json!({"table_name": "t", "shard_key": "a", "shard_func": "list",
                "values": {"shard1": ["de", "fr"], "shard2": [1]}, "default": "shard3"})
        );
        assert!(<Cli as clap::Parser>::try_parse_from(["admin", "register", "t"]).is_err());
    }

    /// Another node leads, a zone is preferred, the balancer is switched off: a refusal is told as it is.
    #[tokio::test]
    async fn leaders() {
        use crate::commands::test_server::{Answer, TestServer};

        let server = TestServer::start(|seen| match seen.path.as_str() {
            "/shard/shard1/leader" if seen.body["node"] == 2 => Answer::Json(200, json!({ "leader": 2 })),
            "/shard/shard1" if seen.body["preferred_zone"] == "b" => Answer::Json(200, json!({})),
            "/shard/shard2" if seen.body["preferred_zone"].is_null() => Answer::Json(200, json!({})),
            "/leaders" if seen.body["balance"] == false => Answer::Json(200, json!({})),
            _ => Answer::Json(409, json!({ "error": { "code": "conflict", "message": "node 3 is down", "hint": "" } })),
        })
        .await;
        let args = |command| AdminArgs { endpoint: Endpoint { url: server.url.clone() }, command };
        let transfer = |to| args(AdminCommand::TransferLeader { group: "shard1".to_owned(), to });
        let prefer = |group: &str, zone: Option<&str>| {
            args(AdminCommand::PreferZone { group: group.to_owned(), zone: zone.map(str::to_owned) })
        };
        run_inner(prefer("shard1", Some("b"))).await.unwrap();
        run_inner(prefer("shard2", None)).await.unwrap();
        run_inner(args(AdminCommand::BalanceLeaders { wish: "off".to_owned() })).await.unwrap();
        run_inner(transfer(2)).await.unwrap();
        assert!(run_inner(transfer(3)).await.unwrap_err().to_string().contains("node 3 is down"));
    }

    /// A node leaves: the job that this starts is followed to its end, good or bad.
    #[tokio::test]
    async fn removal() {
        use crate::commands::test_server::{Answer, TestServer};
        use std::sync::atomic::{AtomicUsize, Ordering};

        let polls = AtomicUsize::new(0);
        let server = TestServer::start(move |seen| match (seen.path.as_str(), polls.fetch_add(1, Ordering::Relaxed)) {
            ("/remove", _) if seen.body["node"] == 3 => Answer::Json(200, json!({ "job": "5" })),
            ("/remove", _) => Answer::Json(200, json!({ "job": "6" })),
            ("/job/5", 1) => Answer::Json(200, json!({ "id": "5", "state": "running", "percent": 40, "step": "move" })),
            ("/job/5", _) => Answer::Json(200, json!({ "id": "5", "state": "done", "percent": 100 })),
            ("/job/6", _) => Answer::Json(200, json!({ "id": "6", "state": "failed", "error": "last replica" })),
            _ => Answer::Json(404, json!({})),
        })
        .await;
        let remove = |node| AdminArgs {
            endpoint: Endpoint { url: server.url.clone() },
            command: AdminCommand::Remove { node, no_wait: false },
        };
        run_inner(remove(3)).await.unwrap();
        let failed = run_inner(remove(4)).await.unwrap_err();
        assert_eq!(failed.to_string(), "error: job 6 failed: last replica");
        assert_eq!(failed.exit_code(), 1);
    }
}
