//! Sums, totals and means of what is hard to add: infinities, numbers that cancel each other out and leave
//! small ones, integers beyond 64 bits, and all of these mixed with text.
//!
//! Which integers overflow depends on the order in which they are added, so those that SQLite adds as
//! integers are all of one sign, or have a real among them.

use super::expr::{Gen, Scope};
use super::source::scope_of;
use super::statement::{Order, Rule};

impl Gen<'_> {
    /// A query with such sums, of all rows or of groups.
    pub fn extreme_sum(&mut self, rule: &mut Rule) -> String {
        let tables = &self.schema.tables;
        let table = tables.iter().find(|table| table.columns.iter().any(|column| column.name == "f"));
        let Some(table) = table.cloned() else { return self.aggregate(rule) };
        let alias = self.alias("t");
        let scope = scope_of(&alias, &table.columns, &table.key);
        rule.close = true;
        let calls: Vec<String> = (0..self.rng.within(1, 3)).map(|_| self.extreme_call(&alias, &scope)).collect();
        let (calls, name) = (calls.join(", "), table.name);
        let filter = match self.rng.below(4) {
            0 => format!(" WHERE {alias}.k IN (1, 2, 3, 5, 8)"),
            1 => format!(" WHERE {}", self.condition(&scope, 1)),
            2 => format!(" WHERE abs({alias}.f) < 9e99 OR {alias}.k > 4"),
            _ => String::new(),
        };
        match self.rng.below(6) {
            0 => {
                rule.order = Order::Fixed;
                format!("SELECT {alias}.num % 3 AS g, {calls} FROM {name} AS {alias}{filter} GROUP BY g ORDER BY g")
            }
            1 => {
                let having =
                    self.rng.pick(&["total(f) IS NULL", "sum(f) IS NOT NULL", "avg(f) IS NULL OR count(*) > 1"]);
                format!("SELECT num % 4 AS g, {calls} FROM {name} AS {alias}{filter} GROUP BY g HAVING {having}")
            }
            2 => {
                let (other, _) = self.table_source();
                format!("SELECT {calls} FROM {name} AS {alias} JOIN (SELECT 1 FROM {other} LIMIT 1){filter}")
            }
            _ => format!("SELECT {calls} FROM {name} AS {alias}{filter}"),
        }
    }

    fn extreme_call(&mut self, alias: &str, scope: &Scope) -> String {
        let sign = self.rng.pick(&[">", "<"]);
        let call = match self.rng.below(12) {
            0..=2 => format!("sum({alias}.f)"),
            3 => format!("total({alias}.f)"),
            4 => format!("avg({alias}.f)"),
            5 => format!("avg({alias}.big)"),
            6 => format!("total({alias}.big)"),
            7 => return format!("sum({alias}.big) FILTER (WHERE {alias}.big {sign} 0)"),
            8 => return format!("sum({alias}.m) FILTER (WHERE typeof({alias}.m) <> 'integer' OR {alias}.m > 0)"),
            9 => format!("{}({alias}.m)", self.rng.pick(&["avg", "total"])),
            10 => return format!("sum(CASE WHEN {alias}.num > 2 THEN {alias}.f ELSE abs({alias}.num) END)"),
            _ => return format!("sum(DISTINCT {alias}.f)"),
        };
        match self.rng.below(6) {
            0 => format!("{call} FILTER (WHERE {})", self.condition(scope, 0)),
            1 => format!("{call} IS NULL"),
            2 => format!("coalesce({call}, 'none')"),
            _ => call,
        }
    }
}
