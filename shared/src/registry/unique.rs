//! Which UNIQUE constraints one shard alone can keep.
//!
//! Rows that a constraint takes for equal must be on one shard. They are if it covers the shard key, and
//! compares it at least as finely as the shard key itself: text that is equal by BINARY is equal by any
//! collation. An expression covers no column. PRIMARY KEYs and unique indexes, partial ones too, are alike in this.

use rusqlite::Connection;

use super::Table;
use crate::slot::Collation;

/// The PRIMARY KEY, UNIQUE constraints and unique indexes of a table that may take rows of several shards for equal
/// when its shard key is `key`, each in words.
///
/// # Errors
/// What SQLite says.
pub fn unique_beyond_shard(db: &Connection, table: &Table, key: &[usize]) -> rusqlite::Result<Vec<String>> {
    let mut beyond = Vec::new();
    if let Some(alias) = table.rowid_alias.filter(|alias| key.iter().any(|index| index != alias)) {
        beyond.push(format!("UNIQUE ({}) does not contain the shard key", table.columns[alias].name));
    }
    let mut list = db.prepare("SELECT name FROM pragma_index_list(?1) WHERE \"unique\" ORDER BY seq DESC")?;
    let mut info = db.prepare("SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno")?;
    let names: Vec<String> = list.query_map([&table.name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for name in names {
        let terms = info.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let terms: Vec<(Option<String>, String)> = terms.collect::<Result<_, _>>()?;
        let covers = |index: &usize, enough: &dyn Fn(Option<Collation>) -> bool| {
            terms.iter().any(|(column, collation)| {
                column.as_deref().is_some_and(|column| column.eq_ignore_ascii_case(&table.columns[*index].name))
                    && enough(Collation::from_name(collation))
            })
        };
        let own = |index: usize| table.columns[index].compare.collation;
        let fine = |index: &usize| {
            covers(index, &|collation| collation == Some(Collation::Binary) || collation == Some(own(*index)))
        };
        let why = match key.iter().find(|index| !fine(index)) {
            None => continue,
            Some(index) if covers(index, &|_| true) => format!(
                "compares {} otherwise than its column, which is {}, and takes keys of several shards for equal",
                table.columns[*index].name,
                own(*index).name()
            ),
            Some(_) => "does not contain the shard key".to_owned(),
        };
        let term = |(column, collation): &(Option<String>, String)| {
            let column = column.as_deref().unwrap_or("(expression)");
            let plain = table.column(column).is_none_or(|index| own(index).name().eq_ignore_ascii_case(collation));
            if plain { column.to_owned() } else { format!("{column} COLLATE {collation}") }
        };
        beyond.push(format!("UNIQUE ({}) {why}", terms.iter().map(term).collect::<Vec<_>>().join(", ")));
    }
    Ok(beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Equal rows are on one shard when the constraint compares the shard key at least as finely.
    #[test]
    fn constraints_and_shard_keys() {
        for (columns, index, key, refused) in [
            ("k TEXT, v", "(k)", "k", false),
            ("k TEXT, v", "(k COLLATE NOCASE)", "k", true),
            ("k TEXT, v", "(k COLLATE RTRIM)", "k", true),
            ("k TEXT, v", "(v, k DESC)", "k", false),
            ("k TEXT, v", "(v, k COLLATE NOCASE DESC)", "k", true),
            ("k TEXT, v", "(k COLLATE NOCASE, k)", "k", false),
            ("k TEXT, v", "(v) WHERE v > 0", "k", true),
            ("k TEXT, v", "(k, v COLLATE NOCASE) WHERE v > 0", "k", false),
            ("k TEXT, v", "(k COLLATE NOCASE) WHERE v > 0", "k", true),
            ("k TEXT, v", "(lower(k))", "k", true),
            ("k TEXT, v", "(lower(k), K)", "k", false),
            ("k TEXT COLLATE NOCASE, v", "(k)", "k", false),
            ("k TEXT COLLATE NOCASE, v", "(k COLLATE BINARY)", "k", false),
            ("k TEXT COLLATE NOCASE, v", "(k COLLATE RTRIM)", "k", true),
            ("k INT, v", "(k COLLATE NOCASE)", "k", true),
            ("k TEXT, v", "(k, v COLLATE NOCASE)", "k v", true),
            ("k TEXT, v TEXT COLLATE RTRIM", "(v, k)", "k v", false),
            ("k TEXT, v", "(k)", "k v", true),
        ] {
            let db = Connection::open_in_memory().unwrap();
            db.execute_batch(&format!("CREATE TABLE t ({columns}); CREATE UNIQUE INDEX u ON t {index}")).unwrap();
            let table = Table::read(&db, "t").unwrap();
            let key: Vec<usize> = key.split(' ').map(|name| table.column(name).unwrap()).collect();
            let beyond = unique_beyond_shard(&db, &table, &key).unwrap();
            assert_eq!(!beyond.is_empty(), refused, "{columns} {index}: {beyond:?}");
        }
        for (sql, refused) in [
            ("CREATE TABLE t (k TEXT PRIMARY KEY)", false),
            ("CREATE TABLE t (k TEXT, PRIMARY KEY (k COLLATE NOCASE))", true),
            ("CREATE TABLE t (k TEXT, v, PRIMARY KEY (v, k COLLATE NOCASE)) WITHOUT ROWID", true),
            ("CREATE TABLE t (k TEXT COLLATE NOCASE, v, PRIMARY KEY (v, k COLLATE BINARY)) WITHOUT ROWID", false),
            ("CREATE TABLE t (k TEXT, v, UNIQUE (v, k), UNIQUE (k COLLATE RTRIM))", true),
            ("CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT)", true),
            ("CREATE TABLE t (k INTEGER PRIMARY KEY)", false),
            ("CREATE TABLE t (k INTEGER PRIMARY KEY DESC)", false),
        ] {
            let db = Connection::open_in_memory().unwrap();
            db.execute_batch(sql).unwrap();
            let table = Table::read(&db, "t").unwrap();
            let beyond = unique_beyond_shard(&db, &table, &[table.column("k").unwrap()]).unwrap();
            assert_eq!(!beyond.is_empty(), refused, "{sql}: {beyond:?}");
        }
    }
}
