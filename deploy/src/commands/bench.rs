//! `flotilla bench`: load with latency percentiles, closed or open loop.
//!
//! A cluster is there, or is started for the run ([`own`]). A workload prepares its table ([`workload`]),
//! then its clients each keep one request in flight on one connection of their own ([`driver`]) until the
//! time is over; what they measured is merged and printed with the [`machine`] that it was measured on
//! ([`report`]); with `--bare` beside what a server reaches that does nothing ([`bare`](mod@bare)). A new workload is a new [`workload::Workload`] and a subcommand here. Four do other
//! things: [`idle`] looks at what the processes use, [`growth`] at how a shard does as it grows, [`moves`] rebalances a table while clients write, and [`tpch`] runs queries on a cluster and on
//! plain SQLite, and compares.

mod bare;
mod breakdown;
mod driver;
mod filled;
mod growth;
mod idle;
mod keys;
mod machine;
mod mixed;
mod moves;
mod own;
mod plot;
mod report;
mod scatter;
mod scrape;
mod tpch;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use self::bare::{Bare, BareArgs, Unchecked};
use self::breakdown::Breakdown;
use self::driver::Settings;
use self::own::process::Usage;
use self::own::{Target, TargetArgs, until_stopped};
use self::report::{Point, Report, Run};
use self::workload::{PointRead, PointWrite, Workload};
use super::sql::Level;
use super::{CommandError, duration, finish};

/// Measure throughput and latency of a cluster
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  flotilla bench write                              one client, 10 s
  flotilla bench write --clients 64 --duration 30s
  flotilla bench write --self --nodes 3 --shards 2 --clients 1,16,64 --repeat 3 --plot write.svg
  flotilla bench write --clients 64 --rate 2000     2000 requests per second, whatever the answers do
  flotilla bench read --clients 16 --rows 100000 --level lease
  flotilla bench write --json > write.json
  flotilla bench write --self --clients 64 --breakdown
  flotilla bench read --self --clients 64 --bare    the ratio to a server that only echoes JSON
  flotilla bench mixed --ycsb b --clients 32        95 % reads, 5 % updates, some keys hot
  flotilla bench scatter --query group --clients 4
  flotilla bench idle --self --shards 32            processor time of an idle cluster, memory
  flotilla bench growth --self --rows 100000,1000000,10000000
  flotilla bench move --self --bytes 1GB            slots move to a new shard while clients write
  flotilla bench tpch --scale 0.01                  loads TPC-H, then compares with SQLite

Closed loop: each client sends its next request when the last is answered, so throughput and
latency depend on each other. Open loop (--rate): latency counts from when a request was due.
Ctrl-C stops early and still prints.

Exit code: 0 measured, 1 nothing succeeded or the set-up failed, 2 wrong usage.")]
pub struct BenchArgs {
    #[command(subcommand)]
    workload: WorkloadArgs,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum WorkloadArgs {
    /// Durable inserts of one row with unique keys
    Write(CommonArgs),
    /// Reads of one row by its key
    Read {
        #[command(flatten)]
        common: CommonArgs,
        /// Rows to read from; missing ones are loaded first
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
        rows: u64,
        /// How fresh reads are
        #[arg(long, value_enum, value_name = "LEVEL")]
        level: Option<Level>,
    },
    /// YCSB's core workloads: reads, updates, inserts, scans
    Mixed {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        args: mixed::MixedArgs,
    },
    /// Queries that need all shards
    Scatter {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        args: scatter::ScatterArgs,
    },
    /// What a cluster costs that does nothing, and what connections cost
    Idle(idle::IdleArgs),
    /// How a shard does as it grows: writes, compaction, the restart of a node
    Growth(growth::GrowthArgs),
    /// Slots that move to new shards while clients write
    Move(moves::MoveArgs),
    #[command(hide = true)]
    Bare(BareArgs),
    /// The 22 queries of TPC-H, against one SQLite file with the same rows
    Tpch(tpch::TpchArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct CommonArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Requests in flight, each on a connection of its own; several numbers are measured one after the other
    #[arg(long, default_value = "1", value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: Vec<u32>,
    /// How long to measure: 10s, 500ms, 2m
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration::parse)]
    duration: Duration,
    /// How long to run before measuring
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = duration::parse)]
    warmup: Duration,
    /// Requests per second of an open loop
    #[arg(long, value_name = "PER SECOND", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Runs of each measurement; the one with the median throughput is reported
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// The table, hash-sharded by its column `id`; by default one for each layout
    #[arg(long, value_parser = workload::parse_table_name)]
    table: Option<String>,
    /// Threads that drive the clients; more than one only helps when this machine has cores to spare
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Create, register and fill the table first (the default)
    #[arg(long, overrides_with = "no_setup")]
    setup: bool,
    /// Use the table as it is
    #[arg(long, overrides_with = "setup")]
    no_setup: bool,
    /// Tell where the time went, by what proxy and nodes measure themselves
    #[arg(long)]
    breakdown: bool,
    /// Also give a bare HTTP server the same requests, after each run, and tell the ratio
    #[arg(long)]
    bare: bool,
    /// Also draw latency against throughput, for several numbers of --clients
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl CommonArgs {
    fn table_or(&self, usual: &str) -> String {
        self.table.clone().unwrap_or_else(|| usual.to_owned())
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number of requests per second, from 0.01 to 10000000".into()),
    }
}

/// Runs `flotilla bench`.
pub async fn run(args: BenchArgs) -> ExitCode {
    finish(run_inner(args).await)
}

async fn run_inner(args: BenchArgs) -> Result<(), CommandError> {
    match args.workload {
        WorkloadArgs::Write(common) => {
            let table = common.table_or("bench");
            measure(common, &table, |clients| PointWrite::new(&table, clients)).await
        }
        WorkloadArgs::Read { common, rows, level } => {
            let table = common.table_or("bench");
            measure(common, &table, |_| PointRead::new(&table, rows, level)).await
        }
        WorkloadArgs::Mixed { common, args } => {
            let table = common.table_or("bench_mixed");
            measure(common, &table, |_| mixed::Mixed::new(&table, &args)).await
        }
        WorkloadArgs::Scatter { common, args } => {
            let table = common.table_or("bench_scatter");
            measure(common, &table, |_| scatter::Scatter::new(&table, &args)).await
        }
        WorkloadArgs::Idle(args) => idle::run(args).await,
        WorkloadArgs::Growth(args) => growth::run(args).await,
        WorkloadArgs::Move(args) => moves::run(args).await,
        WorkloadArgs::Bare(args) => bare::serve(&args).await,
        WorkloadArgs::Tpch(args) => tpch::run(args).await,
    }
}

/// Measures a workload with each number of clients, and prints the report.
async fn measure<W: Workload>(args: CommonArgs, table: &str, workload: impl Fn(u32) -> W) -> Result<(), CommandError> {
    if args.duration.is_zero() {
        return Err(CommandError::Usage("--duration is longer than nothing".into()));
    }
    if args.plot.is_some() && args.clients.len() < 2 {
        return Err(CommandError::Usage("--plot needs several numbers of --clients, such as 1,4,16,64".into()));
    }
    let mut target = args.target.ready().await?;
    let machine = machine_of(&target).await?;
    let first = workload(args.clients[0]);
    if !args.no_setup {
        until_stopped(first.set_up(&target)).await??;
    }
    let bare = match args.bare {
        true => Some(until_stopped(Bare::start()).await??),
        false => None,
    };
    let mut points = vec![];
    'all: for clients in &args.clients {
        let settings = settings(&args, &target, *clients);
        let mut runs = vec![];
        for _ in 0..args.repeat {
            let mut run = one_run(&mut target, &settings, args.breakdown, workload(*clients)).await?;
            if let Some(bare) = bare.as_ref().filter(|_| !run.outcome.stopped_early) {
                let settings = Settings { url: bare.url.clone(), ..settings.clone() };
                run.bare = Some(driver::run(&settings, Unchecked(workload(*clients)), std::future::pending()).await?);
            }
            let stopped = run.outcome.stopped_early || run.bare.as_ref().is_some_and(|bare| bare.stopped_early);
            runs.push(run);
            if stopped {
                points.push(Point::new(&settings, runs));
                break 'all;
            }
        }
        points.push(Point::new(&settings, runs));
    }
    let mut described = vec![("table", serde_json::json!(table))];
    described.extend(first.settings());
    let cluster = target.describe().await;
    let report = Report::new(first.name(), described, machine, cluster, points);
    // The cluster goes before its figures are read.
    drop(target);
    if let Some(path) = &args.plot {
        std::fs::write(path, report.svg()).map_err(|error| CommandError::io(path.display(), &error))?;
    }
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    match report.succeeded() {
        0 => Err(CommandError::Failed("no request succeeded".into())),
        _ => Ok(()),
    }
}

/// The machine; for an own cluster with the time of a disk sync.
async fn machine_of(target: &Target) -> Result<serde_json::Value, CommandError> {
    let folder = target.own.as_ref().map(|own| own.folder().to_owned());
    let described = tokio::task::spawn_blocking(move || machine::describe(folder.as_deref()));
    until_stopped(described).await?.map_err(|error| CommandError::Failed(error.to_string()))
}

fn settings(args: &CommonArgs, target: &Target, clients: u32) -> Settings {
    Settings {
        url: target.url.clone(),
        clients,
        threads: args.threads.min(clients),
        duration: args.duration,
        warmup: args.warmup,
        rate: args.rate,
    }
}

/// Runs once, and finds out what the processes of an own cluster used while it was measured.
async fn one_run(
    target: &mut Target,
    settings: &Settings,
    breakdown: bool,
    workload: impl Workload,
) -> Result<Run, CommandError> {
    let mut before: Vec<Usage> = vec![];
    let mut stages_before = Ok(breakdown::Snapshot::new());
    let warm = async {
        tokio::time::sleep(settings.warmup).await;
        let (clients, time) = (settings.clients, duration::show(settings.duration));
        eprintln!("measuring {} with {clients} clients for {time}", settings.url);
        if breakdown {
            stages_before = breakdown::snapshot(target).await;
        }
        before = usages(target);
        std::future::pending().await
    };
    let outcome = driver::run(settings, workload, warm).await?;
    let after = usages(target);
    let stages = match breakdown {
        true => Some(Breakdown::between(&stages_before?, &breakdown::snapshot(target).await?)),
        false => None,
    };
    let names = target.own.iter().flat_map(|own| own.processes.iter().map(|process| process.name().to_owned()));
    let used = names
        .zip(before.into_iter().zip(after))
        .map(|(name, (before, after))| (name, Usage { cpu: after.cpu.saturating_sub(before.cpu), ..after }))
        .collect();
    if let Some(own) = &mut target.own {
        own.check()?;
    }
    Ok(Run { outcome, used, stages, bare: None })
}

fn usages(target: &Target) -> Vec<Usage> {
    target.own.iter().flat_map(|own| own.processes.iter().map(own::process::Process::usage)).collect()
}

#[cfg(test)]
mod tests;
