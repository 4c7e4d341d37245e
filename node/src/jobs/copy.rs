//! Copies of reference tables for shards that have none.
//!
//! Nobody writes meanwhile: a reference table changes by jobs alone, which run one at a time, and a
//! table that is being registered has left its home already. The table is read in one piece, bounded by
//! [`MAX_COPIED_BYTES`](flotilla_shared::registry::MAX_COPIED_BYTES), and sent in chunks that fit log
//! entries; a driver that starts over reads and cuts it the same.

use flotilla_shared::client::unexpected;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, GroupId, PlacementId};
use flotilla_shared::lex::Tokens;
use flotilla_shared::registry::{
    HOME_SHARD, MAX_COPIED_COLUMNS, Placement, Registry, SlotSet, Table, quoted, schema_database,
};
use flotilla_shared::value::Value;
use flotilla_shared::wire::{CopiedRow, JobAction, JobStep, Level, Read, Request, Response, ShardCommand, Statement};
use futures::StreamExt;

use super::Driver;
use super::write::FAN_OUT;

/// Bytes of one chunk: several must fit a log entry.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunk numbers of one table; those of the next begin behind.
const CHUNKS_PER_TABLE: u64 = 1 << 20;

/// Table numbers of one round.
const TABLES_PER_ROUND: u64 = 1 << 20;

/// Names under which SQLite knows the rowid.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// How a table's rows are read and written again.
struct Layout {
    columns: Vec<String>,
    order: Vec<String>,
}

impl Layout {
    fn of(registry: &Registry, table: &Table) -> Result<Self, Error> {
        let stored = table.columns.iter().filter(|column| !column.generated);
        let mut columns: Vec<String> = stored.map(|column| column.name.clone()).collect();
        if let Some(alias) = table.rowid_alias {
            let order = vec![table.columns[alias].name.clone()];
            return Ok(Self { columns, order });
        }
        if without_rowid(registry, table)? {
            let mut key: Vec<_> = table.columns.iter().filter(|column| column.primary_key > 0).collect();
            key.sort_by_key(|column| column.primary_key);
            return Ok(Self { columns, order: key.iter().map(|column| column.name.clone()).collect() });
        }
        let free = ROWID_NAMES.iter().find(|name| table.column(name).is_none());
        let rowid = free.ok_or_else(|| {
            Error::new(Code::UnsafeRegistration, format!("columns of {} hide its rowid", table.name))
                .hint("rename the column rowid, _rowid_ or oid")
        })?;
        columns.push((*rowid).to_owned());
        Ok(Self { columns, order: vec![(*rowid).to_owned()] })
    }

    fn select(&self, table: &Table) -> String {
        let names: Vec<String> = self.columns.iter().map(|name| quoted(name)).collect();
        let values = names.iter().map(|c| format!("CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) ELSE {c} END"));
        let texts = names.iter().map(|c| format!("typeof({c}) = 'text'"));
        let order: Vec<String> = self.order.iter().map(|name| quoted(name)).collect();
        let list: Vec<String> = values.chain(texts).collect();
        format!("SELECT {} FROM {} ORDER BY {}", list.join(", "), quoted(&table.name), order.join(", "))
    }
}

fn without_rowid(registry: &Registry, table: &Table) -> Result<bool, Error> {
    let db = schema_database(&registry.objects)?;
    db.query_row(
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE",
        [&table.name],
        |row| row.get(0),
    )
    .map_err(|error| Error::from_sqlite(&error))
}

/// Why the table cannot be copied, whatever it holds.
pub(super) fn check(registry: &Registry, table: &Table) -> Result<(), Error> {
    if table.columns.len() > MAX_COPIED_COLUMNS {
        let message = format!("{} has over {MAX_COPIED_COLUMNS} columns", table.name);
        return Err(Error::new(Code::TooLarge, message).hint("shard it by a key"));
    }
    Layout::of(registry, table).map(drop)
}

/// Brings the rows of `tables` to `shards`, which have their definitions. A job that does so twice for a
/// shard numbers its rounds.
pub(super) async fn fill(
    driver: &Driver<'_>,
    registry: &Registry,
    round: u64,
    tables: &[&Table],
    shards: &[GroupId],
) -> Result<(), Error> {
    for (number, table) in tables.iter().enumerate().filter(|_| !shards.is_empty()) {
        let number = round * TABLES_PER_ROUND + number as u64;
        let layout = Layout::of(registry, table)?;
        let chunks = chunks(read(driver, layout.select(table)).await?, layout.columns.len());
        let sequence = sequence(driver, registry, table).await?;
        let last = chunks.len() - 1;
        for (at, rows) in chunks.into_iter().enumerate() {
            driver.note(&format!("copying {}", table.name), 60 + (30 * at / (last + 1)) as u8, None).await;
            let command = ShardCommand::FillCopy {
                job: driver.job.id,
                chunk: number * CHUNKS_PER_TABLE + at as u64,
                table: table.name.clone(),
                columns: layout.columns.clone(),
                rows,
                sequence: sequence.filter(|_| at == last),
            };
            let steps: Vec<_> = shards.iter().map(|shard| driver.shard(*shard, command.clone())).collect();
            let mut answers = futures::stream::iter(steps).buffered(FAN_OUT);
            while let Some(answer) = answers.next().await {
                answer?;
            }
        }
    }
    Ok(())
}

/// Lets a shard that has all rows of a reference placement serve them; its version then.
pub(super) async fn own(driver: &Driver<'_>, placement: &Placement, shard: GroupId) -> Result<Epoch, Error> {
    // It may have had a copy before.
    let epoch = Epoch(placement.epoch(shard).0 + 1);
    take(driver, placement.id, shard, epoch, SlotSet::all(1)).await.map(|()| epoch)
}

/// Gives slots of a placement to a shard.
pub(super) async fn take(
    driver: &Driver<'_>,
    placement: PlacementId,
    shard: GroupId,
    epoch: Epoch,
    slots: SlotSet,
) -> Result<(), Error> {
    let action = JobAction::Take { placement, epoch, slots };
    driver.shard(shard, ShardCommand::Job(JobStep { job: driver.job.id, action })).await.map(drop)
}

async fn read(driver: &Driver<'_>, sql: String) -> Result<Vec<Vec<Value>>, Error> {
    let read = Read { route: None, statement: Statement::bare(sql), level: Level::Linearizable, freshness_ms: None };
    match driver.calls.ask_group(HOME_SHARD, Request::Read { group: HOME_SHARD, read }, driver.deadline()).await? {
        Response::Rows(rows) => Ok(rows.values),
        other => Err(unexpected(&other)),
    }
}

/// Where AUTOINCREMENT goes on: a copy must not hand out what the original would not.
async fn sequence(driver: &Driver<'_>, registry: &Registry, table: &Table) -> Result<Option<i64>, Error> {
    let counts = registry.objects.iter().any(|object| {
        object.kind == "table"
            && object.name.eq_ignore_ascii_case(&table.name)
            && Tokens::read(&object.sql).is_ok_and(|tokens| tokens.has_word("AUTOINCREMENT"))
    });
    if !counts {
        return Ok(None);
    }
    let name = table.name.replace('\'', "''");
    let rows = read(driver, format!("SELECT seq FROM sqlite_sequence WHERE name = '{name}'")).await?;
    Ok(rows.first().and_then(|row| match row.first() {
        Some(Value::Integer(seq)) => Some(*seq),
        _ => None,
    }))
}

/// Rows in pieces; at least one, which may be empty.
fn chunks(rows: Vec<Vec<Value>>, width: usize) -> Vec<Vec<CopiedRow>> {
    let (mut chunks, mut bytes) = (vec![vec![]], 0);
    for mut values in rows {
        let texts = values.split_off(width).iter().map(|text| *text == Value::Integer(1)).collect();
        let size: usize = values.iter().map(Value::size_bytes).sum();
        if bytes > 0 && bytes + size > CHUNK_BYTES {
            chunks.push(vec![]);
            bytes = 0;
        }
        bytes += size;
        chunks.last_mut().expect("there is one").push(CopiedRow { values, texts });
    }
    chunks
}
