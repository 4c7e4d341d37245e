//! Finds again what an earlier try of a request did before its rows moved apart.
//!
//! A write of one shard is remembered there under the request's id, and what is remembered goes where
//! its slots go. A write of one slot is therefore met again wherever that slot is. But the rows of
//! several keys may be on one shard at the first try and on several at the next, which is then planned
//! in another way, under other ids. The invariant is that *all tries of a request take effect under one
//! id, or find what took effect under another*:
//!
//! 1. With `allow_partial` a write that may part some day ([`may_part`]) goes by generations from the
//!    start ([`once`](super::once)), on one shard as on several.
//! 2. Without it such a write takes effect under the request's id, on one shard. A try that finds its
//!    rows on several ([`is_due`]) puts a fence under that id on every shard that has slots of the
//!    table. All of them that got slots of the first try's rows know its result. Where none does, the
//!    fence goes along with the slots from now on, so that no try that is still on its way can take
//!    effect later (where a result and a fence meet on one shard, the result stays). Then the try goes by
//!    generations, even if only to be refused: one of them may have taken effect.
//! 3. A try that meets a fence on its way to one shard goes by generations, too.
//! 4. What was one slot may be several later, when a range is split. So with `allow_partial`, too, a try that finds
//!    several slots of a table with ranges that were split ([`is_due`]) looks as in 2 first, and then goes
//!    by generations as in 1: an earlier try may have found one slot, and taken effect under the request's id.
//! 5. Keys that the proxy generates are others at each try. Where they are hashed, they are chosen for a shard that
//!    follows from the request's id; by ranges none may be left there. So a write that they put into one of several
//!    ranges ([`wanders`]) goes by generations from the start, and looks as in 2 first where a range was split. A
//!    transaction cannot go by generations: it is refused.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{GroupId, RequestId};
use flotilla_shared::registry::{HOME, Placement};
use flotilla_shared::value::Params;
use flotilla_shared::wire::{Route, Statement, StatementResult, Write};
use futures::StreamExt;

use crate::Proxy;
use crate::analyze::Verb;
use crate::execute::once::{fence, is_fence};
use crate::execute::send::MAX_FAN_OUT;
use crate::execute::{FIRST_PAUSE, Options, Ready, input};
use crate::plan::keys::claim_all;
use crate::plan::{self, Plan};

/// Could an earlier try of this write have taken effect on one shard, while this one would not?
pub(crate) fn is_due(plan: &Plan, ready: &Ready, options: &Options) -> bool {
    match plan {
        _ if !options.keyed || !may_have_moved(ready) => false,
        plan if options.allow_partial => {
            placements(ready).any(Placement::is_split)
                && (matches!(plan, Plan::Staged(_)) || may_part(plan, ready, options))
        }
        Plan::Refused(error) => error.code == Code::CrossShardWrite,
        plan => matches!(plan, Plan::Staged(_)),
    }
}

/// May rows that the statement is about have changed their shard? Where none has, every try is planned alike.
fn may_have_moved(ready: &Ready) -> bool {
    placements(ready).any(|placement| placement.id != HOME && placement.may_have_moved())
}

fn placements(ready: &Ready) -> impl Iterator<Item = &Placement> {
    ready.prepared.analysis.placements.iter().filter_map(|id| ready.registry.placements.get(id))
}

/// Is this a write of several shards, or one that another map may make one, and may a client repeat it?
pub(crate) fn may_part(plan: &Plan, ready: &Ready, options: &Options) -> bool {
    if !options.keyed || !options.allow_partial || ready.prepared.analysis.verb == Verb::Select {
        return false;
    }
    let [part] = plan.parts() else { return !plan.parts().is_empty() };
    let placement = |id| ready.registry.placements.get(id);
    let mut bound = part.claims.iter().filter(|claim| placement(&claim.placement).is_some_and(|p| p.slots > 1));
    match (bound.next(), bound.next()) {
        (None, _) => false,
        (Some(claim), None) => claim.slots.as_ref().is_none_or(|slots| slots.len() > 1),
        _ => true,
    }
}

/// May another try of this request put its rows into other ranges, because it makes up other keys?
pub(crate) fn wanders(ready: &Ready, params: &Params, keys: &BTreeMap<usize, i64>, options: &Options) -> bool {
    options.keyed && !keys.is_empty() && plan::keys_wander(input(ready, params, keys, options), &ready.registry)
}

/// May an earlier try of such a write have found that all keys that it may make up are in one slot?
pub(crate) fn wanders_since(ready: &Ready) -> bool {
    placements(ready).any(Placement::is_split)
}

impl Proxy {
    /// What an earlier try of these statements did as one write under `id`. `None`: nothing, and from now on
    /// none will.
    pub(crate) async fn recall(
        &self,
        statements: &[Statement],
        id: RequestId,
        options: &Options,
    ) -> Result<Option<Vec<StatementResult>>, Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut ready = Vec::with_capacity(statements.len());
            for statement in statements {
                ready.push(self.ready(&statement.sql, options).await?);
            }
            let Some(version) = ready.iter().map(|one| one.registry.version).max() else { return Ok(None) };
            match self.fence_off(&ready, id, options).await {
                Err(error) if error.code == Code::StaleRoute => {
                    self.await_newer(error, version, &mut pause, options).await?;
                }
                outcome => return outcome,
            }
        }
    }

    async fn fence_off(
        &self,
        ready: &[Ready],
        id: RequestId,
        options: &Options,
    ) -> Result<Option<Vec<StatementResult>>, Error> {
        if !ready.iter().any(may_have_moved) {
            return Ok(None);
        }
        let mut asked = BTreeSet::new();
        let mut fences: Vec<(GroupId, Write)> = Vec::new();
        for one in ready.iter().filter(|one| one.prepared.analysis.verb != Verb::Select) {
            let target = one.prepared.analysis.record.target.as_deref();
            let Some(placement) = target.and_then(|name| one.registry.placement_of(name)) else { continue };
            for shard in placement.owners().filter(|shard| asked.insert(*shard)) {
                let route = Route { schema: one.mirror.version, claims: vec![claim_all(placement, shard)] };
                fences.push((shard, fence(id, Some(route))));
            }
        }
        self.metrics.retried("recalled");
        let sends: Vec<_> = fences.into_iter().map(|(shard, write)| self.send_one(shard, write, options)).collect();
        let answers: Vec<_> = futures::stream::iter(sends).buffered(MAX_FAN_OUT).collect().await;
        let mut found = None;
        for answer in answers {
            match answer {
                Ok(results) if is_fence(&results) => (),
                Ok(results) => found = Some(results),
                // What it was refused for is remembered, too, and is nothing that took effect.
                Err(error) if error.code.class() == Class::Refused && error.code != Code::ResultForgotten => (),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}
