//! Where the time of requests goes: one histogram per stage, for `/metrics`.
//!
//! Recording is two relaxed additions to memory that all threads share: no lock and no allocation, since it
//! happens several times per request. Bounds are powers of two of a microsecond, so a percentile read from
//! them is right to a factor of two; sums are exact. Each figure is exact by itself, two of them read
//! together may be a moment apart.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

/// Bounds: from 1 µs, below which nothing here is worth a look, to 8.4 s, near every deadline. One more
/// bucket holds the rest.
const BOUNDS: usize = 24;

/// The upper bound of a bucket, in seconds.
fn bound_s(bucket: usize) -> f64 {
    match bucket {
        BOUNDS => f64::INFINITY,
        bucket => (1u64 << bucket) as f64 / 1e6,
    }
}

/// The first bucket that holds a time of that many nanoseconds.
fn bucket_of(ns: u64) -> usize {
    let us = ns.div_ceil(1000).max(1);
    ((u64::BITS - (us - 1).leading_zeros()) as usize).min(BOUNDS)
}

/// The times of one stage.
#[derive(Debug, Default)]
struct Times {
    /// Not cumulative.
    buckets: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

/// The stages of one kind of process. Clones share their times.
#[derive(Clone)]
pub struct Stages {
    names: &'static [&'static str],
    times: Arc<[Times]>,
}

impl Stages {
    /// Stages with these names; they are numbered in that order from 0.
    pub fn new(names: &'static [&'static str]) -> Self {
        Self { names, times: names.iter().map(|_| Times::default()).collect() }
    }

    /// Records that a stage took so long.
    pub fn observe(&self, stage: usize, took: Duration) {
        self.observe_all(stage, took, 1);
    }

    /// The same for several requests that went through it together.
    pub fn observe_all(&self, stage: usize, took: Duration, requests: u64) {
        let Some(times) = self.times.get(stage) else { return };
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        times.buckets[bucket_of(ns)].fetch_add(requests, Relaxed);
        times.sum_ns.fetch_add(ns.saturating_mul(requests), Relaxed);
    }

    /// How often a stage was recorded.
    pub fn count(&self, stage: usize) -> u64 {
        self.times.get(stage).map_or(0, |times| times.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum())
    }

    /// Adds all to what a process shows, as `stage_seconds` with the label `stage`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit("stage", "Time that requests spent in each stage", Unit::Seconds, self.clone());
    }
}

impl fmt::Debug for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names).finish()
    }
}

impl EncodeMetric for Stages {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, times) in self.names.iter().zip(self.times.iter()) {
            let labels = [("stage", *name)];
            let loaded = times.buckets.iter().enumerate().map(|(n, bucket)| (bound_s(n), bucket.load(Relaxed)));
            let buckets: Vec<(f64, u64)> = loaded.collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum_s = times.sum_ns.load(Relaxed) as f64 / 1e9;
            encoder.encode_family(&labels)?.encode_histogram::<[(&str, &str); 0]>(sum_s, count, &buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Stages {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time falls into the first bucket whose bound it does not exceed.
    #[test]
    fn buckets() {
        for (ns, bucket) in [(0, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (4000, 2), (4001, 3)] {
            assert_eq!(bucket_of(ns), bucket, "{ns} ns");
            assert!(ns as f64 / 1e9 <= bound_s(bucket));
        }
        assert_eq!(bucket_of(8_388_608_000), BOUNDS - 1);
        assert_eq!(bucket_of(8_388_608_001), BOUNDS);
        assert_eq!(bucket_of(u64::MAX), BOUNDS);
    }

    /// What was recorded is shown in seconds, cumulative, under the stage's name.
    #[test]
    fn shown() {
        let stages = Stages::new(&["parse", "plan"]);
        stages.observe(1, Duration::from_micros(3));
        stages.observe(1, Duration::from_secs(60));
        stages.observe(7, Duration::from_secs(60));
        assert_eq!((stages.count(0), stages.count(1), stages.count(7)), (0, 2, 0));
        let mut registry = Registry::with_prefix("x");
        stages.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "x_stage_seconds_sum{stage=\"plan\"} 60.000003",
            "x_stage_seconds_count{stage=\"plan\"} 2",
            "x_stage_seconds_count{stage=\"parse\"} 0",
            "x_stage_seconds_bucket{le=\"0.000002\",stage=\"plan\"} 0",
            "x_stage_seconds_bucket{le=\"0.000004\",stage=\"plan\"} 1",
            "x_stage_seconds_bucket{le=\"8.388608\",stage=\"plan\"} 1",
            "x_stage_seconds_bucket{le=\"+Inf\",stage=\"plan\"} 2",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
    }
}
