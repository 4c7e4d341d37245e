//! Writes that take two steps: rows are read first, then written.
//!
//! [`Staged`] says what to read; what came back becomes [`Piece`]s here (and in [`moving`](super::moving)), each a
//! transaction on one shard. All of it is text and values; [`execute`](crate::execute::staged) does the
//! reading and the sending. Nothing is locked in between, but a row that is changed or removed is what it
//! was when the write was decided on it: the read takes a digest of the columns that it looks at, and each
//! transaction begins with guards that fail unless its rows still have theirs. Then the write is planned
//! anew. What else the read saw may have changed, as between two statements of one client.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, Slot};
use flotilla_shared::registry::{Placement, Table};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Statement;

use super::identity::{Identity, distinct, list};
use super::keys::{by_owner, claim_slots, is_column};
use super::moving::Moving;
use super::pieces::{Piece, Pieces};
use super::split::{Writer, quote};
use super::{Part, show};
use crate::analyze::Verb;
use crate::analyze::change::ChangeShape;
use crate::mirror::{Mirror, Prepared};

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

/// A row, or part of one.
pub type Row = Vec<Value>;

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
    /// The schema that it was prepared with.
    pub mirror: &'a Mirror,
}

impl<'a> Change<'a> {
    pub(super) fn identity(&self) -> Result<Identity, Error> {
        Identity::of(self.table, &self.mirror.schema)
    }

    pub(super) fn writer(&self) -> Writer<'a> {
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

    pub(super) fn tail(&self, writer: &mut Writer<'_>) -> Result<(), Error> {
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
        self.read_with(None)
    }

    /// The same, and last the digest of the columns that it looks at.
    ///
    /// # Errors
    /// A form that cannot be taken apart; what SQLite says of it.
    pub fn guarded_read(&self) -> Result<Statement, Error> {
        let digest = self.digest(&format!("{}.", quote(&self.shape.known_as)))?;
        self.read_with(Some(&digest))
    }

    /// The digest of the columns of the target that the read looks at, as SQLite tells: those that the write is
    /// decided by.
    pub(super) fn digest(&self, qualifier: &str) -> Result<String, Error> {
        let (read, _) = self.mirror.prepare(&self.read()?.sql)?;
        let seen = read.analysis.record.columns.get(&self.table.name.to_ascii_lowercase());
        let is_seen = |name: &str| seen.is_some_and(|seen| seen.contains(&name.to_ascii_lowercase()));
        let columns = self.table.columns.iter().filter(|column| is_seen(&column.name));
        let mut names: Vec<String> = columns.map(|column| format!("{qualifier}{}", quote(&column.name))).collect();
        // Each shard of a sharded table has rowids of its own: where rows are put together they have others.
        if is_seen("rowid") && self.table.key.is_empty() && self.table.column("rowid").is_none() {
            names.push(format!("{qualifier}rowid"));
        }
        Ok(format!("flotilla_digest({})", names.join(", ")))
    }

    fn read_with(&self, digest: Option<&str>) -> Result<Statement, Error> {
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
        writer.push(&digest.map_or(String::new(), |digest| format!(", {digest}")));
        self.where_from(&mut writer)?;
        Ok(writer.finish())
    }

    /// Statements that fail unless all these rows, each a key and a digest, are there and have their digests.
    ///
    /// # Errors
    /// As [`guarded_read`](Self::guarded_read).
    pub(super) fn guards(&self, rows: &[Row]) -> Result<Vec<Statement>, Error> {
        let (identity, digest) = (self.identity()?, self.digest("")?);
        Ok(rows.chunks(identity.rows_per_statement()).map(|chunk| self.guard(&identity, &digest, chunk)).collect())
    }

    /// One of them.
    pub(super) fn guard(&self, identity: &Identity, digest: &str, rows: &[Row]) -> Statement {
        let (mut writer, width) = (self.writer(), identity.width());
        let keys: Vec<&[Value]> = rows.iter().map(|row| &row[..width]).collect();
        writer.push(&format!("SELECT 1 FROM (SELECT count(*) AS n FROM main.{} WHERE ", quote(&self.table.name)));
        identity.condition(&mut writer, &keys);
        writer.push(&format!(" AND {digest} IN ("));
        list(&mut writer, &rows.iter().map(|row| row[width].clone()).collect::<Vec<_>>());
        writer.push(")) WHERE flotilla_unchanged(n, ");
        writer.value(Value::Integer(rows.len() as i64));
        writer.push(")");
        writer.finish()
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
    pub(super) fn columns(&self) -> Result<Vec<usize>, Error> {
        let identity = self.identity()?.columns;
        let more: Vec<usize> = match self.moves() {
            true => (0..self.table.columns.len()).filter(|index| !self.table.columns[*index].generated).collect(),
            false => self.table.key.clone(),
        };
        let further: Vec<usize> = more.into_iter().filter(|index| !identity.contains(index)).collect();
        Ok([identity, further].concat())
    }

    /// What is assigned: column by column, in order.
    pub(super) fn assigned(&self) -> Result<Vec<(usize, Assigned)>, Error> {
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
        let identity = self.identity()?;
        let width = identity.width();
        let found = distinct(rows, width)?;
        if found.len() > 1 && self.sees_itself()? {
            return Err(Error::new(
                Code::Unroutable,
                format!("a subquery in SET reads what the statement changes in {}, row after row", self.table.name),
            )
            .hint("use UPDATE … FROM with the subquery, which reads all of it first, or change the rows one by one"));
        }
        if self.moves() {
            return Moving { change: *self, placement, columns, identity, max_bytes }.pieces(found);
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
        let guarded = |row: &Row| [&row[..width], &row[row.len() - 1..]].concat();
        for (shard, rows) in shards {
            let claim = claim_slots(placement, shard, rows.iter().map(|(slot, _)| *slot));
            let per_statement = if one_by_one { 1 } else { identity.rows_per_statement() };
            for chunk in rows.chunks(per_statement) {
                let mut writer = self.writer();
                self.head(&mut writer, &assigned, chunk[0].1.get(columns.len()..).unwrap_or_default())?;
                let keys: Vec<&[Value]> = chunk.iter().map(|(_, row)| &row[..width]).collect();
                writer.push(" WHERE ");
                identity.condition(&mut writer, &keys);
                self.tail(&mut writer)?;
                let rows = chunk.iter().map(|(_, row)| guarded(row)).collect();
                pieces.add_guarded(shard, vec![claim.clone()], vec![writer.finish()], rows);
            }
        }
        pieces.with_guards(|rows| self.guards(rows))
    }

    pub(super) fn slot(&self, placement: &Placement, columns: &[usize], row: &[Value]) -> Result<Slot, Error> {
        let mut key = Vec::with_capacity(self.table.key.len());
        for index in &self.table.key {
            let at = columns.iter().position(|column| column == index);
            key.push(at.and_then(|at| row.get(at)).cloned().unwrap_or_default());
        }
        placement.slot(&key)
    }

    /// `UPDATE t SET …` or `DELETE FROM t`.
    pub(super) fn head(
        &self,
        writer: &mut Writer<'_>,
        assigned: &[(usize, Assigned)],
        computed: &[Value],
    ) -> Result<(), Error> {
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
}

/// One value of an UPDATE.
pub(super) struct Assigned {
    /// Where it is in the text.
    pub span: Range<usize>,
    /// It comes from the read; else it is computed as written, where the row is.
    pub computed: bool,
}
