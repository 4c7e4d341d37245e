//! Schemas by chance: tables with keys of every kind, their placements, rows and views.
//!
//! Input: a random generator. Output: a [`Schema`], with all that the query generator must know of a
//! column to tell which results have one right answer: values that are *exact* are identical when
//! they are equal, values that are *tame* can be added in any order.

use flotilla_shared::value::Value;

use crate::sim::random::Rng;

/// What kind of values an expression has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Integers, or NULL.
    Int,
    /// Reals, or NULL.
    Real,
    /// Text, or NULL.
    Text,
    /// Anything.
    Any,
}

/// A column.
#[derive(Clone, Debug)]
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
}

/// A view.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name.
    pub name: String,
    /// The statement that makes it.
    pub create: String,
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
    /// Statements that make indexes: the table, and the text.
    pub indexes: Vec<(String, String)>,
}

/// A quarter of the values of a column that allows it.
const NULL_PERCENT: u64 = 18;

const WORDS: &[&str] = &[
    "", "a", "A", "ab", "Ab", "aB ", "b", "B ", "b  ", "é", "É", "日本", "12", "012", "1.0", "1e2", " 7", "null", "🚢",
    "a%", "a_b", "it's", "x\"y", "zebra", "Zed", "-3", "0",
];

const WILD: &[Value] = &[
    Value::Integer(i64::MAX),
    Value::Integer(i64::MIN),
    Value::Integer((1 << 53) + 1),
    Value::Integer(-1),
    Value::Real(1e300),
    Value::Real(-1e-300),
    Value::Real(9007199254740993.0),
    Value::Real(-0.5),
    Value::Integer(0),
];

fn word(rng: &mut Rng) -> Value {
    Value::Text(rng.pick(WORDS).to_owned())
}

fn small(rng: &mut Rng) -> Value {
    Value::Integer(rng.below(16) as i64 - 3)
}

fn quarter(rng: &mut Rng) -> Value {
    Value::Real((rng.below(160) as f64 - 60.0) / 4.0)
}

/// Any value at all.
pub fn any_value(rng: &mut Rng) -> Value {
    match rng.below(12) {
        0 => Value::Null,
        1..=3 => small(rng),
        4 | 5 => quarter(rng),
        6..=8 => word(rng),
        9 => Value::Blob(rng.pick(&[b"".as_slice(), b"\0", b"a", b"ab", b"\xff\0\x01"]).to_vec()),
        10 => Value::Real(small_float(rng)),
        _ => WILD[rng.below(WILD.len() as u64) as usize].clone(),
    }
}

fn small_float(rng: &mut Rng) -> f64 {
    rng.below(12) as f64
}

/// A value of a class.
pub fn value_of(rng: &mut Rng, class: Class) -> Value {
    match class {
        Class::Int => small(rng),
        Class::Real => quarter(rng),
        Class::Text => word(rng),
        Class::Any => any_value(rng),
    }
}

impl Column {
    /// A value for it, as a client may give it: perhaps one that its affinity changes.
    pub fn value(&self, rng: &mut Rng) -> Value {
        if self.nullable && rng.percent(NULL_PERCENT) {
            return Value::Null;
        }
        let value = match (self.class, self.tame) {
            // Beyond 64 bits, and text that is no number, where nobody adds it up.
            (Class::Int, false) if rng.percent(30) => match self.strict {
                true => Value::Integer(rng.pick(&[i64::MAX, i64::MIN, 1 << 53])),
                false => any_value(rng),
            },
            (class, _) => value_of(rng, class),
        };
        match value {
            Value::Null if !self.nullable => value_of(rng, Class::Text),
            // Affinity makes the same number of these.
            Value::Integer(n) if self.class == Class::Int && rng.percent(10) => Value::Text(n.to_string()),
            Value::Integer(n) if self.class == Class::Int && n.unsigned_abs() < 1000 && rng.percent(5) => {
                Value::Real(n as f64)
            }
            other => other,
        }
    }
}

impl Table {
    /// CREATE TABLE.
    pub fn create(&self) -> String {
        let mut parts: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{} {}", column.name, column.decl).trim_end().to_owned())
            .collect();
        if !self.key.is_empty() && !self.columns.iter().any(|column| column.decl.contains("PRIMARY KEY")) {
            let names: Vec<&str> = self.key.iter().map(|at| self.columns[*at].name.as_str()).collect();
            parts.push(format!("PRIMARY KEY ({})", names.join(", ")));
        }
        format!("CREATE TABLE {} ({}){}", self.name, parts.join(", "), self.options)
    }

    /// CREATE TABLE without the primary key, unless that is the rowid, which statements may name.
    pub fn create_keyless(&self) -> String {
        let column = |column: &Column| format!("{} {}", column.name, column.decl);
        let columns: Vec<String> = self.columns.iter().map(column).collect();
        let strict = if self.options.contains("STRICT") { " STRICT" } else { "" };
        format!("CREATE TABLE {} ({}){strict}", self.name, columns.join(", "))
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

/// How a key column may look.
#[derive(Clone, Copy)]
enum KeyKind {
    Rowid,
    Int,
    Text,
    Nocase,
    Rtrim,
    Numeric,
    Real,
}

fn key_column(kind: KeyKind, name: &str, strict: bool) -> Column {
    let (decl, class, exact) = match kind {
        KeyKind::Rowid => ("INTEGER PRIMARY KEY", Class::Int, true),
        KeyKind::Int => ("INT NOT NULL", Class::Int, true),
        KeyKind::Text => ("TEXT NOT NULL", Class::Text, true),
        KeyKind::Nocase => ("TEXT COLLATE NOCASE NOT NULL", Class::Text, false),
        KeyKind::Rtrim => ("TEXT COLLATE RTRIM NOT NULL", Class::Text, false),
        KeyKind::Numeric => ("NUMERIC NOT NULL", Class::Any, true),
        KeyKind::Real => ("REAL NOT NULL", Class::Real, true),
    };
    // A key that is text in an integer column could not be added.
    let tame = matches!(class, Class::Int | Class::Real);
    let strict = strict || matches!(kind, KeyKind::Rowid);
    let name = name.to_owned();
    Column { name, decl: decl.to_owned(), class, exact, tame, nullable: false, generated: false, strict }
}

fn plain_column(rng: &mut Rng, name: &str, strict: bool) -> Column {
    let choices: &[(&str, Class, bool, bool)] = match strict {
        true => &[
            ("INTEGER", Class::Int, true, true),
            ("INT", Class::Int, true, false),
            ("TEXT", Class::Text, true, false),
            ("TEXT COLLATE NOCASE", Class::Text, false, false),
            ("REAL", Class::Real, true, true),
            ("ANY", Class::Any, false, false),
        ],
        false => &[
            ("INTEGER", Class::Int, true, true),
            ("INT", Class::Int, true, true),
            ("BIGINT", Class::Int, true, false),
            ("TEXT", Class::Text, true, false),
            ("VARCHAR(20)", Class::Text, true, false),
            ("TEXT COLLATE NOCASE", Class::Text, false, false),
            ("TEXT COLLATE RTRIM", Class::Text, false, false),
            ("REAL", Class::Real, true, true),
            ("DOUBLE", Class::Real, true, true),
            ("DECIMAL(10,2)", Class::Any, true, false),
            ("BLOB", Class::Any, false, false),
            ("", Class::Any, false, false),
            ("NUMERIC", Class::Any, true, false),
        ],
    };
    let (decl, class, exact, tame) = rng.pick(choices);
    let nullable = !rng.percent(15);
    // A wild integer column holds other things as well.
    let class_of_values = if class == Class::Int && !tame && !strict { Class::Any } else { class };
    let mut decl = decl.to_owned();
    if !nullable {
        decl.push_str(" NOT NULL");
    }
    let default = match (class, rng.percent(25)) {
        (Class::Int, true) => " DEFAULT 4",
        (Class::Text, true) => " DEFAULT 'dflt'",
        (Class::Real, true) => " DEFAULT 0.5",
        _ => "",
    };
    decl.push_str(default);
    if tame && class == Class::Int && rng.percent(10) {
        decl.push_str(&format!(" CHECK ({name} < 1000)"));
    }
    Column { name: name.to_owned(), decl, class: class_of_values, exact, tame, nullable, generated: false, strict }
}

fn computed_column(rng: &mut Rng, of: &[Column]) -> Option<Column> {
    let tame: Vec<&Column> = of.iter().filter(|column| column.tame && column.class == Class::Int).collect();
    let source = tame.get(rng.below(tame.len() as u64) as usize)?;
    let stored = rng.pick(&["VIRTUAL", "STORED"]);
    Some(Column {
        name: "gen".into(),
        decl: format!("INTEGER GENERATED ALWAYS AS ({} * 2 + 1) {stored}", source.name),
        class: Class::Int,
        exact: true,
        tame: true,
        nullable: true,
        generated: true,
        strict: false,
    })
}

/// Names of plain columns: some that several tables have, one that must be quoted.
const NAMES: &[&str] = &["a", "b", "c", "d", "\"odd name\"", "Mixed"];

fn plain_columns(rng: &mut Rng, strict: bool, columns: &mut Vec<Column>) {
    let count = rng.within(2, 5) as usize;
    let first = rng.below(2) as usize;
    for name in &NAMES[first..(first + count).min(NAMES.len())] {
        columns.push(plain_column(rng, name, strict));
    }
    // Every table has numbers to add and text to compare.
    if !columns.iter().any(|column| column.tame) {
        let mut column = plain_column(rng, "num", true);
        (column.decl, column.class, column.exact, column.tame) = ("INTEGER".into(), Class::Int, true, true);
        (column.nullable, column.strict) = (true, strict);
        columns.push(column);
    }
    if rng.percent(25) {
        columns.extend(computed_column(rng, columns));
    }
}

fn table(rng: &mut Rng, name: String, kinds: &[KeyKind], rowids: bool) -> Table {
    let rowid_alias = matches!(kinds, [KeyKind::Rowid]);
    let strict = rng.percent(15) && !kinds.iter().any(|kind| matches!(kind, KeyKind::Numeric));
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
    }
}

const KEYS: &[&[KeyKind]] = &[
    &[KeyKind::Rowid],
    &[KeyKind::Rowid],
    &[KeyKind::Int],
    &[KeyKind::Text],
    &[KeyKind::Nocase],
    &[KeyKind::Rtrim],
    &[KeyKind::Numeric],
    &[KeyKind::Real],
    &[KeyKind::Text, KeyKind::Int],
    &[KeyKind::Int, KeyKind::Nocase],
];

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
        if child.options.contains("STRICT") && child.columns.iter().any(|column| column.decl.contains("NUMERIC")) {
            child.options = "";
            child.columns.iter_mut().for_each(|column| column.strict = false);
            child.columns.iter_mut().for_each(|column| column.decl = column.decl.replace("ANY", "BLOB"));
        }
        child.shard_key = (0..parent.shard_key.len()).collect();
        child.colocate_with = Some(parent.name.clone());
        let mut other = table(rng, format!("o{suffix}"), other_keys, false);
        other.shard_key = other.key.clone();
        other.placement = placement(rng, &other);
        let mut home = table(rng, format!("h{suffix}"), home_keys, false);
        if rng.percent(20) {
            home.placement = Placement::Reference;
        }
        let mut tables = vec![parent, child, other, home];
        if rng.percent(60) {
            let mut bag = table(rng, format!("bag{suffix}"), &[], true);
            let sharded = bag.columns.iter().position(|column| !column.nullable && !column.generated);
            bag.shard_key = sharded.into_iter().collect();
            tables.push(bag);
        }
        let views = views(rng, &tables, suffix);
        let indexes = tables.iter().filter_map(|table| Some((table.name.clone(), index(rng, table)?))).collect();
        Self { tables, views, indexes }
    }

    /// All statements that make it.
    pub fn create(&self) -> Vec<String> {
        let tables = self.tables.iter().map(Table::create);
        let tables = tables.chain(self.indexes.iter().map(|(_, create)| create.clone()));
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

/// An index of some kind; a unique one holds the primary key, so that no row violates it.
fn index(rng: &mut Rng, table: &Table) -> Option<String> {
    let column = &table.columns[rng.below(table.columns.len() as u64) as usize].name;
    let keys: Vec<&str> = table.key.iter().map(|at| table.columns[*at].name.as_str()).collect();
    let name = &table.name;
    Some(match rng.below(8) {
        0 | 1 => format!("CREATE INDEX i_{name} ON {name} ({column})"),
        2 => format!("CREATE INDEX i_{name} ON {name} ({column} DESC) WHERE {column} IS NOT NULL"),
        3 => format!("CREATE INDEX i_{name} ON {name} (lower({column}))"),
        4 if !keys.is_empty() && !keys.contains(&column.as_str()) => {
            format!("CREATE UNIQUE INDEX i_{name} ON {name} ({column}, {})", keys.join(", "))
        }
        _ => return None,
    })
}

fn views(rng: &mut Rng, tables: &[Table], suffix: &str) -> Vec<View> {
    let mut views = vec![];
    let of = &tables[rng.below(3) as usize];
    let names: Vec<&str> = of.columns.iter().map(|column| column.name.as_str()).collect();
    let tame = of.columns.iter().find(|column| column.tame).expect("every table has one");
    let filter = if rng.percent(50) { format!(" WHERE {} > 1", tame.name) } else { String::new() };
    views.push(View {
        name: format!("v{suffix}"),
        create: format!("CREATE VIEW v{suffix} AS SELECT {} FROM {}{filter}", names.join(", "), of.name),
        columns: of.columns.clone(),
        key: of.key.clone(),
    });
    let plain = |name: &str, class, tame| Column {
        name: name.into(),
        decl: String::new(),
        class,
        exact: true,
        tame,
        nullable: true,
        generated: false,
        strict: false,
    };
    views.push(View {
        name: format!("w{suffix}"),
        create: format!(
            "CREATE VIEW w{suffix}(grp, cnt, total) AS SELECT {0} % 4, count(*), sum({0}) FROM {1} GROUP BY 1",
            if tame.class == Class::Int { tame.name.clone() } else { format!("CAST({} AS INTEGER)", tame.name) },
            of.name
        ),
        columns: vec![plain("grp", Class::Int, true), plain("cnt", Class::Int, true), plain("total", Class::Int, true)],
        key: vec![0],
    });
    views
}
