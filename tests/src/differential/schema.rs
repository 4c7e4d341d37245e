//! Schemas by chance: tables with keys of every kind, their placements, rows and views.
//!
//! Input: a random generator. Output: a [`Schema`], with all that the query generator must know of a
//! column to tell which results have one right answer: values that are *exact* are identical when
//! they are equal, values that are *tame* can be added in any order.

use flotilla_shared::value::Value;

use super::columns::{COARSE_KEYS, KEYS, KeyKind, key_column, plain_columns};
use super::indexes::{index, views};
use super::special::{extremes, rowid_names};
use super::values::Source;
use crate::sim::random::Rng;

/// What kind of values an expression has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// Integers, or NULL.
    Int,
    /// Reals, or NULL.
    Real,
    /// Text, or NULL.
    Text,
    /// Anything.
    #[default]
    Any,
}

/// A column.
#[derive(Clone, Debug, Default)]
pub struct Column {
    /// Its name, quoted where SQL needs it.
    pub name: String,
    /// What stands behind the name in CREATE TABLE.
    pub decl: String,
    /// What it holds.
    pub class: Class,
    /// Values that are equal are identical.
    pub exact: bool,
    /// Sums of it are the same in every order.
    pub tame: bool,
    /// It may be NULL.
    pub nullable: bool,
    /// It cannot be written.
    pub generated: bool,
    /// A STRICT table or an INTEGER PRIMARY KEY takes only its class.
    pub strict: bool,
    /// What chooses its values; its class does if there is nothing.
    pub source: Option<Source>,
    /// Its collation in the primary key, if that is another one.
    pub key_collation: Option<&'static str>,
    /// The rowid: it is not in CREATE TABLE, nor in `*`.
    pub hidden: bool,
}

/// Where the rows of a sharded table live.
#[derive(Clone, Debug, PartialEq)]
pub enum Placement {
    /// By hash of the key.
    Hash,
    /// Between split points.
    Range(Vec<Value>),
    /// These on the first shard, those on the last, all others on the first.
    List(Vec<Value>, Vec<Value>),
    /// A copy on every shard; there is no shard key.
    Reference,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Columns.
    pub columns: Vec<Column>,
    /// Indexes of the columns of the primary key; empty for none.
    pub key: Vec<usize>,
    /// The key is an alias of the rowid.
    pub rowid_alias: bool,
    /// Indexes of the columns that it is sharded by; empty for none.
    pub shard_key: Vec<usize>,
    /// How they place a row.
    pub placement: Placement,
    /// The table that it lies beside.
    pub colocate_with: Option<String>,
    /// Behind the closing parenthesis.
    pub options: &'static str,
    /// A key that is left out has a default.
    pub key_default: bool,
    /// It may be refused to be sharded.
    pub refusable: bool,
}

/// A view.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name.
    pub name: String,
    /// The statement that makes it.
    pub create: String,
    /// The statement without the index that it asks for.
    pub unhinted: String,
    /// Columns: name, class, exact, tame.
    pub columns: Vec<Column>,
    /// Columns that together are different in every row.
    pub key: Vec<usize>,
}

/// Tables and views.
#[derive(Clone, Debug)]
pub struct Schema {
    /// Tables, those that others lie beside first.
    pub tables: Vec<Table>,
    /// Views over them.
    pub views: Vec<View>,
    /// Indexes.
    pub indexes: Vec<Index>,
}

/// An index.
#[derive(Clone, Debug)]
pub struct Index {
    /// Its table.
    pub table: String,
    /// The statement that makes it.
    pub create: String,
    /// It may be refused: whether a row violates it cannot be seen where the row is.
    pub refusable: bool,
}
impl Column {
    /// It in the primary key, with `prefix` before its name: what differs in every row.
    pub fn key_term(&self, prefix: &str) -> String {
        let collation = self.key_collation.map_or(String::new(), |name| format!(" COLLATE {name}"));
        format!("{prefix}{}{collation}", self.name)
    }
}

impl Table {
    /// CREATE TABLE.
    pub fn create(&self) -> String {
        let mut parts = self.declarations();
        let declared = |column: &Column| column.hidden || column.decl.contains("PRIMARY KEY");
        if !self.key.is_empty() && !self.columns.iter().any(declared) {
            let terms: Vec<String> = self.key.iter().map(|at| self.columns[*at].key_term("")).collect();
            parts.push(format!("PRIMARY KEY ({})", terms.join(", ")));
        }
        format!("CREATE TABLE {} ({}){}", self.name, parts.join(", "), self.options)
    }

    /// CREATE TABLE without the primary key, unless that is the rowid, which statements may name.
    pub fn create_keyless(&self) -> String {
        let strict = if self.options.contains("STRICT") { " STRICT" } else { "" };
        format!("CREATE TABLE {} ({}){strict}", self.name, self.declarations().join(", "))
    }

    fn declarations(&self) -> Vec<String> {
        let shown = self.columns.iter().filter(|column| !column.hidden);
        shown.map(|column| format!("{} {}", column.name, column.decl).trim_end().to_owned()).collect()
    }

    /// An INSERT must name the columns.
    pub fn needs_names(&self) -> bool {
        self.columns.iter().any(|column| column.generated || column.hidden)
    }

    /// Indexes of columns that can be written.
    pub fn writable(&self) -> Vec<usize> {
        (0..self.columns.len()).filter(|at| !self.columns[*at].generated).collect()
    }

    /// A row for [`Table::writable`].
    pub fn row(&self, rng: &mut Rng) -> Vec<Value> {
        self.writable().into_iter().map(|at| self.columns[at].value(rng)).collect()
    }
}

/// A table with a key of these kinds; `rowids` says that it must have rowids.
fn table(rng: &mut Rng, name: String, kinds: &[KeyKind], rowids: bool) -> Table {
    let rowid_alias = matches!(kinds, [KeyKind::Rowid]);
    let strict = rng.percent(15) && !kinds.iter().any(|kind| kind.needs_affinity());
    let without_rowid = !rowids && !rowid_alias && !kinds.is_empty() && rng.percent(40);
    let names = ["k", "n", "m"];
    let mut columns: Vec<Column> =
        kinds.iter().zip(names).map(|(kind, name)| key_column(*kind, name, strict)).collect();
    let mut key_default = false;
    if kinds.len() == 1 && matches!(kinds[0], KeyKind::Text) && rng.percent(40) {
        columns[0].decl.push_str(" DEFAULT 'none'");
        key_default = true;
    }
    let key: Vec<usize> = (0..columns.len()).collect();
    plain_columns(rng, strict, &mut columns);
    let options = match (strict, without_rowid) {
        (false, false) => "",
        (true, false) => " STRICT",
        (false, true) => " WITHOUT ROWID",
        (true, true) => " STRICT, WITHOUT ROWID",
    };
    Table {
        name,
        columns,
        key,
        rowid_alias,
        shard_key: vec![],
        placement: Placement::Hash,
        colocate_with: None,
        options,
        key_default,
        refusable: false,
    }
}

/// Schemas that have a table whose key is coarser than its columns.
const COARSE_PERCENT: u64 = 12;

impl Schema {
    /// A schema whose names end in `suffix`.
    pub fn random(rng: &mut Rng, suffix: &str) -> Self {
        let mut keys = || KEYS[rng.below(KEYS.len() as u64) as usize];
        let (parent_keys, other_keys, home_keys) = (keys(), keys(), keys());
        let mut parent = table(rng, format!("p{suffix}"), parent_keys, false);
        let whole = rng.percent(50);
        parent.shard_key = if whole { parent.key.clone() } else { vec![0] };
        parent.placement = placement(rng, &parent);
        let mut child_keys: Vec<KeyKind> = parent.shard_key.iter().map(|_| KeyKind::Int).collect();
        child_keys.push(KeyKind::Int);
        let mut child = table(rng, format!("c{suffix}"), &child_keys[..], false);
        for (at, of) in parent.shard_key.iter().enumerate() {
            let source = parent.columns[*of].clone();
            let decl = source.decl.replace("INTEGER PRIMARY KEY", "INTEGER NOT NULL").replace(" DEFAULT 'none'", "");
            child.columns[at] = Column { name: child.columns[at].name.clone(), decl, ..source };
        }
        // A number that a NUMERIC column would keep is no type of a strict table.
        let loose = |column: &Column| column.decl.contains("NUMERIC") || column.source.is_some();
        if child.options.contains("STRICT") && child.columns.iter().any(loose) {
            child.options = "";
            child.columns.iter_mut().for_each(|column| column.strict = false);
            child.columns.iter_mut().for_each(|column| column.decl = column.decl.replace("ANY", "BLOB"));
        }
        child.shard_key = (0..parent.shard_key.len()).collect();
        child.colocate_with = Some(parent.name.clone());
        let coarse = rng.percent(COARSE_PERCENT);
        let other_keys = if coarse { COARSE_KEYS[rng.below(COARSE_KEYS.len() as u64) as usize] } else { other_keys };
        let mut other = table(rng, format!("o{suffix}"), other_keys, false);
        (other.shard_key, other.refusable) = (other.key.clone(), coarse);
        other.placement = if coarse { Placement::Hash } else { placement(rng, &other) };
        let mut home = table(rng, format!("h{suffix}"), home_keys, false);
        match rng.below(20) {
            0..=3 => home.placement = Placement::Reference,
            4..=6 => {
                let keyless = table(rng, format!("h{suffix}"), &[], true);
                home = rowid_names(rng, keyless);
            }
            _ => (),
        }
        let mut tables = vec![parent, child, other, home, extremes(format!("x{suffix}"))];
        if rng.percent(60) {
            let mut bag = table(rng, format!("bag{suffix}"), &[], true);
            let sharded = bag.columns.iter().position(|column| !column.nullable && !column.generated);
            bag.shard_key = sharded.into_iter().collect();
            tables.push(bag);
        }
        let indexes: Vec<Index> = tables.iter().filter_map(|table| index(rng, table)).collect();
        let views = views(rng, &tables, &indexes, suffix);
        Self { tables, views, indexes }
    }

    /// All statements that make it.
    pub fn create(&self) -> Vec<String> {
        let tables = self.tables.iter().map(Table::create);
        let tables = tables.chain(self.indexes.iter().map(|index| index.create.clone()));
        tables.chain(self.views.iter().map(|view| view.create.clone())).collect()
    }
}

fn placement(rng: &mut Rng, table: &Table) -> Placement {
    let [first, ..] = table.shard_key[..] else { return Placement::Hash };
    let text = |words: [&str; 2]| words.map(|word| Value::Text(word.into())).to_vec();
    let (points, others) = match table.columns[first].class {
        Class::Int => (vec![Value::Integer(0), Value::Integer(5)], vec![Value::Integer(3), Value::Integer(-2)]),
        Class::Text => (text(["a", "b"]), text(["zebra", "12"])),
        Class::Real => (vec![Value::Real(-1.0), Value::Real(5.5)], vec![Value::Real(2.0)]),
        Class::Any => return Placement::Hash,
    };
    match rng.below(4) {
        0 => Placement::Range(points),
        1 if table.shard_key.len() == 1 => Placement::List(points, others),
        _ => Placement::Hash,
    }
}
