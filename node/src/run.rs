//! A node from start to stop.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_shared::client::Cluster;
use flotilla_shared::{http, rpc};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::host::Host;
use crate::options::NodeOptions;
use crate::server::NodeSession;
use crate::{api, balance, bootstrap, compact, jobs, members};

/// How long requests under way may take when the node stops.
const DRAIN: Duration = Duration::from_secs(5);

/// How long tasks that were stopped may take to notice.
const RELEASE: Duration = Duration::from_secs(2);

/// A running node.
pub struct Node {
    host: Arc<Host>,
    stop: watch::Sender<bool>,
    api_stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    api: JoinHandle<()>,
    settled: JoinHandle<Result<(), flotilla_shared::error::Error>>,
}

impl Node {
    /// Opens the data folder, listens, and starts to find the node's place in the cluster.
    ///
    /// # Errors
    /// A port in use, a folder in use or damaged.
    pub async fn start(options: NodeOptions) -> io::Result<Self> {
        let internal = listen(&options.listen_on(&options.raft)).await?;
        let public = listen(&options.listen_on(&options.http)).await?;
        let mut seeds = options.seed_nodes.clone();
        seeds.extend(options.join.clone());
        seeds.push(options.raft.clone());
        seeds.dedup();
        let cluster = Cluster::new(seeds);
        let host = Host::open(options, Arc::clone(&cluster)).await?;
        let (stop, stopped) = watch::channel(false);
        let (api_stop, api_stopped) = watch::channel(false);
        let sessions = Arc::clone(&host);
        let tasks = vec![
            tokio::spawn(rpc::serve(internal, move || NodeSession::new(Arc::clone(&sessions)), stopped.clone())),
            tokio::spawn(cluster.follow()),
            tokio::spawn(jobs::drive(Arc::clone(&host), stopped.clone())),
            tokio::spawn(balance::drive(Arc::clone(&host), stopped)),
            tokio::spawn(bootstrap::catch_up(Arc::clone(&host))),
            tokio::spawn(members::sweep(Arc::clone(&host))),
            tokio::spawn(compact::keep_small(Arc::clone(&host))),
        ];
        let answering = Arc::clone(&host);
        let handler = move |request| api::handle(Arc::clone(&answering), request);
        let api = tokio::spawn(http::serve(public, handler, api_stopped, DRAIN));
        let settling = Arc::clone(&host);
        let settled = tokio::spawn(async move { bootstrap::settle(&settling).await });
        Ok(Self { host, stop, api_stop, tasks, api, settled })
    }

    /// Waits until the node has its place in a cluster.
    ///
    /// # Errors
    /// Why it cannot have one.
    pub async fn settled(&mut self) -> Result<(), flotilla_shared::error::Error> {
        match (&mut self.settled).await {
            Ok(result) => result,
            Err(error) => Err(flotilla_shared::error::Error::new(
                flotilla_shared::error::Code::Internal,
                format!("finding the node's place failed: {error}"),
            )),
        }
    }

    /// The replicas.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Waits until the log has failed: the node must stop then, since nothing it says is durable.
    pub async fn failure(&self) -> io::Error {
        io::Error::other(self.host.wal().failure().await)
    }

    /// Steps down, lets requests under way finish, and stops.
    pub async fn stop(self) {
        self.settled.abort();
        self.api_stop.send_replace(true);
        self.host.stop().await;
        self.api.await.ok();
        self.stop.send_replace(true);
        for task in self.tasks {
            task.abort();
            task.await.ok();
        }
        // Connections that were being served let go of the host, and with it of the folder's lock.
        let host = Arc::downgrade(&self.host);
        drop(self.host);
        let released = Instant::now() + RELEASE;
        while host.strong_count() > 0 && Instant::now() < released {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn listen(addr: &str) -> io::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))
}
