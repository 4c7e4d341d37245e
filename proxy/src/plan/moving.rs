//! Updates of shard keys: rows that leave their shard.
//!
//! Input: the rows that [`stage`](super::stage) has read, whole, with their new values. Output: [`Piece`]s. Rows that
//! stay on their shard are updated there. The others are inserted at their new shard and then removed
//! from the old one, which is refused when they are not what they were; then what was inserted is
//! taken back. A crash in between leaves a row twice, never not at all.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, Slot};
use flotilla_shared::registry::Placement;
use flotilla_shared::slot::apply_affinity;
use flotilla_shared::sqlite::digest::digest_of;
use flotilla_shared::value::Value;

use super::identity::{Identity, list};
use super::keys::{by_owner, claim_slots, stale};
use super::pieces::{Piece, Pieces};
use super::split::{Writer, quote};
use super::stage::{Assigned, Change, Row};

/// An UPDATE of a shard key.
pub(super) struct Moving<'a> {
    /// The statement.
    pub change: Change<'a>,
    /// Where its table lives.
    pub placement: &'a Placement,
    /// The columns that each row begins with.
    pub columns: Vec<usize>,
    /// Of its table.
    pub identity: Identity,
    /// Of one transaction.
    pub max_bytes: usize,
}

/// A row that leaves its shard.
struct Leaving {
    old: Slot,
    new: Slot,
    /// Its old key and the digest of what was read.
    before: Row,
    /// All of it, as it is to be.
    after: Row,
}

impl Moving<'_> {
    /// Transactions that change or move these rows.
    ///
    /// # Errors
    /// A refusal by name.
    pub fn pieces(&self, found: Vec<Row>) -> Result<Vec<Piece>, Error> {
        let assigned = self.change.assigned()?;
        let (several, width) = (found.len() > 1, self.identity.width());
        let names: BTreeSet<String> = found.iter().map(|row| self.identity.name(&row[..width])).collect();
        let mut staying = Pieces::new(self.max_bytes);
        let mut leaving: BTreeMap<(GroupId, GroupId), Vec<Leaving>> = BTreeMap::new();
        for row in found {
            let after = self.after(&assigned, &row)?;
            let name = self.identity.name(&after[..width]);
            if several && name != self.identity.name(&row[..width]) && names.contains(&name) {
                return Err(refused(format!(
                    "the new key of one row of {} is the old key of another, so the order would decide",
                    self.change.table.name
                )));
            }
            let before = [&row[..width], &row[row.len() - 1..]].concat();
            let old = self.change.slot(self.placement, &self.columns, &row)?;
            let new = self.change.slot(self.placement, &self.columns, &after)?;
            let (from, to) = (self.owner(old)?, self.owner(new)?);
            if from != to {
                leaving.entry((from, to)).or_default().push(Leaving { old, new, before, after });
                continue;
            }
            let mut writer = self.change.writer();
            self.change.head(&mut writer, &assigned, &row[self.columns.len()..])?;
            writer.push(" WHERE ");
            self.identity.condition(&mut writer, &[&row[..width]]);
            self.change.tail(&mut writer)?;
            let claim = claim_slots(self.placement, to, [old, new]);
            staying.add_guarded(to, vec![claim], vec![writer.finish()], vec![before]);
        }
        let mut pieces = staying.with_guards(|rows| self.change.guards(rows))?;
        for ((from, to), rows) in leaving {
            self.leave(from, to, &rows, &mut pieces)?;
        }
        Ok(pieces)
    }

    /// The row as it is to be.
    fn after(&self, assigned: &[(usize, Assigned)], row: &[Value]) -> Result<Row, Error> {
        let table = self.change.table;
        let mut after = row[..self.columns.len()].to_vec();
        for ((index, _), value) in assigned.iter().zip(&row[self.columns.len()..]) {
            let at = self.columns.iter().position(|column| column == index);
            if let Some(cell) = at.and_then(|at| after.get_mut(at)) {
                *cell = apply_affinity(table.columns[*index].compare.affinity, value);
            }
        }
        let unset = |index: &usize| {
            let at = self.columns.iter().position(|column| column == index);
            at.is_none_or(|at| after[at] == Value::Null)
        };
        match table.key.iter().any(unset) {
            true => Err(refused(format!("the shard key of {} would become NULL", table.name))),
            false => Ok(after),
        }
    }

    /// Adds pairs of transactions: one that inserts rows at their new shard, and one that removes them
    /// from the old one.
    fn leave(&self, from: GroupId, to: GroupId, rows: &[Leaving], pieces: &mut Vec<Piece>) -> Result<(), Error> {
        let mut first = 0;
        while first < rows.len() {
            let mut insert = Piece { shard: to, last_row: true, ..Piece::default() };
            let mut end = first;
            while end < rows.len() && end - first < self.identity.rows_per_statement() {
                let mut writer = self.change.writer();
                self.insert(&mut writer, &rows[end].after)?;
                self.change.tail(&mut writer)?;
                insert.statements.push(writer.finish());
                if insert.size_bytes() > self.max_bytes && end > first {
                    insert.statements.pop();
                    break;
                }
                end += 1;
            }
            let chunk = &rows[first..end];
            insert.claims = vec![claim_slots(self.placement, to, chunk.iter().map(|row| row.new))];
            pieces.iter_mut().for_each(|piece| piece.last_row = false);
            pieces.push(insert);
            let before: Vec<Row> = chunk.iter().map(|row| row.before.clone()).collect();
            let removal = self.removal(from, chunk.iter().map(|row| row.old).collect(), &before, None)?;
            pieces.push(Piece { after: Some(pieces.len() - 1), undo: self.undo(to, chunk)?, ..removal });
            first = end;
        }
        Ok(())
    }

    /// Takes back what was inserted, unless others have changed it. What REPLACE removed cannot be put back.
    fn undo(&self, shard: GroupId, rows: &[Leaving]) -> Result<Option<Box<Piece>>, Error> {
        if self.change.shape.or.as_deref() == Some("REPLACE") {
            return Ok(None);
        }
        let names: Vec<String> =
            self.columns.iter().map(|index| quote(&self.change.table.columns[*index].name)).collect();
        let digest = format!("flotilla_digest({})", names.join(", "));
        let inserted = |row: &Leaving| [&row.after[..self.identity.width()], &[digest_of(&row.after)]].concat();
        let inserted: Vec<Row> = rows.iter().map(inserted).collect();
        let slots = rows.iter().map(|row| row.new).collect();
        self.removal(shard, slots, &inserted, Some(&digest)).map(|piece| Some(Box::new(piece)))
    }

    /// Removes these rows, each a key and a digest, if they are what they were.
    fn removal(&self, shard: GroupId, slots: Vec<Slot>, rows: &[Row], digest: Option<&str>) -> Result<Piece, Error> {
        let mut statements = match digest {
            Some(digest) => vec![self.change.guard(&self.identity, digest, rows)],
            None => self.change.guards(rows)?,
        };
        let guards = statements.len();
        let mut writer = self.change.writer();
        writer.push(&format!("DELETE FROM {} WHERE ", quote(&self.change.table.name)));
        let keys: Vec<&[Value]> = rows.iter().map(|row| &row[..self.identity.width()]).collect();
        self.identity.condition(&mut writer, &keys);
        statements.push(writer.finish());
        let claims = vec![claim_slots(self.placement, shard, slots)];
        Ok(Piece { shard, claims, statements, guards, silent: true, ..Piece::default() })
    }

    fn insert(&self, writer: &mut Writer<'_>, row: &[Value]) -> Result<(), Error> {
        match self.change.shape.or.as_deref() {
            Some("IGNORE") => return Err(refused("UPDATE OR IGNORE cannot move a row to another shard".into())),
            Some("REPLACE") => writer.push("INSERT OR REPLACE INTO "),
            _ => writer.push("INSERT INTO "),
        }
        writer.copy(self.change.shape.target.clone())?;
        let columns = &self.change.table.columns;
        let names: Vec<String> = self.columns.iter().map(|index| quote(&columns[*index].name)).collect();
        writer.push(&format!(" ({}) VALUES (", names.join(", ")));
        list(writer, row);
        writer.push(")");
        Ok(())
    }

    fn owner(&self, slot: Slot) -> Result<GroupId, Error> {
        let owners = by_owner(self.placement, &[slot])?;
        owners.into_keys().next().ok_or_else(|| stale(format!("slot {slot} has no owner")))
    }
}

fn refused(why: String) -> Error {
    Error::new(Code::ShardKeyUpdate, why).hint("insert the row with its new key, then delete the old one")
}
