//! Reads of several shards that the proxy's own SQLite finishes.
//!
//! Parts are read at once, up to [`MAX_PARTS_AT_ONCE`], and handed to a thread that loads them as they
//! come; with [`QUEUED_PIECES`] waiting, reading waits too. Pulled tables may be large, so they come in
//! pieces ([`super::stream`]); what a shard has grouped or limited comes as one answer. Any error ends
//! the whole: a stale part is planned again by the caller, so that the answer shows each row once.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::value::Value;
use flotilla_shared::wire::Rows;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::send::{Job, MAX_RESULT_BYTES};
use crate::Proxy;
use crate::merge::{Bounds, Session, until};
use crate::plan::Part;
use crate::plan::read::Merge;

/// Parts of one merge that are read at once: each may hold a frame's worth of rows in memory.
const MAX_PARTS_AT_ONCE: usize = 8;

/// Pieces that wait to be loaded.
const QUEUED_PIECES: usize = 2;

/// Rows for one of the pulls.
type Piece = (usize, Vec<Vec<Value>>);

impl Proxy {
    /// Pulls, merges, and answers.
    pub(crate) async fn read_merged(&self, job: Job<'_>, merge: &Merge) -> Result<Rows, Error> {
        let options = job.options.at_one_time(job.prepared);
        let job = Job { options: &options, ..job };
        let left = job.options.deadline.saturating_duration_since(Instant::now());
        let timeout = || Error::new(Code::Timeout, "no place to merge became free before the deadline");
        let place = tokio::time::timeout(left, self.merges.acquire()).await.map_err(|_| timeout())?;
        let _place = place.map_err(|_| timeout())?;
        let bounds = Bounds {
            pulled_rows: self.options.max_pulled_rows,
            pulled_bytes: self.options.max_pulled_bytes,
            result_rows: if job.options.any_rows { usize::MAX } else { self.options.max_rows },
            result_bytes: MAX_RESULT_BYTES,
        };
        let deadline = until(job.options.deadline.saturating_duration_since(Instant::now()));
        let (sender, mut receiver) = mpsc::channel::<Piece>(QUEUED_PIECES);
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
        let streams = merge.pulls_tables();
        let parts =
            merge.pulls.iter().enumerate().flat_map(|(pull, pulled)| pulled.parts.iter().map(move |part| (pull, part)));
        let reads: Vec<_> = parts
            .map(|(pull, part)| {
                let sender = sender.clone();
                async move {
                    match streams {
                        true => self.pull_part(job, part, pull, sender).await,
                        false => {
                            let rows = self.read_part(job, part).await?;
                            // A worker that stopped says why below.
                            sender.send((pull, rows.values)).await.ok();
                            Ok(())
                        }
                    }
                }
            })
            .collect();
        futures::stream::iter(reads).buffer_unordered(MAX_PARTS_AT_ONCE).try_collect::<()>().await?;
        drop(sender);
        whole.send(()).ok();
        let values = worker.await.map_err(|_| Error::new(Code::Internal, "a merge failed"))??;
        Ok(Rows { columns: job.prepared.columns.clone(), types: job.prepared.types.clone(), values })
    }

    /// Reads one part in pieces, until it ends or nobody takes them any more.
    async fn pull_part(
        &self,
        job: Job<'_>,
        part: &Part,
        pull: usize,
        sender: mpsc::Sender<Piece>,
    ) -> Result<(), Error> {
        let mut source = self.open_on(part.shard, job.read(part), job.options).await?;
        while let Some(values) = source.next(job.options.deadline, &self.metrics).await? {
            if sender.send((pull, values)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
