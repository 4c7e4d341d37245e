//! `flotilla bench growth`: does a shard stay as fast when it is large?
//!
//! A table on one shard is loaded to a number of rows, then to the next one; after each load, once the
//! work that it left in the background is over, clients insert single rows, and the report sets their latency
//! beside that with the first number. Meanwhile all nodes are asked again and again how long they have been
//! making databases durable and purging logs, so that writes during compaction are told from those without any
//! ([`slices`]). In the end a follower is killed, misses some rows, and is started again ([`restart`]).
//! Refused: a cluster that was not started here, whose processes and files cannot be looked at.

mod report;
mod restart;
mod slices;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use serde_json::Value as Json;
use tokio::time::MissedTickBehavior;

use self::slices::{Look, Slices};
use super::driver::{self, Outcome, Settings};
use super::filled;
use super::machine_of;
use super::own::process::Usage;
use super::own::{Own, Target, TargetArgs, until_stopped};
use super::scrape::{self, Sample};
use super::workload::{PointWrite, Turn, Workload};
use crate::commands::{CommandError, duration};
use crate::http_client::{BaseUrl, Call, Client, Reply};

/// The table.
const TABLE: &str = "bench_growth";

/// The shard that has it.
const SHARD: &str = "shard1";

/// Rows of one statement while loading.
const STATEMENT_ROWS: u64 = 1000;

/// And its bytes: half of what a proxy takes as one statement.
const STATEMENT_BYTES: u64 = 512 << 10;

/// What a row takes in a statement beside its text.
const ROW_OVERHEAD_BYTES: u64 = 16;

/// How often the nodes are asked for compaction: shorter than most checkpoints, long enough to cost little.
const SLICE: Duration = Duration::from_millis(25);

/// Pause between two looks at what a load has left to do.
const LOOK: Duration = Duration::from_millis(100);

/// As many looks in a row must show the same.
const CALM_LOOKS: u32 = 5;

/// How long the work in the background may take after a load.
const CALM: Duration = Duration::from_secs(300);

/// Up to which entry a replica is, in a node's metrics.
const APPLIED: &str = "flotilla_node_applied_index";

/// What counts as compaction, in a node's metrics.
const COMPACTION: [&str; 2] = ["flotilla_node_checkpoint_seconds_total", "flotilla_node_log_purge_seconds_total"];

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct GrowthArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Rows to which the table is loaded, one number after the other
    #[arg(long, default_value = "100000,1000000", value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rows: Vec<u64>,
    /// Bytes of the text in each row that is loaded
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    row_bytes: u64,
    /// Clients that insert single rows
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// How long to measure with each number of rows
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration::parse)]
    duration: Duration,
    /// How long the clients run before
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = duration::parse)]
    warmup: Duration,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What was measured with one number of rows.
struct Step {
    rows: u64,
    load: Duration,
    outcome: Outcome,
    slices: Slices,
    /// Of each node, when the clients have ended: its databases, its log.
    files: Vec<[u64; 2]>,
    /// Of each process.
    held: Vec<(String, Usage)>,
}

/// Loads, measures, prints.
pub async fn run(args: GrowthArgs) -> Result<(), CommandError> {
    if args.duration.is_zero() || args.rows.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(CommandError::Usage("--rows grow, and --duration is longer than nothing".into()));
    }
    let mut target = args.target.ready().await?;
    if target.own.is_none() {
        return Err(CommandError::Usage("it needs --self: it looks at files and processes, and kills one".into()));
    }
    let machine = machine_of(&target).await?;
    let mut steps = vec![];
    let mut loaded = 0;
    for rows in &args.rows {
        let step = step(&target, &args, loaded, *rows).await?;
        let early = step.outcome.stopped_early;
        steps.push(step);
        if early {
            break;
        }
        loaded = *rows;
    }
    let restart = match steps.last() {
        Some(last) if !last.outcome.stopped_early => {
            until_stopped(restart::measure(&mut target, loaded, args.row_bytes)).await??
        }
        _ => None,
    };
    let cluster = target.describe().await;
    // The cluster goes before its figures are read.
    drop(target);
    match args.json {
        true => println!("{}", report::json(&args, machine, cluster, &steps, restart.as_ref())),
        false => print!("{}", report::text(&args, &machine, &cluster, &steps, restart.as_ref())),
    }
    match steps.iter().all(|step| step.outcome.recorder.succeeded() > 0) {
        true => Ok(()),
        false => Err(CommandError::Failed("no request succeeded".into())),
    }
}

/// Loads the rows after `loaded`, and measures.
async fn step(target: &Target, args: &GrowthArgs, loaded: u64, rows: u64) -> Result<Step, CommandError> {
    let own = own(target)?;
    let workload = PointWrite::new(TABLE, args.clients);
    if loaded == 0 {
        until_stopped(workload.set_up(target)).await??;
    }
    eprintln!("loading {TABLE} to {rows} rows");
    let begun = Instant::now();
    until_stopped(load(target, loaded + 1..rows + 1, args.row_bytes)).await??;
    let load = begun.elapsed();
    until_stopped(calm(&own.nodes)).await??;
    eprintln!("measuring {} with {} clients for {}", target.url, args.clients, duration::show(args.duration));
    let settings = Settings {
        url: target.url.clone(),
        clients: args.clients,
        threads: 1,
        duration: args.duration,
        warmup: args.warmup,
        rate: None,
    };
    let timed = Timed { workload, took: Arc::default() };
    let (took, mut looks) = (Arc::clone(&timed.took), vec![]);
    let outcome = driver::run(&settings, timed, watch(&own.nodes, &mut looks)).await?;
    let took = took.lock().unwrap_or_else(PoisonError::into_inner);
    let nodes = 0..own.nodes.len();
    Ok(Step {
        rows,
        load,
        outcome,
        slices: slices::sort(&looks, &took),
        files: nodes.map(|node| files(&own.node_folder(node))).collect(),
        held: own.processes.iter().map(|process| (process.name().to_owned(), process.usage())).collect(),
    })
}

fn own(target: &Target) -> Result<&Own, CommandError> {
    target.own.as_ref().ok_or_else(|| CommandError::Failed("the cluster is gone".into()))
}

/// Inserts rows with these ids, as a dump would.
async fn load(target: &Target, rows: Range<u64>, row_bytes: u64) -> Result<(), CommandError> {
    let piece = (STATEMENT_BYTES / (row_bytes + ROW_OVERHEAD_BYTES)).clamp(1, STATEMENT_ROWS);
    filled::load_pieces(target, rows, piece, move |rows| {
        let values: Vec<String> = rows.map(|id| format!("({id},0,'{}')", filled::text_of(id, row_bytes))).collect();
        // Nothing in it needs escaping.
        format!("{{\"query\":\"INSERT INTO {TABLE} (id, ts, name) VALUES {}\"}}", values.join(","))
    })
    .await
}

/// A node's databases and its log, in bytes.
fn files(folder: &Path) -> [u64; 2] {
    ["groups", "wal"].map(|part| scrape::folder_bytes(&folder.join(part)))
}

/// Inserts that note when they began and ended.
struct Timed {
    workload: PointWrite,
    took: Arc<Mutex<Vec<(Instant, Instant)>>>,
}

impl Workload for Timed {
    fn name(&self) -> &'static str {
        self.workload.name()
    }

    fn settings(&self) -> Vec<(&'static str, Json)> {
        self.workload.settings()
    }

    async fn set_up(&self, target: &Target) -> Result<(), CommandError> {
        self.workload.set_up(target).await
    }

    fn request(&self, turn: Turn) -> Call {
        self.workload.request(turn)
    }

    fn took(&self, begin: Instant, end: Instant) {
        self.took.lock().unwrap_or_else(PoisonError::into_inner).push((begin, end));
    }

    fn check(&self, turn: Turn, reply: &Reply) -> Result<(), String> {
        self.workload.check(turn, reply)
    }
}

/// Asks all nodes how long they have been compacting, for ever. A node that does not answer leaves out a look.
async fn watch(nodes: &[BaseUrl], looks: &mut Vec<Look>) {
    let mut clients: Vec<Client> = nodes.iter().cloned().map(Client::new).collect();
    let mut every = tokio::time::interval(SLICE);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let asked = Instant::now();
        if let Ok(samples) = all_metrics(&mut clients).await {
            let busy_s = samples.iter().map(|samples| scrape::sum(samples, &COMPACTION)).sum();
            looks.push(Look { asked, answered: Instant::now(), busy_s });
        }
    }
}

async fn all_metrics(clients: &mut [Client]) -> Result<Vec<Vec<Sample>>, CommandError> {
    try_join_all(clients.iter_mut().map(scrape::metrics_of)).await
}

/// A node's figure for the shard.
fn of_shard(samples: &[Sample], name: &str) -> f64 {
    let of = samples.iter().find(|sample| sample.name == name && sample.label("group") == Some(SHARD));
    of.map_or(0.0, |sample| sample.value)
}

/// Waits until all replicas have applied the same, and nothing is checkpointed or purged any more.
async fn calm(nodes: &[BaseUrl]) -> Result<(), CommandError> {
    let mut clients: Vec<Client> = nodes.iter().cloned().map(Client::new).collect();
    let (deadline, mut same, mut last) = (Instant::now() + CALM, 0, None);
    while same < CALM_LOOKS {
        let samples = all_metrics(&mut clients).await?;
        let applied: Vec<f64> = samples.iter().map(|samples| of_shard(samples, APPLIED)).collect();
        let busy_s: f64 = samples.iter().map(|samples| scrape::sum(samples, &COMPACTION)).sum();
        let even = applied.iter().all(|index| *index == applied[0]);
        let seen = Some((applied, busy_s));
        same = if even && last == seen { same + 1 } else { 0 };
        last = seen;
        if Instant::now() > deadline {
            return Err(CommandError::Failed(format!("the load left work for more than {} s", CALM.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
