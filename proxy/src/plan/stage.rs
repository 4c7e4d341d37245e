//! Writes that take two steps: rows are read first, then written.
//!
//! [`Staged`] says what to read; what came back becomes [`Piece`]s here, each a transaction on one
//! shard. All of it is text and values; [`execute`](crate::execute::staged) does the reading and the
//! sending. Nothing is locked in between: another write may come between the read and the write of a
//! row, as between two statements of one client.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, Slot};
use flotilla_shared::registry::{Placement, Table};
use flotilla_shared::slot::{Collation, apply_affinity};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Statement;

use super::keys::{by_owner, claim_slots, is_column};
use super::pieces::{Piece, Pieces};
use super::split::{Writer, quote};
use super::{Part, show};
use crate::analyze::Verb;
use crate::analyze::change::ChangeShape;
use crate::mirror::Prepared;

/// Rows that one statement inserts, changes or removes: their text is prepared on every shard.
pub const MAX_STATEMENT_ROWS: usize = 500;

/// Arguments of one statement; SQLite takes 32,766.
pub const MAX_STATEMENT_ARGS: usize = 30_000;

/// How a write in two steps begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Staged {
    /// The rows that this query gives are inserted.
    Insert(Statement),
    /// This query tells on which of the parts' shards there are rows; these run the statement as written.
    Find(Statement, Vec<Part>),
    /// The rows that this query finds are changed or removed by their keys.
    ByKey(Statement),
}

impl fmt::Display for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, statement) = match self {
            Self::Insert(read) => ("insert of", read),
            Self::Find(probe, _) => ("as written where there is", probe),
            Self::ByKey(read) => ("by key of", read),
        };
        f.write_str(word)?;
        show(f, statement)
    }
}

type Row = Vec<Value>;

/// A statement with its arguments and parts.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// The statement.
    pub prepared: &'a Prepared,
    /// Its arguments.
    pub params: &'a Params,
    /// Its parts.
    pub shape: &'a ChangeShape,
    /// Its target.
    pub table: &'a Table,
}

impl<'a> Change<'a> {
    fn writer(&self) -> Writer<'a> {
        Writer::new(self.prepared, &self.shape.params, self.params)
    }

    /// The query that gives the rows of an INSERT.
    ///
    /// # Errors
    /// [`Code::WrongArgCount`] when an argument is missing.
    pub fn source(&self) -> Result<Statement, Error> {
        let mut writer = self.writer();
        let source = self.shape.source.clone();
        let with = |text: &str| text.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("WITH"));
        match (self.shape.with.is_empty(), with(&self.prepared.sql[source.clone()])) {
            (true, _) => writer.copy(source)?,
            (false, false) => {
                writer.copy(self.shape.with.clone())?;
                writer.push(" ");
                writer.copy(source)?;
            }
            // Two WITH, of which the inner one goes first in looking up names.
            (false, true) => {
                writer.copy(self.shape.with.clone())?;
                writer.push(" SELECT * FROM (");
                writer.copy(source)?;
                writer.push(")");
            }
        }
        Ok(writer.finish())
    }

    /// The INSERT with these rows in place of its query.
    ///
    /// # Errors
    /// [`Code::WrongArgCount`] when an argument is missing.
    pub fn values(&self, rows: &[Vec<Value>]) -> Result<Statement, Error> {
        let mut writer = self.writer();
        writer.copy(self.shape.head.clone())?;
        writer.push(" VALUES ");
        for (n, row) in rows.iter().enumerate() {
            writer.push(if n > 0 { ", (" } else { "(" });
            list(&mut writer, row);
            writer.push(")");
        }
        self.tail(&mut writer)?;
        Ok(writer.finish())
    }

    fn tail(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        if !self.shape.tail.is_empty() {
            writer.push(" ");
            writer.copy(self.shape.tail.clone())?;
        }
        Ok(())
    }

    /// The query that tells whether there are rows to change.
    ///
    /// # Errors
    /// [`Code::WrongArgCount`] when an argument is missing.
    pub fn probe(&self) -> Result<Statement, Error> {
        let mut writer = self.writer();
        writer.push("SELECT 1");
        self.where_from(&mut writer)?;
        writer.push(" LIMIT 1");
        Ok(writer.finish())
    }

    /// What SQLite makes of the target and FROM of an UPDATE (`sqlite3Update`, and the rule for `UPDATE` in its
    /// grammar): the target is a table even where a CTE has its name, which the name of its schema
    /// says here, and several sources are a subquery of their own, which parentheses make here. So
    /// USING and NATURAL never take a column of the target, and ON sees none of them.
    fn where_from(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
        writer.push(&format!(" FROM main.{}", quote(&self.table.name)));
        if !self.shape.known_as.eq_ignore_ascii_case(&self.table.name) {
            writer.push(&format!(" AS {}", quote(&self.shape.known_as)));
        }
        if let Some(from) = &self.shape.from {
            writer.push(if self.shape.from_joins { ", (" } else { ", " });
            writer.copy(from.clone())?;
            writer.push(if self.shape.from_joins { ")" } else { "" });
        }
        if let Some(condition) = &self.shape.condition {
            writer.push(" WHERE ");
            writer.copy(condition.clone())?;
        }
        Ok(())
    }

    /// The query that finds the rows to change: for each its identity and shard key (all of it when
    /// the key changes), then the values that must be computed where all tables are at hand.
    ///
    /// # Errors
    /// A form that cannot be taken apart.
    pub fn read(&self) -> Result<Statement, Error> {
        let mut writer = self.writer();
        if !self.shape.with.is_empty() {
            writer.copy(self.shape.with.clone())?;
            writer.push(" ");
        }
        writer.push("SELECT ");
        for (n, index) in self.columns()?.into_iter().enumerate() {
            writer.push(if n > 0 { ", " } else { "" });
            writer.push(&format!("{}.{}", quote(&self.shape.known_as), quote(&self.table.columns[index].name)));
        }
        for (_, value) in self.assigned()?.into_iter().filter(|(_, value)| value.computed) {
            writer.push(", (");
            writer.copy(value.span)?;
            writer.push(")");
        }
        self.where_from(&mut writer)?;
        Ok(writer.finish())
    }

    /// Does it change a column of the shard key?
    pub fn moves(&self) -> bool {
        self.shape
            .set
            .iter()
            .flat_map(|assignment| &assignment.columns)
            .any(|name| self.table.key.iter().any(|index| is_column(self.table, *index, name)))
    }

    /// Columns of the target that are read.
    fn columns(&self) -> Result<Vec<usize>, Error> {
        let mut columns = identity(self.table)?;
        let more: Vec<usize> = match self.moves() {
            true => (0..self.table.columns.len()).filter(|index| !self.table.columns[*index].generated).collect(),
            false => self.table.key.clone(),
        };
        columns.extend(more.into_iter().filter(|index| !identity(self.table).is_ok_and(|own| own.contains(index))));
        Ok(columns)
    }

    /// What is assigned: column by column, in order.
    fn assigned(&self) -> Result<Vec<(usize, Assigned)>, Error> {
        let everything = self.shape.from.is_some() || self.moves();
        let mut list = Vec::new();
        for assignment in &self.shape.set {
            if assignment.columns.len() != assignment.values.len() {
                return Err(Error::new(Code::Unroutable, "a row of columns is assigned from one query")
                    .hint("assign the columns one by one"));
            }
            for (name, span) in assignment.columns.iter().zip(&assignment.values) {
                let found = (0..self.table.columns.len()).find(|index| is_column(self.table, *index, name));
                let index = found.ok_or_else(|| {
                    Error::new(Code::Unroutable, format!("{name} of {} cannot be written by key", self.table.name))
                        .hint("give the table an INTEGER PRIMARY KEY to change")
                })?;
                list.push((index, Assigned { span: span.clone(), computed: everything || assignment.queries }));
            }
        }
        Ok(list)
    }

    /// Transactions that change or remove the rows found by [`read`](Self::read).
    ///
    /// # Errors
    /// A refusal by name.
    pub fn by_key(&self, placement: &Placement, rows: Vec<Vec<Value>>, max_bytes: usize) -> Result<Vec<Piece>, Error> {
        let columns = self.columns()?;
        let width = identity(self.table)?.len();
        let found = distinct(rows, width)?;
        if self.moves() {
            return self.moving(placement, &columns, width, found, max_bytes);
        }
        let assigned = self.assigned()?;
        let one_by_one = assigned.iter().any(|(_, value)| value.computed);
        let mut shards: BTreeMap<GroupId, Vec<(Slot, Vec<Value>)>> = BTreeMap::new();
        for row in found {
            let slot = self.slot(placement, &columns, &row)?;
            for owner in by_owner(placement, &[slot])?.into_keys() {
                shards.entry(owner).or_default().push((slot, row.clone()));
            }
        }
        let mut pieces = Pieces::new(max_bytes);
        for (shard, rows) in shards {
            let claim = claim_slots(placement, shard, rows.iter().map(|(slot, _)| *slot));
            let per_statement = if one_by_one { 1 } else { MAX_STATEMENT_ROWS.min(MAX_STATEMENT_ARGS / width) };
            for chunk in rows.chunks(per_statement) {
                let mut writer = self.writer();
                self.head(&mut writer, &assigned, chunk[0].1.get(columns.len()..).unwrap_or_default())?;
                let keys: Vec<&[Value]> = chunk.iter().map(|(_, row)| &row[..width]).collect();
                self.where_identity(&mut writer, &keys);
                self.tail(&mut writer)?;
                pieces.add(shard, vec![claim.clone()], vec![writer.finish()], false);
            }
        }
        Ok(pieces.list)
    }

    fn slot(&self, placement: &Placement, columns: &[usize], row: &[Value]) -> Result<Slot, Error> {
        let mut key = Vec::with_capacity(self.table.key.len());
        for index in &self.table.key {
            let at = columns.iter().position(|column| column == index);
            key.push(at.and_then(|at| row.get(at)).cloned().unwrap_or_default());
        }
        placement.slot(&key)
    }

    /// `UPDATE t SET …` or `DELETE FROM t`.
    fn head(&self, writer: &mut Writer<'_>, assigned: &[(usize, Assigned)], computed: &[Value]) -> Result<(), Error> {
        writer.copy(self.shape.verb.clone())?;
        writer.push(" ");
        writer.copy(self.shape.target.clone())?;
        if self.prepared.analysis.verb != Verb::Update {
            return Ok(());
        }
        writer.push(" SET ");
        let mut computed = computed.iter();
        for (n, (index, value)) in assigned.iter().enumerate() {
            writer.push(if n > 0 { ", " } else { "" });
            writer.push(&format!("{} = ", quote(&self.table.columns[*index].name)));
            match value.computed {
                true => writer.value(computed.next().cloned().unwrap_or_default()),
                false => writer.copy(value.span.clone())?,
            }
        }
        Ok(())
    }

    fn where_identity(&self, writer: &mut Writer<'_>, keys: &[&[Value]]) {
        let names: Vec<String> = identity(self.table)
            .unwrap_or_default()
            .into_iter()
            .map(|index| quote(&self.table.columns[index].name))
            .collect();
        match &names[..] {
            [name] => {
                writer.push(&format!(" WHERE {name} IN ("));
                for (n, key) in keys.iter().enumerate() {
                    writer.push(if n > 0 { ", " } else { "" });
                    list(writer, key);
                }
            }
            names => {
                writer.push(&format!(" WHERE ({}) IN (VALUES ", names.join(", ")));
                for (n, key) in keys.iter().enumerate() {
                    writer.push(if n > 0 { ", (" } else { "(" });
                    list(writer, key);
                    writer.push(")");
                }
            }
        }
        writer.push(")");
    }

    /// Rows whose shard key changes: those that stay on their shard are updated there, the others are
    /// inserted at their new shard and then removed from the old one. A crash in between leaves a row
    /// twice, never not at all.
    fn moving(
        &self,
        placement: &Placement,
        columns: &[usize],
        width: usize,
        found: Vec<Vec<Value>>,
        max_bytes: usize,
    ) -> Result<Vec<Piece>, Error> {
        let assigned = self.assigned()?;
        let several = found.len() > 1;
        let names: BTreeSet<String> = found.iter().map(|row| self.name_of(columns, &row[..width])).collect();
        let mut pieces = Pieces::new(max_bytes);
        let mut removals: BTreeMap<(GroupId, GroupId), Vec<(Slot, Row)>> = BTreeMap::new();
        for row in found {
            let mut after = row[..columns.len()].to_vec();
            for ((index, _), value) in assigned.iter().zip(&row[columns.len()..]) {
                let at = columns.iter().position(|column| column == index);
                if let Some(cell) = at.and_then(|at| after.get_mut(at)) {
                    *cell = apply_affinity(self.table.columns[*index].compare.affinity, value);
                }
            }
            let unset =
                |at: &usize| columns.iter().position(|column| column == at).is_none_or(|at| after[at] == Value::Null);
            if self.table.key.iter().any(unset) {
                return Err(refused_move(format!("the shard key of {} would become NULL", self.table.name)));
            }
            let (before, name) = (self.name_of(columns, &row[..width]), self.name_of(columns, &after[..width]));
            if several && name != before && names.contains(&name) {
                return Err(refused_move(format!(
                    "the new key of one row of {} is the old key of another, so the order would decide",
                    self.table.name
                )));
            }
            let (old, new) = (self.slot(placement, columns, &row)?, self.slot(placement, columns, &after)?);
            let (from, to) = (sole(placement, old)?, sole(placement, new)?);
            let mut writer = self.writer();
            if from == to {
                self.head(&mut writer, &assigned, &row[columns.len()..])?;
                self.where_identity(&mut writer, &[&row[..width]]);
            } else {
                self.insert(&mut writer, columns, &after)?;
            }
            self.tail(&mut writer)?;
            let slots = if from == to { vec![old, new] } else { vec![new] };
            pieces.add(to, vec![claim_slots(placement, to, slots)], vec![writer.finish()], true);
            if from != to {
                removals.entry((from, to)).or_default().push((old, row[..width].to_vec()));
            }
        }
        let mut list = pieces.list;
        let inserted = list.len();
        for ((from, to), rows) in removals {
            for chunk in rows.chunks(MAX_STATEMENT_ROWS.min(MAX_STATEMENT_ARGS / width)) {
                let mut writer = self.writer();
                writer.push(&format!("DELETE FROM {}", quote(&self.table.name)));
                let keys: Vec<&[Value]> = chunk.iter().map(|(_, key)| key.as_slice()).collect();
                self.where_identity(&mut writer, &keys);
                list.push(Piece {
                    shard: from,
                    claims: vec![claim_slots(placement, from, chunk.iter().map(|(slot, _)| *slot))],
                    statements: vec![writer.finish()],
                    silent: true,
                    last_row: false,
                    after: (0..inserted).rev().find(|at| list[*at].shard == to),
                });
            }
        }
        Ok(list)
    }

    fn insert(&self, writer: &mut Writer<'_>, columns: &[usize], row: &[Value]) -> Result<(), Error> {
        match self.shape.or.as_deref() {
            Some("IGNORE") => return Err(refused_move("UPDATE OR IGNORE cannot move a row to another shard".into())),
            Some("REPLACE") => writer.push("INSERT OR REPLACE INTO "),
            _ => writer.push("INSERT INTO "),
        }
        writer.copy(self.shape.target.clone())?;
        let names: Vec<String> = columns.iter().map(|index| quote(&self.table.columns[*index].name)).collect();
        writer.push(&format!(" ({}) VALUES (", names.join(", ")));
        list(writer, row);
        writer.push(")");
        Ok(())
    }

    /// The identity of a row as one text, equal for keys that SQLite calls equal.
    fn name_of(&self, columns: &[usize], key: &[Value]) -> String {
        let fold = |(index, value): (&usize, &Value)| match (self.table.columns[*index].compare.collation, value) {
            (Collation::NoCase, Value::Text(text)) => format!("{:?}", text.to_ascii_lowercase()),
            (Collation::Rtrim, Value::Text(text)) => format!("{:?}", text.trim_end_matches(' ')),
            _ => value.to_json().to_string(),
        };
        columns.iter().zip(key).map(fold).collect::<Vec<_>>().join(",")
    }
}

/// One value of an UPDATE.
struct Assigned {
    span: Range<usize>,
    /// It comes from the read; else it is computed as written, where the row is.
    computed: bool,
}

/// Columns that tell a row from all others.
fn identity(table: &Table) -> Result<Vec<usize>, Error> {
    let mut columns: Vec<usize> = (0..table.columns.len()).filter(|at| table.columns[*at].primary_key > 0).collect();
    columns.sort_by_key(|index| table.columns[*index].primary_key);
    match columns.is_empty() {
        false => Ok(columns),
        true => Err(Error::new(
            Code::Unroutable,
            format!("{} has no primary key by which rows that were read could be written", table.name),
        )
        .hint("give the table a PRIMARY KEY, or fix the shard key and use no subquery")),
    }
}

/// Each row once, by its identity. A row of an UPDATE … FROM that matches several times counts once,
/// with the values of the last match, as in SQLite.
fn distinct(rows: Vec<Vec<Value>>, width: usize) -> Result<Vec<Vec<Value>>, Error> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut list: Vec<Vec<Value>> = Vec::with_capacity(rows.len());
    for row in rows {
        if row.get(..width).is_none_or(|key| key.contains(&Value::Null)) {
            return Err(Error::new(Code::Unroutable, "a row to be written has NULL in its primary key")
                .hint("give the row a key first"));
        }
        let name = format!("{:?}", &row[..width]);
        match places.get(&name) {
            Some(at) => list[*at] = row,
            None => {
                places.insert(name, list.len());
                list.push(row);
            }
        }
    }
    Ok(list)
}

fn list(writer: &mut Writer<'_>, values: &[Value]) {
    for (n, value) in values.iter().enumerate() {
        if n > 0 {
            writer.push(", ");
        }
        writer.value(value.clone());
    }
}

fn sole(placement: &Placement, slot: Slot) -> Result<GroupId, Error> {
    let owners = by_owner(placement, &[slot])?;
    owners.into_keys().next().ok_or_else(|| super::keys::stale(format!("slot {slot} has no owner")))
}

fn refused_move(why: String) -> Error {
    Error::new(Code::ShardKeyUpdate, why).hint("insert the row with its new key, then delete the old one")
}
