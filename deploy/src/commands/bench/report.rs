//! What was measured, as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::driver::{Outcome, Settings};
use crate::commands::duration::show;

/// The percentiles that are printed: name, and quantile from 0 to 1.
const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// A run with its settings.
pub struct Report<'a> {
    workload: &'static str,
    settings: Vec<(&'static str, Json)>,
    outcome: &'a Outcome,
}

impl<'a> Report<'a> {
    /// Of one run; `described` are the workload's own settings.
    pub fn new(
        workload: &'static str,
        settings: &Settings,
        described: Vec<(&'static str, Json)>,
        outcome: &'a Outcome,
    ) -> Self {
        let mut all = vec![
            ("url", json!(settings.url.to_string())),
            ("clients", json!(settings.clients)),
            ("threads", json!(settings.threads)),
            ("duration_s", json!(settings.duration.as_secs_f64())),
            ("warmup_s", json!(settings.warmup.as_secs_f64())),
        ];
        all.extend(described);
        Self { workload, settings: all, outcome }
    }

    /// Successful requests per second.
    fn per_second(&self) -> f64 {
        let seconds = self.outcome.measured.as_secs_f64();
        if seconds > 0.0 { self.outcome.recorder.answered_in_time as f64 / seconds } else { 0.0 }
    }

    /// For programs. Latencies are microseconds.
    pub fn json(&self) -> Json {
        let recorder = &self.outcome.recorder;
        let latency = &recorder.latency_us;
        let mut latency_us = json!({ "mean": latency.mean(), "min": latency.min(), "max": latency.max() });
        for (name, quantile) in PERCENTILES {
            latency_us[name] = json!(latency.value_at_quantile(quantile));
        }
        json!({
            "workload": self.workload,
            "settings": self.settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect::<serde_json::Map<_, _>>(),
            "measured_s": self.outcome.measured.as_secs_f64(),
            "stopped_early": self.outcome.stopped_early,
            "succeeded": recorder.succeeded(),
            "failed": recorder.errors.values().sum::<u64>(),
            "errors": recorder.errors,
            "per_second": self.per_second(),
            "latency_us": latency_us,
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let recorder = &self.outcome.recorder;
        let settings: Vec<String> = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name}={}", crate::commands::output::plain(value)))
            .collect();
        let early = if self.outcome.stopped_early { " (stopped early)" } else { "" };
        let mut out = format!("bench {} {}\n", self.workload, settings.join(" "));
        let _ = writeln!(out, "measured    {:.2} s{early}", self.outcome.measured.as_secs_f64());
        let _ = writeln!(out, "succeeded   {}", recorder.succeeded());
        let _ = writeln!(out, "throughput  {:.1} /s", self.per_second());
        if !recorder.latency_us.is_empty() {
            for (name, quantile) in PERCENTILES {
                let _ = writeln!(out, "{name:<11} {}", micros(recorder.latency_us.value_at_quantile(quantile)));
            }
            let _ = writeln!(out, "max         {}", micros(recorder.latency_us.max()));
        }
        for (code, n) in &recorder.errors {
            let _ = writeln!(out, "error       {code}: {n}");
        }
        out
    }
}

fn micros(us: u64) -> String {
    show(Duration::from_micros(us))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::driver::Recorder;

    /// Numbers, percentiles and errors in both forms.
    #[test]
    fn both_forms() {
        let mut recorder = Recorder { answered_in_time: 999, ..Recorder::default() };
        for us in 1..=1000 {
            recorder.latency_us.record(us * 10).unwrap();
        }
        recorder.errors.insert("unavailable".into(), 3);
        let outcome = Outcome { recorder, measured: Duration::from_secs(2), stopped_early: true };
        let settings = Settings {
            url: "http://h:1".parse().unwrap(),
            clients: 64,
            threads: 1,
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(1),
        };
        let report = Report::new("write", &settings, vec![("table", json!("bench"))], &outcome);
        let text = report.text();
        for line in ["throughput  499.5 /s", "p50         5.0 ms", "p99         9.9 ms", "error       unavailable: 3"] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.contains("clients=64") && text.contains("table=bench") && text.contains("stopped early"));
        let json = report.json();
        assert_eq!(json["failed"], 3);
        assert_eq!(json["succeeded"], 1000);
        assert_eq!(json["settings"]["clients"], 64);
        assert!((4990..=5010).contains(&json["latency_us"]["p50"].as_u64().unwrap()));
    }
}
