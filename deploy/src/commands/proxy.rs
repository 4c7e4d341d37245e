//! `flotilla proxy`: a stateless proxy until it is told to stop.

use std::process::ExitCode;

use super::node::ProxyTask;
use super::stop_signal;
use crate::logging;

/// Route queries to shards
#[derive(Debug, clap::Args)]
#[command(after_help = "examples:
  flotilla proxy --meta 127.0.0.1:12001,127.0.0.1:12003,127.0.0.1:12005
  flotilla proxy --meta db1:12001 --http 0.0.0.0:11000 --log-format json")]
pub struct ProxyArgs {
    /// Raft addresses of nodes of the cluster
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', required = true, env = "FLOTILLA_META")]
    pub meta: Vec<String>,
    /// Address of the HTTP API
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:11000", env = "FLOTILLA_HTTP")]
    pub http: String,
    /// Where this proxy stands, as in the zones of nodes: reads of level none stay there if they can
    #[arg(long, value_name = "NAME", env = "FLOTILLA_ZONE")]
    pub zone: Option<String>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Runs it.
pub async fn run(args: ProxyArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: ProxyArgs) -> Result<(), String> {
    logging::start(args.log_level.as_deref(), args.log_format.as_deref(), "info")?;
    let proxy = ProxyTask::start(&args.http, args.meta, args.zone).await?;
    tracing::info!(http = %args.http, "proxy is up");
    stop_signal().await;
    tracing::info!("proxy is stopping");
    proxy.stop().await;
    Ok(())
}
