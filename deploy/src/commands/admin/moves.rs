//! `flotilla admin rebalance` and its like: what makes slots move.

use serde_json::{Map, Value as Json, json};

use super::{job, post, value};
use crate::commands::{CommandError, output};
use crate::http_client::{Client, percent_encode};

/// How slots shall move.
#[derive(Clone, Debug, clap::Args)]
pub struct MoveArgs {
    /// How much a shard shall have compared with the others, 0 to empty it; 1 unless given
    #[arg(long, value_name = "SHARD=WEIGHT", value_parser = weight)]
    weight: Vec<(String, u32)>,
    /// What shards shall have equally much of: slots, rows or bytes
    #[arg(long, value_name = "MEASURE", default_value = "slots", value_parser = ["slots", "rows", "bytes"])]
    by: String,
    /// Let no more bytes move in a second, on average
    #[arg(long, value_name = "BYTES")]
    max_bytes_per_second: Option<u64>,
    /// Let so many moves be under way at once, each between two shards of its own
    #[arg(long, value_name = "MOVES")]
    max_parallel: Option<u64>,
    /// Wait until it is done, and show how far it is
    #[arg(long)]
    watch: bool,
}

/// Arguments of `rebalance`.
#[derive(Clone, Debug, clap::Args)]
pub struct RebalanceArgs {
    /// The table; those colocated with it move along
    table: String,
    /// Only show what would move
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    #[command(flatten)]
    moves: MoveArgs,
}

/// Arguments of `remove-from-shard`.
#[derive(Clone, Debug, clap::Args)]
pub struct LeaveArgs {
    /// The table; those colocated with it leave, too
    table: String,
    /// The shard that shall no longer hold it
    shard: String,
    /// Only show what would move
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    #[command(flatten)]
    moves: MoveArgs,
}

/// Arguments of `remove-shard`.
#[derive(Clone, Debug, clap::Args)]
pub struct RemoveShardArgs {
    /// The shard
    shard: String,
    /// Only show what would move
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    #[command(flatten)]
    moves: MoveArgs,
}

/// Arguments of `split`.
#[derive(Clone, Debug, clap::Args)]
pub struct SplitArgs {
    /// The table; those colocated with it move along
    table: String,
    /// Keys whose slots shall move; texts, or any values as JSON; a key of several columns is a JSON list
    #[arg(long, value_name = "VALUE", required_unless_present = "at", requires = "to", conflicts_with = "at")]
    value: Vec<String>,
    /// New split points of a table that is sharded by range, in the same form
    #[arg(long, value_name = "VALUE")]
    at: Vec<String>,
    /// The shard that shall hold the values, or what begins at the new split points
    #[arg(long, value_name = "SHARD")]
    to: Option<String>,
    /// Only show what would be split and what would move
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    #[command(flatten)]
    moves: MoveArgs,
}

fn weight(text: &str) -> Result<(String, u32), String> {
    let parts = text.split_once('=').and_then(|(shard, weight)| Some((shard.to_owned(), weight.parse().ok()?)));
    parts.ok_or_else(|| format!("`{text}` is no weight; write shard1=2"))
}

impl MoveArgs {
    fn add_to(&self, body: &mut Json) {
        let weights: Map<String, Json> =
            self.weight.iter().map(|(shard, weight)| (shard.clone(), json!(weight))).collect();
        if !weights.is_empty() {
            body["weights"] = Json::Object(weights);
        }
        if self.by != "slots" {
            body["by"] = json!(self.by);
        }
        if let Some(rate) = self.max_bytes_per_second {
            body["max_bytes_per_second"] = json!(rate);
        }
        if let Some(moves) = self.max_parallel {
            body["max_parallel"] = json!(moves);
        }
    }
}

/// Runs `rebalance`.
pub async fn rebalance(client: &mut Client, args: &RebalanceArgs) -> Result<(), CommandError> {
    let mut body = json!({ "table_name": args.table, "dry_run": args.dry_run });
    args.moves.add_to(&mut body);
    let reply = post(client, "/table/rebalance", &body).await?;
    let (table, by) = (&args.table, &args.moves.by);
    if args.dry_run {
        show_plan(reply, &format!("nothing would move: the {by} of {table} are spread evenly"));
        return Ok(());
    }
    let done = match reply["already_even"] == true {
        true => format!("the {by} of {table} are spread evenly already"),
        false => format!("the {by} of {table} are spread evenly"),
    };
    job::conclude(client, &reply, args.moves.watch, &done).await
}

fn show_plan(reply: Json, nothing: &str) {
    match output::items(reply, "moves") {
        moves if moves.is_empty() => println!("{nothing}"),
        moves => print!("{}", output::objects(&moves, &["from", "to", "slots", "rows", "bytes"])),
    }
}

/// A call that moves slots, or shows which.
async fn moving(
    client: &mut Client,
    path: &str,
    mut body: Json,
    dry_run: bool,
    moves: &MoveArgs,
    done: &str,
) -> Result<(), CommandError> {
    body["dry_run"] = json!(dry_run);
    moves.add_to(&mut body);
    let reply = post(client, path, &body).await?;
    if dry_run {
        show_plan(reply, "nothing would move");
        return Ok(());
    }
    job::conclude(client, &reply, moves.watch, done).await
}

/// Runs `remove-from-shard`.
pub async fn leave(client: &mut Client, args: &LeaveArgs) -> Result<(), CommandError> {
    let LeaveArgs { table, shard, dry_run, moves } = args;
    let body = json!({ "table_name": table, "shard_id": shard });
    let done = format!("{shard} no longer holds {table}");
    moving(client, "/table/remove-from-shard", body, *dry_run, moves, &done).await
}

/// Runs `remove-shard`.
pub async fn remove_shard(client: &mut Client, args: &RemoveShardArgs) -> Result<(), CommandError> {
    let path = format!("/shard/{}/remove", percent_encode(&args.shard));
    let done = format!("{} has left the cluster", args.shard);
    moving(client, &path, json!({}), args.dry_run, &args.moves, &done).await
}

/// Runs `split`.
pub async fn split(client: &mut Client, args: &SplitArgs) -> Result<(), CommandError> {
    let SplitArgs { table, value: values, at, to, dry_run, moves } = args;
    let keys = |texts: &[String]| texts.iter().map(|text| value(text)).collect::<Json>();
    let mut body = json!({ "table_name": table, "dry_run": dry_run });
    let done = match to {
        Some(to) if at.is_empty() => format!("{to} holds these keys of {table}"),
        Some(to) => format!("{table} has these split points, and {to} holds what begins at them"),
        None => format!("{table} has these split points"),
    };
    if at.is_empty() {
        body["values"] = keys(values);
    } else {
        body["at"] = keys(at);
    }
    if let Some(to) = to {
        body["to"] = json!(to);
    }
    moves.add_to(&mut body);
    let reply = post(client, "/table/split", &body).await?;
    if !dry_run {
        return job::conclude(client, &reply, moves.watch, &done).await;
    }
    for split in reply["splits"].as_array().into_iter().flatten() {
        println!("{}", split_line(split));
    }
    if at.is_empty() || to.is_some() {
        show_plan(reply, "nothing would move");
    } else if reply["splits"].as_array().is_none_or(Vec::is_empty) {
        println!("nothing would be split");
    }
    Ok(())
}

/// `shard2 is split at 450: 300 rows, 310 rows`.
fn split_line(split: &Json) -> String {
    let list = |name: &str, one: &dyn Fn(&Json) -> String| -> String {
        let items: Vec<String> = split[name].as_array().into_iter().flatten().map(one).collect();
        items.join(", ")
    };
    let key = |key: &Json| if key.is_array() { key.to_string() } else { output::plain(key) };
    let parts = list("parts", &|part| {
        part["rows"].as_u64().map_or("rows not counted".to_owned(), |rows| format!("{rows} rows"))
    });
    format!("{} is split at {}: {parts}", output::plain(&split["shard"]), list("at", &key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::test_server::{Answer, TestServer};

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: RebalanceArgs,
    }

    fn args(line: &str) -> RebalanceArgs {
        <Cli as clap::Parser>::try_parse_from(["rebalance"].into_iter().chain(line.split(' '))).unwrap().args
    }

    /// A table is rebalanced: what is even says so, a job is followed on request, a plan is only shown.
    #[tokio::test]
    async fn rebalancing() {
        let server = TestServer::start(|seen| match (seen.path.as_str(), seen.body["table_name"].as_str()) {
            ("/table/rebalance", Some("even")) => Answer::Json(200, json!({ "state": "done", "already_even": true })),
            ("/table/rebalance", Some(_)) if seen.body["dry_run"] == true => Answer::Json(
                200,
                json!({ "moves": [{ "from": "shard1", "to": "shard2", "slots": 9, "rows": 80, "bytes": 900 }] }),
            ),
            ("/table/rebalance", Some("users")) => Answer::Json(202, json!({ "job": "7" })),
            ("/job/7", _) => Answer::Json(200, json!({ "id": "7", "state": "failed", "error": "slot 3 is too large" })),
            _ => Answer::Json(404, json!({})),
        })
        .await;
        let mut client = Client::new(server.url.clone());
        rebalance(&mut client, &args("even --watch")).await.unwrap();
        rebalance(&mut client, &args("users --dry-run")).await.unwrap();
        rebalance(&mut client, &args("users")).await.unwrap();
        let failed = rebalance(&mut client, &args("users --watch")).await.unwrap_err();
        assert_eq!(failed.to_string(), "error: job 7 failed: slot 3 is too large");
    }

    #[derive(clap::Parser)]
    struct Others {
        #[command(subcommand)]
        command: Other,
    }

    #[derive(clap::Subcommand)]
    enum Other {
        Leave(LeaveArgs),
        RemoveShard(RemoveShardArgs),
        Split(SplitArgs),
    }

    /// What makes slots leave calls the API by its names, and is followed on request.
    #[tokio::test]
    async fn leaving() {
        let server = TestServer::start(|seen| match seen.path.as_str() {
            "/job/7" => Answer::Json(200, json!({ "id": "7", "state": "done" })),
            "/table/split" if seen.body["at"] == json!([450, ["x", 1]]) && seen.body.get("values").is_none() => {
                Answer::Json(
                    if seen.body["to"] == Json::Null { 200 } else { 202 },
                    json!({ "splits": [{ "shard": "shard2", "at": [450], "parts": [{ "rows": 3 }, { "rows": null }] }] }),
                )
            }
            "/table/split" if seen.body["values"] != json!(["de", [1, "x"]]) => Answer::Json(400, json!({})),
            "/table/remove-from-shard" | "/shard/shard3/remove" | "/table/split" => {
                Answer::Json(202, json!({ "job": "7" }))
            }
            _ => Answer::Json(404, json!({})),
        })
        .await;
        let mut client = Client::new(server.url.clone());
        for line in [
            "leave users shard3 --watch --weight shard1=0",
            "leave users shard3 --dry-run",
            "remove-shard shard3 --max-parallel 2 --watch",
            "split people --value de --value [1,\"x\"] --to shard2",
            "split days --at 450 --at [\"x\",1] --dry-run",
            "split days --at 450 --at [\"x\",1] --to shard2",
        ] {
            let words = ["flotilla"].into_iter().chain(line.split(' '));
            match <Others as clap::Parser>::try_parse_from(words).unwrap().command {
                Other::Leave(args) => leave(&mut client, &args).await.unwrap(),
                Other::RemoveShard(args) => remove_shard(&mut client, &args).await.unwrap(),
                Other::Split(args) => split(&mut client, &args).await.unwrap(),
            }
        }
    }

    /// What is to be split says where, or what moves, and not both.
    #[test]
    fn split_forms() {
        for line in ["split t", "split t --value 1", "split t --to shard2", "split t --at 1 --value 2 --to shard2"] {
            let words = ["flotilla"].into_iter().chain(line.split(' '));
            assert!(<Others as clap::Parser>::try_parse_from(words).is_err(), "{line}");
        }
        let split = json!({ "shard": "shard2", "at": [450, ["x", 1]], "parts": [{ "rows": 3 }, { "rows": 4 }] });
        assert_eq!(split_line(&split), "shard2 is split at 450, [\"x\",1]: 3 rows, 4 rows");
    }

    /// Every option goes into the body under the API's name; nonsense is refused here.
    #[test]
    fn options() {
        let line = "users --weight shard1=2 --weight shard3=0 --by rows --max-bytes-per-second 1000 --max-parallel 2";
        let mut body = json!({});
        args(line).moves.add_to(&mut body);
        let wanted = json!({ "weights": { "shard1": 2, "shard3": 0 }, "by": "rows",
            "max_bytes_per_second": 1000, "max_parallel": 2 });
        assert_eq!(body, wanted);
        for line in ["users --weight shard1", "users --by size", "users --watch --dry-run"] {
            assert!(<Cli as clap::Parser>::try_parse_from(["x"].into_iter().chain(line.split(' '))).is_err(), "{line}");
        }
    }
}
