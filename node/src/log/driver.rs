//! Who runs the writer: a thread of its own, or a task of any runtime.
//!
//! Input: a [`Writer`]. Output: its batches, one after the other, until the log is closed and empty
//! or has failed. Both wait for work without polling; both end by sealing the log.
//!
//! The thread is for real disks, where a sync blocks. The task is for the simulation: the disk is
//! memory, and the time that a sync takes is slept in the runtime's own, possibly virtual, time,
//! between write and sync, where a power loss hurts most.

use std::future::poll_fn;
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::AsyncRuntime;

use super::wal::Wal;
use super::writer::Writer;

/// The thread that writes a log. Dropping it closes the log and waits until all is written.
pub struct WriterThread {
    wal: Wal,
    handle: Option<JoinHandle<()>>,
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        self.wal.close();
        if let Some(handle) = self.handle.take() {
            // A panic there already failed the log, when the writer was dropped.
            drop(handle.join());
        }
    }
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system has no thread to give; the log is closed then.
    pub fn spawn(self) -> io::Result<WriterThread> {
        let wal = Wal { shared: self.shared.clone() };
        let handle = std::thread::Builder::new().name("log-writer".into()).spawn(move || self.run())?;
        Ok(WriterThread { wal, handle: Some(handle) })
    }

    fn run(mut self) {
        let delay = self.shared.options.fsync_delay;
        while let Some(mut batch) = self.shared.wait_batch() {
            let written = self.write(&mut batch);
            let before = Instant::now();
            if !delay.is_zero() {
                std::thread::sleep(delay);
            }
            let synced = written.and_then(|()| self.sync());
            self.shared.stats.observe_fsync(before.elapsed());
            let finished = match synced {
                Ok(()) => self.finish(batch),
                Err(error) => Err(self.poison(error, batch)),
            };
            if let Err(error) = finished {
                tracing::error!(%error, "the log failed");
                return;
            }
        }
        if let Err(error) = self.seal() {
            tracing::error!(%error, "the log was not sealed");
        }
    }
}

/// Runs a writer as a task until the log is closed and empty, or failed. `latency` says for each
/// batch how long its sync takes. Dropping the task is a crash of the process.
pub async fn drive<R: AsyncRuntime>(mut writer: Writer, mut latency: impl FnMut() -> Duration + Send) {
    let shared = writer.shared.clone();
    while let Some(mut batch) = poll_fn(|cx| shared.poll_batch(cx)).await {
        let mut synced = writer.write(&mut batch);
        let pause = latency();
        if synced.is_ok() {
            if !pause.is_zero() {
                R::sleep(pause).await;
            }
            synced = writer.sync();
            shared.stats.observe_fsync(pause);
        }
        let finished = match synced {
            Ok(()) => writer.finish(batch),
            Err(error) => Err(writer.poison(error, batch)),
        };
        if let Err(error) = finished {
            tracing::error!(%error, "the log failed");
            return;
        }
    }
    if let Err(error) = writer.seal() {
        tracing::error!(%error, "the log was not sealed");
    }
}
