//! Several statements of one request, each for itself and in order.
//!
//! Consecutive writes of single shards are gathered per shard and sent together, a *wave*: one
//! round trip carries many of them, and the shards work at the same time. A wave ends at anything
//! else. Each statement keeps its own request id, so a statement that has to be sent again, alone,
//! is applied once. A statement that fails does not stop the others.

use std::collections::BTreeMap;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::GroupId;
use flotilla_shared::wire::{Statement, Write, WriteResult};
use futures::StreamExt;
use tokio::time::Instant;

use crate::Proxy;
use crate::analyze::Verb;
use crate::execute::send::{self, Job, MAX_FAN_OUT, MAX_WRITE_BYTES};
use crate::execute::{Options, claim_slot_of_id, input, once, recall};
use crate::metrics::Stage;
use crate::plan::{self, Plan};
use crate::respond::Output;

/// Writes of one wave: enough to fill a shard's batches, few enough to answer within a deadline.
const MAX_WAVE: usize = 1000;

/// A write of the wave.
struct Waiting {
    index: usize,
    shard: GroupId,
    write: Write,
}

type Outcome = Result<Output, Error>;

impl Proxy {
    /// Runs statements one by one.
    pub(crate) async fn run_batch(&self, statements: &[Statement], options: &Options) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; statements.len()];
        let mut wave = Vec::new();
        for (index, statement) in statements.iter().enumerate() {
            match self.for_wave(index, statement, options).await {
                Ok(Some(waiting)) => wave.push(waiting),
                Ok(None) => {
                    self.send_wave(std::mem::take(&mut wave), statements, options, &mut outcomes).await;
                    outcomes[index] = Some(self.run(statement, index as u64, options).await);
                }
                Err(error) => outcomes[index] = Some(Err(error)),
            }
            if wave.len() >= MAX_WAVE {
                self.send_wave(std::mem::take(&mut wave), statements, options, &mut outcomes).await;
            }
        }
        self.send_wave(wave, statements, options, &mut outcomes).await;
        let lost = || Err(Error::new(Code::Internal, "a statement was lost"));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(lost)).collect()
    }

    /// The write that a statement is, if it is one of a single shard.
    async fn for_wave(&self, index: usize, statement: &Statement, options: &Options) -> Result<Option<Waiting>, Error> {
        if options.shard.is_some() || options.reads_only {
            return Ok(None);
        }
        let begun = Instant::now();
        let Ok(ready) = self.ready(&statement.sql, options).await else {
            // An earlier write of the batch cannot change what SQLite says of it, but an earlier
            // schema statement already has; running it gives the error in its place.
            return Ok(None);
        };
        if !matches!(ready.prepared.analysis.verb, Verb::Insert | Verb::Update | Verb::Delete) {
            return Ok(None);
        }
        ready.prepared.check_args(&statement.params)?;
        let id = options.id.part(index as u64);
        let keys = self.assign_keys(&ready, &statement.params, id, None, options).await?;
        let mut plan = plan::plan(input(&ready, &statement.params, &keys, options), &ready.registry);
        claim_slot_of_id(&mut plan, &ready, id, &keys);
        if recall::may_part(&plan, &ready, options) {
            return Ok(None);
        }
        let Plan::One(part) = &plan else { return Ok(None) };
        self.metrics.planned(plan.class());
        self.metrics.took(Stage::Plan, begun.elapsed());
        self.check_rewritten(&ready, &plan)?;
        let job = Job { prepared: &ready.prepared, statement, schema: ready.mirror.version, options };
        let write = job.write(part, id);
        send::check_size(&write)?;
        Ok(Some(Waiting { index, shard: part.shard, write }))
    }

    async fn send_wave(
        &self,
        wave: Vec<Waiting>,
        statements: &[Statement],
        options: &Options,
        outcomes: &mut [Option<Outcome>],
    ) {
        if wave.is_empty() {
            return;
        }
        let mut shards: BTreeMap<GroupId, (Vec<usize>, Vec<Write>)> = BTreeMap::new();
        for Waiting { index, shard, write } in wave {
            let (indexes, writes) = shards.entry(shard).or_default();
            indexes.push(index);
            writes.push(write);
        }
        let sends = shards.into_iter().map(|(shard, (indexes, writes))| async move {
            indexes.into_iter().zip(self.send_chunks(shard, writes, options).await).collect::<Vec<_>>()
        });
        let sends: Vec<_> = sends.collect();
        let answers: Vec<Vec<(usize, WriteResult)>> =
            futures::stream::iter(sends).buffer_unordered(MAX_FAN_OUT).collect().await;
        let mut again = Vec::new();
        for (index, result) in answers.into_iter().flatten() {
            match result {
                // No longer to be done in this way: what way there is, it finds on its own.
                Ok(results) if once::is_fence(&results) => {
                    again.push((index, Error::new(Code::StaleRoute, "its rows have moved")));
                }
                Ok(results) => outcomes[index] = Some(send::last_result(results).map(Output::Write)),
                // Not applied, or a generated key collided: run on its own, under the same id.
                Err(error) if matches!(error.code, Code::StaleRoute | Code::Constraint) => again.push((index, error)),
                Err(error) => outcomes[index] = Some(Err(error)),
            }
        }
        again.sort_by_key(|(index, _)| *index);
        for (index, error) in again {
            outcomes[index] =
                Some(match error.code == Code::Constraint && !self.lacks_key(&statements[index], options).await {
                    true => Err(error),
                    false => self.run(&statements[index], index as u64, options).await,
                });
        }
    }

    /// Sends writes to one shard in order, in requests of bounded size. After a request that failed
    /// as a whole the rest is not sent: its order would be lost.
    async fn send_chunks(&self, shard: GroupId, writes: Vec<Write>, options: &Options) -> Vec<WriteResult> {
        let total = writes.len();
        let mut results = Vec::with_capacity(total);
        let mut chunk: Vec<Write> = Vec::new();
        let mut bytes = 0;
        let mut rest = writes.into_iter().peekable();
        while let Some(write) = rest.next() {
            bytes += write.size_bytes();
            chunk.push(write);
            if rest.peek().is_some_and(|next| bytes + next.size_bytes() <= MAX_WRITE_BYTES) {
                continue;
            }
            bytes = 0;
            match self.send_writes(shard, std::mem::take(&mut chunk), options).await {
                Ok(answers) => results.extend(answers),
                Err(error) => {
                    results.resize(total, Err(error));
                    return results;
                }
            }
        }
        results
    }

    /// Does the statement need generated keys?
    async fn lacks_key(&self, statement: &Statement, options: &Options) -> bool {
        let Ok(ready) = self.ready(&statement.sql, options).await else { return false };
        let none = BTreeMap::new();
        !plan::missing_keys(input(&ready, &statement.params, &none, options), &ready.registry).is_empty()
    }
}
