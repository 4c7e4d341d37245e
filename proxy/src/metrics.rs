//! What the proxy counts, in the OpenMetrics text form.

use std::fmt::Write as _;
use std::time::Duration;

use flotilla_shared::stages::Stages;
use flotilla_shared::value::Value;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry as Metered;

/// Which call, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    /// The path, its variable parts left out.
    pub call: &'static str,
    /// The HTTP status.
    pub status: u16,
}

/// Which call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabel {
    /// The path, its variable parts left out.
    pub call: &'static str,
}

/// Which kind of plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PlanLabel {
    /// `one`, `some`, `all`, `staged`, `local` or `refused`.
    pub class: &'static str,
}

/// Why something was tried again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RetryLabel {
    /// `stale_route`, `key_collision` or `fenced`.
    pub reason: &'static str,
}

/// Where the time of a statement goes in a proxy. These follow each other; what the HTTP connection takes
/// is outside of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the body to statements with arguments, once per request.
    Parse,
    /// From there to a plan: looking the statement up or preparing it, keys, slots.
    Plan,
    /// From the sending of a shard's part until its answer is there: the network, and all that the node does.
    Node,
    /// From results to the body of the answer, once per request.
    Respond,
}

/// In the order of [`Stage`].
const STAGES: &[&str] = &["parse", "plan", "node", "respond"];

/// All counters.
pub struct Metrics {
    stages: Stages,
    metered: Metered,
    requests: Family<CallLabels, Counter>,
    seconds: Family<CallLabel, Histogram>,
    plans: Family<PlanLabel, Counter>,
    hits: Counter,
    misses: Counter,
    retries: Family<RetryLabel, Counter>,
    rows_pulled: Counter,
    bytes_pulled: Counter,
    registry_version: Gauge,
    schema_version: Gauge,
    cached: Gauge,
}

/// From 0.1 ms, below what one hop takes, to over a minute, beyond any deadline.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 20))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            stages: Stages::new(STAGES),
            metered: Metered::with_prefix("flotilla_proxy"),
            requests: Family::default(),
            seconds: Family::new_with_constructor(latency),
            plans: Family::default(),
            hits: Counter::default(),
            misses: Counter::default(),
            retries: Family::default(),
            rows_pulled: Counter::default(),
            bytes_pulled: Counter::default(),
            registry_version: Gauge::default(),
            schema_version: Gauge::default(),
            cached: Gauge::default(),
        };
        let m = &mut metrics.metered;
        metrics.stages.register(m);
        m.register("requests", "Requests by call and status", metrics.requests.clone());
        m.register("request_seconds", "Time from request to answer, in seconds", metrics.seconds.clone());
        m.register("plans", "Plans by class", metrics.plans.clone());
        m.register("statement_cache_hits", "Statements whose analysis was at hand", metrics.hits.clone());
        m.register("statement_cache_misses", "Statements that were analyzed", metrics.misses.clone());
        m.register("retries", "Statements planned or sent again, by reason", metrics.retries.clone());
        m.register("rows_pulled", "Rows that shards answered to reads", metrics.rows_pulled.clone());
        m.register(
            "bytes_pulled",
            "Bytes of values in rows that shards answered to reads",
            metrics.bytes_pulled.clone(),
        );
        m.register("registry_version", "Version of the registry at hand", metrics.registry_version.clone());
        m.register("schema_version", "Version of the schema at hand", metrics.schema_version.clone());
        m.register("statements_cached", "Statements whose analysis is kept", metrics.cached.clone());
        metrics
    }
}

impl Metrics {
    /// Records that a stage took so long.
    pub fn took(&self, stage: Stage, took: Duration) {
        self.stages.observe(stage as usize, took);
    }

    /// Counts an answered request.
    pub fn answered(&self, call: &'static str, status: u16, took: Duration) {
        self.requests.get_or_create(&CallLabels { call, status }).inc();
        self.seconds.get_or_create(&CallLabel { call }).observe(took.as_secs_f64());
    }

    /// Counts a plan.
    pub fn planned(&self, class: &'static str) {
        self.plans.get_or_create(&PlanLabel { class }).inc();
    }

    /// Counts a look into the statement cache.
    pub fn looked_up(&self, hit: bool) {
        if hit { &self.hits } else { &self.misses }.inc();
    }

    /// Counts a retry.
    pub fn retried(&self, reason: &'static str) {
        self.retries.get_or_create(&RetryLabel { reason }).inc();
    }

    /// Counts rows that a shard answered to a read.
    pub fn pulled(&self, rows: &[Vec<Value>]) {
        self.rows_pulled.inc_by(rows.len() as u64);
        self.bytes_pulled.inc_by(rows.iter().flatten().map(Value::size_bytes).sum::<usize>() as u64);
    }

    /// The text, with gauges set to what is at hand.
    pub fn text(&self, registry_version: u64, schema_version: u64, cached: usize) -> String {
        self.registry_version.set(registry_version as i64);
        self.schema_version.set(schema_version as i64);
        self.cached.set(cached as i64);
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.metered) {
            // A String takes all, so this is a fault in a metric; say so in the text's own form.
            write!(text, "# {error}").ok();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each stage has its own name and is shown under it.
    #[test]
    fn stages_are_shown() {
        assert_eq!(STAGES.len(), Stage::Respond as usize + 1);
        let metrics = Metrics::default();
        metrics.took(Stage::Node, Duration::from_millis(1));
        let line = "flotilla_proxy_stage_seconds_count{stage=\"node\"} 1";
        assert!(metrics.text(1, 1, 0).lines().any(|found| found == line));
    }

    /// What shards answered is counted in rows and in bytes of their values.
    #[test]
    fn rows_pulled_are_counted() {
        let metrics = Metrics::default();
        let row = vec![Value::Integer(1), Value::Text("abc".into())];
        let bytes = 2 * row.iter().map(Value::size_bytes).sum::<usize>();
        metrics.pulled(&[row.clone(), row]);
        let text = metrics.text(1, 1, 0);
        for line in
            ["flotilla_proxy_rows_pulled_total 2".to_owned(), format!("flotilla_proxy_bytes_pulled_total {bytes}")]
        {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
