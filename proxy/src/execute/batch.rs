//! Several statements of one request, each for itself and in order.
//!
//! Consecutive writes of single shards are gathered per shard and sent together, a *wave*: one
//! round trip carries many of them, and the shards work at the same time. A wave ends at anything
//! else. Each statement keeps its own request id, so a statement that has to be sent again, alone,
//! is applied once. A statement that fails does not stop the others.
//!
//! A statement that is sent again comes behind the rest of its wave, so the wave must hold nothing that depends on it.
//! One whose generated key collides goes with others of that kind alone: before a statement that touches its table
//! otherwise, the wave ends. One that is refused because slots have moved is sent again only if no later one of
//! the wave that claims the same slots was applied; each of these is refused, too, but for what changes in just that
//! moment, and then the client is told.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::GroupId;
use flotilla_shared::wire::{Claim, Statement, Write, WriteResult};
use futures::StreamExt;
use tokio::time::Instant;

use crate::Proxy;
use crate::analyze::Verb;
use crate::execute::send::{self, Job, MAX_FAN_OUT, MAX_WRITE_BYTES};
use crate::execute::{Options, Ready, claim_slot_of_id, input, once, recall};
use crate::metrics::Stage;
use crate::plan::{self, Part, Plan};
use crate::respond::Output;

/// Writes of one wave: enough to fill a shard's batches, few enough to answer within a deadline.
const MAX_WAVE: usize = 1000;

/// A write of the wave.
struct Waiting {
    index: usize,
    shard: GroupId,
    write: Write,
    /// Its generated keys, which may collide, and what they are for.
    generated: Option<(Ready, Part, BTreeMap<usize, i64>)>,
    /// Tables that it reads or writes, through triggers as well.
    touches: BTreeSet<String>,
}

impl Waiting {
    fn claims(&self) -> &[Claim] {
        self.write.route.as_ref().map_or(&[], |route| &route.claims)
    }

    /// The write, of which only the route stays.
    fn take_write(&mut self) -> Write {
        let Write { id, route, statements } = &mut self.write;
        Write { id: *id, route: route.clone(), statements: std::mem::take(statements) }
    }

    /// Might a write of the wave, if it is sent again, come behind this one and should not?
    fn must_wait_for(&self, wave: &[Self]) -> bool {
        let mut generating = wave.iter().filter_map(|other| other.generated.as_ref());
        let touches = |(ready, ..): &(Ready, Part, BTreeMap<usize, i64>)| {
            ready.prepared.analysis.record.target.as_ref().is_some_and(|table| self.touches.contains(table))
        };
        self.generated.is_none() && generating.any(touches)
    }
}

/// What became of a write of the wave.
struct Answered {
    waiting: Waiting,
    result: WriteResult,
}

impl Answered {
    /// Was it applied behind another one whose slots it claims as well?
    fn overtook(&self, earlier: &Waiting) -> bool {
        let shared = |claim: &Claim| {
            self.waiting.claims().iter().any(|other| {
                claim.placement == other.placement
                    && claim.slots.as_ref().zip(other.slots.as_ref()).is_none_or(|(one, two)| one.meets(two))
            })
        };
        self.result.is_ok()
            && self.waiting.index > earlier.index
            && self.waiting.shard == earlier.shard
            && earlier.claims().iter().any(shared)
    }
}

type Outcome = Result<Output, Error>;

impl Proxy {
    /// Runs statements one by one.
    pub(crate) async fn run_batch(&self, statements: &[Statement], options: &Options) -> Vec<Outcome> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; statements.len()];
        let mut wave = Vec::new();
        for (index, statement) in statements.iter().enumerate() {
            match self.for_wave(index, statement, options).await {
                Ok(Some(waiting)) => {
                    if waiting.must_wait_for(&wave) {
                        self.send_wave(std::mem::take(&mut wave), statements, options, &mut outcomes).await;
                    }
                    wave.push(waiting);
                }
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

    /// Runs statements one by one up to the first that fails; those behind it are answered as not run. Each
    /// waits for the one before it: shards that get several at once run them all.
    pub(crate) async fn run_in_order(&self, statements: &[Statement], options: &Options) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(statements.len());
        for (index, statement) in statements.iter().enumerate() {
            outcomes.push(match outcomes.last() {
                Some(Err(_)) => Err(Error::new(Code::NotRun, "a statement before it failed")),
                _ => self.run(statement, index as u64, options).await,
            });
        }
        outcomes
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
        let record = &ready.prepared.analysis.record;
        let touches = record.reads.union(&record.writes).cloned().collect();
        let (shard, part) = (part.shard, part.clone());
        let generated = (!keys.is_empty()).then_some((ready, part, keys));
        Ok(Some(Waiting { index, shard, write, generated, touches }))
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
        let mut shards: BTreeMap<GroupId, Vec<Waiting>> = BTreeMap::new();
        for waiting in wave {
            shards.entry(waiting.shard).or_default().push(waiting);
        }
        let sends = shards.into_iter().map(|(shard, mut list)| async move {
            let writes = list.iter_mut().map(Waiting::take_write).collect();
            let results = self.send_chunks(shard, writes, options).await;
            list.into_iter().zip(results).map(|(waiting, result)| Answered { waiting, result }).collect::<Vec<_>>()
        });
        let sends: Vec<_> = sends.collect();
        let answers: Vec<Vec<Answered>> = futures::stream::iter(sends).buffer_unordered(MAX_FAN_OUT).collect().await;
        let mut answers: Vec<Answered> = answers.into_iter().flatten().collect();
        answers.sort_by_key(|answer| answer.waiting.index);
        let stale = |answer: &Answered| matches!(&answer.result, Err(error) if error.code == Code::StaleRoute);
        let overtaken = |answer: &Answered| answers.iter().any(|other| other.overtook(&answer.waiting));
        let overtaken: Vec<bool> = answers.iter().map(|answer| stale(answer) && overtaken(answer)).collect();
        for (Answered { waiting, result }, overtaken) in answers.into_iter().zip(overtaken) {
            let index = waiting.index;
            outcomes[index] = Some(match result {
                Err(error) if overtaken => {
                    Err(Error { message: format!("not applied, but later ones are: {}", error.message), ..error })
                }
                // Not applied, or no longer to be done in this way: what way there is, it finds on its own.
                Err(error) if error.code == Code::StaleRoute => {
                    self.run(&statements[index], index as u64, options).await
                }
                Ok(results) if once::is_fence(&results) => self.run(&statements[index], index as u64, options).await,
                Ok(results) => send::last_result(results).map(Output::Write),
                Err(error) if error.code == Code::Constraint => {
                    self.run_collided(error, waiting, &statements[index], options).await
                }
                Err(error) => Err(error),
            });
        }
    }

    /// Runs a write anew whose generated keys were taken, with other ones, under the id of the next attempt.
    async fn run_collided(&self, error: Error, waiting: Waiting, statement: &Statement, options: &Options) -> Outcome {
        let Some((ready, part, keys)) = waiting.generated else { return Err(error) };
        // What an earlier try of the request did is remembered under the id of one of the attempts.
        if !options.keyed && !self.keys_taken(&ready, &part, &keys, options).await? {
            return Err(error);
        }
        self.raise_keys(&ready, options).await?;
        self.metrics.retried("key_collision");
        self.run_after(statement, waiting.index as u64, 1, options).await
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
}

#[cfg(test)]
mod tests {
    use flotilla_shared::ids::{Epoch, PlacementId, RequestId, SchemaVersion, Slot};
    use flotilla_shared::registry::SlotSet;
    use flotilla_shared::wire::Route;

    use super::*;

    fn waiting(index: usize, shard: u32, placement: u32, slots: Option<&[u16]>) -> Waiting {
        let slots = slots.map(|list| list.iter().copied().map(Slot).collect::<SlotSet>());
        let claims = vec![Claim { placement: PlacementId(placement), epoch: Epoch(1), slots }];
        let route = Some(Route { schema: SchemaVersion(1), claims });
        let write = Write { id: RequestId(index as u128), route, statements: vec![] };
        Waiting { index, shard: GroupId(shard), write, generated: None, touches: BTreeSet::new() }
    }

    /// A write that was refused is overtaken by a later one of its shard that was applied and claims a slot of its own.
    #[test]
    fn overtaking() {
        let refused = waiting(5, 1, 7, Some(&[3, 4]));
        let overtakes = |waiting: Waiting, applied: bool| {
            let result = if applied { Ok(vec![]) } else { Err(Error::new(Code::StaleRoute, "stale")) };
            Answered { waiting, result }.overtook(&refused)
        };
        assert!(overtakes(waiting(6, 1, 7, Some(&[4, 9])), true));
        assert!(overtakes(waiting(6, 1, 7, None), true), "all that the shard owns");
        assert!(!overtakes(waiting(6, 1, 7, Some(&[4, 9])), false), "refused as well");
        assert!(!overtakes(waiting(4, 1, 7, Some(&[4])), true), "it came before");
        assert!(!overtakes(waiting(6, 2, 7, Some(&[4])), true), "on another shard");
        assert!(!overtakes(waiting(6, 1, 8, Some(&[4])), true), "of another placement");
        assert!(!overtakes(waiting(6, 1, 7, Some(&[5])), true), "of other slots");
    }
}
