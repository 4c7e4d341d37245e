//! Settings of a node: flags, and the same in `flotilla.toml`. A flag wins over the node's own table
//! in the file, which wins over the keys above it. What is unknown or cannot be stops the start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_node::options::NodeOptions;
use flotilla_shared::ids::{GroupId, NodeId};
use serde::{Deserialize, Deserializer};

use crate::commands::duration;

/// Settings of one node; what is absent keeps its default.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSettings {
    /// Id of this node, from 1; the registry chooses one for a node that joins without
    #[arg(long, value_name = "N")]
    pub id: Option<NodeId>,
    /// Folder of this node: log segments, and one SQLite file per group
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address of the node's HTTP API, as others reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Address where nodes and proxies reach this node
    #[arg(long, value_name = "HOST:PORT")]
    pub raft: Option<String>,
    /// Listen on this host instead of the ones above, for containers and NAT
    #[arg(long, value_name = "HOST")]
    pub bind_address: Option<String>,
    /// Raft addresses of the nodes that form a new cluster, this one included
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub seed_nodes: Option<Vec<String>>,
    /// Join the cluster of the node with this Raft address
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,
    /// Groups to hold a replica of: meta, shard1, shard2, …
    #[arg(long, value_name = "GROUP,…", value_delimiter = ',')]
    pub groups: Option<Vec<GroupId>>,
    /// Where this node stands: a data centre, a rack; whatever fails together
    #[arg(long, value_name = "NAME", env = "FLOTILLA_ZONE")]
    pub zone: Option<String>,
    /// Shortest silence of a leader before an election [default: 600ms]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    #[serde(deserialize_with = "time")]
    pub election_timeout_min: Option<Duration>,
    /// Longest such silence [default: 1200ms]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    #[serde(deserialize_with = "time")]
    pub election_timeout_max: Option<Duration>,
    /// Pause between heartbeats, which go out together for all groups that the node leads [default: 150ms]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    #[serde(deserialize_with = "time")]
    pub heartbeat_interval: Option<Duration>,
    /// Log entries of a group after which its log is compacted [default: 10000]
    #[arg(long, value_name = "N")]
    pub snapshot_threshold: Option<u64>,
    /// Bytes of log entries of all groups after which the log is compacted, too [default: 536870912]
    #[arg(long, value_name = "BYTES")]
    pub max_log_bytes: Option<u64>,
    /// Also run a proxy on this address
    #[arg(long, value_name = "HOST:PORT")]
    pub proxy: Option<String>,
    /// error, warn, info, debug or trace; also by module: info,flotilla_node=debug
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Extra time before each sync of the log, to test slow disks
    #[arg(long, value_name = "TIME", value_parser = duration::parse, hide = true)]
    #[serde(deserialize_with = "time")]
    pub test_fsync_delay: Option<Duration>,
    /// A folder that tells the drivers of moves where to wait, to test what a crash there does
    #[arg(long, value_name = "DIR", hide = true)]
    pub test_pauses: Option<PathBuf>,
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse(&text).map(Some).map_err(serde::de::Error::custom)
}

impl NodeSettings {
    /// These settings, with `below` where they say nothing.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            id: self.id.or(below.id),
            data: self.data.or(below.data),
            http: self.http.or(below.http),
            raft: self.raft.or(below.raft),
            bind_address: self.bind_address.or(below.bind_address),
            seed_nodes: self.seed_nodes.or(below.seed_nodes),
            join: self.join.or(below.join),
            groups: self.groups.or(below.groups),
            zone: self.zone.or(below.zone),
            election_timeout_min: self.election_timeout_min.or(below.election_timeout_min),
            election_timeout_max: self.election_timeout_max.or(below.election_timeout_max),
            heartbeat_interval: self.heartbeat_interval.or(below.heartbeat_interval),
            snapshot_threshold: self.snapshot_threshold.or(below.snapshot_threshold),
            max_log_bytes: self.max_log_bytes.or(below.max_log_bytes),
            proxy: self.proxy.or(below.proxy),
            log_level: self.log_level.or(below.log_level),
            log_format: self.log_format.or(below.log_format),
            test_fsync_delay: self.test_fsync_delay.or(below.test_fsync_delay),
            test_pauses: self.test_pauses.or(below.test_pauses),
        }
    }

    /// Reads a file: its top level, below the table of node `index` (from 1).
    ///
    /// # Errors
    /// What is wrong with it, by name.
    pub fn read(path: &Path, index: Option<usize>) -> Result<Self, String> {
        let text =
            std::fs::read_to_string(path).map_err(|error| format!("setting `config`: {}: {error}", path.display()))?;
        Self::parse(&text, index).map_err(|why| format!("{}: {why}", path.display()))
    }

    fn parse(text: &str, index: Option<usize>) -> Result<Self, String> {
        let mut file: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        let nodes = match file.remove("nodes") {
            None => vec![],
            Some(toml::Value::Array(nodes)) => nodes,
            Some(_) => return Err("setting `nodes`: it is a list of tables, [[nodes]]".to_owned()),
        };
        let common: Self = file.try_into().map_err(|error| error.to_string())?;
        let own = match (index, nodes.len()) {
            (None, 0) => return Ok(common),
            (None, 1) => 1,
            (None, count) => return Err(format!("setting `index`: the file lists {count} nodes; say which, from 1")),
            (Some(index), count) if (1..=count).contains(&index) => index,
            (Some(index), count) => return Err(format!("setting `index`: {index} of {count} nodes")),
        };
        let own: Self =
            nodes[own - 1].clone().try_into().map_err(|error: toml::de::Error| format!("nodes[{own}]: {error}"))?;
        Ok(own.over(common))
    }

    /// The node's options, checked.
    ///
    /// # Errors
    /// The setting that cannot be, by name.
    pub fn options(&self) -> Result<NodeOptions, String> {
        let default = NodeOptions::default();
        let options = NodeOptions {
            id: self.id.unwrap_or(default.id),
            data: self.data.clone().unwrap_or(default.data),
            http: self.http.clone().unwrap_or(default.http),
            raft: self.raft.clone().unwrap_or(default.raft),
            bind_address: self.bind_address.clone(),
            seed_nodes: self.seed_nodes.clone().unwrap_or_default(),
            join: self.join.clone(),
            groups: self.groups.clone().unwrap_or_default(),
            zone: self.zone.clone(),
            election_timeout_min: self.election_timeout_min.unwrap_or(default.election_timeout_min),
            election_timeout_max: self.election_timeout_max.unwrap_or(default.election_timeout_max),
            heartbeat_interval: self.heartbeat_interval.unwrap_or(default.heartbeat_interval),
            snapshot_threshold: self.snapshot_threshold.unwrap_or(default.snapshot_threshold),
            max_log_bytes: self.max_log_bytes.unwrap_or(default.max_log_bytes),
            readers: default.readers,
            fsync_delay: self.test_fsync_delay.unwrap_or(default.fsync_delay),
            pauses: self.test_pauses.clone(),
        };
        options.check().map_err(|bad| bad.to_string())?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file that is shipped starts each of its nodes.
    #[test]
    fn the_shipped_file_works() {
        let text = include_str!("../flotilla.example.toml");
        for index in 1..=3 {
            let options = NodeSettings::parse(text, Some(index)).unwrap().options().unwrap();
            assert_eq!(options.id, NodeId(index as u64));
            assert_eq!(options.groups.len(), 4);
            assert_eq!(options.seed_nodes.len(), 3);
        }
        assert!(NodeSettings::parse(text, None).unwrap_err().contains("index"));
        assert!(NodeSettings::parse(text, Some(4)).unwrap_err().contains("index"));
        let uncommented: String = text
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let options = NodeSettings::parse(&uncommented, Some(1)).unwrap().options().unwrap();
        assert_eq!(options.bind_address.as_deref(), Some("0.0.0.0"));
        assert_eq!(options.zone.as_deref(), Some("rack1"));
        assert_eq!(options.election_timeout_max, Duration::from_millis(1200));
    }

    /// What is unknown or cannot be is named.
    #[test]
    fn bad_settings_are_named() {
        assert!(NodeSettings::parse("colour = 1", None).unwrap_err().contains("colour"));
        assert!(NodeSettings::parse("[[nodes]]\nhtpp = \"a:1\"", Some(1)).unwrap_err().contains("htpp"));
        assert!(NodeSettings::parse("heartbeat_interval = \"fast\"", None).unwrap_err().contains("fast"));
        let bad = NodeSettings { http: Some("x".into()), ..NodeSettings::default() };
        assert!(bad.options().unwrap_err().contains("`http`"));
    }

    /// A flag wins over the node's table, which wins over the top of the file.
    #[test]
    fn flags_win() {
        let file = "http = \"a:1\"\nraft = \"b:2\"\n[[nodes]]\nraft = \"c:3\"";
        let flags = NodeSettings { id: Some(NodeId(9)), ..NodeSettings::default() };
        let all = flags.over(NodeSettings::parse(file, Some(1)).unwrap());
        assert_eq!((all.id, all.http.as_deref(), all.raft.as_deref()), (Some(NodeId(9)), Some("a:1"), Some("c:3")));
    }
}
