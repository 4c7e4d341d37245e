//! `/metrics` of a node, read from its parts when asked, so that nothing is counted twice.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::host::Host;

type PerGroup = Family<Vec<(&'static str, String)>, Gauge>;

type Seconds = Counter<f64, AtomicU64>;

/// The OpenMetrics text.
pub fn render(host: &Host) -> String {
    let mut registry = Registry::with_prefix("flotilla_node");
    let mut family = |name: &str, help: &str| {
        let family = PerGroup::default();
        registry.register(name, help, family.clone());
        family
    };
    let leader = family("leader", "1 when this node leads the group");
    let term = family("term", "Term of the group");
    let last_log = family("last_log_index", "Index of the last log entry");
    let committed = family("committed_index", "Index of the last entry known to be committed");
    let applied = family("applied_index", "Index of the last entry applied");
    let purged = family("purged_index", "Index up to which the log was purged");
    let reads = family("reads", "Reads that this node's replica was asked and could begin, since its start");
    let checkpoints = Family::<Vec<(&'static str, String)>, Seconds>::default();
    let help = "Time during which a database was being made durable, up to now";
    registry.register_with_unit("checkpoint", help, Unit::Seconds, checkpoints.clone());
    for replica in host.replicas() {
        let labels = vec![("group", replica.group().to_string())];
        let took = replica.state().store().checkpoints().total();
        checkpoints.get_or_create(&labels).inc_by(took.as_secs_f64());
        reads.get_or_create(&labels).set(replica.reads().served() as i64);
    }
    let status = host.status();
    for replica in status.replicas {
        let labels = vec![("group", replica.group.to_string())];
        leader.get_or_create(&labels).set(i64::from(replica.role == "leader"));
        term.get_or_create(&labels).set(replica.term as i64);
        last_log.get_or_create(&labels).set(replica.last_log as i64);
        committed.get_or_create(&labels).set(replica.committed as i64);
        applied.get_or_create(&labels).set(replica.applied as i64);
        purged.get_or_create(&labels).set(replica.purged as i64);
    }
    let stats = host.wal().stats();
    let purges = Seconds::default();
    purges.inc_by(stats.purges.total().as_secs_f64());
    let help = "Time during which entries and segments of the log were being removed, up to now";
    registry.register_with_unit("log_purge", help, Unit::Seconds, purges);
    let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value as i64);
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, gauge),
            None => registry.register(name, help, gauge),
        }
    };
    gauge("log_fsyncs", "Syncs of the log since start", None, stats.fsyncs.load(Ordering::Relaxed));
    gauge("log_records", "Records written to the log since start", None, stats.records.load(Ordering::Relaxed));
    gauge("log_segments", "Segment files of the log", None, stats.segments.load(Ordering::Relaxed));
    gauge("log_written", "Written to the log since start", Some(Unit::Bytes), stats.bytes.load(Ordering::Relaxed));
    let waiting = host.waiting().taken_bytes() as u64;
    gauge("waiting_writes", "Writes that wait to be proposed", Some(Unit::Bytes), waiting);
    let live = stats.live_bytes.load(Ordering::Relaxed);
    gauge("log_live", "Entries and marks of the log that are still needed", Some(Unit::Bytes), live);
    gauge("log_queue", "Waiting for the log", Some(Unit::Bytes), stats.queue_bytes.load(Ordering::Relaxed));
    if let Some(balancer) = status.balancer {
        gauge("balancer_on", "1 when leaders are spread over the nodes", None, u64::from(balancer.on));
        gauge("balancer_even", "1 when no leader is left to move", None, u64::from(balancer.even));
        gauge("balancer_handed_over", "Hand-overs made since this node leads meta", None, balancer.handed_over);
        gauge("balancer_failed", "Hand-overs that failed since this node leads meta", None, balancer.failed);
    }
    stats.stages.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a string succeeds");
    text
}
