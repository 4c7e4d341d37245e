//! Scripts: statements of one transaction on every shard of a placement, changes of the schema among them, and on
//! the home shard what touches its tables.
//!
//! All shards try the script first and undo it, and raise their schema versions with that: from then on nobody
//! reads or writes there until the registry has the new version, which it gets when this job ends. So what all
//! have tried succeeds on all, and no client meets one shard before the script and another after it. What the
//! registry would learn is looked at before anything is changed. See [`flotilla_shared::script`] for what a crash
//! at each step means.

use flotilla_shared::copies::CopyState;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::GroupId;
use flotilla_shared::registry::{Effect, HOME, HOME_SHARD, Placement, Registry, SchemaObject};
use flotilla_shared::script::{Script, ScriptReply, ScriptStep};
use flotilla_shared::wire::{ShardCommand, ShardReply, StatementResult};
use futures::StreamExt;

use super::schema::{effect, next_version};
use super::write::{FAN_OUT, forward};
use super::{Done, Driver};

pub(super) async fn run(driver: &Driver<'_>, registry: &Registry, script: &Script) -> Result<Done, Error> {
    if script.schema < registry.schema_version {
        let message = format!("planned with schema {}, now it is {}", script.schema, registry.schema_version);
        return Err(Error::new(Code::StaleRoute, message).hint("the proxy plans it again; a client may simply retry"));
    }
    let placement = registry.placements.get(&script.placement);
    let Some(placement) = placement.filter(|placement| !placement.shards.is_empty()) else {
        return Err(Error::new(Code::NoSuchObject, "the tables are gone"));
    };
    let shards = script.shards(placement);
    let results = vec![StatementResult::default(); script.statements.len()];
    let mut all = Course { driver, registry, script, placement, results };
    // One shard alone runs it or does not; and new tables beside the home tables are of no other placement.
    let alone = shards.len() == 1 && placement.id == HOME;
    if !alone && all.try_all(&shards).await? == CopyState::Before {
        return Ok(Done { effects: vec![], results: all.results });
    }
    driver.note(&format!("script on {}", shards[0]), 50, None).await;
    let reply = all.send(shards[0], false).await?;
    all.add(shards[0], &reply.results);
    if reply.state == CopyState::Before {
        return Ok(Done { effects: vec![], results: all.results });
    }
    let mut effects = vec![all.effect(shards[0], reply.objects)?];
    let steps: Vec<_> = shards[1..].iter().map(|shard| all.send(*shard, false)).collect();
    let answers: Vec<Result<ScriptReply, Error>> = futures::stream::iter(steps).buffered(FAN_OUT).collect().await;
    for (shard, answer) in shards[1..].iter().zip(answers) {
        let answer = answer.map_err(|error| forward(*shard, error))?;
        if placement.shards[0] == *shard {
            effects.push(all.effect(*shard, answer.objects)?);
        }
        all.add(*shard, &answer.results);
    }
    Ok(Done { effects, results: all.results })
}

/// A script on its way.
struct Course<'a> {
    driver: &'a Driver<'a>,
    registry: &'a Registry,
    script: &'a Script,
    placement: &'a Placement,
    /// What its statements have answered.
    results: Vec<StatementResult>,
}

impl Course<'_> {
    /// Lets all shards try the script. [`CopyState::Before`]: an earlier job of the same request has run it.
    async fn try_all(&mut self, shards: &[GroupId]) -> Result<CopyState, Error> {
        let tries: Vec<_> = shards.iter().map(|shard| self.send(*shard, true)).collect();
        let tries: Vec<Result<ScriptReply, Error>> = futures::stream::iter(tries).buffered(FAN_OUT).collect().await;
        let begun = tries.iter().flatten().any(|reply| reply.state == CopyState::Applied);
        for (shard, answer) in shards.iter().zip(tries) {
            let reply = answer.map_err(|error| if begun { forward(*shard, error) } else { error })?;
            if reply.state == CopyState::Before {
                self.add(*shard, &reply.results);
                return Ok(CopyState::Before);
            }
            if *shard == shards[0] || *shard == self.placement.shards[0] {
                self.effect(*shard, reply.objects)?;
            }
        }
        Ok(CopyState::Tried)
    }

    /// What the registry learns from a shard.
    fn effect(&self, shard: GroupId, objects: Vec<SchemaObject>) -> Result<Effect, Error> {
        // What is new beside sharded tables is a home table: no script leaves another.
        let new = if shard == HOME_SHARD { HOME } else { self.placement.id };
        effect(self.registry, shard, objects, new)
    }

    fn step(&self, shard: GroupId, dry_run: bool) -> ScriptStep {
        let script = self.script;
        let places = script.places(self.placement, shard);
        ScriptStep {
            job: self.driver.job.id,
            request: (script.shards(self.placement)[0] == shard).then_some(script.request),
            version: next_version(self.registry),
            placement: script.placement,
            at_us: self.driver.job.created_us,
            // The id is random or a hash; its halves are as good a seed as any.
            seed: (script.request.0 as u64) ^ ((script.request.0 >> 64) as u64),
            statements: places.into_iter().map(|place| script.statements[place].clone()).collect(),
            foreign_keys: script.foreign_keys,
            dry_run,
        }
    }

    async fn send(&self, shard: GroupId, dry_run: bool) -> Result<ScriptReply, Error> {
        let command = ShardCommand::Script(Box::new(self.step(shard, dry_run)));
        match self.driver.shard(shard, command).await? {
            ShardReply::Script(reply) => Ok(*reply),
            other => Err(Error::new(Code::Internal, format!("a shard gave another answer: {other:?}"))),
        }
    }

    /// What a shard has answered. Rows that several have changed count together; copies count once.
    fn add(&mut self, shard: GroupId, answered: &[StatementResult]) {
        for (place, result) in self.script.places(self.placement, shard).into_iter().zip(answered) {
            let known = &mut self.results[place];
            let before = if self.placement.is_reference() { 0 } else { known.rows_affected };
            *known = StatementResult { rows_affected: before + result.rows_affected, ..result.clone() };
        }
    }
}
