//! Copies of reference tables: writes that every shard repeats, and rows for a copy that is being made.
//!
//! A write arrives on each shard under its job's id, with the time and the randomness of the job, so all
//! shards compute the same rows. The shard that decides also remembers the request, like any other
//! write: only it is asked whether the request is new, or shards could come to differ.

use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::registry::{MAX_COPIED_BYTES, MAX_COPIED_ROWS, MAX_REFERENCE_RESULT_BYTES, quoted};
use flotilla_shared::steps::WRITE_STEP;
use flotilla_shared::value::Value;
use flotilla_shared::wire::{CopiedRow, CopyState, CopyWrite, ShardReply, StatementResult};
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ffi};

use super::apply::{Draft, Machine};
use super::guard::Mode;
use super::ownership::Owned;
use super::statements::{Halt, Moment};
use super::steps::Reply;

impl Machine {
    /// Runs a write on this shard's copies, unless it was run before.
    pub(super) fn write_copy(&mut self, draft: &mut Draft, write: &CopyWrite) -> Result<Reply, Halt> {
        if let Some(why) = self.undone(write.job)? {
            return Ok(Err(why));
        }
        // First, for the request is remembered by then.
        if let Some(kept) = self.kept(write.job, WRITE_STEP)? {
            return Ok(Ok(kept));
        }
        if let Some(first) = write.request.and_then(|request| self.requests.find(request)) {
            return Ok(first.map(|results| ShardReply::Written { results, state: CopyState::Before }));
        }
        if write.dry_run {
            let moves = Arc::clone(&draft.moves);
            self.db.execute_batch("SAVEPOINT dry")?;
            let reply = self.written(draft, write)?;
            self.db.execute_batch("ROLLBACK TO dry; RELEASE dry")?;
            draft.moves = moves;
            return Ok(reply);
        }
        let reply = self.once(write.job, WRITE_STEP, || self.written(draft, write))?;
        if let Ok(ShardReply::Written { results, .. }) = &reply {
            for (placement, epoch) in &write.epochs {
                let known = draft.ownership.placements.get(placement).cloned().unwrap_or_default();
                if known.epoch < *epoch {
                    draft.ownership.set(&self.db, *placement, Owned { epoch: *epoch, ..known })?;
                }
            }
            if let Some(request) = write.request {
                self.requests.remember(request, draft.applied.request_us, &Ok(results.clone()));
            }
        }
        Ok(reply)
    }

    fn written(&self, draft: &mut Draft, write: &CopyWrite) -> Result<Reply, Halt> {
        let moment = Moment { at_us: write.at_us, seed: write.seed };
        let results = match self.statements(draft, Mode::Write, &write.statements, moment)? {
            Ok(results) => results,
            Err(error) => return Ok(Err(error)),
        };
        let bytes: usize = results.iter().map(result_bytes).sum();
        if bytes > MAX_REFERENCE_RESULT_BYTES {
            let message = format!("the write returns {bytes} bytes, over {MAX_REFERENCE_RESULT_BYTES}");
            let hint = "return less from a write to a reference table, and read the rows afterwards";
            return Err(Halt::Undo(Error::new(Code::TooLarge, message).hint(hint)));
        }
        let state = if write.dry_run { CopyState::Tried } else { CopyState::Applied };
        Ok(Ok(ShardReply::Written { results, state }))
    }

    /// Adds rows as they are elsewhere. Foreign keys and triggers stay out of it: they have had their say,
    /// and a row may refer to one of the next chunk.
    pub(super) fn fill_copy(
        &self,
        table: &str,
        columns: &[String],
        rows: &[CopiedRow],
        sequence: Option<i64>,
    ) -> Result<Reply, Halt> {
        let config = [DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER];
        let before = config.map(|one| self.db.db_config(one));
        for one in config {
            self.db.set_db_config(one, false)?;
        }
        let filled = fill(&self.db, table, columns, rows, sequence);
        for (one, on) in config.into_iter().zip(before) {
            self.db.set_db_config(one, on?)?;
        }
        match filled {
            Ok(()) => Ok(Ok(ShardReply::Ok)),
            Err(error) => match error.sqlite_error().map(|sqlite| sqlite.extended_code & 0xff) {
                Some(ffi::SQLITE_CONSTRAINT | ffi::SQLITE_ERROR | ffi::SQLITE_MISMATCH) => {
                    Err(Halt::Undo(Error::from_sqlite(&error)))
                }
                _ => Err(error.into()),
            },
        }
    }
}

fn fill(
    db: &Connection,
    table: &str,
    columns: &[String],
    rows: &[CopiedRow],
    sequence: Option<i64>,
) -> rusqlite::Result<()> {
    let names: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
    let marks = vec!["?"; columns.len()].join(", ");
    let mut insert = db.prepare(&format!("INSERT INTO {} ({}) VALUES ({marks})", quoted(table), names.join(", ")))?;
    for row in rows {
        for (index, (value, text)) in row.values.iter().zip(&row.texts).enumerate() {
            match value {
                Value::Blob(bytes) if *text => insert.raw_bind_parameter(index + 1, ValueText(bytes))?,
                value => insert.raw_bind_parameter(index + 1, value)?,
            }
        }
        insert.raw_execute()?;
    }
    if let Some(sequence) = sequence {
        db.execute("DELETE FROM sqlite_sequence WHERE name = ?1", [table])?;
        db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", (table, sequence))?;
    }
    Ok(())
}

/// Bytes that are bound as text, UTF-8 or not.
struct ValueText<'a>(&'a [u8]);

impl rusqlite::ToSql for ValueText<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

pub(super) fn result_bytes(result: &StatementResult) -> usize {
    let values =
        |rows: &flotilla_shared::wire::Rows| rows.values.iter().flatten().map(Value::size_bytes).sum::<usize>();
    16 + result.rows.as_ref().map_or(0, values)
}

/// Why a table is too large to be copied, if it is. Looks at no more rows than may be copied.
pub(super) fn too_large(db: &Connection, table: &str) -> rusqlite::Result<Option<Error>> {
    let mut columns = db.prepare("SELECT name FROM pragma_table_info(?1)")?;
    let columns: Vec<String> = columns.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let (mut rows, mut bytes) = (0, 0);
    for part in columns.chunks(100) {
        let sizes: Vec<String> =
            part.iter().map(|column| format!("coalesce(octet_length({}), 0)", quoted(column))).collect();
        let sql = format!(
            "SELECT count(*), coalesce(sum(n), 0) FROM (SELECT {} + 16 AS n FROM {} LIMIT {})",
            sizes.join(" + "),
            quoted(table),
            MAX_COPIED_ROWS + 1
        );
        let (counted, sum): (i64, i64) = db.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        (rows, bytes) = (counted as u64, bytes + sum as u64);
    }
    if rows <= MAX_COPIED_ROWS && bytes <= MAX_COPIED_BYTES {
        return Ok(None);
    }
    let message = format!(
        "{table} is over {MAX_COPIED_ROWS} rows or {MAX_COPIED_BYTES} bytes, too large for a copy on every shard"
    );
    Ok(Some(Error::new(Code::TooLarge, message).hint("shard it by a key, or register it before rows are inserted")))
}
