//! Rows as they are stored, in one piece of bytes each: what is sent, staged, hashed and inserted.
//!
//! Packed are the columns that hold what cannot be computed: the integer primary key is one of them,
//! generated columns are not. The rowid of a table without an integer primary key names the row on its
//! shard only; the target gives it another.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::moves::MovedTable;
use flotilla_shared::registry::{Table, quoted};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, ToSql};

use super::{Refusal, Step};

/// Names under which SQLite knows the rowid.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// How a table's rows are named and read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    pub table: String,
    pub columns: Vec<String>,
    /// What names a row: columns with the collation of the primary key.
    pub identity: Vec<(String, String)>,
    /// Rows have a primary key and no rowid.
    pub without_rowid: bool,
}

/// A list for SQL.
pub(super) fn list<T>(items: &[T], one: impl Fn(usize, &T) -> String, by: &str) -> String {
    items.iter().enumerate().map(|(n, item)| one(n, item)).collect::<Vec<_>>().join(by)
}

impl Layout {
    /// Reads it from the schema.
    pub fn of(db: &Connection, table: &MovedTable) -> Step<Self> {
        let without_rowid: bool = db
            .prepare_cached("SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE")?
            .query_row([&table.name], |row| row.get(0))?;
        let identity = match without_rowid {
            true => db
                .prepare_cached(
                    "SELECT x.name, x.coll FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x
                     WHERE l.origin = 'pk' AND x.key ORDER BY x.seqno",
                )?
                .query_map([&table.name], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?,
            false => vec![(rowid_name(db, &table.name)?, "BINARY".to_owned())],
        };
        Ok(Self { table: table.name.clone(), columns: table.columns.clone(), identity, without_rowid })
    }

    /// Takes one row.
    pub fn insert(&self) -> String {
        let columns = list(&self.columns, |_, name| quoted(name), ", ");
        let values = list(&self.columns, |n, _| format!("?{}", n + 1), ", ");
        // A conflict clause of the table itself must not replace another row.
        format!("INSERT OR ABORT INTO {} ({columns}) VALUES ({values})", quoted(&self.table))
    }

    /// Is it the row whose identity is bound from parameter `first` on? A condition on `m`, the table.
    pub fn is_named(&self, first: usize) -> String {
        let one =
            |n: usize, (name, coll): &(String, String)| format!("m.{} = ?{} COLLATE {coll}", quoted(name), n + first);
        list(&self.identity, one, " AND ")
    }
}

/// A name of the rowid that no column hides.
fn rowid_name(db: &Connection, table: &str) -> Step<String> {
    let table = Table::read(db, table)?;
    if let Some(alias) = table.rowid_alias {
        return Ok(table.columns[alias].name.clone());
    }
    let free = ROWID_NAMES.iter().find(|name| table.column(name).is_none());
    free.map(|name| (*name).to_owned()).ok_or_else(|| {
        Refusal::Refused(
            Error::new(Code::UnsafeRegistration, format!("columns of {} hide its rowid", table.name))
                .hint("rename the column rowid, _rowid_ or oid"),
        )
    })
}

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

/// Packs `width` columns of a row, from column `first` on.
pub(super) fn pack(row: &Row<'_>, first: usize, width: usize) -> rusqlite::Result<Vec<u8>> {
    let mut packed = Vec::new();
    (first..first + width).try_for_each(|column| row.get_ref(column).map(|value| pack_value(&mut packed, value)))?;
    Ok(packed)
}

/// Packs one more value.
pub(super) fn pack_value(packed: &mut Vec<u8>, value: ValueRef<'_>) {
    let mut long = |tag, bytes: &[u8]| {
        packed.push(tag);
        packed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        packed.extend_from_slice(bytes);
    };
    match value {
        ValueRef::Text(text) => long(TEXT, text),
        ValueRef::Blob(blob) => long(BLOB, blob),
        ValueRef::Null => packed.push(NULL),
        ValueRef::Integer(n) => {
            packed.push(INTEGER);
            packed.extend_from_slice(&n.to_le_bytes());
        }
        ValueRef::Real(r) => {
            packed.push(REAL);
            packed.extend_from_slice(&r.to_bits().to_le_bytes());
        }
    }
}

/// A packed value, to be bound.
pub(super) struct Packed<'a>(ValueRef<'a>);

impl ToSql for Packed<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// The values of a packed row.
pub(super) fn unpack(packed: &[u8]) -> Step<Vec<Packed<'_>>> {
    let damaged = || Error::new(Code::MoveMismatch, "a packed row does not decode");
    let mut values = Vec::new();
    let mut rest = packed;
    while let Some((tag, after)) = rest.split_first() {
        rest = after;
        let mut take = |length: usize| {
            let (bytes, after) = rest.split_at_checked(length).ok_or_else(damaged)?;
            rest = after;
            Ok::<_, Error>(bytes)
        };
        let eight = |bytes: &[u8]| bytes.try_into().map_err(|_| damaged());
        values.push(Packed(match *tag {
            NULL => ValueRef::Null,
            INTEGER => ValueRef::Integer(i64::from_le_bytes(eight(take(8)?)?)),
            REAL => ValueRef::Real(f64::from_bits(u64::from_le_bytes(eight(take(8)?)?))),
            tag @ (TEXT | BLOB) => {
                let length = u32::from_le_bytes(take(4)?.try_into().map_err(|_| damaged())?);
                let bytes = take(length as usize)?;
                if tag == TEXT { ValueRef::Text(bytes) } else { ValueRef::Blob(bytes) }
            }
            _ => return Err(damaged().into()),
        }));
    }
    Ok(values)
}
