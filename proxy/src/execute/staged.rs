//! Writes in two steps: reads the rows that a write is about, then writes them by key.
//!
//! Input: a [`Staged`] plan. The read goes through [`Proxy::run`] like any client's; its rows become
//! [`Piece`]s, which [`once`] sends so that a retry does not write other rows. Whether
//! pieces on several shards may go out is [`across`]'s to say.

use std::collections::BTreeMap;

use flotilla_shared::closed::DEFER_FOREIGN_KEYS;
use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{RequestId, SchemaVersion};
use flotilla_shared::registry::HOME;
use flotilla_shared::value::Value;
use flotilla_shared::wire::{Level, Rows, Statement};
use futures::StreamExt;
use tokio::time::{Duration, Instant};

use crate::Proxy;
use crate::analyze::Verb;
use crate::execute::once::{self, MAX_GENERATIONS, Memo, STEPS, Sent};
use crate::execute::send::{self, Job, MAX_FAN_OUT, MAX_WRITE_BYTES};
use crate::execute::{FIRST_PAUSE, MAX_KEY_COLLISIONS, MAX_PAUSE, Options, Ready, input, same_meaning};
use crate::plan::across::{self, Spread};
use crate::plan::identity::{MAX_STATEMENT_ARGS, MAX_STATEMENT_ROWS};
use crate::plan::pieces::{Piece, Pieces};
use crate::plan::stage::{Change, Staged};
use crate::plan::{self, Part, Plan};
use crate::respond::Output;

/// Pieces of one write: a memo must name all of them and be small enough to be remembered.
const MAX_PIECES: usize = 1000;

/// A write, ready to be sent.
pub(crate) struct Made {
    /// Its transactions.
    pub pieces: Vec<Piece>,
    /// The schema that they were planned with.
    pub schema: SchemaVersion,
    /// Generated keys, with the statement and part that they are in.
    generated: Vec<(Ready, Part, BTreeMap<usize, i64>)>,
}

impl Proxy {
    /// Runs a write that reads first. `id` names the statement.
    pub(crate) async fn run_staged(
        &self,
        statement: &Statement,
        id: RequestId,
        options: &Options,
    ) -> Result<Output, Error> {
        let name = RequestId::random();
        let (mut pause, mut collisions, mut number) = (FIRST_PAUSE, 0, 0);
        while number < MAX_GENERATIONS {
            let ready = self.ready(&statement.sql, options).await?;
            let version = ready.registry.version;
            let returning = once::returning(&ready);
            let made = match self.make(&ready, statement, id, options).await {
                Err(error) if error.code == Code::StaleRoute => {
                    self.await_newer(error, version, &mut pause, options).await?;
                    continue;
                }
                // It may succeed later, and says nothing about earlier tries.
                Err(error) if error.code.class() != Class::Refused => return Err(error),
                made => made,
            };
            let generation = id.part(STEPS + number);
            if options.keyed {
                let memo = Memo::new(name, made.as_ref().ok().map(|made| made.pieces.as_slice()));
                let first = self.remember(generation, &memo, options).await?;
                if first.name != name {
                    match self.settle(generation, &first, &ready, options).await? {
                        Some(output) => return Ok(output),
                        None => number += 1,
                    }
                    continue;
                }
            }
            let made = made?;
            let sent = self.send_pieces(generation, &made, options).await;
            number += 1;
            if sent.is_empty() || !sent.iter().all(|(_, _, sent)| sent.is_nothing()) {
                return once::answer(sent, returning.as_ref());
            }
            let codes = sent.iter().filter_map(|(_, _, sent)| match sent {
                Sent::Failed(error) => Some(error.code),
                _ => None,
            });
            // What was not sent, because another part had failed before, says nothing.
            match codes.min_by_key(|code| *code == Code::Conflict) {
                Some(Code::RowsChanged) => self.await_others(&mut pause, options).await?,
                Some(Code::StaleRoute) => {
                    let error = Error::new(Code::StaleRoute, "the map of the cluster changed").hint("retry");
                    self.await_newer(error, version, &mut pause, options).await?;
                }
                Some(Code::Constraint) if collisions < MAX_KEY_COLLISIONS && !made.generated.is_empty() => {
                    if !self.replace_taken(&made, options).await? {
                        return once::answer(sent, returning.as_ref());
                    }
                    collisions += 1;
                }
                Some(_) => return once::answer(sent, returning.as_ref()),
                // Another try of this request fenced ours off; one of us will get through.
                None => self.metrics.retried("fenced"),
            }
        }
        Err(Error::new(Code::Conflict, format!("the request was tried {MAX_GENERATIONS} times and never took effect"))
            .hint("nothing was changed; use a new Idempotency-Key"))
    }

    /// Lets those go ahead who changed the rows that a write was decided on, before it is decided anew. A pause of
    /// random length keeps writers that meet on the same rows from meeting again.
    async fn await_others(&self, pause: &mut Duration, options: &Options) -> Result<(), Error> {
        self.metrics.retried("rows_changed");
        let random = RequestId::random().0 % pause.as_micros().max(1);
        let until = Instant::now() + Duration::from_micros(random as u64);
        *pause = (*pause * 2).min(MAX_PAUSE);
        if until >= options.deadline {
            return Err(Error::rows_changed());
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }

    /// Are there generated keys that were taken? Then the next ones begin behind them.
    async fn replace_taken(&self, made: &Made, options: &Options) -> Result<bool, Error> {
        let mut taken = false;
        for (ready, part, keys) in &made.generated {
            if self.keys_taken(ready, part, keys, options).await? {
                self.raise_keys(ready, options).await?;
                self.metrics.retried("key_collision");
                taken = true;
            }
        }
        Ok(taken)
    }

    /// Reads, and makes the pieces of what came back.
    async fn make(
        &self,
        ready: &Ready,
        statement: &Statement,
        id: RequestId,
        options: &Options,
    ) -> Result<Made, Error> {
        let keys = self.assign_keys(ready, &statement.params, id, None, options).await?;
        let within = input(ready, &statement.params, &keys, options);
        let max_bytes = MAX_WRITE_BYTES - statement.sql.len().min(MAX_WRITE_BYTES / 2) - 1024;
        let (mut made, what) = match plan::plan(within, &ready.registry) {
            Plan::Refused(error) => return Err(error),
            Plan::Staged(Staged::Insert(read)) => {
                let (change, _) = plan::staged_change(within, &ready.registry)?;
                let rows = self.rows_of(&read, options).await?;
                (self.make_inserts(ready, change, rows, id, max_bytes, options).await?, "insert")
            }
            Plan::Staged(Staged::ByKey(read)) => {
                let (change, placement) = plan::staged_change(within, &ready.registry)?;
                let rows = self.rows_of(&read, options).await?;
                let pieces = change.by_key(placement, rows.values, max_bytes)?;
                check(ready, change, &pieces)?;
                (Made { pieces, schema: ready.mirror.version, generated: vec![] }, "change")
            }
            Plan::Staged(Staged::Find(probe, parts)) => {
                let found = self.find(ready, &probe, parts, options).await?;
                (as_written(ready, statement, found), "change")
            }
            // The keys alone decide, by the map as it is now.
            plan @ (Plan::One(_) | Plan::Some(_) | Plan::All(_)) => {
                self.check_rewritten(ready, &plan)?;
                let parts = plan.parts().to_vec();
                let generated = match (&parts[..], keys.is_empty()) {
                    ([part], false) => vec![(ready.clone(), part.clone(), keys.clone())],
                    _ => vec![],
                };
                (Made { generated, ..as_written(ready, statement, parts) }, "change")
            }
            Plan::Copies(_) => return Err(plan::keys::stale("the table has become a reference table".to_owned())),
            Plan::Local | Plan::Merge(_) => return Err(Error::new(Code::Internal, "a write was planned as a read")),
        };
        let table = ready.prepared.analysis.record.target.as_deref().unwrap_or("");
        let mut shards: Vec<_> = made.pieces.iter().map(|piece| piece.shard).collect();
        shards.sort_unstable();
        shards.dedup();
        across::decide(Spread::Shards(shards.len()), options.allow_partial, what, table)?;
        across::decide(Spread::Pieces(made.pieces.len()), options.allow_partial, what, table)?;
        if made.pieces.len() > MAX_PIECES {
            return Err(Error::new(Code::TooLarge, format!("the write takes over {MAX_PIECES} transactions"))
                .hint("write fewer rows at a time"));
        }
        defer_checks(ready, &mut made.pieces);
        for piece in &made.pieces {
            send::check_size(&flotilla_shared::wire::Write { id, route: None, statements: piece.statements.clone() })?;
        }
        Ok(made)
    }

    /// The rows of a read that is part of a write.
    async fn rows_of(&self, read: &Statement, options: &Options) -> Result<Rows, Error> {
        let options = Options {
            id: RequestId::random(),
            keyed: false,
            level: Level::Linearizable,
            freshness_ms: None,
            allow_partial: false,
            reads_only: true,
            internal: true,
            ..options.clone()
        };
        match Box::pin(self.run(read, 0, &options)).await? {
            Output::Rows(rows) => Ok(rows),
            other => Err(Error::new(Code::Internal, format!("a read answered {other:?}"))),
        }
    }

    async fn make_inserts(
        &self,
        ready: &Ready,
        change: Change<'_>,
        rows: Rows,
        id: RequestId,
        max_bytes: usize,
        options: &Options,
    ) -> Result<Made, Error> {
        let within = Options { allow_partial: true, ..options.clone() };
        let mut pieces = Pieces::new(max_bytes);
        let mut generated = Vec::new();
        let mut schema = ready.mirror.version;
        let most = (MAX_STATEMENT_ARGS / rows.columns.len().max(1)).clamp(1, MAX_STATEMENT_ROWS);
        for chunk in chunks(&rows.values, most, max_bytes / 4) {
            let values = change.values(chunk)?;
            let made = self.ready(&values.sql, &within).await?;
            same_meaning(&made.prepared, &ready.prepared, Verb::Insert)?;
            schema = schema.min(made.mirror.version);
            let keys = self.assign_keys(&made, &values.params, id, None, &within).await?;
            let plan = plan::plan(input(&made, &values.params, &keys, &within), &made.registry);
            self.check_rewritten(&made, &plan)?;
            let parts = match plan {
                Plan::One(part) => vec![part],
                Plan::Some(parts) => parts,
                Plan::Refused(error) => return Err(error),
                _ => return Err(Error::new(Code::Internal, "rows of values were planned as something else")),
            };
            let job = Job { prepared: &made.prepared, statement: &values, schema, options: &within };
            for part in &parts {
                pieces.add(part.shard, part.claims.clone(), job.write(part, id).statements, part.last_row);
            }
            if let ([part], false) = (&parts[..], keys.is_empty()) {
                generated.push((made, part.clone(), keys));
            }
        }
        Ok(Made { pieces: pieces.list, schema, generated })
    }

    /// Those of the parts on whose shards the probe finds a row; any one when there is none.
    async fn find(
        &self,
        ready: &Ready,
        probe: &Statement,
        parts: Vec<Part>,
        options: &Options,
    ) -> Result<Vec<Part>, Error> {
        let options = Options { level: Level::Linearizable, freshness_ms: None, ..options.clone() };
        let (asked, _) = ready.mirror.prepare(&probe.sql)?;
        asked.check_args(&probe.params)?;
        let job = Job { prepared: &asked, statement: probe, schema: ready.mirror.version, options: &options };
        let asks: Vec<_> = parts.iter().map(|part| self.read_part(job, part)).collect();
        let answers: Vec<Result<Rows, Error>> = futures::stream::iter(asks).buffered(MAX_FAN_OUT).collect().await;
        let mut found = Vec::new();
        for (part, answer) in parts.iter().zip(answers) {
            if !answer?.values.is_empty() {
                found.push(part.clone());
            }
        }
        if found.is_empty() {
            found.extend(parts.into_iter().next());
        }
        Ok(found)
    }
}

/// Rows in runs of at most `most`, and of about `max_bytes` where rows are large.
fn chunks(rows: &[Vec<Value>], most: usize, max_bytes: usize) -> Vec<&[Vec<Value>]> {
    let mut list = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (n, row) in rows.iter().enumerate() {
        let size: usize = row.iter().map(Value::size_bytes).sum();
        if n > first && (n - first >= most || bytes + size > max_bytes) {
            list.push(&rows[first..n]);
            (first, bytes) = (n, 0);
        }
        bytes += size;
    }
    if first < rows.len() {
        list.push(&rows[first..]);
    }
    list
}

fn as_written(ready: &Ready, statement: &Statement, parts: Vec<Part>) -> Made {
    let piece = |part: Part| Piece {
        shard: part.shard,
        claims: part.claims,
        guards: usize::from(part.guard.is_some()),
        statements: part.guard.into_iter().chain([part.statement.unwrap_or_else(|| statement.clone())]).collect(),
        last_row: part.last_row,
        ..Piece::default()
    };
    Made { pieces: parts.into_iter().map(piece).collect(), schema: ready.mirror.version, generated: vec![] }
}

/// What was one statement is several now: foreign keys are checked when all of them are done, as SQLite does it
/// at the end of a statement.
fn defer_checks(ready: &Ready, pieces: &mut [Piece]) {
    let target = ready.prepared.analysis.record.target.as_deref().unwrap_or_default();
    if !ready.mirror.schema.checked_at_end.contains(target) {
        return;
    }
    for piece in pieces.iter_mut().filter(|piece| piece.statements.len() > piece.guards + 1) {
        piece.statements.insert(0, Statement::bare(DEFER_FOREIGN_KEYS));
        piece.guards += 1;
    }
}

/// SQLite reads what was written anew before any shard does.
fn check(ready: &Ready, change: Change<'_>, pieces: &[Piece]) -> Result<(), Error> {
    for piece in pieces.iter().chain(pieces.iter().filter_map(|piece| piece.undo.as_deref())) {
        for (n, statement) in piece.statements.iter().enumerate() {
            let guard = n < piece.guards;
            let prepare = |sql: &str| match guard {
                true => ready.mirror.prepare_own_kept(sql),
                false => ready.mirror.prepare(sql),
            };
            let (again, _) = prepare(&statement.sql)?;
            again.check_args(&statement.params)?;
            if guard {
                let same = again.readonly && again.analysis.placements == [change.table.placement];
                let wrong = || Error::new(Code::Internal, format!("a guard means something else: {}", again.sql));
                same.then_some(()).ok_or_else(wrong)?;
                continue;
            }
            let verb = match (change.moves(), piece.silent) {
                (true, true) => Verb::Delete,
                (true, false) if again.analysis.verb == Verb::Insert => Verb::Insert,
                _ => ready.prepared.analysis.verb,
            };
            same_meaning(&again, &ready.prepared, verb)?;
            if change.table.placement == HOME && again.analysis.placements != [HOME] {
                return Err(Error::new(
                    Code::Unroutable,
                    format!("what {} sets off reaches {}", change.table.name, again.analysis.table_names()),
                )
                .hint("write the tables one by one"));
            }
        }
    }
    Ok(())
}
