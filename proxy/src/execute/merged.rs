//! Reads of several shards that the proxy's own SQLite finishes.
//!
//! Parts are read at once, up to [`MAX_PARTS_AT_ONCE`], and handed to a thread that loads them as they come; with
//! [`QUEUED_PARTS`] waiting, reading waits too. Any error ends the whole: a stale part is planned
//! again by the caller, so that the answer shows each row once.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::wire::Rows;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::send::{Job, MAX_RESULT_BYTES};
use crate::Proxy;
use crate::merge::{Bounds, Session, until};
use crate::plan::read::Merge;

/// Parts of one merge that are read at once: each may hold a frame's worth of rows in memory.
const MAX_PARTS_AT_ONCE: usize = 16;

/// Parts that wait to be loaded.
const QUEUED_PARTS: usize = 2;

impl Proxy {
    /// Pulls, merges, and answers.
    pub(crate) async fn read_merged(&self, job: Job<'_>, merge: &Merge) -> Result<Rows, Error> {
        let left = job.options.deadline.saturating_duration_since(Instant::now());
        let timeout = || Error::new(Code::Timeout, "no place to merge became free before the deadline");
        let place = tokio::time::timeout(left, self.merges.acquire()).await.map_err(|_| timeout())?;
        let _place = place.map_err(|_| timeout())?;
        let bounds = Bounds {
            pulled_rows: self.options.max_pulled_rows,
            pulled_bytes: self.options.max_pulled_bytes,
            result_rows: self.options.max_rows,
            result_bytes: MAX_RESULT_BYTES,
        };
        let deadline = until(job.options.deadline.saturating_duration_since(Instant::now()));
        let (sender, mut receiver) = mpsc::channel::<(usize, Rows)>(QUEUED_PARTS);
        let (setup, indexes, finish) = (merge.setup.clone(), merge.indexes.clone(), merge.finish.clone());
        let inserts: Vec<String> = merge.pulls.iter().map(|pull| pull.insert.clone()).collect();
        let (whole, complete) = tokio::sync::oneshot::channel::<()>();
        let worker = tokio::task::spawn_blocking(move || {
            let mut session = Session::open(&setup, bounds, deadline)?;
            while let Some((pull, rows)) = receiver.blocking_recv() {
                session.load(&inserts[pull], &rows)?;
            }
            // Not all parts came: whoever reads them knows why.
            complete.blocking_recv().map_err(|_| Error::new(Code::Internal, "a merge was given up"))?;
            session.index(&indexes)?;
            session.finish(&finish)
        });
        let pulls = merge.pulls.iter().enumerate();
        let reads: Vec<_> = pulls
            .flat_map(|(pull, pulled)| pulled.parts.iter().map(move |part| (pull, part)))
            .map(|(pull, part)| async move { self.read_part(job, part).await.map(|rows| (pull, rows)) })
            .collect();
        let mut answers = futures::stream::iter(reads).buffer_unordered(MAX_PARTS_AT_ONCE);
        while let Some(answer) = answers.next().await {
            // A worker that stopped says why below.
            if sender.send(answer?).await.is_err() {
                break;
            }
        }
        drop(sender);
        whole.send(()).ok();
        let values = worker.await.map_err(|_| Error::new(Code::Internal, "a merge failed"))??;
        Ok(Rows { columns: job.prepared.columns.clone(), types: job.prepared.types.clone(), values })
    }
}
