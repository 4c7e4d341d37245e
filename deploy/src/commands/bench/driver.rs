//! The closed loop: clients on few threads, each with one connection and one request in flight.
//!
//! Each thread has a runtime of its own for that thread alone: no lock and no wake-up of another
//! core per request, since the generator often shares its cores with the cluster under test.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::workload::Workload;
use crate::commands::CommandError;
use crate::http_client::{BaseUrl, Connection, HttpError, Reply};

/// Three digits: the percentiles are right to 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;
/// An hour: above any request's timeout.
const LONGEST_US: u64 = 3_600_000_000;
/// A client that cannot connect must not eat the core that the cluster needs to come back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Requests still in flight after the end are waited for: dropping the slowest would flatter.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// How to run, whatever the workload.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whom to load.
    pub url: BaseUrl,
    /// Requests in flight.
    pub clients: u32,
    /// Threads that drive them.
    pub threads: u32,
    /// How long to measure.
    pub duration: Duration,
    /// How long to run before.
    pub warmup: Duration,
}

/// What was measured by a thread, or by all.
#[derive(Debug)]
pub struct Recorder {
    /// Of successful requests, in microseconds.
    pub latency_us: Histogram<u64>,
    /// Successful requests answered before the end, which is what throughput counts.
    pub answered_in_time: u64,
    /// Failed requests by code.
    pub errors: BTreeMap<String, u64>,
}

impl Default for Recorder {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LONGEST_US, SIGNIFICANT_DIGITS)
            .expect("bounds and number of digits are valid constants");
        Self { latency_us, answered_in_time: 0, errors: BTreeMap::new() }
    }
}

impl Recorder {
    /// Requests that succeeded.
    pub fn succeeded(&self) -> u64 {
        self.latency_us.len()
    }

    fn success(&mut self, latency: Duration, in_time: bool) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record(latency_us.max(1));
        self.answered_in_time += u64::from(in_time);
    }

    fn error(&mut self, code: String) {
        *self.errors.entry(code).or_default() += 1;
    }

    fn merge(&mut self, other: &Self) {
        self.latency_us.add(&other.latency_us).expect("all histograms have the same bounds");
        self.answered_in_time += other.answered_in_time;
        for (code, n) in &other.errors {
            *self.errors.entry(code.clone()).or_default() += n;
        }
    }
}

/// The end of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Of all threads.
    pub recorder: Recorder,
    /// How long was measured.
    pub measured: Duration,
    /// Was it stopped by Ctrl-C?
    pub stopped_early: bool,
}

/// When to measure.
#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    until: Instant,
}

/// Runs a workload until its time is over or Ctrl-C.
///
/// # Errors
/// When a thread cannot be started.
pub async fn run(settings: &Settings, workload: impl Workload) -> Result<Outcome, CommandError> {
    let workload = Arc::new(workload);
    let from = Instant::now() + settings.warmup;
    let window = Window { from, until: from + settings.duration };
    let (stop, stopped) = watch::channel(None);
    let mut threads = Vec::new();
    for thread in 0..settings.threads {
        let clients: Vec<u32> = (thread..settings.clients).step_by(settings.threads as usize).collect();
        let (url, workload, stopped) = (settings.url.clone(), workload.clone(), stopped.clone());
        let (done, ended) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name(format!("bench-{thread}"))
            .spawn(move || {
                // Nobody listens when the command was dropped; then nothing is lost.
                let _ = done.send(drive(&url, &workload, clients, window, stopped));
            })
            .map_err(|error| CommandError::io("cannot start a thread", &error))?;
        threads.push(ended);
    }
    drop(stopped);
    let mut all = futures::future::join_all(threads);
    let mut stopped_at = None;
    let ended = tokio::select! {
        ended = &mut all => ended,
        _ = tokio::signal::ctrl_c() => {
            let now = Instant::now();
            stopped_at = Some(now);
            stop.send_replace(Some(now));
            all.await
        }
    };
    let mut recorder = Recorder::default();
    for thread in ended {
        let measured = thread.map_err(|_| CommandError::Failed("a benchmark thread stopped".into()))?;
        recorder.merge(&measured.map_err(|error| CommandError::io("cannot start a runtime", &error))?);
    }
    let measured = stopped_at.unwrap_or(window.until).saturating_duration_since(window.from);
    Ok(Outcome { recorder, measured, stopped_early: stopped_at.is_some() })
}

/// One thread with its clients.
fn drive(
    url: &BaseUrl,
    workload: &Arc<impl Workload>,
    clients: Vec<u32>,
    window: Window,
    mut stopped: watch::Receiver<Option<Instant>>,
) -> std::io::Result<Recorder> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let recorder = Rc::new(RefCell::new(Recorder::default()));
    let local = LocalSet::new();
    let running: Vec<_> = clients
        .into_iter()
        .map(|number| {
            let client = Client { number, url: url.clone(), workload: workload.clone(), recorder: recorder.clone() };
            local.spawn_local(client.run(window))
        })
        .collect();
    runtime.block_on(local.run_until(async {
        let drained = tokio::time::sleep_until((window.until + DRAIN_TIMEOUT).into());
        tokio::select! {
            _ = futures::future::join_all(running) => {}
            () = drained => recorder.borrow_mut().error("no_answer_at_end".into()),
            // Ctrl-C: what is in flight is not waited for.
            _ = stopped.changed() => {}
        }
    }));
    drop(local);
    Ok(recorder.take())
}

struct Client<W> {
    number: u32,
    url: BaseUrl,
    workload: Arc<W>,
    recorder: Rc<RefCell<Recorder>>,
}

impl<W: Workload> Client<W> {
    async fn run(self, window: Window) {
        let mut connection = None;
        let mut sequence = 0;
        loop {
            let start = Instant::now();
            if start >= window.until {
                return;
            }
            let outcome = self.request(&mut connection, sequence).await;
            let end = Instant::now();
            let failed = outcome.is_err();
            if start >= window.from {
                self.record(outcome, end - start, end <= window.until);
            }
            if failed {
                // Also after a refusal: a closed loop on an immediate 503 would only burn both sides.
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
            sequence += 1;
        }
    }

    fn record(&self, outcome: Result<(), String>, latency: Duration, in_time: bool) {
        let mut recorder = self.recorder.borrow_mut();
        match outcome {
            Ok(()) => recorder.success(latency, in_time),
            Err(code) => recorder.error(code),
        }
    }

    /// One request; the error is the code to count it under.
    async fn request(&self, connection: &mut Option<Connection>, sequence: u64) -> Result<(), String> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(&self.url).await.map_err(|error| error_code(&error))?,
        };
        let call = self.workload.request(self.number, sequence);
        let reply: Reply = open.send(&call).await.map_err(|error| error_code(&error))?;
        *connection = Some(open);
        match reply.error() {
            Some(error) => Err(error.code),
            None => self.workload.check(self.number, sequence, &reply),
        }
    }
}

fn error_code(error: &HttpError) -> String {
    match error {
        HttpError::Connect(_) => "cannot_connect",
        HttpError::Broken(_) => "connection_broke",
        HttpError::Timeout(_) => "no_answer",
        HttpError::TooLarge => "answer_too_large",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is recorded and merged comes out again, from microseconds to beyond the bounds.
    #[test]
    fn latencies_keep_their_size() {
        let mut all = Recorder::default();
        for (ms, in_time) in [(44, true), (44, true), (44, true), (10_000_000, false)] {
            let mut one = Recorder::default();
            one.success(Duration::from_millis(ms), in_time);
            all.merge(&one);
        }
        assert_eq!((all.succeeded(), all.answered_in_time), (4, 3));
        assert!((43_950..=44_050).contains(&all.latency_us.value_at_quantile(0.5)));
        assert!(all.latency_us.max() >= LONGEST_US);
    }
}
