//! Expressions by chance, over the columns in scope.
//!
//! Nothing is generated whose value depends on the order in which rows are met, nor anything that
//! may fail for some rows only: SQLite does not say whether it meets them.

use flotilla_shared::value::Value;

use super::schema::{Class, Column, Schema};
use super::statement::mark;
use super::values::{any_value, value_of};
use crate::sim::random::Rng;

/// An expression.
#[derive(Clone, Debug)]
pub struct Expr {
    /// Its text; values in it are marks.
    pub sql: String,
    /// What it gives.
    pub class: Class,
    /// Results that are equal are identical.
    pub exact: bool,
    /// Sums of it are the same in every order.
    pub tame: bool,
}

/// What FROM offers.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Columns, by their qualified names.
    pub fields: Vec<Expr>,
    /// Columns that together differ in every row; `None` when rows may be equal.
    pub total: Option<Vec<String>>,
}

impl Scope {
    /// Columns of both.
    pub fn and(mut self, other: Self) -> Self {
        self.fields.extend(other.fields);
        self.total = self.total.zip(other.total).map(|(a, b)| [a, b].concat());
        self
    }
}

/// Makes statements for a schema.
pub struct Gen<'a> {
    /// Chance.
    pub rng: &'a mut Rng,
    /// What there is.
    pub schema: &'a Schema,
    /// Values of the statement under construction.
    pub values: Vec<Value>,
    /// How many subqueries may still come.
    pub subqueries: u32,
    /// Names given so far.
    pub aliases: u32,
    /// There will be one table only, so its columns need no table before them.
    pub alone: bool,
}

impl<'a> Gen<'a> {
    /// For one statement.
    pub fn new(rng: &'a mut Rng, schema: &'a Schema) -> Self {
        Self { rng, schema, values: vec![], subqueries: 0, aliases: 0, alone: false }
    }

    /// A name that was not used yet.
    pub fn alias(&mut self, prefix: &str) -> String {
        self.aliases += 1;
        format!("{prefix}{}", self.aliases)
    }

    /// The text of a value.
    pub fn value(&mut self, value: Value) -> String {
        self.values.push(value);
        mark(self.values.len() - 1)
    }

    /// The text of a value for a column; digits are perhaps a number of their own.
    pub fn value_of(&mut self, column: &Column) -> String {
        match column.value(self.rng) {
            Value::Text(text)
                if column.source.is_some() && text.bytes().all(|c| c.is_ascii_digit()) && self.rng.percent(30) =>
            {
                text
            }
            value => self.value(value),
        }
    }

    /// A literal of a class.
    pub fn literal(&mut self, class: Class) -> Expr {
        let value = value_of(self.rng, class);
        let exact = class != Class::Any;
        Expr { sql: self.value(value), class, exact, tame: matches!(class, Class::Int | Class::Real) }
    }

    /// A column that `fits`.
    pub fn field(&mut self, scope: &Scope, fits: impl Fn(&Expr) -> bool) -> Option<Expr> {
        let fitting: Vec<&Expr> = scope.fields.iter().filter(|field| fits(field)).collect();
        (!fitting.is_empty()).then(|| fitting[self.rng.below(fitting.len() as u64) as usize].clone())
    }

    /// Any column.
    pub fn any_field(&mut self, scope: &Scope) -> Expr {
        self.field(scope, |_| true).unwrap_or_else(|| self.literal(Class::Int))
    }

    /// A tame number that can be added up.
    pub fn number(&mut self, scope: &Scope, depth: u32) -> Expr {
        if self.rng.percent(70) { self.int(scope, depth) } else { self.real(scope, depth) }
    }

    /// An expression of a class.
    pub fn expr(&mut self, scope: &Scope, class: Class, depth: u32) -> Expr {
        match class {
            Class::Int => self.int(scope, depth),
            Class::Real => self.real(scope, depth),
            Class::Text => self.text(scope, depth),
            Class::Any => self.any(scope, depth),
        }
    }

    /// An expression of any class.
    pub fn anything(&mut self, scope: &Scope, depth: u32) -> Expr {
        let class = self.rng.pick(&[Class::Int, Class::Int, Class::Real, Class::Text, Class::Text, Class::Any]);
        self.expr(scope, class, depth)
    }

    /// An exact expression.
    pub fn exact(&mut self, scope: &Scope, depth: u32) -> Expr {
        let class = self.rng.pick(&[Class::Int, Class::Int, Class::Text, Class::Real]);
        let found = self.expr(scope, class, depth);
        if found.exact { found } else { self.int(scope, depth) }
    }

    /// A tame integer.
    pub fn int(&mut self, scope: &Scope, depth: u32) -> Expr {
        let tame_int = |field: &Expr| field.tame && field.class == Class::Int;
        let leaf = depth == 0 || self.rng.percent(45);
        if leaf {
            let field = if self.rng.percent(75) { self.field(scope, tame_int) } else { None };
            return field.unwrap_or_else(|| self.literal(Class::Int));
        }
        let d = depth - 1;
        let sql = match self.rng.below(19) {
            0..=2 => {
                let operator = self.rng.pick(&["+", "-", "+", "*"]);
                format!("({} {operator} {})", self.int(scope, 0).sql, self.int(scope, 0).sql)
            }
            3 => format!("length({})", self.text(scope, d).sql),
            4 => format!("abs({})", self.int(scope, 0).sql),
            5 => {
                let (a, b) = (self.int(scope, d).sql, self.int(scope, d).sql);
                format!("CASE WHEN {} THEN {a} ELSE {b} END", self.condition(scope, d))
            }
            6 => format!("coalesce({}, {})", self.int(scope, d).sql, self.literal(Class::Int).sql),
            7 => format!("({})", self.condition(scope, d)),
            8 => format!("({} % {})", self.int(scope, 0).sql, self.rng.pick(&["3", "4", "7"])),
            9 => format!("({} {} 3)", self.int(scope, 0).sql, self.rng.pick(&["&", "|", "/"])),
            10 => format!("instr({}, 'a')", self.text(scope, d).sql),
            11 => format!("iif({}, {}, {})", self.condition(scope, d), self.int(scope, 0).sql, self.int(scope, 0).sql),
            12 => format!("nullif({}, {})", self.int(scope, d).sql, self.int(scope, 0).sql),
            13 => format!("{}({}, {})", self.rng.pick(&["max", "min"]), self.int(scope, 0).sql, self.int(scope, 0).sql),
            14 => format!("sign({})", self.number(scope, 0).sql),
            15 => format!("~{}", self.int(scope, 0).sql),
            17 => format!("{}({})", self.rng.pick(&["floor", "ceil", "trunc"]), self.int(scope, d).sql),
            16 => {
                let by = self.int(scope, 0).sql;
                format!("CASE {by} WHEN 1 THEN 10 WHEN {} THEN 20 END", self.literal(Class::Int).sql)
            }
            _ => match self.scalar_subquery(scope) {
                Some(sql) => sql,
                None => format!("- {}", self.int(scope, 0).sql),
            },
        };
        Expr { sql, class: Class::Int, exact: true, tame: true }
    }

    /// A real that is a small multiple of a power of two, so that sums of it are exact.
    pub fn real(&mut self, scope: &Scope, depth: u32) -> Expr {
        let tame_real = |field: &Expr| field.tame && field.class == Class::Real;
        if depth == 0 || self.rng.percent(55) {
            let field = if self.rng.percent(80) { self.field(scope, tame_real) } else { None };
            return field.unwrap_or_else(|| self.literal(Class::Real));
        }
        let d = depth - 1;
        let sql = match self.rng.below(8) {
            0 => format!("({} + {})", self.real(scope, d).sql, self.real(scope, 0).sql),
            1 => format!("({} * 0.5)", self.real(scope, 0).sql),
            2 => format!("CAST({} AS REAL)", self.int(scope, 0).sql),
            3 => format!("abs({})", self.real(scope, d).sql),
            4 => format!("round({})", self.real(scope, d).sql),
            // Zero is added because some of them give the negative one.
            5 => format!("({}({}) + 0.0)", self.rng.pick(&["floor", "ceiling", "trunc"]), self.real(scope, d).sql),
            6 => format!("({}({}, 3) + 0.0)", self.rng.pick(&["mod", "pow"]), self.int(scope, 0).sql),
            _ => format!("({} - {} / 2.0)", self.real(scope, 0).sql, self.int(scope, 0).sql),
        };
        Expr { sql, class: Class::Real, exact: true, tame: true }
    }

    /// Text.
    pub fn text(&mut self, scope: &Scope, depth: u32) -> Expr {
        let texts = |field: &Expr| field.class == Class::Text;
        if depth == 0 || self.rng.percent(45) {
            let field = if self.rng.percent(85) { self.field(scope, texts) } else { None };
            return field.unwrap_or_else(|| self.literal(Class::Text));
        }
        let d = depth - 1;
        let sql = match self.rng.below(15) {
            0 => format!("({} || {})", self.text(scope, d).sql, self.text(scope, 0).sql),
            1 => format!("upper({})", self.text(scope, d).sql),
            2 => format!("lower({})", self.text(scope, d).sql),
            3 => format!("substr({}, {}, 2)", self.text(scope, d).sql, self.rng.pick(&["1", "2", "-1"])),
            4 => format!("trim({})", self.text(scope, d).sql),
            5 => format!("replace({}, 'a', 'b')", self.text(scope, 0).sql),
            6 => format!("coalesce({} || '', 'none')", self.text(scope, 0).sql),
            7 => format!("typeof({})", self.anything(scope, d).sql),
            8 => format!("hex({})", self.anything(scope, 0).sql),
            9 => format!("quote({})", self.anything(scope, 0).sql),
            10 => format!("printf('%d-%s', {}, {})", self.int(scope, 0).sql, self.text(scope, 0).sql),
            11 => format!("CAST({} AS TEXT)", self.int(scope, 0).sql),
            12 => format!("CASE WHEN {} THEN 'yes' ELSE 'no' END", self.condition(scope, d)),
            13 => format!("date('2024-01-31', {} || ' days')", self.int(scope, 0).sql),
            // Not of blobs: text that is no UTF-8 cannot be told in JSON.
            _ => format!("(CAST({} AS TEXT) || '')", self.number(scope, 0).sql),
        };
        Expr { sql, class: Class::Text, exact: true, tame: false }
    }

    /// Anything at all.
    pub fn any(&mut self, scope: &Scope, depth: u32) -> Expr {
        if depth == 0 || self.rng.percent(60) {
            return self.any_field(scope);
        }
        let d = depth - 1;
        let sql = match self.rng.below(8) {
            0 => format!("coalesce({}, {})", self.any_field(scope).sql, self.any_field(scope).sql),
            1 => format!("CASE WHEN {} THEN {} END", self.condition(scope, d), self.any_field(scope).sql),
            2 => format!("+{}", self.any_field(scope).sql),
            3 => format!("({} + 1)", self.any_field(scope).sql),
            4 => format!("({} / 3.0)", self.number(scope, 0).sql),
            // The last digits of these are the math library's.
            6 => {
                let function = self.rng.pick(&["sqrt", "ln", "exp", "sin", "atan", "log10", "degrees"]);
                format!("round({function}({}), 5)", self.number(scope, 0).sql)
            }
            5 => format!("CAST({} AS {})", self.any_field(scope).sql, self.rng.pick(&["NUMERIC", "BLOB", "INTEGER"])),
            _ => {
                let value = any_value(self.rng);
                self.value(value)
            }
        };
        Expr { sql, class: Class::Any, exact: false, tame: false }
    }

    /// A condition.
    pub fn condition(&mut self, scope: &Scope, depth: u32) -> String {
        if depth > 0 && self.rng.percent(35) {
            let (a, b) = (self.condition(scope, depth - 1), self.condition(scope, depth - 1));
            return match self.rng.below(6) {
                0 | 1 => format!("({a} AND {b})"),
                2..=4 => format!("({a} OR {b})"),
                _ => format!("NOT ({a})"),
            };
        }
        if self.subqueries > 0 && self.rng.percent(15) {
            return self.condition_with_subquery(scope);
        }
        let class = self.rng.pick(&[Class::Int, Class::Int, Class::Text, Class::Text, Class::Real, Class::Any]);
        let left = self.expr(scope, class, depth.min(1)).sql;
        match self.rng.below(16) {
            0..=5 => {
                let operator = self.rng.pick(&["=", "=", "<", "<=", ">", ">=", "<>", "!=", "=="]);
                format!("{left} {operator} {}", self.operand(scope, class))
            }
            6 => format!("{left} IS {}", self.operand(scope, class)),
            7 => format!("{left} IS NOT {}", self.operand(scope, class)),
            8 => format!("{left} IS NULL"),
            9 => format!("{left} NOTNULL"),
            10 => format!("{left} BETWEEN {} AND {}", self.literal(class).sql, self.literal(class).sql),
            11 => format!("{left} NOT BETWEEN {} AND {}", self.literal(class).sql, self.literal(class).sql),
            12 => {
                let not = self.rng.pick(&["", "NOT "]);
                let count = self.rng.below(4);
                let list: Vec<String> = (0..count).map(|_| self.literal(class).sql).collect();
                format!("{left} {not}IN ({})", list.join(", "))
            }
            13 => {
                let pattern = self.rng.pick(&["'a%'", "'_b%'", "'%1%'", "'A'", "'%'", "'a!%' ESCAPE '!'"]);
                let not = self.rng.pick(&["", "NOT "]);
                format!("{} {not}LIKE {pattern}", self.text(scope, 0).sql)
            }
            14 => {
                format!("{} GLOB {}", self.text(scope, 0).sql, self.rng.pick(&["'a*'", "'*[0-9]*'", "'?'", "'[^a]*'"]))
            }
            _ => {
                let collation = self.rng.pick(&["NOCASE", "RTRIM", "BINARY"]);
                format!("{} = {} COLLATE {collation}", self.text(scope, 0).sql, self.literal(Class::Text).sql)
            }
        }
    }

    fn operand(&mut self, scope: &Scope, class: Class) -> String {
        match self.rng.below(10) {
            0..=5 => self.literal(class).sql,
            6 => self.literal(Class::Any).sql,
            _ => self.expr(scope, class, 0).sql,
        }
    }
}
