//! Which moves come next: the plan, its measurement where rows or bytes count, and what must be there before
//! a move begins.
//!
//! By slots, the plan is made anew each time. By rows or bytes, the driver measures once and keeps the plan in its
//! [`Memory`]; a driver that follows another one measures anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, JobId, PlacementId};
use flotilla_shared::measure::Measuring;
use flotilla_shared::moves::{MoveAnswer, MoveQuery, MoveReply, MoveStep, MovedSet};
use flotilla_shared::registry::{
    Goal, Left, Measure, MoveChange, MoveOptions, Placement, SlotSet, SlotSize, Transfer, total_size,
};

use super::pace::Pace;
use super::{Ground, Worker, is_final, odd};

/// Pieces of an index that one attempt makes: other jobs shall not wait for more than a second or so.
const INDEX_PIECES: usize = 16;

/// Pieces of a measurement that one attempt asks for, for the same reason.
const MEASURE_PIECES: usize = 16;

/// What a driver keeps between attempts. All of it can be found out again.
#[derive(Default)]
pub(crate) struct Memory {
    known: Option<Known>,
    pub(super) pace: Arc<Pace>,
}

struct Known {
    job: JobId,
    generation: u64,
    placement: PlacementId,
    set: MovedSet,
    goal: Goal,
    measuring: Measuring,
    plan: Option<Vec<Transfer>>,
}

/// What there is to do.
pub(super) enum Next {
    /// More, at once.
    More,
    /// More, after this time.
    Wait(Duration),
    /// Nothing.
    Done,
}

/// A plan of transfers, with what they hold if that is known.
struct Plan {
    transfers: Vec<Transfer>,
    size: Option<SlotSize>,
}

impl<G: Ground> Worker<'_, G> {
    fn options(&self) -> Result<&MoveOptions, Error> {
        let options = self.job.kind.move_options();
        options.ok_or_else(|| Error::new(Code::Internal, format!("job {} moves no slots", self.job.id)))
    }

    /// Makes ready and begins the next moves.
    pub(super) async fn next(&self, memory: &mut Memory) -> Result<Next, Error> {
        let options = self.options()?;
        let wait_us = self.progress.next_round_us(options.max_bytes_per_second) - self.ground.now_us();
        if wait_us > 0 {
            return Ok(Next::Wait(Duration::from_micros(wait_us.unsigned_abs())));
        }
        let Some((placement, goal)) = self.registry.goal(self.job)? else { return self.last().await };
        let plan = match options.by {
            Measure::Rows | Measure::Bytes if !placement.key.is_empty() => {
                self.measured(memory, placement, &goal, options).await?
            }
            _ => Some(self.plan(placement, &goal, options)),
        };
        let Some(Plan { transfers, size }) = plan else { return Ok(Next::More) };
        let left = Left { slots: transfers.iter().map(|transfer| transfer.slots.len() as u64).sum(), size };
        let mut busy = BTreeSet::new();
        let mut chosen = transfers;
        // A shard takes part in one move at a time.
        chosen.retain(|transfer| {
            let free = !busy.contains(&transfer.from) && !busy.contains(&transfer.to);
            if free && busy.len() < 2 * usize::from(options.max_parallel) {
                busy.extend([transfer.from, transfer.to]);
                return true;
            }
            false
        });
        if chosen.is_empty() {
            return match goal {
                Goal::Drain(shard) => self.begin_leave(placement.id, shard).await,
                _ => Ok(Next::Done),
            };
        }
        let share = options.max_bytes_per_second.map(|bytes| bytes / chosen.len() as u64);
        let set = MovedSet::of(self.registry, placement);
        let made = chosen.iter().map(|transfer| self.make_ready(placement.id, set.clone(), transfer, share));
        let (mut any, mut failed) = (false, None);
        for outcome in futures::future::join_all(made).await {
            match outcome {
                Ok(Some(transfer)) => {
                    self.begin(placement.id, transfer, left).await?;
                    any = true;
                }
                Ok(None) => any = true,
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if !any => Err(error),
            _ => Ok(Next::More),
        }
    }

    fn plan(&self, placement: &Placement, goal: &Goal, options: &MoveOptions) -> Plan {
        let leaving = self.registry.leaving(placement.id);
        Plan { transfers: placement.plan(goal, options, &leaving, &Default::default()), size: None }
    }

    /// The plan by rows or bytes; `None` while it is being measured.
    async fn measured(
        &self,
        memory: &mut Memory,
        placement: &Placement,
        goal: &Goal,
        options: &MoveOptions,
    ) -> Result<Option<Plan>, Error> {
        let set = MovedSet::of(self.registry, placement);
        let same_goal = |known: &Known| match (&known.goal, goal) {
            (Goal::Even { .. }, Goal::Even { .. }) => true,
            (one, other) => one == other,
        };
        let known = memory.known.take().filter(|known| {
            (known.job, known.generation) == (self.job.id, self.progress.generation)
                && known.placement == placement.id
                && (known.plan.is_some() || known.set == set)
                && same_goal(known)
        });
        let known = memory.known.insert(known.unwrap_or_else(|| Known {
            job: self.job.id,
            generation: self.progress.generation,
            placement: placement.id,
            set,
            goal: goal.clone(),
            measuring: Measuring::new(self.registry, placement),
            plan: None,
        }));
        let plan = match &mut known.plan {
            Some(plan) => plan,
            None => {
                for _ in 0..MEASURE_PIECES {
                    let Some((shard, question)) = known.measuring.question() else { break };
                    let answer = self.ground.ask(shard, question).await?;
                    if !known.measuring.take(answer) {
                        return Err(odd(&"not what was measured"));
                    }
                }
                let mut total = SlotSize::default();
                known.measuring.sizes().values().for_each(|size| total += *size);
                let found = format!("measuring slots: {} rows with {} bytes", total.rows, total.bytes);
                self.note(found, self.job.percent).await;
                if known.measuring.question().is_some() {
                    return Ok(None);
                }
                let leaving = self.registry.leaving(placement.id);
                known.plan.insert(placement.plan(goal, options, &leaving, known.measuring.sizes()))
            }
        };
        if !matches!(goal, Goal::Even { .. }) {
            // Nothing is weighed against each other: what is left follows from the owners of now.
            *plan = placement.plan(goal, options, &self.registry.leaving(placement.id), known.measuring.sizes());
        }
        // What has moved since is no longer where the plan takes it from.
        let empty = SlotSet::default();
        for transfer in plan.iter_mut() {
            let owned = placement.owned.get(&transfer.from).unwrap_or(&empty);
            transfer.slots = transfer.slots.iter().filter(|slot| owned.contains(*slot)).collect();
        }
        let takes =
            |shard: &GroupId| placement.shards.contains(shard) && !self.registry.leaving(placement.id).contains(shard);
        plan.retain(|transfer| !transfer.slots.is_empty() && takes(&transfer.to));
        let transfers = plan.clone();
        let mut size = SlotSize::default();
        transfers.iter().for_each(|transfer| size += total_size(known.measuring.sizes(), &transfer.slots));
        Ok(Some(Plan { transfers, size: Some(size) }))
    }

    /// Makes the source ready for a move, and finds out which slots it takes; `None` when there is more to do.
    async fn make_ready(
        &self,
        placement: PlacementId,
        set: MovedSet,
        transfer: &Transfer,
        max_bytes: Option<u64>,
    ) -> Result<Option<Transfer>, Error> {
        let step = MoveStep::Index { generation: self.progress.generation, set };
        for piece in 0.. {
            match self.gently(transfer.from, step.clone()).await {
                Ok(MoveReply::Index { done: true }) => break,
                Ok(MoveReply::Index { done: false }) if piece < INDEX_PIECES => (),
                Ok(MoveReply::Index { done: false }) => {
                    let step = format!("finding the slots of rows on {}", transfer.from);
                    self.note(step, self.progress.percent()).await;
                    return Ok(None);
                }
                Ok(other) => return Err(odd(&other)),
                // Another driver was about to end the job, and could not.
                Err(error) if error.code == Code::Conflict => {
                    self.record(MoveChange::Renew { generation: self.progress.generation }).await?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        let sizes = MoveQuery::Sizes { placement, slots: transfer.slots.clone() };
        let sizes = match self.ground.ask(transfer.from, sizes).await? {
            MoveAnswer::Digests(sizes) => sizes,
            other => return Err(odd(&other)),
        };
        let mut bytes = 0;
        let fits = sizes.iter().enumerate().take_while(|(n, size)| {
            bytes += size.bytes;
            *n == 0 || max_bytes.is_none_or(|max_bytes| bytes <= max_bytes)
        });
        let slots = fits.map(|(_, size)| size.slot).collect();
        Ok(Some(Transfer { slots, ..transfer.clone() }))
    }

    async fn begin(&self, placement: PlacementId, transfer: Transfer, left: Left) -> Result<(), Error> {
        match self.record(MoveChange::Begin { placement, transfer, left }).await {
            // Another driver or a wish came between; the next attempt sees which.
            Err(error) if error.code == Code::Conflict => Ok(()),
            outcome => outcome,
        }
    }
}
