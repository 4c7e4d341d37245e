//! Clients on few threads, each with one connection and one request in flight.
//!
//! In a closed loop a client sends its next request when the last is answered. In an open loop (a rate
//! is given) requests are due at fixed times whatever the answers do: the next free client sends the next
//! one, and its latency counts from when it was due. So a stall is seen by all requests that fell into
//! it, not just by those in flight ("coordinated omission").
//!
//! Each thread has a runtime of its own for that thread alone: no lock and no wake-up of another
//! core per request, since the generator often shares its cores with the cluster under test.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::task::LocalSet;

use super::workload::{Turn, Workload};
use crate::commands::{CommandError, stop_signal};
use crate::http_client::{BaseUrl, Connection, HttpError, Reply};

/// Three digits: the percentiles are right to 0.1 %.
const SIGNIFICANT_DIGITS: u8 = 3;
/// An hour: above any request's timeout.
const LONGEST_US: u64 = 3_600_000_000;
/// A client that cannot connect must not eat the core that the cluster needs to come back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Requests still in flight after the end are waited for: dropping the slowest would flatter.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Timers are rounded up to whole milliseconds. A request that waits for its time and wakes up this much
/// later was delayed by the timer, not by the cluster, and counts from when it was sent.
const TIMER_SLACK: Duration = Duration::from_millis(2);

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
    /// Requests per second of an open loop; none for a closed loop.
    pub rate: Option<f64>,
}

/// What was measured by a thread, or by all.
#[derive(Debug)]
pub struct Recorder {
    /// Of successful requests, in microseconds.
    pub latency_us: Histogram<u64>,
    /// The same by kind of operation.
    pub kinds: BTreeMap<&'static str, Histogram<u64>>,
    /// Successful requests answered before the end, which is what throughput counts.
    pub answered_in_time: u64,
    /// Failed requests by code.
    pub errors: BTreeMap<String, u64>,
}

/// For latencies in microseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, SIGNIFICANT_DIGITS)
        .expect("bounds and number of digits are valid constants")
}

impl Default for Recorder {
    fn default() -> Self {
        Self { latency_us: histogram(), kinds: BTreeMap::new(), answered_in_time: 0, errors: BTreeMap::new() }
    }
}

impl Recorder {
    /// Requests that succeeded.
    pub fn succeeded(&self) -> u64 {
        self.latency_us.len()
    }

    fn success(&mut self, kind: &'static str, latency: Duration, in_time: bool) {
        let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        self.latency_us.saturating_record(latency_us);
        self.kinds.entry(kind).or_insert_with(histogram).saturating_record(latency_us);
        self.answered_in_time += u64::from(in_time);
    }

    fn error(&mut self, code: String) {
        *self.errors.entry(code).or_default() += 1;
    }

    fn merge(&mut self, other: &Self) {
        let same = "all histograms have the same bounds";
        self.latency_us.add(&other.latency_us).expect(same);
        for (kind, latency_us) in &other.kinds {
            self.kinds.entry(kind).or_insert_with(histogram).add(latency_us).expect(same);
        }
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
#[derive(Clone)]
struct Window {
    from: Instant,
    until: Instant,
    /// Set when the end came before `until`.
    ended: Arc<OnceLock<Instant>>,
}

impl Window {
    fn until(&self) -> Instant {
        self.ended.get().copied().unwrap_or(self.until)
    }
}

/// When requests of one thread are due. Its clients take turns from it.
struct Pace {
    start: Instant,
    per_second: f64,
    /// The first turn of this thread, then every `threads`-th.
    next: Cell<u64>,
    threads: u64,
}

impl Pace {
    fn take(&self) -> Instant {
        let turn = self.next.replace(self.next.get() + self.threads);
        self.start + Duration::from_secs_f64(turn as f64 / self.per_second)
    }
}

/// Runs a workload until its time is over, `end` is done, or Ctrl-C.
///
/// # Errors
/// When a thread cannot be started.
pub async fn run(
    settings: &Settings,
    workload: impl Workload,
    end: impl Future<Output = ()>,
) -> Result<Outcome, CommandError> {
    let workload = Arc::new(workload);
    let start = Instant::now();
    let from = start + settings.warmup;
    let window = Window { from, until: from + settings.duration, ended: Arc::default() };
    let (stop, stopped) = watch::channel(());
    let mut threads = Vec::new();
    for thread in 0..settings.threads {
        let clients: Vec<u32> = (thread..settings.clients).step_by(settings.threads as usize).collect();
        let (url, workload, stopped, window) =
            (settings.url.clone(), workload.clone(), stopped.clone(), window.clone());
        let (next, threads_count) = (Cell::new(thread.into()), settings.threads.into());
        let pace = settings.rate.map(|per_second| Pace { start, per_second, next, threads: threads_count });
        let (done, ended) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name(format!("bench-{thread}"))
            .spawn(move || {
                // Nobody listens when the command was dropped; then nothing is lost.
                let _ = done.send(drive(&url, &workload, clients, &window, pace, stopped));
            })
            .map_err(|error| CommandError::io("cannot start a thread", &error))?;
        threads.push(ended);
    }
    drop(stopped);
    let mut all = futures::future::join_all(threads);
    let mut stopped_early = false;
    let ended = tokio::select! {
        biased;
        () = stop_signal() => {
            stopped_early = true;
            window.ended.get_or_init(Instant::now);
            stop.send_replace(());
            all.await
        }
        ended = &mut all => ended,
        () = end => {
            window.ended.get_or_init(Instant::now);
            match tokio::time::timeout(DRAIN_TIMEOUT, &mut all).await {
                Ok(ended) => ended,
                Err(_) => {
                    stop.send_replace(());
                    all.await
                }
            }
        }
    };
    let mut recorder = Recorder::default();
    for thread in ended {
        let measured = thread.map_err(|_| CommandError::Failed("a benchmark thread stopped".into()))?;
        recorder.merge(&measured.map_err(|error| CommandError::io("cannot start a runtime", &error))?);
    }
    let measured = window.until().saturating_duration_since(window.from);
    Ok(Outcome { recorder, measured, stopped_early })
}

/// One thread with its clients.
fn drive(
    url: &BaseUrl,
    workload: &Arc<impl Workload>,
    clients: Vec<u32>,
    window: &Window,
    pace: Option<Pace>,
    mut stopped: watch::Receiver<()>,
) -> std::io::Result<Recorder> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let recorder = Rc::new(RefCell::new(Recorder::default()));
    let pace = Rc::new(pace);
    let local = LocalSet::new();
    let running: Vec<_> = clients
        .into_iter()
        .map(|number| {
            let (recorder, pace, window) = (recorder.clone(), pace.clone(), window.clone());
            let client = Client { number, url: url.clone(), workload: workload.clone(), recorder, pace, window };
            local.spawn_local(client.run())
        })
        .collect();
    runtime.block_on(local.run_until(async {
        let drained = tokio::time::sleep_until((window.until + DRAIN_TIMEOUT).into());
        tokio::select! {
            ended = futures::future::join_all(running) => {
                // A client that panicked has measured nothing since; that must not pass for a slow cluster.
                ended.iter().filter(|ended| ended.is_err()).for_each(|_| {
                    recorder.borrow_mut().error("client_stopped".into());
                });
            }
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
    pace: Rc<Option<Pace>>,
    window: Window,
}

impl<W: Workload> Client<W> {
    async fn run(self) {
        let mut connection = None;
        let mut sequence = 0;
        while let Some(begin) = self.turn().await {
            let outcome = self.operation(&mut connection, sequence).await;
            let end = Instant::now();
            let failed = outcome.is_err();
            if begin >= self.window.from {
                if !failed {
                    self.workload.took(begin, end);
                }
                self.record(sequence, outcome, end - begin, end <= self.window.until());
            }
            if failed {
                // Also after a refusal: a closed loop on an immediate 503 would only burn both sides.
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
            sequence += 1;
        }
    }

    /// Waits for the time of the next operation, and gives the moment from which it counts; none at the end.
    async fn turn(&self) -> Option<Instant> {
        let Some(pace) = &*self.pace else {
            let now = Instant::now();
            return (now < self.window.until()).then_some(now);
        };
        loop {
            let due = pace.take();
            if due >= self.window.until() {
                return None;
            }
            if Instant::now() < due {
                tokio::time::sleep_until(due.into()).await;
                let now = Instant::now();
                return (now < self.window.until()).then_some(if now - due < TIMER_SLACK { now } else { due });
            }
            if Instant::now() < self.window.until() {
                return Some(due);
            }
            // Due before the end, but no client was free: it must not be forgotten.
            if due >= self.window.from {
                self.recorder.borrow_mut().error("not_sent_in_time".into());
            }
        }
    }

    fn record(&self, sequence: u64, outcome: Result<(), String>, latency: Duration, in_time: bool) {
        let mut recorder = self.recorder.borrow_mut();
        match outcome {
            Ok(()) => recorder.success(self.workload.kind(self.number, sequence), latency, in_time),
            Err(code) => recorder.error(code),
        }
    }

    async fn operation(&self, connection: &mut Option<Connection>, sequence: u64) -> Result<(), String> {
        for step in 0..self.workload.steps(self.number, sequence) {
            self.request(connection, Turn { client: self.number, sequence, step }).await?;
        }
        Ok(())
    }

    /// One request; the error is the code to count it under.
    async fn request(&self, connection: &mut Option<Connection>, turn: Turn) -> Result<(), String> {
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(&self.url).await.map_err(|error| error_code(&error))?,
        };
        let call = self.workload.request(turn);
        let reply: Reply = open.send(&call).await.map_err(|error| error_code(&error))?;
        *connection = Some(open);
        match reply.error() {
            Some(error) => Err(error.code),
            None => self.workload.check(turn, &reply),
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
            one.success("write", Duration::from_millis(ms), in_time);
            all.merge(&one);
        }
        assert_eq!((all.succeeded(), all.answered_in_time), (4, 3));
        assert!((43_950..=44_050).contains(&all.latency_us.value_at_quantile(0.5)));
        assert!(all.latency_us.max() >= LONGEST_US);
    }
}
