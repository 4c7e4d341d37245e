//! Writes of several steps take effect once.
//!
//! What such a write does depends on what it read, so a second try of the request may come to other
//! pieces, on other shards: remembering each piece by its id is not enough. The invariant is: *of all
//! tries of a request, the pieces of at most one take effect*. It is kept like this:
//!
//! 1. A request goes through **generations**, each with an id of its own, [`STEPS`] from the request's.
//! 2. Before a try sends any piece of a generation, it writes a **memo** under the generation's id: a
//!    random name of the try, and the shards of its pieces. The memo is a write like any other and its
//!    result is remembered, so whoever comes later gets the memo of the first.
//! 3. The pieces of a generation have ids that depend on the generation and their place alone.
//! 4. A try that finds the memo of another one writes a **fence** under the id of each of its pieces: a
//!    write that does nothing. Where the piece was applied, the shard answers its first result;
//!    where not, the fence now has its id, and the piece can never be applied.
//!    A piece of a shard that was removed since is looked for where the shard's slots went.
//! 5. Rows that leave their shard are inserted at the new one by one piece and removed from the old one by another,
//!    which is refused when they have changed. Then a third write takes back what was inserted; it has an id of
//!    its own beside the piece's, and a try that finds the memo fences it off as well, and so learns whether it
//!    took effect.
//! 6. If one was applied, the request is answered from these first results. If none was, the
//!    generation is dead, and the try goes on with the next one, reading anew.
//!
//! A crash before 2 leaves nothing. One between 2 and the pieces leaves a memo that the next try
//! fences. One among the pieces leaves those that were applied (which `allow_partial` allows), and the
//! next try reports them. Memos, pieces and fences are remembered as long as any write.
//!
//! A request whose id the client did not choose is never tried again by anyone, so it needs no memo;
//! generations only keep its own tries apart.

use std::sync::Arc;

use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{GroupId, RequestId};
use flotilla_shared::registry::{HOME_SHARD, Registry};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{Route, Rows, Statement, StatementResult, Write};
use futures::StreamExt;

use crate::Proxy;
use crate::execute::send::{self, MAX_FAN_OUT};
use crate::execute::staged::Made;
use crate::execute::{Options, Ready};
use crate::plan::pieces::Piece;
use crate::respond::Output;

/// Part numbers of generations lie beyond those of shards and of collisions.
pub const STEPS: u64 = 1 << 41;

/// Tries of one request. Each takes a retry of the client, a collision of keys, a map that changed in the
/// middle, or rows that others changed: of those there may be many within a deadline, and a retry goes
/// through all of them.
pub const MAX_GENERATIONS: u64 = 1024;

/// The part of a generation's id that the memo has; pieces come behind.
const MEMO: u64 = 0;

/// Part numbers of what undoes pieces lie beyond those of pieces.
const UNDO: u64 = 1 << 20;

/// A write without statements: it does nothing, but its id is taken. Shards know it by that, too.
pub(crate) fn fence(id: RequestId, route: Option<Route>) -> Write {
    Write { id, route, statements: vec![] }
}

/// Is this what a fence was answered?
pub(crate) fn is_fence(results: &[StatementResult]) -> bool {
    results.is_empty()
}

/// What the first try of a generation was about to send.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Memo {
    /// Its try.
    pub name: RequestId,
    /// The try was refused and sends nothing.
    pub void: bool,
    /// Its pieces.
    pieces: Vec<Mark>,
}

/// What a memo tells of a piece.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mark {
    shard: GroupId,
    silent: bool,
    last_row: bool,
    /// The piece that it takes back if it does nothing itself.
    undoes: Option<usize>,
}

impl Memo {
    /// The memo of a try; without pieces it is void.
    pub(crate) fn new(name: RequestId, pieces: Option<&[Piece]>) -> Self {
        let mark = |piece: &Piece| Mark {
            shard: piece.shard,
            silent: piece.silent,
            last_row: piece.last_row,
            undoes: piece.after.filter(|_| piece.undo.is_some()),
        };
        Self { name, void: pieces.is_none(), pieces: pieces.unwrap_or_default().iter().map(mark).collect() }
    }

    fn text(&self) -> String {
        let pieces: Vec<String> = self
            .pieces
            .iter()
            .map(|mark| {
                let undoes = mark.undoes.map_or(String::new(), |piece| format!(".{piece}"));
                format!("{}.{}.{}{undoes}", mark.shard.0, u8::from(mark.silent), u8::from(mark.last_row))
            })
            .collect();
        format!("{:032x} {} {}", self.name.0, u8::from(self.void), pieces.join(" "))
    }

    fn read(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let name = RequestId(u128::from_str_radix(words.next()?, 16).ok()?);
        let void = words.next()? == "1";
        let piece = |word: &str| {
            let mut numbers = word.split('.').map(str::parse::<u32>);
            Some(Mark {
                shard: GroupId(numbers.next()?.ok()?),
                silent: numbers.next()?.ok()? == 1,
                last_row: numbers.next()?.ok()? == 1,
                undoes: numbers.next().transpose().ok()?.map(|piece| piece as usize),
            })
        };
        Some(Self { name, void, pieces: words.map(piece).collect::<Option<_>>()? })
    }
}

/// What became of a piece.
pub(crate) enum Sent {
    /// It took effect.
    Applied(StatementResult),
    /// Another try has made sure that it never does.
    Fenced,
    /// It failed, or nobody knows.
    Failed(Error),
}

impl Sent {
    /// Did it surely change nothing?
    pub(crate) fn is_nothing(&self) -> bool {
        match self {
            Self::Applied(_) => false,
            Self::Fenced => true,
            Self::Failed(error) => error.code.class() != Class::Unknown && error.code != Code::ResultForgotten,
        }
    }

    /// Is it known what became of it?
    ///
    /// # Errors
    /// Why not.
    fn is_told(&self) -> Result<(), Error> {
        match self {
            Self::Failed(error)
                if matches!(error.code.class(), Class::Retry | Class::Unknown) && error.code != Code::RowsChanged =>
            {
                Err(error.clone())
            }
            _ => Ok(()),
        }
    }

    fn of(outcome: Result<Vec<StatementResult>, Error>, silent: bool) -> Self {
        let results = match outcome {
            Ok(results) => results,
            Err(error) => return Self::Failed(error),
        };
        if is_fence(&results) {
            return Self::Fenced;
        }
        let mut sum = StatementResult::default();
        for result in results {
            sum.last_insert_id = result.last_insert_id;
            sum.rows_affected += if silent { 0 } else { result.rows_affected };
            match (&mut sum.rows, result.rows.filter(|_| !silent)) {
                (Some(sum), Some(rows)) => sum.values.extend(rows.values),
                (none, rows) => *none = none.take().or(rows),
            }
        }
        Self::Applied(sum)
    }

    fn result(self) -> Result<StatementResult, Error> {
        match self {
            Self::Applied(result) => Ok(result),
            Self::Failed(error) => Err(error),
            Self::Fenced => Err(Error::new(Code::Conflict, "not applied: that try of the request was interrupted")
                .hint("the parts that were applied stay; write the rest in a request of its own")),
        }
    }
}

/// The answer for a write that came to no piece at all.
fn nothing(returning: Option<&Rows>) -> Output {
    Output::Write(StatementResult { rows: returning.cloned(), ..StatementResult::default() })
}

/// Puts the answers of pieces together.
pub(crate) fn answer(sent: Vec<(GroupId, bool, Sent)>, returning: Option<&Rows>) -> Result<Output, Error> {
    if sent.is_empty() {
        return Ok(nothing(returning));
    }
    let mut output = send::total(sent.into_iter().map(|(shard, last, sent)| (shard, last, sent.result())).collect())?;
    if let Output::Write(result) | Output::Partial { result, .. } = &mut output {
        // Guards answer without rows, under names of their own.
        let values = result.rows.take().map_or(vec![], |rows| rows.values);
        result.rows = returning.map(|named| Rows { values, ..named.clone() });
    }
    Ok(output)
}

/// Where pieces of a shard that was removed are remembered, if they took effect: with the slots of the table, which all
/// have gone to other shards. One that did not take effect never will.
fn heirs(ready: &Ready, registry: &Registry) -> Vec<GroupId> {
    let target = ready.prepared.analysis.record.target.as_deref();
    let placement = target.and_then(|name| registry.placement_of(name));
    placement.map_or_else(|| registry.shards().collect(), |placement| placement.shards.clone())
}

/// The names of what RETURNING gives.
pub(crate) fn returning(ready: &Ready) -> Option<Rows> {
    let prepared = &ready.prepared;
    (!prepared.columns.is_empty()).then(|| Rows {
        columns: prepared.columns.clone(),
        types: prepared.types.clone(),
        values: vec![],
    })
}

impl Proxy {
    /// Writes the memo of a generation, or gets that of an earlier try.
    pub(crate) async fn remember(&self, generation: RequestId, memo: &Memo, options: &Options) -> Result<Memo, Error> {
        let lost = |why: String| {
            Error::new(Code::OutcomeUnknown, format!("an earlier try of this request cannot be told of: {why}"))
                .hint("read the rows to see what it did")
        };
        let params = Params::Positional(vec![Value::Text(memo.text())]);
        let statements = vec![Statement { sql: "SELECT ?1".to_owned(), params }];
        let write = Write { id: generation.part(MEMO), route: None, statements };
        let results = match self.send_one(HOME_SHARD, write, options).await {
            Err(error) if error.code == Code::ResultForgotten => return Err(lost(error.message)),
            other => other?,
        };
        let rows = results.into_iter().next().and_then(|result| result.rows);
        match rows.and_then(|rows| rows.values.into_iter().next()?.into_iter().next()) {
            Some(Value::Text(text)) => Memo::read(&text).ok_or_else(|| lost("its memo does not read".to_owned())),
            _ => Err(lost("its memo is not kept".to_owned())),
        }
    }

    /// Finds out what the pieces of a memo did, and makes sure that they do nothing from now on.
    /// `None` when none of them took effect.
    pub(crate) async fn settle(
        &self,
        generation: RequestId,
        memo: &Memo,
        ready: &Ready,
        options: &Options,
    ) -> Result<Option<Output>, Error> {
        if memo.void {
            return Ok(None);
        }
        let gone = |registry: &Registry| memo.pieces.iter().any(|mark| !registry.groups.contains_key(&mark.shard));
        // A shard that this proxy has not heard of yet is not one that was removed.
        let registry = match gone(&ready.registry) {
            true => self.refreshed(options.deadline).await?,
            false => Arc::clone(&ready.registry),
        };
        let heirs = heirs(ready, &registry);
        let asked = |mark: &Mark| match registry.groups.contains_key(&mark.shard) {
            true => vec![mark.shard],
            false => heirs.clone(),
        };
        let fences = memo.pieces.iter().enumerate().map(|(n, mark)| {
            let (id, asked) = (generation.part(n as u64 + 1), asked(mark));
            async move { (mark.shard, mark.last_row, self.fence_piece(id, &asked, mark.silent, options).await) }
        });
        let fences: Vec<_> = fences.collect();
        let mut sent: Vec<(GroupId, bool, Sent)> = futures::stream::iter(fences).buffered(MAX_FAN_OUT).collect().await;
        sent.iter().try_for_each(|(_, _, sent)| sent.is_told())?;
        for (n, mark) in memo.pieces.iter().enumerate() {
            let Some(before) = mark.undoes.filter(|before| sent[n].2.is_nothing() && *before < n) else { continue };
            if matches!(sent[before].2, Sent::Applied(_)) {
                let id = generation.part(UNDO + n as u64);
                let undone = self.fence_piece(id, &asked(&memo.pieces[before]), true, options).await;
                undone.is_told()?;
                if matches!(undone, Sent::Applied(_)) {
                    sent[before].2 = Sent::Fenced;
                }
            }
        }
        match !sent.is_empty() && sent.iter().all(|(_, _, sent)| sent.is_nothing()) {
            true => Ok(None),
            false => answer(sent, returning(ready).as_ref()).map(Some),
        }
    }

    /// Fences a piece on the shards where it may be remembered. What no retry changes goes before what one may.
    async fn fence_piece(&self, id: RequestId, shards: &[GroupId], silent: bool, options: &Options) -> Sent {
        let mut outcome = Sent::Fenced;
        for shard in shards {
            match Sent::of(self.send_one(*shard, fence(id, None), options).await, silent) {
                Sent::Fenced => (),
                Sent::Failed(error) if error.code.class() == Class::Refused && error.code != Code::ResultForgotten => {
                    outcome = Sent::Failed(error);
                }
                known => return known,
            }
        }
        outcome
    }

    /// Sends the pieces of a generation: those of one shard in order, the shards at the same time, and
    /// then those that wait for others.
    pub(crate) async fn send_pieces(
        &self,
        generation: RequestId,
        made: &Made,
        options: &Options,
    ) -> Vec<(GroupId, bool, Sent)> {
        let pieces = &made.pieces;
        let mut done: Vec<Option<Sent>> = pieces.iter().map(|_| None).collect();
        for waiting in [false, true] {
            let mut shards: std::collections::BTreeMap<GroupId, Vec<usize>> = std::collections::BTreeMap::new();
            for (n, piece) in pieces.iter().enumerate().filter(|(_, piece)| piece.after.is_some() == waiting) {
                let ready = piece.after.is_none_or(|before| matches!(done.get(before), Some(Some(Sent::Applied(_)))));
                match ready {
                    true => shards.entry(piece.shard).or_default().push(n),
                    false => done[n] = Some(Sent::Failed(skipped())),
                }
            }
            let sends = shards.into_values().map(|numbers| async move {
                let mut sent = Vec::with_capacity(numbers.len());
                let mut failed = false;
                for n in numbers {
                    let outcome = match failed {
                        true => Sent::Failed(skipped()),
                        false => self.send_piece(generation, n, made, options).await,
                    };
                    failed |= !matches!(outcome, Sent::Applied(_));
                    sent.push((n, outcome));
                }
                sent
            });
            let sends: Vec<_> = sends.collect();
            let all: Vec<Vec<(usize, Sent)>> =
                futures::stream::iter(sends).buffer_unordered(MAX_FAN_OUT).collect().await;
            for (n, outcome) in all.into_iter().flatten() {
                done[n] = Some(outcome);
            }
        }
        for (n, piece) in pieces.iter().enumerate() {
            if let Some(failure) = self.undo(generation, n, piece, &done, made, options).await
                && let Some(before) = piece.after
            {
                done[before] = Some(failure);
            }
        }
        let outcome = |sent: Option<Sent>| sent.unwrap_or_else(|| Sent::Failed(skipped()));
        pieces.iter().zip(done).map(|(piece, sent)| (piece.shard, piece.last_row, outcome(sent))).collect()
    }

    /// Takes back what a piece waited for, if it does nothing itself: then neither did anything.
    async fn undo(
        &self,
        generation: RequestId,
        n: usize,
        piece: &Piece,
        done: &[Option<Sent>],
        made: &Made,
        options: &Options,
    ) -> Option<Sent> {
        let (undo, before) = (piece.undo.as_deref()?, piece.after?);
        let failure = match done[n].as_ref()? {
            Sent::Failed(error) if done[n].as_ref()?.is_nothing() => Sent::Failed(error.clone()),
            Sent::Fenced => Sent::Fenced,
            _ => return None,
        };
        if !matches!(done[before], Some(Sent::Applied(_))) {
            return None;
        }
        let route = Some(Route { schema: made.schema, claims: undo.claims.clone() });
        let write = Write { id: generation.part(UNDO + n as u64), route, statements: undo.statements.clone() };
        match Sent::of(self.send_one(undo.shard, write, options).await, true) {
            Sent::Applied(_) => Some(failure),
            _ => None,
        }
    }

    async fn send_piece(&self, generation: RequestId, n: usize, made: &Made, options: &Options) -> Sent {
        let piece = &made.pieces[n];
        let route = Some(Route { schema: made.schema, claims: piece.claims.clone() });
        let write = Write { id: generation.part(n as u64 + 1), route, statements: piece.statements.clone() };
        Sent::of(self.send_one(piece.shard, write, options).await, piece.silent)
    }
}

fn skipped() -> Error {
    Error::new(Code::Conflict, "not sent, because another part failed before").hint("send the rest again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(shard: u32, silent: bool, last_row: bool, undoes: Option<usize>) -> Mark {
        Mark { shard: GroupId(shard), silent, last_row, undoes }
    }

    /// A memo reads back as it was written.
    #[test]
    fn memos() {
        for memo in [
            Memo {
                name: RequestId(u128::MAX),
                void: false,
                pieces: vec![mark(3, true, false, None), mark(12, false, true, Some(0)), mark(1, true, true, Some(17))],
            },
            Memo { name: RequestId(0), void: true, pieces: vec![] },
            Memo { name: RequestId(7), void: false, pieces: vec![] },
        ] {
            assert_eq!(Memo::read(&memo.text()), Some(memo));
        }
        assert_eq!(Memo::read("nonsense"), None);
    }
}
