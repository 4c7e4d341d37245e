//! Several statements that take effect together or not at all: one write on one shard.
//!
//! All of them must be on the same shard by their keys; what would need two-phase commit is refused
//! with `cross_shard_write`. SELECTs among them run inside the write and see what it has changed.

use std::collections::BTreeMap;

use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{GroupId, RequestId, SchemaVersion};
use flotilla_shared::registry::HOME_SHARD;
use flotilla_shared::wire::{Route, Statement, StatementResult, Write};

use crate::Proxy;
use crate::analyze::Verb;
use crate::execute::once::is_fence;
use crate::execute::recall;
use crate::execute::send::{self, Job};
use crate::execute::{COLLISION_PART, FIRST_PAUSE, MAX_KEY_COLLISIONS, Options, Ready, claim_slot_of_id, input};
use crate::plan::keys::{claim_all, merge_claims};
use crate::plan::{self, Part, Plan};
use crate::respond::Output;

/// A transaction, planned.
struct Planned {
    shard: GroupId,
    write: Write,
    version: u64,
    /// Which of the write's statements is that of the request; the others are guards.
    places: Vec<usize>,
    selects: Vec<bool>,
    /// What gets generated keys: the statement, and where it goes.
    generated: Vec<(Ready, Part, BTreeMap<usize, i64>)>,
}

impl Proxy {
    /// Runs statements as one transaction.
    pub(crate) async fn run_transaction(
        &self,
        statements: &[Statement],
        options: &Options,
    ) -> Result<Vec<Output>, Error> {
        // A write without statements would be a fence.
        if statements.is_empty() {
            return Ok(vec![]);
        }
        if let Some(outputs) = self.run_copies(statements, options).await? {
            return Ok(outputs);
        }
        let (mut pause, mut collisions) = (FIRST_PAUSE, 0);
        loop {
            let id = if collisions == 0 { options.id } else { options.id.part(COLLISION_PART + collisions) };
            let registry = self.registry(options.deadline).await?;
            let planned = match self.plan_transaction(statements, id, options).await {
                Err(error) if error.code.class() == Class::Refused => {
                    match self.refused(error, &registry, options).await {
                        Err(error) if error.code == Code::CrossShardWrite && options.keyed => {
                            let recalled = self.recall(statements, options.id, options).await?.ok_or(error)?;
                            return self.recalled(statements, recalled, options).await;
                        }
                        refused => refused?,
                    }
                    continue;
                }
                planned => planned?,
            };
            send::check_size(&planned.write)?;
            let outcome = match self.send_writes(planned.shard, vec![planned.write.clone()], options).await {
                Ok(mut results) => results.remove(0),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(results) if is_fence(&results) => return Err(send::fenced_off()),
                Ok(results) => return outputs(results, &planned),
                Err(error) if error.code == Code::StaleRoute => {
                    self.await_newer(error, planned.version, &mut pause, options).await?;
                }
                Err(error) if error.code == Code::Constraint && collisions < MAX_KEY_COLLISIONS => {
                    if !self.replace_keys(&planned, options, collisions).await? {
                        return Err(error);
                    }
                    collisions += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The outputs of a transaction that an earlier try carried out.
    async fn recalled(
        &self,
        statements: &[Statement],
        results: Vec<StatementResult>,
        options: &Options,
    ) -> Result<Vec<Output>, Error> {
        if results.len() != statements.len() {
            // Guards of generated keys are among them, and which ones is not remembered.
            return Err(Error::new(Code::ResultForgotten, "the transaction was applied before its rows moved apart"));
        }
        let mut outputs = Vec::with_capacity(results.len());
        for (statement, result) in statements.iter().zip(results) {
            let select = self.ready(&statement.sql, options).await?.prepared.analysis.verb == Verb::Select;
            outputs.push(output(select, result));
        }
        Ok(outputs)
    }

    /// Makes sure of fresh keys if some of the generated ones were taken.
    async fn replace_keys(&self, planned: &Planned, options: &Options, collisions: u64) -> Result<bool, Error> {
        let mut replaced = false;
        for (ready, part, keys) in &planned.generated {
            if (options.keyed && collisions < 2) || self.keys_taken(ready, part, keys, options).await? {
                self.raise_keys(ready, options).await?;
                self.metrics.retried("key_collision");
                replaced = true;
            }
        }
        Ok(replaced)
    }

    async fn plan_transaction(
        &self,
        statements: &[Statement],
        id: RequestId,
        options: &Options,
    ) -> Result<Planned, Error> {
        let mut ready = Vec::with_capacity(statements.len());
        for (n, statement) in statements.iter().enumerate() {
            let one = self.ready(&statement.sql, options).await.map_err(|error| at(n, error))?;
            if matches!(one.prepared.analysis.verb, Verb::Schema | Verb::Local) {
                return Err(at(
                    n,
                    Error::new(Code::Unroutable, "schema statements and PRAGMAs cannot be part of a transaction")
                        .hint("send it in a request of its own"),
                ));
            }
            one.prepared.check_args(&statement.params).map_err(|error| at(n, error))?;
            ready.push(one);
        }
        let mut shard = self.shard_of(statements, &ready, options)?;
        let mut claims = Vec::new();
        let mut planned = Planned {
            shard: HOME_SHARD,
            write: Write { id, route: None, statements: Vec::with_capacity(statements.len()) },
            version: 0,
            places: Vec::with_capacity(statements.len()),
            selects: ready.iter().map(|one| one.prepared.analysis.verb == Verb::Select).collect(),
            generated: Vec::new(),
        };
        let mut schema = SchemaVersion(0);
        for (n, (statement, one)) in statements.iter().zip(ready).enumerate() {
            let keys = self.assign_keys(&one, &statement.params, id, shard, options).await?;
            let verb = one.prepared.analysis.verb;
            let mut plan = match options.shard {
                Some(shard) if verb == Verb::Select => Plan::One(as_written(shard)),
                Some(shard) => {
                    let input = input(&one, &statement.params, &keys, options);
                    plan::pinned::on_shard(plan::plan(input, &one.registry), shard, verb)
                }
                None => {
                    let input = input(&one, &statement.params, &keys, options);
                    // Copies of reference tables are read where the others are.
                    match plan::reference::part_on(input, &one.registry, shard.unwrap_or(HOME_SHARD)) {
                        Some(part) => Plan::One(part),
                        None => plan::plan(input, &one.registry),
                    }
                }
            };
            if recall::wanders(&one, &statement.params, &keys, options) {
                return Err(at(
                    n,
                    across(
                        "the key that it gets decides the range, and may be in another one when it is repeated"
                            .to_owned(),
                    ),
                )
                .hint("give the key, or send the statements one by one, each with an Idempotency-Key"));
            }
            claim_slot_of_id(&mut plan, &one, id, &keys);
            self.check_rewritten(&one, &plan)?;
            let part = match plan {
                Plan::One(part) => part,
                Plan::Local => {
                    finds_nothing(&one, shard).ok_or_else(|| at(n, across("its table is elsewhere".to_owned())))?
                }
                Plan::Refused(error) => return Err(at(n, error)),
                Plan::Copies(_) => return Err(at(n, across("it writes a reference table, on all shards".to_owned()))),
                _ => return Err(at(n, across("it reaches several shards".to_owned()))),
            };
            let anywhere = options.shard.is_none()
                && plan::reference::only(input(&one, &statement.params, &keys, options), &one.registry);
            if options.shard.is_none() && !part.claims.is_empty() && !anywhere {
                match shard {
                    Some(known) if known != part.shard => {
                        return Err(at(n, across(format!("it is on {}, those before it on {known}", part.shard))));
                    }
                    _ => shard = Some(part.shard),
                }
            }
            schema = schema.max(one.mirror.version);
            planned.version = planned.version.max(one.registry.version);
            claims.extend(part.claims.iter().cloned());
            let job = Job { prepared: &one.prepared, statement, schema, options };
            planned.write.statements.extend(job.write(&part, id).statements);
            planned.places.push(planned.write.statements.len() - 1);
            if !keys.is_empty() {
                planned.generated.push((one, part, keys));
            }
        }
        planned.shard = shard.unwrap_or(HOME_SHARD);
        // What is read on a named shard need not be owned there.
        let routed = options.shard.is_none() || !claims.is_empty();
        planned.write.route = routed.then(|| Route { schema, claims: merge_claims(claims) });
        Ok(planned)
    }

    /// The shard that the statements with known keys name; generated keys follow it.
    fn shard_of(&self, statements: &[Statement], ready: &[Ready], options: &Options) -> Result<Option<GroupId>, Error> {
        if options.shard.is_some() {
            return Ok(options.shard);
        }
        let none = BTreeMap::new();
        for (statement, one) in statements.iter().zip(ready) {
            let input = input(one, &statement.params, &none, options);
            if !plan::reference::only(input, &one.registry)
                && plan::missing_keys(input, &one.registry).is_empty()
                && let Plan::One(part) = plan::plan(input, &one.registry)
                && !part.claims.is_empty()
            {
                return Ok(Some(part.shard));
            }
        }
        Ok(None)
    }
}

fn outputs(results: Vec<StatementResult>, planned: &Planned) -> Result<Vec<Output>, Error> {
    let mut results: Vec<Option<StatementResult>> = results.into_iter().map(Some).collect();
    let mut outputs = Vec::with_capacity(planned.places.len());
    for (place, select) in planned.places.iter().zip(&planned.selects) {
        let result = results.get_mut(*place).and_then(Option::take);
        let result =
            result.ok_or_else(|| Error::new(Code::WrongPeer, "a transaction was answered without all results"))?;
        outputs.push(output(*select, result));
    }
    Ok(outputs)
}

fn output(select: bool, result: StatementResult) -> Output {
    if select { Output::Rows(result.rows.unwrap_or_default()) } else { Output::Write(result) }
}

fn as_written(shard: GroupId) -> Part {
    Part { shard, claims: vec![], statement: None, guard: None, last_row: true }
}

/// Where a read that can find no row runs: on the transaction's shard, if that has the table.
fn finds_nothing(one: &Ready, shard: Option<GroupId>) -> Option<Part> {
    let placement = one.registry.placements.get(one.prepared.analysis.placements.first()?)?;
    match shard {
        Some(known) => placement.shards.contains(&known).then(|| as_written(known)),
        None => {
            let owner = placement.owners().next()?;
            Some(Part { claims: vec![claim_all(placement, owner)], ..as_written(owner) })
        }
    }
}

fn across(why: String) -> Error {
    Error::new(Code::CrossShardWrite, format!("a transaction is on one shard; {why}"))
        .hint("use rows with the same shard key, or tables that nobody sharded, or leave out `transaction`")
}

/// Says which statement an error is about.
fn at(index: usize, error: Error) -> Error {
    Error { message: format!("statement {}: {}", index + 1, error.message), ..error }
}
