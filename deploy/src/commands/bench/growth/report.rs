//! What was measured, as text and as JSON.

use serde_json::{Value as Json, json};

use super::super::machine;
use super::super::report::{cluster_text, latency_json, mib, micros};
use super::restart::Restart;
use super::{GrowthArgs, Step};
use crate::commands::duration::show;
use crate::commands::output::new_table;

impl Step {
    fn per_second(&self) -> f64 {
        self.outcome.recorder.answered_in_time as f64 / self.outcome.measured.as_secs_f64().max(1e-9)
    }

    fn at(&self, quantile: f64) -> u64 {
        self.outcome.recorder.latency_us.value_at_quantile(quantile)
    }

    /// A percentile as a multiple of that with fewer rows.
    fn of_first(&self, first: &Self, quantile: f64) -> f64 {
        self.at(quantile) as f64 / first.at(quantile).max(1) as f64
    }

    fn json(&self, first: &Self) -> Json {
        let recorder = &self.outcome.recorder;
        let [databases, logs]: [Vec<u64>; 2] = [0, 1].map(|part| self.files.iter().map(|file| file[part]).collect());
        let held = self.held.iter().map(|(name, usage)| {
            json!({ "name": name, "rss_bytes": usage.rss_bytes, "peak_rss_bytes": usage.peak_rss_bytes })
        });
        json!({
            "rows": self.rows,
            "load_s": self.load.as_secs_f64(),
            "per_second": self.per_second(),
            "succeeded": recorder.succeeded(),
            "failed": recorder.errors.values().sum::<u64>(),
            "errors": recorder.errors,
            "latency_us": latency_json(&recorder.latency_us),
            "p50_of_first": self.of_first(first, 0.5),
            "p99_of_first": self.of_first(first, 0.99),
            "compaction": {
                "share_of_time": self.slices.busy_share,
                "with_us": latency_json(&self.slices.busy_us),
                "without_us": latency_json(&self.slices.quiet_us),
                "p99_ratio": self.slices.ratio(0.99),
            },
            "database_bytes": databases,
            "log_bytes": logs,
            "processes": held.collect::<Vec<_>>(),
        })
    }
}

/// For programs.
pub fn json(args: &GrowthArgs, machine: Json, cluster: Json, steps: &[Step], restart: Option<&Restart>) -> Json {
    json!({
        "workload": "growth",
        "version": env!("CARGO_PKG_VERSION"),
        "machine": machine,
        "cluster": cluster,
        "settings": {
            "rows": args.rows, "row_bytes": args.row_bytes, "clients": args.clients,
            "duration_s": args.duration.as_secs_f64(), "warmup_s": args.warmup.as_secs_f64(),
        },
        "steps": steps.iter().map(|step| step.json(&steps[0])).collect::<Vec<_>>(),
        "restart": restart.map(|restart| json!({
            "answers_s": restart.answers.as_secs_f64(),
            "caught_up_s": restart.caught_up.as_secs_f64(),
            "ready_s": restart.ready.as_secs_f64(),
        })),
    })
}

/// For people.
pub fn text(args: &GrowthArgs, machine: &Json, cluster: &Json, steps: &[Step], restart: Option<&Restart>) -> String {
    let (clients, row_bytes) = (args.clients, args.row_bytes);
    let mut text = format!(
        "bench growth clients={clients} row_bytes={row_bytes} duration_s={}\nmachine     {}\ncluster     {}\n",
        args.duration.as_secs_f64(),
        machine::text(machine),
        cluster_text(cluster)
    );
    let mut writes =
        new_table(["rows", "loaded in", "per second", "p50", "p99", "longest", "p50, p99 of first", "failed"]);
    let mut compaction =
        new_table(["rows", "compacting, % of time", "p99 without", "p99 with", "ratio", "longest without", "with"]);
    let mut sizes = new_table(["rows", "databases, MiB", "logs, MiB", "memory, MiB"]);
    for step in steps {
        let latency = &step.outcome.recorder.latency_us;
        let [p50, p99] = [0.5, 0.99].map(|quantile| step.of_first(&steps[0], quantile));
        writes.add_row([
            step.rows.to_string(),
            show(step.load),
            format!("{:.1}", step.per_second()),
            micros(step.at(0.5)),
            micros(step.at(0.99)),
            micros(latency.max()),
            format!("{p50:.2}, {p99:.2}"),
            step.outcome.recorder.errors.values().sum::<u64>().to_string(),
        ]);
        let (quiet, busy) = (&step.slices.quiet_us, &step.slices.busy_us);
        compaction.add_row([
            step.rows.to_string(),
            format!("{:.0}", 100.0 * step.slices.busy_share),
            micros(quiet.value_at_quantile(0.99)),
            micros(busy.value_at_quantile(0.99)),
            step.slices.ratio(0.99).map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            micros(quiet.max()),
            micros(busy.max()),
        ]);
        let list = |bytes: Vec<u64>| bytes.into_iter().map(mib).collect::<Vec<_>>().join(", ");
        sizes.add_row([
            step.rows.to_string(),
            list(step.files.iter().map(|file| file[0]).collect()),
            list(step.files.iter().map(|file| file[1]).collect()),
            list(step.held.iter().map(|(_, usage)| usage.rss_bytes).collect()),
        ]);
    }
    for table in [writes, compaction, sizes] {
        text += &format!("{}\n", table.trim_fmt());
    }
    if let Some(restart) = restart {
        let [answers, caught_up, ready] = [restart.answers, restart.caught_up, restart.ready].map(show);
        text += &format!("restart     answers after {answers}, caught up after {caught_up}, ready after {ready}\n");
    }
    text
}
