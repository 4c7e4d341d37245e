//! Indexes and views by chance.
//!
//! Input: the tables of a schema. Output: an [`Index`] of a table, and [`View`]s with what is known of
//! their columns.

use super::schema::{Class, Column, Index, Table, View};
use crate::sim::random::Rng;

/// An index of some kind. A unique one holds the primary key, so that no row violates it, unless it takes
/// more keys for equal than the columns do.
pub fn index(rng: &mut Rng, table: &Table) -> Option<Index> {
    let shown: Vec<&Column> = table.columns.iter().filter(|column| !column.hidden).collect();
    let column = &shown[rng.below(shown.len() as u64) as usize].name;
    let keys: Vec<&str> = table.key.iter().map(|at| table.columns[*at].name.as_str()).collect();
    let name = &table.name;
    let unique = !keys.is_empty() && !table.columns.iter().any(|column| column.hidden);
    let mut refusable = false;
    let create = match rng.below(10) {
        0 | 1 => format!("CREATE INDEX i_{name} ON {name} ({column})"),
        2 => format!("CREATE INDEX i_{name} ON {name} ({column} DESC) WHERE {column} IS NOT NULL"),
        3 => format!("CREATE INDEX i_{name} ON {name} (lower({column}))"),
        4 if unique && !keys.contains(&column.as_str()) => {
            format!("CREATE UNIQUE INDEX i_{name} ON {name} ({column}, {})", keys.join(", "))
        }
        5 if unique => {
            refusable = true;
            let collation = rng.pick(&["NOCASE", "RTRIM"]);
            let terms: Vec<String> = keys.iter().map(|key| format!("{key} COLLATE {collation}")).collect();
            format!("CREATE UNIQUE INDEX i_{name} ON {name} ({})", terms.join(", "))
        }
        6 => format!("CREATE INDEX i_{name} ON {name} ({column} COLLATE {})", rng.pick(&["NOCASE", "RTRIM", "BINARY"])),
        _ => return None,
    };
    Some(Index { table: name.clone(), create, refusable })
}

/// Views over one table: its rows, its groups, and its rows by way of an index.
pub fn views(rng: &mut Rng, tables: &[Table], indexes: &[Index], suffix: &str) -> Vec<View> {
    let mut views = vec![];
    let of = &tables[rng.below(3) as usize];
    let names: Vec<&str> = of.columns.iter().map(|column| column.name.as_str()).collect();
    let tame = of.columns.iter().find(|column| column.tame).expect("every table has one");
    let filter = if rng.percent(50) { format!(" WHERE {} > 1", tame.name) } else { String::new() };
    let whole = |name: String, hint: &str| {
        let create = |hint| format!("CREATE VIEW {name} AS SELECT {} FROM {}{hint}{filter}", names.join(", "), of.name);
        let (columns, key) = (of.columns.clone(), of.key.clone());
        View { create: create(hint), unhinted: create(""), name, columns, key }
    };
    views.push(whole(format!("v{suffix}"), ""));
    // An index of some rows only could not give all rows.
    let serves = |index: &&Index| index.table == of.name && !index.refusable && !index.create.contains(" WHERE ");
    if indexes.iter().any(|index| serves(&index)) {
        views.push(whole(format!("u{suffix}"), &format!(" INDEXED BY i_{}", of.name)));
    }
    let plain = |name: &str, class, tame| Column {
        name: name.into(),
        decl: String::new(),
        class,
        exact: true,
        tame,
        nullable: true,
        ..Column::default()
    };
    let create = format!(
        "CREATE VIEW w{suffix}(grp, cnt, total) AS SELECT {0} % 4, count(*), sum({0}) FROM {1} GROUP BY 1",
        if tame.class == Class::Int { tame.name.clone() } else { format!("CAST({} AS INTEGER)", tame.name) },
        of.name
    );
    views.push(View {
        name: format!("w{suffix}"),
        unhinted: create.clone(),
        create,
        columns: vec![plain("grp", Class::Int, true), plain("cnt", Class::Int, true), plain("total", Class::Int, true)],
        key: vec![0],
    });
    views
}
