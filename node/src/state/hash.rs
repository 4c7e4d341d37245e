//! The content hash: equal at equal applied index on all replicas, whatever their pages look like.

use flotilla_shared::registry::quoted;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use xxhash_rust::xxh3::Xxh3;

use super::requests::Requests;

/// Hashes the schema, every row of every table, what is owned, and the remembered requests. Takes
/// time proportional to the database.
///
/// # Errors
/// What SQLite says.
pub fn content_hash(db: &Connection, requests: &Requests) -> rusqlite::Result<u64> {
    let mut hash = Xxh3::new();
    // Root pages depend on the order in which pages were freed, which replicas need not share.
    hash_rows(db, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name", &mut hash)?;
    // Rows of remembered requests are per batch, whose borders replicas need not share.
    let mut query = db.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'
         AND name NOT IN ('_flotilla_requests', '_flotilla_request_slots') ORDER BY name",
    )?;
    let tables: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for table in tables {
        tagged(&mut hash, b"T", table.as_bytes());
        hash_rows(db, &scan(db, &table)?, &mut hash)?;
    }
    requests.digest(|bytes| tagged(&mut hash, b"R", bytes));
    Ok(hash.digest())
}

/// A statement that reads what a table stores, along its key. Columns that are computed when read are
/// left out: they follow from the others, and some expressions fail on some rows.
fn scan(db: &Connection, table: &str) -> rusqlite::Result<String> {
    let mut query = db.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden IN (0, 3)")?;
    let mut columns: Vec<String> =
        query.query_map([table], |row| row.get::<_, String>(0).map(|name| quoted(&name)))?.collect::<Result<_, _>>()?;
    let has_rowid: bool = db.query_row(
        "SELECT NOT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE",
        [table],
        |row| row.get(0),
    )?;
    if has_rowid {
        let hidden = |name: &&str| columns.iter().any(|column| column.eq_ignore_ascii_case(&quoted(name)));
        columns.extend(["rowid", "_rowid_", "oid"].iter().find(|name| !hidden(name)).map(|name| (*name).to_owned()));
    }
    Ok(format!("SELECT {} FROM {} NOT INDEXED", columns.join(", "), quoted(table)))
}

fn hash_rows(db: &Connection, select: &str, hash: &mut Xxh3) -> rusqlite::Result<()> {
    let mut query = db.prepare(select)?;
    let width = query.column_count();
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        for index in 0..width {
            match row.get_ref(index)? {
                ValueRef::Null => hash.update(b"n"),
                ValueRef::Integer(n) => {
                    hash.update(b"i");
                    hash.update(&n.to_le_bytes());
                }
                ValueRef::Real(r) => {
                    hash.update(b"r");
                    hash.update(&r.to_bits().to_le_bytes());
                }
                ValueRef::Text(text) => tagged(hash, b"t", text),
                ValueRef::Blob(blob) => tagged(hash, b"b", blob),
            }
        }
        hash.update(b"|");
    }
    Ok(())
}

fn tagged(hash: &mut Xxh3, tag: &[u8], bytes: &[u8]) {
    hash.update(tag);
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}
