//! `--breakdown`: where the time of the operations went, by the stage histograms of proxy and nodes.
//!
//! Input: `/metrics` of the proxy and of all nodes at the beginning and at the end of the measurement, so
//! nobody else may use the cluster meanwhile. Output: per stage how often, the mean, and percentiles that
//! are right to a factor of two, as the buckets are. What lies between two stages that are measured
//! (network, wake-ups) is what is left of the outer one's mean.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::own::Target;
use super::scrape::{self, Sample};
use crate::commands::CommandError;
use crate::commands::duration::show;
use crate::commands::output::new_table;

/// The stages in the order in which a request meets them: metric, stage, how deep it lies, what it is.
const STAGES: [(&str, &str, usize, &str); 13] = [
    ("flotilla_proxy", "parse", 0, "JSON to statements"),
    ("flotilla_proxy", "plan", 0, "statement to shards"),
    ("flotilla_proxy", "node", 0, "a shard's answer, network included"),
    ("flotilla_node", "queue", 1, "waiting to be proposed"),
    ("flotilla_node", "replicate", 1, "until committed"),
    ("flotilla_node", "propose", 2, "handing over to consensus"),
    ("flotilla_node", "append", 2, "log of any replica: waiting, write, sync"),
    ("flotilla_node", "fsync", 3, "one sync of a log"),
    ("flotilla_node", "apply", 1, "SQLite, the whole batch"),
    ("flotilla_node", "respond", 1, "encoding the answer"),
    ("flotilla_node", "confirm", 1, "reads: proof of leadership"),
    ("flotilla_node", "read", 1, "reads: SQLite"),
    ("flotilla_proxy", "respond", 0, "results to JSON"),
];

/// Stages on the way of a request through a node: with the network they make up the proxy's stage `node`.
const WITHIN_NODE: [&str; 6] = ["queue", "replicate", "apply", "respond", "confirm", "read"];

/// What one stage has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    count: f64,
    sum_s: f64,
    /// Cumulative, by upper bound in seconds.
    buckets: Vec<(f64, f64)>,
}

impl Times {
    fn add(&mut self, sample: &Sample, suffix: &str) {
        match suffix {
            "sum" => self.sum_s += sample.value,
            "count" => self.count += sample.value,
            "bucket" => {
                let bound = sample.label("le").and_then(|le| le.parse().ok()).unwrap_or(f64::INFINITY);
                match self.buckets.iter_mut().find(|(known, _)| *known == bound) {
                    Some((_, count)) => *count += sample.value,
                    None => self.buckets.push((bound, sample.value)),
                }
            }
            _ => (),
        }
    }

    /// What came since `before`.
    fn since(&self, before: &Self) -> Self {
        let earlier = |bound: f64| before.buckets.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, n)| *n);
        Self {
            count: self.count - before.count,
            sum_s: self.sum_s - before.sum_s,
            buckets: self.buckets.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect(),
        }
    }

    fn mean(&self) -> Duration {
        Duration::try_from_secs_f64(self.sum_s / self.count.max(1.0)).unwrap_or_default()
    }

    /// The bound of the bucket that holds this part of all times.
    fn quantile(&self, quantile: f64) -> Duration {
        let wanted = quantile * self.count;
        let bound = self.buckets.iter().find(|(_, count)| *count >= wanted).map_or(0.0, |(bound, _)| *bound);
        // The last bucket has no bound; the one before it is what is known.
        let last = self.buckets.iter().rev().map(|(bound, _)| *bound).find(|bound| bound.is_finite());
        Duration::try_from_secs_f64(if bound.is_finite() { bound } else { last.unwrap_or(0.0) }).unwrap_or_default()
    }
}

/// All stages at one moment, by metric prefix and stage.
pub type Snapshot = BTreeMap<(&'static str, String), Times>;

/// Reads all stages of proxy and nodes.
///
/// # Errors
/// When one does not answer.
pub async fn snapshot(target: &Target) -> Result<Snapshot, CommandError> {
    let mut samples = scrape::metrics(&target.url).await?;
    for node in scrape::nodes(&mut target.client()).await? {
        samples.extend(scrape::metrics(&node).await?);
    }
    Ok(collect(&samples))
}

fn collect(samples: &[Sample]) -> Snapshot {
    let mut found = Snapshot::new();
    for sample in samples {
        for prefix in ["flotilla_proxy", "flotilla_node"] {
            let rest = sample.name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix("_stage_seconds_"));
            if let (Some(suffix), Some(stage)) = (rest, sample.label("stage")) {
                found.entry((prefix, stage.to_owned())).or_default().add(sample, suffix);
            }
        }
    }
    found
}

/// What happened between two moments.
#[derive(Clone, Debug)]
pub struct Breakdown {
    stages: Snapshot,
}

impl Breakdown {
    /// From the snapshots before and after.
    pub fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let none = Times::default();
        let since = |(key, times): (&(&'static str, String), &Times)| {
            (key.clone(), times.since(before.get(key).unwrap_or(&none)))
        };
        Self { stages: after.iter().map(since).collect() }
    }

    fn times(&self, prefix: &'static str, stage: &str) -> Option<&Times> {
        self.stages.get(&(prefix, stage.to_owned())).filter(|times| times.count > 0.0)
    }

    /// What is left of the proxy's wait for a node, per wait.
    fn network(&self) -> Option<Duration> {
        let node = self.times("flotilla_proxy", "node")?;
        let within = WITHIN_NODE.iter().filter_map(|stage| self.times("flotilla_node", stage));
        let left_s = node.sum_s - within.map(|times| times.sum_s).sum::<f64>();
        Duration::try_from_secs_f64(left_s.max(0.0) / node.count).ok()
    }

    /// For programs. Times are microseconds.
    pub fn json(&self) -> Json {
        let us = |duration: Duration| duration.as_secs_f64() * 1e6;
        let stages = STAGES.iter().filter_map(|(prefix, stage, ..)| {
            let times = self.times(prefix, stage)?;
            Some(json!({
                "process": prefix.trim_start_matches("flotilla_"),
                "stage": stage,
                "count": times.count,
                "mean_us": us(times.mean()),
                "p50_us_at_most": us(times.quantile(0.5)),
                "p99_us_at_most": us(times.quantile(0.99)),
            }))
        });
        json!({ "stages": stages.collect::<Vec<_>>(), "network_and_wakeups_us": self.network().map(us) })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut table = new_table(["stage", "of", "times", "mean", "p50, at most", "p99, at most", "what"]);
        for (prefix, stage, depth, what) in STAGES {
            let Some(times) = self.times(prefix, stage) else { continue };
            table.add_row([
                // Blanks at the front would be cut off.
                format!("{}{stage}", "· ".repeat(depth)),
                prefix.trim_start_matches("flotilla_").to_owned(),
                format!("{:.0}", times.count),
                show(times.mean()),
                show(times.quantile(0.5)),
                show(times.quantile(0.99)),
                what.to_owned(),
            ]);
        }
        if let Some(network) = self.network() {
            let row = ["· network", "both", "", &show(network), "", "", "network and wake-ups: what is left of `node`"];
            table.add_row(row.map(str::to_owned));
        }
        format!("{}\n", table.trim_fmt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(node_count: u32, node_sum: f64, apply_sum: f64) -> Snapshot {
        collect(&scrape::samples(&format!(
            "flotilla_proxy_stage_seconds_count{{stage=\"node\"}} {node_count}
flotilla_proxy_stage_seconds_sum{{stage=\"node\"}} {node_sum}
flotilla_proxy_stage_seconds_bucket{{le=\"0.001\",stage=\"node\"}} {}
flotilla_proxy_stage_seconds_bucket{{le=\"0.002\",stage=\"node\"}} {node_count}
flotilla_proxy_stage_seconds_bucket{{le=\"+Inf\",stage=\"node\"}} {node_count}
flotilla_node_stage_seconds_count{{stage=\"apply\"}} {node_count}
flotilla_node_stage_seconds_sum{{stage=\"apply\"}} {apply_sum}
flotilla_node_log_fsyncs 7",
            node_count / 2
        )))
    }

    /// Only what came between the two moments counts; the network is what is left of the wait for a node.
    #[test]
    fn between_two_moments() {
        let breakdown = Breakdown::between(&moment(10, 5.0, 5.0), &moment(110, 5.2, 5.05));
        let node = breakdown.times("flotilla_proxy", "node").unwrap();
        assert_eq!(node.count, 100.0);
        assert_eq!(node.mean(), Duration::from_millis(2));
        assert_eq!(node.quantile(0.5), Duration::from_millis(1));
        assert_eq!(node.quantile(0.99), Duration::from_millis(2));
        let network = breakdown.network().unwrap();
        assert!((1499..=1501).contains(&network.as_micros()), "{network:?}");
        assert!(breakdown.times("flotilla_proxy", "plan").is_none());
        let text = breakdown.text();
        assert!(text.contains("· apply") && text.contains("| 2.0 ms") && text.contains("· network"), "{text}");
        assert_eq!(breakdown.json()["stages"][0]["stage"], "node");
    }
}
