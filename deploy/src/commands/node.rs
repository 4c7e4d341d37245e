//! `flotilla node`: one node until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use flotilla_node::run::Node;
use flotilla_proxy::{Proxy, ProxyOptions};
use flotilla_shared::registry::check_zone;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::stop_signal;
use crate::logging;
use crate::settings::NodeSettings;

/// Host replicas of groups
#[derive(Debug, clap::Args)]
#[command(after_help = "examples:
  flotilla node --config flotilla.toml --index 1
  flotilla node --id 1 --data ./n1 --http 127.0.0.1:12000 --raft 127.0.0.1:12001 \\
      --seed-nodes 127.0.0.1:12001 --groups meta,shard1 --proxy 127.0.0.1:11000
  flotilla node --data ./n4 --http 127.0.0.1:12006 --raft 127.0.0.1:12007 --join 127.0.0.1:12001 --groups shard1")]
pub struct NodeArgs {
    /// Settings file; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which of the nodes listed in the file this one is, from 1
    #[arg(long, value_name = "N")]
    pub index: Option<usize>,
    /// Settings.
    #[command(flatten)]
    pub settings: NodeSettings,
}

/// Runs it.
pub async fn run(args: NodeArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// A proxy inside this process.
pub(super) struct ProxyTask {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl ProxyTask {
    /// Listens and serves.
    pub(super) async fn start(addr: &str, meta: Vec<String>, zone: Option<String>) -> Result<Self, String> {
        if let Some(zone) = &zone {
            check_zone(zone).map_err(|error| format!("setting `zone`: {}; {}", error.message, error.hint))?;
        }
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|error| format!("setting `proxy`: cannot listen on {addr}: {error}"))?;
        let proxy =
            Proxy::new(flotilla_shared::client::Cluster::new(meta), ProxyOptions { zone, ..ProxyOptions::default() });
        let (stop, stopped) = watch::channel(false);
        Ok(Self { task: tokio::spawn(Arc::clone(&proxy).serve(listener, stopped)), stop })
    }

    /// Lets requests under way finish.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.ok();
    }
}

async fn serve(args: NodeArgs) -> Result<(), String> {
    let settings = match &args.config {
        Some(path) => args.settings.over(NodeSettings::read(path, args.index)?),
        None if args.index.is_some() => return Err("setting `index`: it chooses a node of a `config` file".to_owned()),
        None => args.settings,
    };
    logging::start(settings.log_level.as_deref(), settings.log_format.as_deref(), "info")?;
    let options = settings.options()?;
    let (http, raft) = (options.http.clone(), options.raft.clone());
    let mut node = Node::start(options).await.map_err(|error| error.to_string())?;
    let proxy = match &settings.proxy {
        Some(addr) => Some(ProxyTask::start(addr, vec![raft.clone()], settings.zone.clone()).await?),
        None => None,
    };
    tracing::info!(%http, %raft, proxy = settings.proxy.as_deref().unwrap_or("none"), "node is up");
    let stopped = tokio::select! {
        settled = node.settled() => settled.map_err(|error| error.to_string()),
        () = stop_signal() => Ok(()),
    };
    let outcome = match stopped {
        Ok(()) => tokio::select! {
            () = stop_signal() => Ok(()),
            error = node.failure() => Err(format!("the log failed, nothing more is acknowledged: {error}")),
        },
        refused => refused,
    };
    tracing::info!("node is stopping");
    if let Some(proxy) = proxy {
        proxy.stop().await;
    }
    node.stop().await;
    outcome
}
