//! `flotilla bench idle`: what a cluster costs that does nothing, and what connections cost.
//!
//! A cluster is started; its processes' time is measured while nobody asks for anything, then their memory:
//! idle, with connections that have asked once and stay open, and at its most while all of these clients
//! write. Refused: a cluster that was not started here, whose processes cannot be looked at.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::driver::{self, Settings};
use super::own::process::Process;
use super::own::{Target, TargetArgs, until_stopped};
use super::report::{cluster_text, mib};
use super::workload::{PointWrite, Workload as _};
use super::{machine, machine_of};
use crate::commands::{CommandError, duration, output};
use crate::http_client::{Call, Connection};

/// How long a cluster that has just come up is left alone first: elections and watches are over then.
const SETTLE: Duration = Duration::from_secs(3);

/// The table that the clients write.
const TABLE: &str = "bench";

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct IdleArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Connections, opened after the cluster was measured without any
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    clients: u32,
    /// How long the idle cluster is measured, and then how long the clients write
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = duration::parse)]
    duration: Duration,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What one process used.
struct Used {
    name: String,
    /// Of one core, while idle.
    idle_cpu_percent: f64,
    idle_rss_bytes: u64,
    connected_rss_bytes: u64,
    loaded_peak_rss_bytes: u64,
}

/// Measures and prints.
pub async fn run(args: IdleArgs) -> Result<(), CommandError> {
    let mut target = args.target.ready().await?;
    if target.own.is_none() || args.duration.is_zero() {
        return Err(CommandError::Usage("it needs --self and a --duration longer than nothing".into()));
    }
    let machine = machine_of(&target).await?;
    let used = measure(&mut target, &args).await?;
    let cluster = target.describe().await;
    drop(target);
    let total: f64 = used.iter().map(|used| used.idle_cpu_percent).sum();
    if args.json {
        let processes = used.iter().map(|used| {
            json!({
                "name": used.name,
                "idle_cpu_percent": used.idle_cpu_percent,
                "idle_rss_bytes": used.idle_rss_bytes,
                "connected_rss_bytes": used.connected_rss_bytes,
                "loaded_peak_rss_bytes": used.loaded_peak_rss_bytes,
            })
        });
        let report = json!({
            "workload": "idle",
            "version": env!("CARGO_PKG_VERSION"),
            "machine": machine,
            "cluster": cluster,
            "settings": { "clients": args.clients, "duration_s": args.duration.as_secs_f64() },
            "idle_cpu_percent": total,
            "processes": processes.collect::<Vec<Json>>(),
        });
        println!("{report}");
        return Ok(());
    }
    println!("bench idle clients={} duration_s={}", args.clients, args.duration.as_secs_f64());
    println!("machine     {}", machine::text(&machine));
    println!("cluster     {}", cluster_text(&cluster));
    println!("idle        {total:.1} % of one core, all processes together");
    let connected = format!("with {} connections, MiB", args.clients);
    let mut table = output::new_table(["process", "idle cpu, %", "idle, MiB", &connected, "these writing, peak, MiB"]);
    for used in used {
        let [idle, connected, loaded] =
            [used.idle_rss_bytes, used.connected_rss_bytes, used.loaded_peak_rss_bytes].map(mib);
        table.add_row([used.name, format!("{:.2}", used.idle_cpu_percent), idle, connected, loaded]);
    }
    println!("{}", table.trim_fmt());
    Ok(())
}

async fn measure(target: &mut Target, args: &IdleArgs) -> Result<Vec<Used>, CommandError> {
    let clients = args.clients;
    let workload = PointWrite::new(TABLE, clients.max(1));
    until_stopped(workload.set_up(target)).await??;
    until_stopped(tokio::time::sleep(SETTLE)).await?;
    eprintln!("measuring {} while nobody asks for anything", target.url);
    let (before, start) = (all(target, Process::usage), Instant::now());
    until_stopped(tokio::time::sleep(args.duration)).await?;
    let (idle, took) = (all(target, Process::usage), start.elapsed());
    eprintln!("opening {clients} connections");
    let connections = until_stopped(connect(target, clients)).await??;
    let connected = all(target, Process::usage);
    drop(connections);
    all(target, Process::forget_peak);
    if clients > 0 {
        let settings = Settings {
            url: target.url.clone(),
            clients,
            threads: 1,
            duration: args.duration,
            warmup: Duration::ZERO,
            rate: None,
        };
        let outcome = driver::run(&settings, workload, std::future::pending()).await?;
        if outcome.recorder.succeeded() == 0 {
            return Err(CommandError::Failed(format!("nothing was written: {:?}", outcome.recorder.errors)));
        }
    }
    let loaded = all(target, Process::usage);
    if let Some(own) = &mut target.own {
        own.check()?;
    }
    let names = all(target, |process| process.name().to_owned());
    let used = names.into_iter().enumerate().map(|(n, name)| Used {
        name,
        idle_cpu_percent: 100.0 * (idle[n].cpu.saturating_sub(before[n].cpu)).as_secs_f64() / took.as_secs_f64(),
        idle_rss_bytes: idle[n].rss_bytes,
        connected_rss_bytes: connected[n].rss_bytes,
        loaded_peak_rss_bytes: loaded[n].peak_rss_bytes,
    });
    Ok(used.collect())
}

fn all<T>(target: &Target, read: impl FnMut(&Process) -> T) -> Vec<T> {
    target.own.iter().flat_map(|own| &own.processes).map(read).collect()
}

/// Connections that have had one answer each.
async fn connect(target: &Target, clients: u32) -> Result<Vec<Connection>, CommandError> {
    let read = json!({ "query": format!("SELECT name FROM {TABLE} WHERE id = ?"), "args": [1] }).to_string();
    let mut connections = vec![];
    for _ in 0..clients {
        let failed = |error| CommandError::Http(target.url.clone(), error);
        let mut connection = Connection::open(&target.url).await.map_err(failed)?;
        let reply = connection.send(&Call::post("/query", read.clone())).await.map_err(failed)?;
        if let Some(error) = reply.error() {
            return Err(CommandError::Api(error));
        }
        connections.push(connection);
    }
    Ok(connections)
}
