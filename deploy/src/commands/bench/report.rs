//! What was measured, as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value as Json, json};

use super::breakdown::Breakdown;
use super::driver::{Outcome, Settings};
use super::machine;
use super::own::process::Usage;
use super::plot::{self, PlotPoint};
use crate::commands::duration::show;
use crate::commands::output::{new_table, plain};

/// The percentiles that are printed: name, and quantile from 0 to 1.
const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// One run.
pub struct Run {
    /// What the clients measured.
    pub outcome: Outcome,
    /// What each process of an own cluster used: time while it was measured, memory at the end.
    pub used: Vec<(String, Usage)>,
    /// Where the time went, if that was asked for.
    pub stages: Option<Breakdown>,
    /// What the same clients reached with a bare server right afterwards, if that was asked for.
    pub bare: Option<Outcome>,
}

/// Successful operations per second.
fn per_second(outcome: &Outcome) -> f64 {
    let seconds = outcome.measured.as_secs_f64();
    if seconds > 0.0 { outcome.recorder.answered_in_time as f64 / seconds } else { 0.0 }
}

impl Run {
    /// Successful operations per second.
    pub fn per_second(&self) -> f64 {
        per_second(&self.outcome)
    }

    /// The share of the bare server's rate.
    fn of_bare(&self) -> Option<f64> {
        self.bare.as_ref().map(per_second).filter(|bare| *bare > 0.0).map(|bare| self.per_second() / bare)
    }

    /// Processor time of a process per operation, in microseconds.
    fn cpu_us(&self, usage: &Usage) -> f64 {
        usage.cpu.as_secs_f64() * 1e6 / self.outcome.recorder.answered_in_time.max(1) as f64
    }
}

/// All runs with the same settings.
pub struct Point {
    settings: Settings,
    /// In order of their throughput; never empty.
    runs: Vec<Run>,
}

impl Point {
    /// Of at least one run.
    pub fn new(settings: &Settings, mut runs: Vec<Run>) -> Self {
        runs.sort_by(|a, b| a.per_second().total_cmp(&b.per_second()));
        Self { settings: settings.clone(), runs }
    }

    /// The run with the median throughput; of an even number the slower one in the middle.
    pub fn median(&self) -> &Run {
        &self.runs[(self.runs.len() - 1) / 2]
    }

    /// The bare server's rate in the run with the median ratio, and that ratio.
    fn of_bare(&self) -> Option<(f64, f64)> {
        let ratios = self.runs.iter().filter_map(|run| Some((per_second(run.bare.as_ref()?), run.of_bare()?)));
        let mut ratios: Vec<(f64, f64)> = ratios.collect();
        ratios.sort_by(|a, b| a.1.total_cmp(&b.1));
        ratios.get(ratios.len().saturating_sub(1) / 2).copied()
    }

    fn json(&self) -> Map<String, Json> {
        let run = self.median();
        let recorder = &run.outcome.recorder;
        let used = run.used.iter().map(|(name, usage)| {
            json!({
                "name": name,
                "cpu_s": usage.cpu.as_secs_f64(),
                "cpu_us_per_operation": run.cpu_us(usage),
                "rss_bytes": usage.rss_bytes,
                "peak_rss_bytes": usage.peak_rss_bytes,
            })
        });
        let kinds = recorder.kinds.iter().map(|(kind, latency)| {
            (kind.to_string(), json!({ "succeeded": latency.len(), "latency_us": latency_json(latency) }))
        });
        let point = json!({
            "clients": self.settings.clients,
            "measured_s": run.outcome.measured.as_secs_f64(),
            "stopped_early": run.outcome.stopped_early,
            "succeeded": recorder.succeeded(),
            "failed": recorder.errors.values().sum::<u64>(),
            "errors": recorder.errors,
            "per_second": run.per_second(),
            "latency_us": latency_json(&recorder.latency_us),
            "operations": kinds.collect::<Map<_, _>>(),
            "processes": used.collect::<Vec<_>>(),
            "bare": self.of_bare().map(|(per_second, ratio)| json!({ "per_second": per_second, "ratio": ratio })),
            "breakdown": run.stages.as_ref().map(Breakdown::json),
            "runs": self.runs.iter().map(|run| json!({
                "per_second": run.per_second(),
                "latency_us": latency_json(&run.outcome.recorder.latency_us),
            })).collect::<Vec<_>>(),
        });
        match point {
            Json::Object(point) => point,
            _ => Map::new(),
        }
    }
}

/// Latencies are microseconds.
pub fn latency_json(latency: &Histogram<u64>) -> Json {
    let mut json = json!({ "mean": latency.mean(), "min": latency.min(), "max": latency.max() });
    for (name, quantile) in PERCENTILES {
        json[name] = json!(latency.value_at_quantile(quantile));
    }
    json
}

/// Runs with their settings.
pub struct Report {
    workload: &'static str,
    settings: Vec<(&'static str, Json)>,
    machine: Json,
    cluster: Json,
    points: Vec<Point>,
}

impl Report {
    /// Of at least one point; `described` are the workload's own settings.
    pub fn new(
        workload: &'static str,
        described: Vec<(&'static str, Json)>,
        machine: Json,
        cluster: Json,
        points: Vec<Point>,
    ) -> Self {
        let Settings { threads, duration, warmup, rate, .. } = points[points.len() - 1].settings.clone();
        let mut settings = vec![
            ("clients", json!(points.iter().map(|point| point.settings.clients).collect::<Vec<_>>())),
            ("threads", json!(threads)),
            ("loop", json!(if rate.is_some() { "open" } else { "closed" })),
            ("duration_s", json!(duration.as_secs_f64())),
            ("warmup_s", json!(warmup.as_secs_f64())),
            ("repeat", json!(points[0].runs.len())),
        ];
        settings.extend(rate.map(|rate| ("rate", json!(rate))));
        settings.extend(described);
        Self { workload, settings, machine, cluster, points }
    }

    /// Operations that succeeded in the runs that are reported.
    pub fn succeeded(&self) -> u64 {
        self.points.iter().map(|point| point.median().outcome.recorder.succeeded()).sum()
    }

    /// For programs. The figures of the last point also stand at the top, where those of a single one are
    /// looked for.
    pub fn json(&self) -> Json {
        let mut json = json!({
            "workload": self.workload,
            "version": env!("CARGO_PKG_VERSION"),
            "machine": self.machine,
            "cluster": self.cluster,
            "settings": self.settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect::<Map<_, _>>(),
            "points": self.points.iter().map(Point::json).collect::<Vec<_>>(),
        });
        if let (Some(json), Some(last)) = (json.as_object_mut(), self.points.last()) {
            json.extend(last.json());
        }
        json
    }

    /// Latency against throughput, a point for each number of clients.
    pub fn svg(&self) -> String {
        let points = self.points.iter().map(|point| {
            let run = point.median();
            let at = |quantile| run.outcome.recorder.latency_us.value_at_quantile(quantile) as f64;
            let (clients, per_second) = (point.settings.clients, run.per_second());
            PlotPoint { clients, per_second, p50_us: at(0.5), p99_us: at(0.99) }
        });
        let (nodes, shards) = (&self.cluster["nodes"], &self.cluster["shards"]);
        let title = format!("flotilla bench {}: {nodes} nodes, {shards} shards", self.workload);
        plot::svg(&title, &machine::text(&self.machine), &points.collect::<Vec<_>>())
    }

    /// For people.
    pub fn text(&self) -> String {
        let settings: Vec<String> =
            self.settings.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
        let mut out = format!("bench {} {}\n", self.workload, settings.join(" "));
        let _ = writeln!(out, "machine     {}", machine::text(&self.machine));
        let _ = writeln!(out, "cluster     {}", cluster_text(&self.cluster));
        match &self.points[..] {
            [point] => point_text(&mut out, point),
            points => points_text(&mut out, points),
        }
        for point in &self.points {
            if let Some(stages) = &point.median().stages {
                let _ = writeln!(out, "where the time went with {} clients", point.settings.clients);
                out += &stages.text();
            }
        }
        out
    }
}

/// A cluster for people.
pub fn cluster_text(cluster: &Json) -> String {
    let started = if cluster["started_for_this_run"] == true { ", started for this run" } else { "" };
    let rtt = match cluster["rtt_ms"].as_f64() {
        Some(rtt) if rtt > 0.0 => format!(", {rtt} ms between nodes"),
        _ => String::new(),
    };
    format!(
        "version {}, {} nodes, {} shards{started}{rtt}, {}",
        plain(&cluster["version"]),
        cluster["nodes"],
        cluster["shards"],
        plain(&cluster["url"])
    )
}

/// One point in full.
fn point_text(out: &mut String, point: &Point) {
    let run = point.median();
    let (outcome, recorder) = (&run.outcome, &run.outcome.recorder);
    let early = if outcome.stopped_early { " (stopped early)" } else { "" };
    let _ = writeln!(out, "measured    {:.2} s{early}", outcome.measured.as_secs_f64());
    let _ = writeln!(out, "succeeded   {}", recorder.succeeded());
    let _ = writeln!(out, "throughput  {:.1} /s", run.per_second());
    if point.runs.len() > 1 {
        let all: Vec<String> = point.runs.iter().map(|run| format!("{:.1}", run.per_second())).collect();
        let _ = writeln!(out, "runs        {} /s; the median is shown", all.join(", "));
    }
    if let Some((bare, ratio)) = point.of_bare() {
        let _ = writeln!(out, "bare server {bare:.1} /s; the ratio is {ratio:.2}, the median of all runs");
    }
    if !recorder.latency_us.is_empty() {
        for (name, quantile) in PERCENTILES {
            let _ = writeln!(out, "{name:<11} {}", micros(recorder.latency_us.value_at_quantile(quantile)));
        }
        let _ = writeln!(out, "max         {}", micros(recorder.latency_us.max()));
    }
    if recorder.kinds.len() > 1 {
        for (kind, latency) in &recorder.kinds {
            let (p50, p99) = (latency.value_at_quantile(0.5), latency.value_at_quantile(0.99));
            let _ = writeln!(out, "{kind:<11} {} times, p50 {}, p99 {}", latency.len(), micros(p50), micros(p99));
        }
    }
    for (code, n) in &recorder.errors {
        let _ = writeln!(out, "error       {code}: {n}");
    }
    if !run.used.is_empty() {
        let mut table = new_table(["process", "cpu, µs per operation", "memory, MiB", "peak, MiB"]);
        for (name, usage) in &run.used {
            table.add_row([
                name.clone(),
                format!("{:.1}", run.cpu_us(usage)),
                mib(usage.rss_bytes),
                mib(usage.peak_rss_bytes),
            ]);
        }
        let _ = writeln!(out, "{}", table.trim_fmt());
    }
}

/// A line per point.
fn points_text(out: &mut String, points: &[Point]) {
    let mut table = new_table(["clients", "per second", "of bare", "p50", "p99", "p99.9", "max", "failed"]);
    for point in points {
        let run = point.median();
        let latency = &run.outcome.recorder.latency_us;
        let at = |quantile| micros(latency.value_at_quantile(quantile));
        table.add_row([
            point.settings.clients.to_string(),
            format!("{:.1}", run.per_second()),
            point.of_bare().map_or_else(String::new, |(_, ratio)| format!("{ratio:.2}")),
            at(0.5),
            at(0.99),
            at(0.999),
            micros(latency.max()),
            run.outcome.recorder.errors.values().sum::<u64>().to_string(),
        ]);
    }
    let _ = writeln!(out, "{}", table.trim_fmt());
}

/// A latency for people.
pub fn micros(us: u64) -> String {
    show(Duration::from_micros(us))
}

/// Memory for people.
pub fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::driver::Recorder;

    fn run(per_second: u64) -> Run {
        let mut recorder = Recorder { answered_in_time: 2 * per_second, ..Recorder::default() };
        for us in 1..=1000 {
            recorder.latency_us.record(us * 10).unwrap();
        }
        recorder.errors.insert("unavailable".into(), 3);
        let usage = Usage { cpu: Duration::from_millis(10), rss_bytes: 3 << 20, peak_rss_bytes: 4 << 20 };
        let outcome = Outcome { recorder, measured: Duration::from_secs(2), stopped_early: true };
        Run { outcome, used: vec![("node 1".into(), usage)], stages: None, bare: None }
    }

    fn settings(clients: u32) -> Settings {
        Settings {
            url: "http://h:1".parse().unwrap(),
            clients,
            threads: 1,
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(1),
            rate: None,
        }
    }

    fn report(points: Vec<Point>) -> Report {
        Report::new("write", vec![("table", json!("bench"))], json!({ "cores": 2 }), json!({ "nodes": 3 }), points)
    }

    /// Numbers, percentiles, errors and processes in both forms; of three runs the one in the middle.
    #[test]
    fn both_forms() {
        let report = report(vec![Point::new(&settings(64), vec![run(700), run(500), run(100)])]);
        let text = report.text();
        for line in [
            "throughput  500.0 /s",
            "runs        100.0, 500.0, 700.0 /s",
            "p50         5.0 ms",
            "p99         9.9 ms",
            "error       unavailable: 3",
            "machine     2 cores",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.contains("table=bench") && text.contains("stopped early"), "{text}");
        assert!(text.contains("| node 1  | 10.0 "), "{text}");
        let json = report.json();
        assert_eq!(json["failed"], 3);
        assert_eq!(json["succeeded"], 1000);
        assert_eq!(json["settings"]["clients"], json!([64]));
        assert_eq!(json["processes"][0]["cpu_us_per_operation"], 10.0);
        assert!((4990..=5010).contains(&json["latency_us"]["p50"].as_u64().unwrap()));
    }

    /// The ratio to a bare server is the median of the runs' own ratios, whichever run is shown.
    #[test]
    fn ratios() {
        let beside = |ours: u64, bare: u64| Run { bare: Some(run(bare).outcome), ..run(ours) };
        let report =
            report(vec![Point::new(&settings(64), vec![beside(100, 1000), beside(500, 1000), beside(400, 2000)])]);
        assert!(report.text().contains("bare server 2000.0 /s; the ratio is 0.20"), "{}", report.text());
        assert_eq!(report.json()["bare"]["ratio"], 0.2);
    }

    /// Several numbers of clients are a line each.
    #[test]
    fn many_points() {
        let point = |clients, per_second| Point::new(&settings(clients), vec![run(per_second)]);
        let report = report(vec![point(1, 300), point(64, 900)]);
        let text = report.text();
        assert!(text.contains("| 1       | 300.0 ") && text.contains("| 64      | 900.0 "), "{text}");
        let json = report.json();
        assert_eq!(json["points"][0]["per_second"], 300.0);
        assert_eq!(json["per_second"], 900.0);
        assert_eq!(report.svg().matches("<circle").count(), 4);
    }
}
