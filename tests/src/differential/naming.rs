//! What a name or a number stands for, by SQLite's rules: a result, a column, a constant; and to which query
//! an aggregate in a subquery belongs.

use super::expr::{Expr, Gen};
use super::schema::{Class, Table};
use super::source::scope_of;
use super::statement::{Order, Rule};

/// Ways to write the number of a result.
const ORDINALS: &[&str] = &[
    "(?)",
    "((?))",
    "+?",
    "+(?)",
    "- -?",
    "likely(?)",
    "unlikely(?)",
    "likelihood(?, 0.5)",
    "? COLLATE NOCASE",
    "(?) COLLATE BINARY",
    "?",
];

/// Ways to write a number that is none.
const CONSTANTS: &[&str] = &["?.0", "'?'", "? + 0", "CAST(? AS INTEGER)", "'?' COLLATE NOCASE"];

/// Ways to write the name of a result.
const NAMES: &[&str] =
    &["?", "(?)", "+?", "likely(?)", "? COLLATE NOCASE", "(?) COLLATE BINARY", "\"?\"", "[?]", "`?`"];

/// Functions whose result does not depend on which of several rows that tie is the last.
const AGGREGATES: &[&str] = &["max", "min", "sum", "count", "total"];

impl Gen<'_> {
    /// A query in which names or numbers must be understood.
    pub fn naming(&mut self, rule: &mut Rule) -> String {
        match self.rng.below(10) {
            0..=2 => self.star_before_alias(rule),
            3 | 4 => self.ordinals(rule),
            5 => self.alias_of_a_column(rule),
            6 => self.grouped_by_name(rule),
            7 => self.grouped_by_text(rule),
            _ => self.outer_aggregate(),
        }
    }

    /// `*`, and behind it a result that has the name of one of its columns.
    fn star_before_alias(&mut self, rule: &mut Rule) -> String {
        let table = self.pick_table();
        let alias = self.alias("t");
        let scope = scope_of(&alias, &table.columns, &table.key);
        let Some(total) = scope.total.clone() else { return self.ordinals(rule) };
        let name = self.shown_name(&table);
        let (star, other, scope) = match self.rng.below(4) {
            0 => {
                let (other, more) = self.table_source();
                let on = format!("{} = {}", self.int(&scope, 0).sql, self.int(&more, 0).sql);
                (format!("{alias}.*"), format!(" JOIN {other} ON {on}"), scope.clone().and(more))
            }
            1 => (format!("{alias}.*"), String::new(), scope.clone()),
            _ => ("*".to_owned(), String::new(), scope.clone()),
        };
        let Some(all) = scope.total.clone().or(other.is_empty().then_some(total)) else { return self.ordinals(rule) };
        let expr = match self.rng.below(3) {
            0 => format!("- {}", self.int(&scope, 0).sql),
            1 => format!("lower({})", self.text(&scope, 0).sql),
            _ => self.exact(&scope, 1).sql,
        };
        rule.order = Order::Fixed;
        let way = self.rng.pick(&["", " DESC", " NULLS LAST"]);
        let term = self.rng.pick(NAMES).replace('?', name.trim_matches('"'));
        let term = if name.starts_with('"') { name.clone() } else { term };
        let filter = self.filter(&scope, 25);
        let limit = self.small_limit();
        let all = all.join(", ");
        format!(
            "SELECT {star}, {expr} AS {name} FROM {} AS {alias}{other}{filter} ORDER BY {term}{way}, {all}{limit}",
            table.name
        )
    }

    fn shown_name(&mut self, table: &Table) -> String {
        let shown: Vec<&str> =
            table.columns.iter().filter(|column| !column.hidden).map(|column| column.name.as_str()).collect();
        self.rng.pick(&shown).to_owned()
    }

    /// Numbers of results, written so that they need not look like one, and constants that do.
    fn ordinals(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = self.table_source();
        let filter = self.filter(&scope, 40);
        let exprs = [self.exact(&scope, 1), self.exact(&scope, 1), self.int(&scope, 0)];
        let at = self.rng.within(1, 3);
        let form = if self.rng.percent(75) { self.rng.pick(ORDINALS) } else { self.rng.pick(CONSTANTS) };
        let term = form.replace('?', &at.to_string());
        let list: Vec<&str> = exprs.iter().map(|expr| expr.sql.as_str()).collect();
        rule.order = Order::Fixed;
        let way = self.rng.pick(&["", " DESC"]);
        let limit = self.small_limit();
        let distinct = self.rng.pick(&["", "", "DISTINCT "]);
        format!("SELECT {distinct}{} FROM {from}{filter} ORDER BY {term}{way}, 1, 2, 3{limit}", list.join(", "))
    }

    /// A result that has the name of a column, alone and in an expression.
    fn alias_of_a_column(&mut self, rule: &mut Rule) -> String {
        let table = self.pick_table();
        let alias = self.alias("t");
        let scope = scope_of(&alias, &table.columns, &table.key);
        let Some(total) = scope.total.clone() else { return self.ordinals(rule) };
        let name = self.shown_name(&table);
        let expr = match self.rng.below(2) {
            0 => format!("- {}", self.int(&scope, 0).sql),
            _ => self.exact(&scope, 1).sql,
        };
        rule.order = Order::Fixed;
        let term = self.rng.pick(&["?", "(?)", "+?", "likely(?)", "? || ''", "typeof(?)", "? IS NULL", "length(?)"]);
        let term = term.replace('?', &name);
        let way = self.rng.pick(&["", " DESC"]);
        let limit = self.small_limit();
        let total = total.join(", ");
        let filter = match self.rng.below(4) {
            0 => format!(" WHERE {name} IS NOT NULL"),
            _ => self.filter(&scope, 25),
        };
        format!(
            "SELECT {expr} AS {name}, {total} FROM {} AS {alias}{filter} ORDER BY {term}{way}, {total}{limit}",
            table.name
        )
    }

    /// GROUP BY a number or a name that need not look like one.
    fn grouped_by_name(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = self.table_source();
        let filter = self.filter(&scope, 40);
        let (key, number) = (self.exact(&scope, 1), self.int(&scope, 0));
        let named = self.rng.percent(50);
        // There likely() hides a number, which is not so in ORDER BY.
        let forms: &[&str] =
            if named { NAMES } else { &["1", "(1)", "+1", "- -1", "1 COLLATE NOCASE", "(1) COLLATE BINARY"] };
        let term = self.rng.pick(forms).replace('?', if named { "g0" } else { "1" });
        // Of what is equal without regard to case one is shown.
        rule.loose = term.contains("NOCASE");
        let (key, number) = (key.sql, number.sql);
        format!("SELECT {key} AS g0, count(*), sum({number}) FROM {from}{filter} GROUP BY {term}")
    }

    /// GROUP BY and ORDER BY text that is the name of a result: a constant, so there is one group.
    fn grouped_by_text(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = self.table_source();
        let filter = self.filter(&scope, 40);
        let number = self.int(&scope, 0).sql;
        match self.rng.below(3) {
            0 => {
                let second = self.exact(&scope, 0).sql;
                rule.order = Order::Fixed;
                format!(
                    "SELECT {number} + 1 AS g0, {second} FROM {from}{filter} ORDER BY 'g0' DESC, 2, 1{}",
                    self.small_limit()
                )
            }
            // The row that has the largest number gives what is beside it.
            1 => format!("SELECT {number} + 1 AS g0, max({number}), count(*) FROM {from}{filter} GROUP BY 'g0'"),
            _ => format!("SELECT {number} + 1 AS g0, max({number}) AS top FROM {from}{filter} GROUP BY 'g0', 'top'"),
        }
    }

    /// An aggregate of outer columns only, inside a subquery: it belongs to the outer query.
    fn outer_aggregate(&mut self) -> String {
        let (outer, inner) = match self.rng.below(4) {
            0 => (self.pick_table(), self.pick_table()),
            1 => (self.schema.tables[1].clone(), self.schema.tables[0].clone()),
            _ => (self.schema.tables[0].clone(), self.schema.tables[1].clone()),
        };
        let (a, b) = (self.alias("t"), self.alias("t"));
        let scope = scope_of(&a, &outer.columns, &outer.key);
        let number = self
            .field(&scope, |field: &Expr| field.tame && field.class == Class::Int)
            .map_or_else(|| "1".to_owned(), |field| field.sql);
        let differs = scope.total.as_ref().is_some_and(|total| *total == [number.clone()]);
        let function = self.rng.pick(AGGREGATES);
        let key = |table: &Table| table.shard_key.first().map(|at| table.columns[*at].name.clone());
        let on = match (key(&outer), key(&inner), function) {
            // Which row a column beside it is of, these two say where no two rows have the same number.
            (Some(x), Some(y), "max" | "min") if differs => format!(" WHERE {b}.{y} = {a}.{x}"),
            (_, Some(y), _) => format!(" WHERE {b}.{y} IS NOT NULL"),
            _ => String::new(),
        };
        let subquery = format!("(SELECT {function}({number}) FROM {} AS {b}{on})", inner.name);
        let filter = self.filter(&scope, 30);
        let from = format!("{} AS {a}", outer.name);
        match self.rng.below(4) {
            0 => format!("SELECT {subquery}, count(*) FROM {from}{filter}"),
            1 => format!("SELECT count(*) FROM {from}{filter} HAVING {subquery} IS NOT NULL"),
            2 => {
                let group = self.int(&scope, 0).sql;
                format!("SELECT {group} + 0 AS g, {subquery} FROM {from}{filter} GROUP BY g")
            }
            _ => format!("SELECT {subquery} FROM {from}{filter}"),
        }
    }
}
