//! `flotilla bench`: closed-loop load with latency percentiles.
//!
//! A workload prepares its table ([`workload`]), then its clients each keep one request in flight on
//! one connection of their own ([`driver`]) until the time is over; what they measured is merged
//! and printed ([`report`]). A new workload is a new [`workload::Workload`] and a subcommand here.
//! [`tpch`] is another thing: it runs queries on a cluster and on plain SQLite, and compares.

mod driver;
mod report;
mod tpch;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use self::driver::Settings;
use self::workload::{PointRead, PointWrite, Workload};
use super::sql::Level;
use super::{CommandError, Endpoint, duration, finish};

/// Measure throughput and latency of a running cluster
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  flotilla bench write                              one client, 10 s
  flotilla bench write --clients 64 --duration 30s
  flotilla bench read --clients 16 --rows 100000 --level lease
  flotilla bench write --json > write.json
  flotilla bench tpch --scale 0.01                  loads TPC-H, then compares with SQLite

Closed loop: each client sends its next request when the last is answered, so throughput and
latency depend on each other. Ctrl-C stops early and still prints.

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
    /// The 22 queries of TPC-H, against one SQLite file with the same rows
    Tpch(tpch::TpchArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct CommonArgs {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Requests in flight, each on a connection of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// How long to measure: 10s, 500ms, 2m
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration::parse)]
    duration: Duration,
    /// How long to run before measuring
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = duration::parse)]
    warmup: Duration,
    /// The table, hash-sharded by its column `id`
    #[arg(long, default_value = "bench", value_parser = workload::parse_table_name)]
    table: String,
    /// Threads that drive the clients; more than one only helps when this machine has cores to spare
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Create, register and fill the table first (the default)
    #[arg(long, overrides_with = "no_setup")]
    setup: bool,
    /// Use the table as it is
    #[arg(long, overrides_with = "setup")]
    no_setup: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs `flotilla bench`.
pub async fn run(args: BenchArgs) -> ExitCode {
    finish(run_inner(args).await)
}

async fn run_inner(args: BenchArgs) -> Result<(), CommandError> {
    match args.workload {
        WorkloadArgs::Write(common) => {
            let workload = PointWrite::new(&common.table, common.clients);
            measure(common, workload).await
        }
        WorkloadArgs::Read { common, rows, level } => {
            let workload = PointRead::new(&common.table, rows, level);
            measure(common, workload).await
        }
        WorkloadArgs::Tpch(args) => tpch::run(args).await,
    }
}

async fn measure(args: CommonArgs, workload: impl Workload) -> Result<(), CommandError> {
    if args.duration.is_zero() {
        return Err(CommandError::Usage("--duration is longer than nothing".into()));
    }
    if !args.no_setup {
        workload.set_up(&mut args.endpoint.client()).await?;
    }
    let settings = Settings {
        url: args.endpoint.url,
        clients: args.clients,
        threads: args.threads.min(args.clients),
        duration: args.duration,
        warmup: args.warmup,
    };
    let mut described = vec![("table", serde_json::json!(args.table))];
    described.extend(workload.settings());
    let name = workload.name();
    let outcome = driver::run(&settings, workload).await?;
    let report = report::Report::new(name, &settings, described, &outcome);
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    if outcome.recorder.succeeded() == 0 {
        return Err(CommandError::Failed("no request succeeded".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
