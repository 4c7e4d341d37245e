//! The content hash: equal at equal applied index on all replicas, whatever their pages look like.

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
    let mut tables: Vec<String> = vec!["sqlite_schema".into()];
    let mut query = db.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'
         AND name NOT IN ('_flotilla_requests') ORDER BY name",
    )?;
    for name in query.query_map([], |row| row.get::<_, String>(0))? {
        tables.push(name?);
    }
    for table in &tables {
        hash.update(table.as_bytes());
        hash_table(db, table, &mut hash)?;
    }
    requests.digest(|bytes| hash.update(bytes));
    Ok(hash.digest())
}

fn hash_table(db: &Connection, table: &str, hash: &mut Xxh3) -> rusqlite::Result<()> {
    let quoted = table.replace('"', "\"\"");
    // Root pages depend on the order in which pages were freed, which replicas need not share.
    let columns = if table == "sqlite_schema" { "type, name, tbl_name, sql" } else { "*" };
    let rowid: bool = db.prepare(&format!("SELECT rowid FROM \"{quoted}\"")).is_ok();
    let select = match rowid && table != "sqlite_schema" {
        true => format!("SELECT rowid, {columns} FROM \"{quoted}\" ORDER BY rowid"),
        false if table == "sqlite_schema" => format!("SELECT {columns} FROM sqlite_schema ORDER BY type, name"),
        // WITHOUT ROWID: a scan goes along the primary key.
        false => format!("SELECT {columns} FROM \"{quoted}\""),
    };
    let mut query = db.prepare(&select)?;
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
