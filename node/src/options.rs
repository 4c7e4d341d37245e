//! Settings of a node, checked before anything starts.

use std::path::PathBuf;
use std::time::Duration;

use flotilla_shared::ids::{GroupId, NodeId};
use flotilla_shared::registry::check_zone;

/// Settings of a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its id; 0 lets the registry choose.
    pub id: NodeId,
    /// Its data folder.
    pub data: PathBuf,
    /// `host:port` of its HTTP API, as others reach it.
    pub http: String,
    /// `host:port` of its internal port, as others reach it.
    pub raft: String,
    /// Address to listen on instead of the hosts above: `0.0.0.0` behind a port mapping.
    pub bind_address: Option<String>,
    /// Internal addresses of the nodes that make a new cluster together, this one included.
    pub seed_nodes: Vec<String>,
    /// Internal address of any node of a cluster to join.
    pub join: Option<String>,
    /// Groups to hold a replica of, at bootstrap or when joining.
    pub groups: Vec<GroupId>,
    /// Where it stands: a data centre, a rack; whatever fails together.
    pub zone: Option<String>,
    /// Shortest silence of a leader after which a follower stands for election.
    pub election_timeout_min: Duration,
    /// Longest such silence.
    pub election_timeout_max: Duration,
    /// Pause between heartbeats, which go out together for all groups that the node leads.
    pub heartbeat_interval: Duration,
    /// Entries after which the log is compacted.
    pub snapshot_threshold: u64,
    /// Bytes of entries that the log of all groups holds; above, it is compacted before it has that many entries.
    pub max_log_bytes: u64,
    /// Read-only connections kept per group.
    pub readers: usize,
    /// Extra time before each sync of the log: for tests of slow disks.
    pub fsync_delay: Duration,
    /// A folder that tells the drivers of moves where to wait: for tests that kill something there.
    pub pauses: Option<PathBuf>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            id: NodeId(0),
            data: PathBuf::from("flotilla-data"),
            http: "127.0.0.1:11001".into(),
            raft: "127.0.0.1:11002".into(),
            bind_address: None,
            seed_nodes: vec![],
            join: None,
            groups: vec![],
            zone: None,
            election_timeout_min: Duration::from_millis(600),
            election_timeout_max: Duration::from_millis(1200),
            heartbeat_interval: Duration::from_millis(150),
            snapshot_threshold: 10_000,
            // A start reads it in less than a second; and followers that are some hundred megabytes behind still
            // get entries, not all pages.
            max_log_bytes: 512 << 20,
            readers: 4,
            fsync_delay: Duration::ZERO,
            pauses: None,
        }
    }
}

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting `{name}`: {why}")]
pub struct BadSetting {
    /// The setting, as on the command line without dashes.
    pub name: &'static str,
    /// Why.
    pub why: String,
}

impl NodeOptions {
    /// Checks all settings.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), BadSetting> {
        let bad = |name, why: &str| Err(BadSetting { name, why: why.to_owned() });
        for (name, addr) in [("http", &self.http), ("raft", &self.raft)] {
            if !is_host_port(addr) {
                return bad(name, &format!("`{addr}` is not host:port"));
            }
        }
        if let Some(addr) = self.seed_nodes.iter().find(|addr| !is_host_port(addr)) {
            return bad("seed-nodes", &format!("`{addr}` is not host:port"));
        }
        if self.join.as_ref().is_some_and(|addr| !is_host_port(addr)) {
            return bad("join", "it is the host:port of a node's internal port");
        }
        if !self.seed_nodes.is_empty() && self.join.is_none() && !self.seed_nodes.contains(&self.raft) {
            return bad("seed-nodes", &format!("this node's own address `{}` must be among them", self.raft));
        }
        if let Some(Err(error)) = self.zone.as_deref().map(check_zone) {
            return bad("zone", &format!("{}; {}", error.message, error.hint));
        }
        if self.election_timeout_min >= self.election_timeout_max {
            return bad("election-timeout-min", "it must be less than election-timeout-max");
        }
        if self.heartbeat_interval * 2 > self.election_timeout_min {
            return bad("heartbeat-interval", "it must be at most half of election-timeout-min");
        }
        if self.heartbeat_interval < Duration::from_millis(5) {
            return bad("heartbeat-interval", "it must be at least 5ms");
        }
        if !(16..=10_000_000).contains(&self.snapshot_threshold) {
            return bad("snapshot-threshold", "it must be from 16 to 10000000 entries");
        }
        if self.max_log_bytes < 1 << 20 {
            return bad("max-log-bytes", "it must be at least 1048576");
        }
        if !(1..=1024).contains(&self.readers) {
            return bad("readers", "it must be from 1 to 1024");
        }
        Ok(())
    }

    /// Where to listen for an address that others use.
    pub fn listen_on(&self, public: &str) -> String {
        match (&self.bind_address, public.rsplit_once(':')) {
            (Some(host), Some((_, port))) => format!("{host}:{port}"),
            _ => public.to_owned(),
        }
    }
}

fn is_host_port(addr: &str) -> bool {
    addr.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each bad setting is refused by its name.
    #[test]
    fn bad_settings_are_named() {
        let with = |change: fn(&mut NodeOptions)| {
            let mut options = NodeOptions::default();
            change(&mut options);
            options.check().err().map(|bad| bad.name)
        };
        assert_eq!(with(|_| ()), None);
        assert_eq!(with(|o| o.http = "nonsense".into()), Some("http"));
        assert_eq!(with(|o| o.raft = ":1".into()), Some("raft"));
        assert_eq!(with(|o| o.seed_nodes = vec!["a:1".into()]), Some("seed-nodes"));
        assert_eq!(with(|o| o.election_timeout_min = Duration::from_secs(9)), Some("election-timeout-min"));
        assert_eq!(with(|o| o.heartbeat_interval = Duration::from_secs(1)), Some("heartbeat-interval"));
        assert_eq!(with(|o| o.snapshot_threshold = 1), Some("snapshot-threshold"));
        assert_eq!(with(|o| o.max_log_bytes = 1), Some("max-log-bytes"));
        assert_eq!(with(|o| o.zone = Some("eu west".into())), Some("zone"));
        assert_eq!(with(|o| o.join = Some("x".into())), Some("join"));
    }
}
