//! A generated statement: its text with arguments, what kind it is, and how its result is compared.

use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Statement;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What a statement is mainly about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// In tables.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// A read with the key fixed.
    Point = "read by key";
    /// Projection and WHERE.
    Scan = "scan";
    /// ORDER BY.
    Order = "order by";
    /// LIMIT and OFFSET.
    Limit = "limit";
    /// DISTINCT.
    Distinct = "distinct";
    /// Aggregates without GROUP BY.
    Aggregate = "aggregate";
    /// GROUP BY and HAVING.
    Group = "group by";
    /// Joins on the keys of tables that lie beside each other.
    ColocatedJoin = "colocated join";
    /// Joins of anything.
    Join = "join";
    /// Subqueries in expressions and in FROM.
    Subquery = "subquery";
    /// WITH.
    Cte = "cte";
    /// WITH RECURSIVE.
    Recursive = "recursive cte";
    /// UNION, UNION ALL, INTERSECT, EXCEPT.
    Compound = "set operation";
    /// VALUES.
    Values = "values";
    /// Window functions.
    Window = "window";
    /// Views.
    View = "view";
    /// Terms that are alike but for the case of a literal, a parameter or a collation.
    Alike = "terms alike";
    /// What a name or a number in ORDER BY and GROUP BY stands for, and to which query an aggregate belongs.
    Naming = "names and numbers";
    /// Sums of infinities, of what cancels out, and beyond 64 bits.
    ExtremeSum = "extreme sums";
    /// LIMIT and OFFSET at the ends of their range.
    ExtremeLimit = "extreme limits";
    /// Statements that SQLite refuses.
    Invalid = "invalid";
    /// INSERT … VALUES.
    Insert = "insert";
    /// INSERT … SELECT.
    InsertSelect = "insert select";
    /// ON CONFLICT, OR REPLACE, OR IGNORE.
    Upsert = "upsert";
    /// UPDATE with the key fixed.
    UpdatePoint = "update by key";
    /// UPDATE of anything.
    Update = "update";
    /// UPDATE of the key itself.
    UpdateKey = "update of key";
    /// DELETE with the key fixed.
    DeletePoint = "delete by key";
    /// DELETE of anything.
    Delete = "delete";
    /// UPDATE and DELETE under a CTE that has the name of their table.
    HidingCte = "cte named as target";
    /// UPDATE … FROM of joins.
    UpdateFrom = "update from";
    /// Subqueries over the table that is written.
    OwnRows = "own rows";
}

impl Kind {
    /// Does it change rows?
    pub fn writes(self) -> bool {
        self >= Self::Insert
    }
}

/// What the order of rows must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The ORDER BY fixes the sequence, up to rows that are identical.
    Fixed,
    /// Nothing is said about it.
    Open,
}

/// How a result is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Order of rows.
    pub order: Order,
    /// The statement without its LIMIT, when the rows that it leaves are open.
    pub unlimited: Option<String>,
    /// Values that are equal in SQL need not be identical: which one of a group is shown is open.
    pub loose: bool,
    /// Reals may differ in the last digits.
    pub close: bool,
    /// Columns whose text is a list of parts in open order, and what parts them.
    pub parts: Vec<(usize, String)>,
    /// The rowid of the last row was given by the statement.
    pub last_id: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Self { order: Order::Open, unlimited: None, loose: false, close: false, parts: vec![], last_id: false }
    }
}

/// A statement.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about.
    pub kind: Kind,
    /// Its text.
    pub sql: String,
    /// Its text with literals in place of parameters.
    pub inline: String,
    /// Its arguments.
    pub params: Params,
    /// How its result is compared.
    pub rule: Rule,
}

impl Case {
    /// As it is sent.
    pub fn statement(&self) -> Statement {
        Statement { sql: self.sql.clone(), params: self.params.clone() }
    }
}

/// A value as a literal.
pub fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Integer(n) => n.to_string(),
        Value::Real(r) if r.is_infinite() => (if *r > 0.0 { "9e999" } else { "-9e999" }).into(),
        Value::Real(r) => format!("{r:?}"),
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Blob(bytes) => format!("X'{}'", bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>()),
    }
}

/// How values that a statement contains are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// As literals.
    Inline,
    /// As `?`.
    Positional,
    /// As `?7`.
    Numbered,
    /// As `:v7`, `@v7` or `$v7`.
    Named,
}

const OPEN: char = '\u{1}';
const CLOSE: char = '\u{2}';

/// The place of value `index` in a text under construction.
pub fn mark(index: usize) -> String {
    format!("{OPEN}{index}{CLOSE}")
}

/// Are there values in a text under construction?
pub fn has_marks(text: &str) -> bool {
    text.contains(OPEN)
}

/// Replaces marks by literals or parameters.
pub fn render(text: &str, values: &[Value], binding: Binding) -> (String, Params) {
    let mut sql = String::new();
    let mut order: Vec<usize> = vec![];
    let mut pieces = text.split(OPEN);
    sql.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (index, rest) = piece.split_once(CLOSE).expect("marks are closed");
        let index: usize = index.parse().expect("marks hold a number");
        let known = order.iter().position(|other| *other == index);
        let place = match (binding, known) {
            (Binding::Positional, _) | (_, None) => {
                order.push(index);
                order.len()
            }
            (_, Some(at)) => at + 1,
        };
        sql.push_str(&match binding {
            Binding::Inline => literal(&values[index]),
            Binding::Positional => "?".to_owned(),
            Binding::Numbered => format!("?{place}"),
            Binding::Named => format!("{}v{place}", [':', '@', '$'][place % 3]),
        });
        sql.push_str(rest);
    }
    let params = match binding {
        Binding::Inline => Params::default(),
        Binding::Named => Params::Named(
            order.iter().enumerate().map(|(at, n)| (format!("v{}", at + 1), values[*n].clone())).collect(),
        ),
        _ => Params::Positional(order.iter().map(|n| values[*n].clone()).collect()),
    };
    (sql, params)
}
