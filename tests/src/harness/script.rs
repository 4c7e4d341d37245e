//! The scripts in `deploy`, run as a user would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::binary::{flotilla, repository};
use super::ports::free_ports;
use super::session::Session;

/// Runs one of the scripts to its end.
///
/// # Panics
/// When it cannot be run at all.
pub fn run(script: &str, args: &[&str]) -> Output {
    let mut command = Command::new(repository().join("deploy").join(script));
    command.args(args).stdin(Stdio::null()).output().expect("the script can be run")
}

/// What a command printed, errors behind the rest.
pub fn text(output: &Output) -> String {
    [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat()
}

/// A cluster that `deploy/cluster.sh` starts; it ends with this value, whatever happens.
pub struct ScriptedCluster {
    data: PathBuf,
    proxy: String,
}

impl ScriptedCluster {
    /// Starts one with three replicas of `meta` and of each shard, its data in a new folder in `folder`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn up(folder: &Path, shards: u16) -> (Self, String) {
        // Two ports for each node, and one for the proxy.
        let count = 6 * (shards + 1);
        let base = free_ports(u32::from(count) + 1);
        let port = base + count;
        let cluster = Self { data: folder.join("cluster"), proxy: format!("127.0.0.1:{port}") };
        let (shards, base, port) = (shards.to_string(), base.to_string(), port.to_string());
        let binary = flotilla().to_str().expect("paths are texts");
        let args =
            ["up", "--shards", &shards, "--replicas", "3", "--base-port", &base, "--port", &port, "--bin", binary];
        let shown = cluster.run(&args);
        (cluster, shown)
    }

    /// Runs a command of `deploy/cluster.sh` on it.
    ///
    /// # Panics
    /// When the command fails.
    pub fn run(&self, args: &[&str]) -> String {
        let output = run("cluster.sh", &[args, &["--data", self.data()]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        text(&output)
    }

    /// Its folder.
    pub fn data(&self) -> &str {
        self.data.to_str().expect("paths are texts")
    }

    /// Where its proxy is.
    pub fn proxy(&self) -> &str {
        &self.proxy
    }

    /// A client of its proxy.
    pub fn session(&self) -> Session {
        Session::new([self.proxy.clone()])
    }
}

impl Drop for ScriptedCluster {
    fn drop(&mut self) {
        run("cluster.sh", &["destroy", "--data", self.data.to_str().unwrap_or_default()]);
    }
}
