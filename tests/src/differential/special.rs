//! Tables made for one purpose each: numbers whose sums are at the edge, and columns that are named as the
//! rowid is.

use super::columns::{KeyKind, key_column};
use super::schema::{Class, Column, Placement, Table};
use super::values::{Source, extreme_integer, extreme_mixture, extreme_real};
use crate::sim::random::Rng;

/// A sharded table with numbers that no 64 bits hold together, or that cancel each other out.
pub fn extremes(name: String) -> Table {
    let column = |name: &str, decl: &str, class, source: Option<Source>| Column {
        name: name.into(),
        decl: decl.into(),
        class,
        exact: source.is_none(),
        tame: source.is_none(),
        nullable: true,
        source,
        ..Column::default()
    };
    let columns = vec![
        key_column(KeyKind::Int, "k", false),
        column("big", "INTEGER", Class::Any, Some(extreme_integer)),
        column("f", "REAL", Class::Any, Some(extreme_real)),
        column("m", "", Class::Any, Some(extreme_mixture)),
        column("num", "INTEGER", Class::Int, None),
    ];
    Table {
        name,
        columns,
        key: vec![0],
        rowid_alias: false,
        shard_key: vec![0],
        placement: Placement::Hash,
        colocate_with: None,
        options: "",
        key_default: false,
        refusable: false,
    }
}

/// A table without a key, made into one with a text column that is named as the rowid is; the rowid goes by
/// another of its names, and every INSERT gives it.
pub fn rowid_names(rng: &mut Rng, mut table: Table) -> Table {
    let (column, rowid) =
        rng.pick(&[("rowid", "oid"), ("rowid", "_rowid_"), ("oid", "rowid"), ("_rowid_", "rowid"), ("_rowid_", "oid")]);
    let hidden = Column { decl: String::new(), hidden: true, ..key_column(KeyKind::Rowid, rowid, true) };
    let text = Column {
        name: column.into(),
        decl: "TEXT".into(),
        class: Class::Text,
        exact: true,
        nullable: true,
        ..Column::default()
    };
    table.columns.splice(0..0, [hidden, text]);
    table.key = vec![0];
    table
}
