//! `flotilla`: node, proxy, development cluster, shell, status, administration and benchmarks.

mod commands;
mod http_client;
mod logging;
mod settings;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use commands::{admin, bench, dev, node, proxy, sql, status};

/// Requests make many small allocations on one thread that another frees.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// SQLite on many Rafts
#[derive(Parser)]
#[command(name = "flotilla", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Dev(dev::DevArgs),
    Node(Box<node::NodeArgs>),
    Proxy(proxy::ProxyArgs),
    Sql(sql::SqlArgs),
    Status(status::StatusArgs),
    Admin(admin::AdminArgs),
    Bench(bench::BenchArgs),
}

/// Worker threads: a statement inside apply keeps one busy, so there are more than cores.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| cores.get().max(2))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match cli.command {
            Command::Dev(args) => dev::run(args).await,
            Command::Node(args) => node::run(*args).await,
            Command::Proxy(args) => proxy::run(args).await,
            Command::Sql(args) => sql::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Admin(args) => admin::run(args).await,
            Command::Bench(args) => bench::run(args).await,
        }
    })
}
