//! `flotilla bench move`: what it costs to bring a table to new shards while clients write.
//!
//! A table is filled, clients update its rows for a while, shards are added, and the table is rebalanced
//! while the same clients go on. The report sets the clients' latency during the move beside that before,
//! and tells what was moved at which rate, what the processes held at most, and what the logs wrote. All
//! rows are counted at the end, and an update that finds no row is an error. Refused: a table with rows.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::driver::{self, Outcome, Settings};
use super::filled::{self, Filled, RandomUpdate, fill};
use super::own::process::{Process, Usage};
use super::own::{Target, TargetArgs, until_stopped};
use super::report::{latency_json, mib, micros};

use super::{machine, machine_of, parse_rate, scrape};
use crate::commands::status::Job;
use crate::commands::{CommandError, call, duration, output, parse};
use crate::http_client::{Call, Client};

/// How often the job is looked at: its end is known to this.
const LOOK: Duration = Duration::from_millis(50);

/// How long a shard may take to be made, the longest that a proxy allows.
const SHARD_PATH: &str = "/shard?timeout=60s";

/// Longer than any move: the load ends with the move, not by the clock.
const ENDLESS: Duration = Duration::from_secs(100 * 24 * 3600);

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct MoveArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Data that the table holds: 1GB, 64MiB, 500kB
    #[arg(long, default_value = "64MiB", value_name = "SIZE", value_parser = parse_bytes)]
    bytes: u64,
    /// Bytes of one row's text
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    row_bytes: u64,
    /// Shards that are added
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    add_shards: u32,
    /// Clients that update rows, before and during the move; 0 for none
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    clients: u32,
    /// Their updates per second, in an open loop; without it each sends its next one at once
    #[arg(long, value_name = "PER SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// How long the clients are measured before the move
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = duration::parse)]
    before: Duration,
    /// The table
    #[arg(long, default_value = "bench_move", value_parser = super::workload::parse_table_name)]
    table: String,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Reads `1GB`, `64MiB`, `500kB` or a number of bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        other => return Err(format!("`{other}` is no unit of bytes; use kB, MB, GB, KiB, MiB or GiB")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no size; write 1GB or 64MiB"))?;
    let bytes = number * unit as f64;
    if (1.0..=1e15).contains(&bytes) { Ok(bytes as u64) } else { Err("from 1 byte to 1000000 GB".into()) }
}

/// What a process held.
struct Held {
    name: String,
    before: Usage,
    after: Usage,
}

/// What was moved.
struct Moved {
    took: Duration,
    job: Json,
    held: Vec<Held>,
    /// What all nodes' logs wrote meanwhile.
    log_written_bytes: f64,
    /// Of all nodes' folders: before, the most, at the end. Only for an own cluster.
    folder_bytes: Option<[u64; 3]>,
}

impl Moved {
    fn count(&self, name: &str) -> u64 {
        self.job[name].as_u64().unwrap_or(0)
    }

    fn per_second(&self, name: &str) -> f64 {
        self.count(name) as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Fills, measures, moves, prints.
pub async fn run(args: MoveArgs) -> Result<(), CommandError> {
    let target = args.target.ready().await?;
    let machine = machine_of(&target).await?;
    let mut client = target.client();
    let rows = (args.bytes / args.row_bytes).max(1);
    let filled = Filled { table: args.table.clone(), rows, row_bytes: args.row_bytes };
    until_stopped(fill(&target, &filled)).await??;
    let before = match args.clients {
        0 => None,
        _ => Some(
            driver::run(&load(&args, &target, args.before), RandomUpdate::new(&filled), std::future::pending()).await?,
        ),
    };
    if before.as_ref().is_some_and(|outcome| outcome.stopped_early) {
        return Err(CommandError::Failed("stopped before anything was moved".into()));
    }
    until_stopped(add_shards(&mut client, &args)).await??;
    let mut moved = Err(CommandError::Failed("stopped while slots were moved".into()));
    let during = match args.clients {
        0 => {
            moved = until_stopped(rebalance(&target, &args.table)).await?;
            None
        }
        _ => {
            let end = async { moved = rebalance(&target, &args.table).await };
            Some(driver::run(&load(&args, &target, ENDLESS), RandomUpdate::new(&filled), end).await?)
        }
    };
    let moved = moved?;
    let found = until_stopped(filled::count(&mut client, &args.table)).await??;
    let cluster = target.describe().await;
    drop(target);
    match args.json {
        true => println!("{}", report_json(&args, &filled, machine, cluster, &moved, &before, &during)),
        false => print!("{}", report_text(&args, &filled, &machine, &cluster, &moved, &before, &during)),
    }
    if found != rows {
        return Err(CommandError::Failed(format!("the table has {found} rows after the move, not {rows}")));
    }
    Ok(())
}

fn load(args: &MoveArgs, target: &Target, duration: Duration) -> Settings {
    let (url, clients) = (target.url.clone(), args.clients);
    Settings { url, clients, threads: 1, duration, warmup: Duration::ZERO, rate: args.rate }
}

async fn add_shards(client: &mut Client, args: &MoveArgs) -> Result<(), CommandError> {
    for _ in 0..args.add_shards {
        let made: Json = parse(&call(client, &Call::post(SHARD_PATH, "")).await?)?;
        let add = json!({ "table_name": args.table, "shard_id": made["shard"] });
        let added = parse(&call(client, &Call::post("/table/add-to-shard", add.to_string())).await?)?;
        crate::commands::admin::follow_if_job(client, &added).await?;
    }
    Ok(())
}

/// Rebalances the table and waits for the end.
async fn rebalance(target: &Target, table: &str) -> Result<Moved, CommandError> {
    let mut client = target.client();
    let own = |read: fn(&Process) -> Usage| -> Vec<Usage> {
        target.own.iter().flat_map(|own| own.processes.iter().map(read)).collect()
    };
    let before = own(|process| {
        process.forget_peak();
        process.usage()
    });
    let folder: Option<PathBuf> = target.own.as_ref().map(|own| own.folder().to_owned());
    let files = || folder.as_deref().map(scrape::folder_bytes);
    let first_bytes = files();
    let (mut most_bytes, written) = (first_bytes, "flotilla_node_log_written_bytes");
    let written_before = scrape::sum_over_nodes(&mut client, written).await?;
    let start = Instant::now();
    let body = json!({ "table_name": table }).to_string();
    let reply: Json = parse(&call(&mut client, &Call::post("/table/rebalance", body)).await?)?;
    let Some(id) = reply["job"].as_str() else {
        return Err(CommandError::Failed("nothing is to be moved: the slots are spread evenly already".into()));
    };
    eprintln!("job {id} moves {} slots", reply["slots"]);
    let job = loop {
        let reply = call(&mut client, &Call::get(format!("/job/{id}"))).await?;
        let (job, json): (Job, Json) = (parse(&reply)?, parse(&reply)?);
        match job.state.as_str() {
            "done" => break json,
            "failed" | "cancelled" => {
                let why = output::plain(&job.error);
                return Err(CommandError::Failed(format!("job {id} {}: {why}", job.state)));
            }
            _ => (),
        }
        most_bytes = most_bytes.max(files());
        tokio::time::sleep(LOOK).await;
    };
    let took = start.elapsed();
    let after = own(Process::usage);
    let names = target.own.iter().flat_map(|own| own.processes.iter().map(|process| process.name().to_owned()));
    let held = names.zip(before.into_iter().zip(after));
    let log_written_bytes = scrape::sum_over_nodes(&mut client, written).await? - written_before;
    Ok(Moved {
        took,
        job,
        held: held.map(|(name, (before, after))| Held { name, before, after }).collect(),
        log_written_bytes,
        folder_bytes: first_bytes.zip(most_bytes).zip(files()).map(|((first, most), last)| [first, most, last]),
    })
}

fn load_json(outcome: &Outcome) -> Json {
    let recorder = &outcome.recorder;
    let seconds = outcome.measured.as_secs_f64().max(1e-9);
    json!({
        "per_second": recorder.answered_in_time as f64 / seconds,
        "succeeded": recorder.succeeded(),
        "failed": recorder.errors.values().sum::<u64>(),
        "errors": recorder.errors,
        "latency_us": latency_json(&recorder.latency_us),
    })
}

fn report_json(
    args: &MoveArgs,
    filled: &Filled,
    machine: Json,
    cluster: Json,
    moved: &Moved,
    before: &Option<Outcome>,
    during: &Option<Outcome>,
) -> Json {
    let held = moved.held.iter().map(|held| {
        json!({
            "name": held.name,
            "cpu_s": held.after.cpu.saturating_sub(held.before.cpu).as_secs_f64(),
            "rss_bytes_before": held.before.rss_bytes,
            "rss_bytes_after": held.after.rss_bytes,
            "peak_rss_bytes": held.after.peak_rss_bytes,
        })
    });
    json!({
        "workload": "move",
        "version": env!("CARGO_PKG_VERSION"),
        "machine": machine,
        "cluster": cluster,
        "settings": {
            "bytes": args.bytes, "row_bytes": args.row_bytes, "rows": filled.rows, "add_shards": args.add_shards,
            "clients": args.clients, "rate": args.rate, "loop": if args.rate.is_some() { "open" } else { "closed" },
        },
        "took_s": moved.took.as_secs_f64(),
        "slots": moved.count("slots_moved"),
        "moves": moved.count("moves"),
        "rows": moved.count("rows_moved"),
        "bytes": moved.count("bytes_moved"),
        "rows_per_second": moved.per_second("rows_moved"),
        "bytes_per_second": moved.per_second("bytes_moved"),
        "log_written_bytes": moved.log_written_bytes,
        "folder_bytes": moved.folder_bytes.map(|[before, most, after]| {
            json!({ "before": before, "most": most, "after": after })
        }),
        "clients_before": before.as_ref().map(load_json),
        "clients_during": during.as_ref().map(load_json),
        "processes": held.collect::<Vec<_>>(),
    })
}

fn report_text(
    args: &MoveArgs,
    filled: &Filled,
    machine: &Json,
    cluster: &Json,
    moved: &Moved,
    before: &Option<Outcome>,
    during: &Option<Outcome>,
) -> String {
    let (rows, bytes) = (moved.count("rows_moved"), moved.count("bytes_moved"));
    let mb = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
    let mut lines = vec![
        format!("bench move rows={} row_bytes={} add_shards={}", filled.rows, args.row_bytes, args.add_shards),
        format!("machine     {}", machine::text(machine)),
        format!("cluster     {}", super::report::cluster_text(cluster)),
        format!(
            "moved       {} slots in {} moves, {rows} rows, {} in {}",
            moved.count("slots_moved"),
            moved.count("moves"),
            mb(bytes as f64),
            duration::show(moved.took)
        ),
        format!(
            "rate        {} per second, {:.0} rows per second",
            mb(moved.per_second("bytes_moved")),
            moved.per_second("rows_moved")
        ),
        format!("logs        {} written by all nodes meanwhile", mb(moved.log_written_bytes)),
    ];
    if let Some([before, most, after]) = moved.folder_bytes {
        let [before, most, after] = [before, most, after].map(|bytes| mb(bytes as f64));
        lines.push(format!("files       {before} before, {most} at most, {after} after, of all nodes"));
    }
    let mut text = lines.join("\n") + "\n";
    if before.is_some() || during.is_some() {
        let mut table = output::new_table(["clients", "per second", "p50", "p99", "longest", "failed"]);
        for (when, outcome) in [("before", before), ("during the move", during)] {
            let Some(outcome) = outcome else { continue };
            let (json, latency) = (load_json(outcome), &outcome.recorder.latency_us);
            table.add_row([
                when.to_owned(),
                format!("{:.1}", json["per_second"].as_f64().unwrap_or(0.0)),
                micros(latency.value_at_quantile(0.5)),
                micros(latency.value_at_quantile(0.99)),
                micros(latency.max()),
                output::plain(&json["failed"]),
            ]);
        }
        text += &format!("{}\n", table.trim_fmt());
    }
    if !moved.held.is_empty() {
        let mut table = output::new_table(["process", "cpu, s", "memory before, MiB", "after", "peak"]);
        for held in &moved.held {
            let cpu = held.after.cpu.saturating_sub(held.before.cpu);
            let [before, after, peak] =
                [held.before.rss_bytes, held.after.rss_bytes, held.after.peak_rss_bytes].map(mib);
            table.add_row([held.name.clone(), format!("{:.2}", cpu.as_secs_f64()), before, after, peak]);
        }
        text += &format!("{}\n", table.trim_fmt());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes as people write them; nonsense is refused.
    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("1GB"), Ok(1_000_000_000));
        assert_eq!(parse_bytes("64 MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("1.5kB"), Ok(1500));
        assert_eq!(parse_bytes("7"), Ok(7));
        for bad in ["", "GB", "1 parsec", "0", "-1", "1e30GB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
