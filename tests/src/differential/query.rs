//! SELECTs by chance, of every kind.

use super::expr::{Expr, Gen, Scope};
use super::schema::{Class, Schema, Table};
use super::source::scope_of;
use super::statement::{Binding, Case, Kind, Order, Rule, has_marks, literal, render};
use crate::sim::random::Rng;

/// Kinds of reads and how often they come.
const READS: &[(Kind, u64)] = &[
    (Kind::Point, 10),
    (Kind::Scan, 12),
    (Kind::Order, 8),
    (Kind::Limit, 6),
    (Kind::Distinct, 6),
    (Kind::Aggregate, 9),
    (Kind::Group, 10),
    (Kind::ColocatedJoin, 8),
    (Kind::Join, 10),
    (Kind::Subquery, 10),
    (Kind::Cte, 6),
    (Kind::Recursive, 4),
    (Kind::Compound, 8),
    (Kind::Values, 2),
    (Kind::Window, 7),
    (Kind::View, 5),
    (Kind::Alike, 8),
    (Kind::Naming, 8),
    (Kind::ExtremeSum, 5),
    (Kind::ExtremeLimit, 4),
    (Kind::Invalid, 3),
];

/// One of several by weight.
pub fn weighted<T: Copy>(rng: &mut Rng, all: &[(T, u64)]) -> T {
    let mut at = rng.below(all.iter().map(|(_, weight)| weight).sum());
    for (item, weight) in all {
        match at.checked_sub(*weight) {
            Some(rest) => at = rest,
            None => return *item,
        }
    }
    all[0].0
}

/// A read of some kind.
pub fn read(rng: &mut Rng, schema: &Schema) -> Case {
    let kind = weighted(rng, READS);
    let mut g = Gen::new(rng, schema);
    g.subqueries = match kind {
        Kind::Subquery => 3,
        Kind::Join | Kind::Cte | Kind::Compound | Kind::View => u32::from(g.rng.percent(15)),
        _ => 0,
    };
    g.alone = matches!(kind, Kind::Point | Kind::Scan | Kind::Order | Kind::Limit | Kind::Distinct | Kind::Naming);
    let mut rule = Rule::default();
    let text = match kind {
        Kind::Point => g.point(),
        Kind::Scan => g.scan(&mut rule),
        Kind::Order => g.ordered(&mut rule),
        Kind::Limit => g.limited(&mut rule),
        Kind::Distinct => g.distinct(&mut rule),
        Kind::Aggregate => g.aggregate(&mut rule),
        Kind::Group => g.grouped(&mut rule),
        Kind::ColocatedJoin => {
            let (from, scope) = g.colocated_join();
            g.over(&from, &scope, &mut rule)
        }
        Kind::Join => g.joined(&mut rule),
        Kind::Subquery => g.with_subquery(&mut rule),
        Kind::Cte => g.cte(&mut rule),
        Kind::Recursive => g.recursive(&mut rule),
        Kind::Compound => g.compound(&mut rule),
        Kind::Values => g.values_clause(&mut rule),
        Kind::Window => g.window(&mut rule),
        Kind::View => {
            let (from, scope) = g.view_source();
            g.over(&from, &scope, &mut rule)
        }
        Kind::Alike => g.alike(&mut rule),
        Kind::Naming => g.naming(&mut rule),
        Kind::ExtremeSum => g.extreme_sum(&mut rule),
        Kind::ExtremeLimit => g.extreme_limit(&mut rule),
        _ => g.invalid(),
    };
    g.finish(kind, &text, rule)
}

impl Gen<'_> {
    /// The statement of a text with marks.
    pub fn finish(&mut self, kind: Kind, text: &str, mut rule: Rule) -> Case {
        let binding = match self.rng.below(10) {
            // What is sent to compare with has no arguments.
            _ if rule.unlimited.as_ref().is_some_and(|text| has_marks(text)) => Binding::Inline,
            0..=4 => Binding::Inline,
            5 | 6 => Binding::Positional,
            7 => Binding::Numbered,
            _ => Binding::Named,
        };
        rule.unlimited = rule.unlimited.map(|text| render(&text, &self.values, Binding::Inline).0);
        // Comments and an end that nobody needs.
        let text = match self.rng.below(40) {
            0 => format!("/* ? */ {text}"),
            1 => format!("{text} -- ?"),
            2 => format!("{text};"),
            3 => format!("\n\t{text} ; /* 'x */"),
            _ => text.to_owned(),
        };
        let (sql, params) = render(&text, &self.values, binding);
        let inline = render(&text, &self.values, Binding::Inline).0;
        Case { kind, sql, inline, params, rule }
    }

    /// The columns of a result.
    pub fn outputs(&mut self, scope: &Scope, depth: u32) -> String {
        let count = self.rng.within(1, 4);
        let mut list = vec![];
        for n in 0..count {
            let expr = self.anything(scope, depth);
            list.push(match self.rng.below(4) {
                0 => format!("{} AS r{n}", expr.sql),
                _ => expr.sql,
            });
        }
        list.join(", ")
    }

    /// The end of a term of ORDER BY.
    pub fn direction(&mut self) -> &'static str {
        self.rng.pick(&["", "", " ASC", " DESC", " DESC", " NULLS LAST", " DESC NULLS FIRST", " COLLATE NOCASE DESC"])
    }

    /// ORDER BY terms that end in what differs in every row.
    pub fn total_order(&mut self, scope: &Scope) -> Option<String> {
        let total = scope.total.clone()?;
        let mut terms = vec![];
        for _ in 0..self.rng.below(3) {
            // A number alone would be the number of a column.
            let field = self.any_field(scope);
            let term = match self.rng.below(3) {
                0 => format!("{} + 1", self.number(scope, 0).sql),
                1 => format!("lower({})", self.text(scope, 0).sql),
                _ => field.sql,
            };
            terms.push(format!("{term}{}", self.direction()));
        }
        let way = self.rng.pick(&["", " DESC", " ASC NULLS LAST"]);
        terms.extend(total.into_iter().map(|term| format!("{term}{way}")));
        Some(terms.join(", "))
    }

    /// A condition that fixes a key, and more perhaps.
    pub fn key_condition(&mut self, table: &Table, alias: &str) -> String {
        let shape = self.rng.below(6);
        let mut parts = vec![];
        for at in &table.shard_key {
            let column = &table.columns[*at];
            let name = format!("{alias}{}", column.name);
            let value = |g: &mut Self| g.value_of(column);
            parts.push(match shape {
                0 | 1 => format!("{name} = {}", value(self)),
                2 => {
                    let list: Vec<String> = (0..self.rng.within(1, 4)).map(|_| value(self)).collect();
                    format!("{name} IN ({})", list.join(", "))
                }
                3 => format!("({name} = {} OR {name} = {})", value(self), value(self)),
                4 => format!("{} = {name}", value(self)),
                _ => format!("{name} IS {}", value(self)),
            });
        }
        if parts.is_empty() { "1".to_owned() } else { parts.join(" AND ") }
    }

    fn point(&mut self) -> String {
        let table = self.pick_table();
        let (from, scope) = self.named_source(&table);
        let key = self.key_condition(&table, "");
        let columns = if self.rng.percent(50) { "*".to_owned() } else { self.outputs(&scope, 1) };
        let more = if self.rng.percent(40) { format!(" AND {}", self.condition(&scope, 1)) } else { String::new() };
        format!("SELECT {columns} FROM {from} WHERE {key}{more}")
    }

    fn scan(&mut self, _rule: &mut Rule) -> String {
        let (from, scope) = self.table_source();
        let columns = if self.rng.percent(20) { "*".to_owned() } else { self.outputs(&scope, 2) };
        format!("SELECT {columns} FROM {from}{}", self.filter(&scope, 80))
    }

    fn ordered(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = self.table_source();
        let filter = self.filter(&scope, 40);
        match self.total_order(&scope) {
            Some(order) => {
                rule.order = Order::Fixed;
                format!("SELECT {} FROM {from}{filter} ORDER BY {order}", self.outputs(&scope, 1))
            }
            // All that is shown is sorted by, so rows that tie are identical.
            None => {
                let (a, b) = (self.exact(&scope, 1).sql, self.exact(&scope, 0).sql);
                rule.order = Order::Fixed;
                let (x, y) = (self.rng.pick(&["", " DESC"]), self.rng.pick(&["", " DESC NULLS LAST"]));
                let terms = self.rng.pick(&["first", "1"]);
                format!("SELECT {a} AS first, {b} FROM {from}{filter} ORDER BY {terms}{x}, 2{y}")
            }
        }
    }

    fn limited(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = self.table_source();
        let filter = self.filter(&scope, 40);
        let count = self.rng.below(12) as i64 - 1;
        let offset = self.rng.below(8);
        let limit = match self.rng.below(4) {
            0 => format!("LIMIT {count}"),
            1 => format!("LIMIT {offset}, {count}"),
            2 if self.rng.percent(30) => {
                let table = self.pick_table().name;
                format!("LIMIT (SELECT count(*) / 3 FROM {table})")
            }
            2 => format!("LIMIT {} OFFSET {}", count + 1, self.rng.below(3)),
            _ => format!("LIMIT {count} OFFSET {offset}"),
        };
        let columns = self.outputs(&scope, 1);
        match self.total_order(&scope).filter(|_| self.rng.percent(80)) {
            Some(order) => {
                rule.order = Order::Fixed;
                format!("SELECT {columns} FROM {from}{filter} ORDER BY {order} {limit}")
            }
            None => {
                let unlimited = format!("SELECT {columns} FROM {from}{filter}");
                rule.unlimited = Some(unlimited.clone());
                format!("{unlimited} {limit}")
            }
        }
    }

    fn distinct(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = self.table_source();
        let filter = self.filter(&scope, 40);
        let exprs: Vec<Expr> = (0..self.rng.within(1, 3))
            .map(|_| if self.rng.percent(80) { self.exact(&scope, 1) } else { self.any_field(&scope) })
            .collect();
        rule.loose = exprs.iter().any(|expr| !expr.exact);
        let list: Vec<&str> = exprs.iter().map(|expr| expr.sql.as_str()).collect();
        let sql = format!("SELECT DISTINCT {} FROM {from}{filter}", list.join(", "));
        if rule.loose || self.rng.percent(40) {
            return sql;
        }
        rule.order = Order::Fixed;
        let terms: Vec<String> =
            (1..=exprs.len()).map(|n| format!("{n}{}", self.rng.pick(&["", " DESC", " NULLS LAST"]))).collect();
        let limit = if self.rng.percent(40) { format!(" LIMIT {}", self.rng.below(6)) } else { String::new() };
        format!("{sql} ORDER BY {}{limit}", terms.join(", "))
    }

    /// An aggregate for column `at` of the result.
    fn aggregate_call(&mut self, scope: &Scope, at: usize, rule: &mut Rule) -> String {
        let total = scope.total.as_ref().map(|total| total.join(", "));
        let filter = match self.rng.percent(25) {
            true => format!(" FILTER (WHERE {})", self.condition(scope, 1)),
            false => String::new(),
        };
        let call = match (self.rng.below(18), total) {
            (0 | 1, _) => "count(*)".to_owned(),
            (2, _) => format!("count({})", self.anything(scope, 1).sql),
            (3 | 4, _) => format!("count(DISTINCT {})", self.anything(scope, 1).sql),
            (5 | 6, _) => format!("sum({})", self.number(scope, 1).sql),
            (7, _) => format!("sum(DISTINCT {})", self.int(scope, 0).sql),
            (8, _) => format!("avg({})", self.number(scope, 1).sql),
            (9, _) => format!("total({})", self.number(scope, 0).sql),
            (10, _) => format!("max({})", self.exact(scope, 1).sql),
            (11, _) => format!("min({})", self.exact(scope, 1).sql),
            (12, Some(total)) => format!("group_concat({}, '-' ORDER BY {total})", self.text(scope, 0).sql),
            (12, None) => {
                let text = self.text(scope, 1);
                rule.loose |= !text.exact;
                format!("group_concat(DISTINCT {0} || '' ORDER BY {0} || '')", text.sql)
            }
            (13, Some(total)) => format!("json_group_array({} ORDER BY {total})", self.int(scope, 0).sql),
            (14, _) => format!("median({})", self.number(scope, 0).sql),
            (15, _) => {
                let function =
                    self.rng.pick(&["percentile(?, 40)", "percentile_cont(?, 0.25)", "percentile_disc(?, 0.5)"]);
                function.replace('?', &self.number(scope, 0).sql)
            }
            (16, _) => {
                rule.parts.push((at, ",".to_owned()));
                format!("group_concat(DISTINCT {})", self.int(scope, 0).sql)
            }
            _ => {
                rule.parts.push((at, ",".to_owned()));
                format!("group_concat({})", self.int(scope, 0).sql)
            }
        };
        rule.close = true;
        format!("{call}{filter}")
    }

    /// Aggregates of all rows.
    pub fn aggregate(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = match self.rng.below(4) {
            0 => self.join(),
            _ => self.table_source(),
        };
        self.aggregates_over(&from, &scope, rule)
    }

    fn aggregates_over(&mut self, from: &str, scope: &Scope, rule: &mut Rule) -> String {
        let count = self.rng.within(1, 4) as usize;
        let mut list: Vec<String> = (0..count).map(|at| self.aggregate_call(scope, at, rule)).collect();
        if self.rng.percent(15) {
            list.push(format!("sum({}) + count(*) * 2", self.int(scope, 0).sql));
        }
        let filter = if from.contains(" WHERE ") { String::new() } else { self.filter(scope, 50) };
        let having = match self.rng.below(12) {
            0 => format!(" HAVING count(*) > {}", self.rng.below(9)),
            _ => String::new(),
        };
        format!("SELECT {} FROM {from}{filter}{having}", list.join(", "))
    }

    fn grouped(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = match self.rng.below(5) {
            0 => self.join(),
            1 => self.colocated_join(),
            _ => self.table_source(),
        };
        self.groups_over(&from, &scope, rule)
    }

    fn groups_over(&mut self, from: &str, scope: &Scope, rule: &mut Rule) -> String {
        let keys: Vec<Expr> = (0..self.rng.within(1, 2))
            .map(|_| match self.rng.below(10) {
                0 | 1 => self.any_field(scope),
                2..=5 => self.field(scope, |field| field.exact).unwrap_or_else(|| self.int(scope, 1)),
                _ => self.exact(scope, 1),
            })
            .collect();
        rule.loose = keys.iter().any(|key| !key.exact);
        let mut list: Vec<String> = keys.iter().enumerate().map(|(n, key)| format!("{} AS g{n}", key.sql)).collect();
        for _ in 0..self.rng.within(1, 3) {
            let call = self.aggregate_call(scope, list.len(), rule);
            list.push(call);
        }
        // A constant would be taken for the number of a column there.
        if self.rng.percent(12) && keys.iter().all(|key| key.sql.contains('.')) {
            list.push("rank() OVER (ORDER BY count(*) DESC)".to_owned());
        }
        let by: Vec<String> = match self.rng.below(3) {
            0 => (1..=keys.len()).map(|n| n.to_string()).collect(),
            // A name of a column would win over the alias; these names no column has.
            _ => (0..keys.len()).map(|n| format!("g{n}")).collect(),
        };
        let filter = if from.contains(" WHERE ") { String::new() } else { self.filter(scope, 40) };
        let having = match self.rng.below(4) {
            0 => format!(" HAVING count(*) > {}", self.rng.below(3)),
            1 => format!(" HAVING sum({}) > {}", self.int(scope, 0).sql, self.literal(Class::Int).sql),
            _ => String::new(),
        };
        let sql = format!("SELECT {} FROM {from}{filter} GROUP BY {}{having}", list.join(", "), by.join(", "));
        if self.rng.percent(50) {
            return sql;
        }
        rule.order = Order::Fixed;
        let way = self.rng.pick(&["", " DESC", " NULLS LAST"]);
        let first = match self.rng.below(3) {
            0 => "count(*) DESC, ".to_owned(),
            _ => String::new(),
        };
        let terms: Vec<String> = by.iter().map(|term| format!("{term}{way}")).collect();
        let limit = if self.rng.percent(30) { format!(" LIMIT {}", self.rng.below(6)) } else { String::new() };
        format!("{sql} ORDER BY {first}{}{limit}", terms.join(", "))
    }

    /// A query of some shape over what FROM gives.
    fn over(&mut self, from: &str, scope: &Scope, rule: &mut Rule) -> String {
        let closed = from.contains(" WHERE ");
        match self.rng.below(6) {
            0 => self.aggregates_over(from, scope, rule),
            1 => self.groups_over(from, scope, rule),
            2 if scope.total.is_some() => {
                rule.order = Order::Fixed;
                let filter = if closed { String::new() } else { self.filter(scope, 40) };
                let order = self.total_order(scope).unwrap_or_default();
                let limit = if self.rng.percent(50) { format!(" LIMIT {}", self.rng.below(9)) } else { String::new() };
                format!("SELECT {} FROM {from}{filter} ORDER BY {order}{limit}", self.outputs(scope, 1))
            }
            _ => {
                let filter = if closed { String::new() } else { self.filter(scope, 50) };
                let columns = if self.rng.percent(20) { "*".to_owned() } else { self.outputs(scope, 1) };
                format!("SELECT {columns} FROM {from}{filter}")
            }
        }
    }

    fn joined(&mut self, rule: &mut Rule) -> String {
        if self.rng.percent(15)
            && let Some(from) = self.named_join()
        {
            return format!("SELECT * FROM {from}");
        }
        let (from, scope) = self.join();
        self.over(&from, &scope, rule)
    }

    fn with_subquery(&mut self, rule: &mut Rule) -> String {
        match self.rng.below(4) {
            0 => {
                let (from, scope) = self.derived();
                self.over(&from, &scope, rule)
            }
            1 => {
                let (from, scope) = self.table_source();
                let scalar = self.scalar_subquery(&scope).unwrap_or_else(|| "1".into());
                format!("SELECT {}, {scalar} AS sub FROM {from}{}", self.outputs(&scope, 0), self.filter(&scope, 40))
            }
            _ => {
                let (from, scope) = self.table_source();
                let condition = self.condition_with_subquery(&scope);
                format!("SELECT {} FROM {from} WHERE {condition}", self.outputs(&scope, 1))
            }
        }
    }

    fn cte(&mut self, rule: &mut Rule) -> String {
        self.subqueries += 1;
        let (body, columns, key) = self.derived_query();
        // Its name may be that of a table, which it hides then, unless it reads that one itself.
        let hidden = self.pick_table().name;
        let hides = self.rng.percent(12) && !body.to_lowercase().contains(&hidden.to_lowercase());
        let name = if hides { hidden } else { self.alias("cte") };
        let alias = self.alias("q");
        let materialized = self.rng.pick(&["", "", "MATERIALIZED ", "NOT MATERIALIZED "]);
        let scope = scope_of(&alias, &columns, &key);
        let with = format!("WITH {name} AS {materialized}({body})");
        let (from, scope) = match self.rng.below(3) {
            0 if !hides => {
                let (other, other_scope) = self.table_source();
                let on = format!("{} = {}", self.int(&scope, 0).sql, self.int(&other_scope, 0).sql);
                (format!("{name} AS {alias} JOIN {other} ON {on}"), scope.and(other_scope))
            }
            _ => (format!("{name} AS {alias}"), scope),
        };
        format!("{with} {}", self.over(&from, &scope, rule))
    }

    fn recursive(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = self.table_source();
        let number = self.field(&scope, |field| field.tame && field.class == Class::Int).map(|field| field.sql);
        let number = number.unwrap_or_else(|| "1".into());
        match self.rng.below(3) {
            0 => {
                let last = self.rng.within(3, 9);
                rule.order = Order::Fixed;
                format!(
                    "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last}) \
                     SELECT i, (SELECT count(*) FROM {from} WHERE {number} = i) FROM n ORDER BY i"
                )
            }
            1 => format!(
                "WITH RECURSIVE n(i) AS (VALUES (1) UNION SELECT i + 2 FROM n WHERE i < 12) \
                 SELECT i, {} FROM n JOIN {from} ON {number} = i",
                self.outputs(&scope, 0)
            ),
            _ => format!(
                "WITH RECURSIVE r(v, d) AS (SELECT {number}, 0 FROM {from}{} UNION SELECT (v * 3 + 1) % 17, d + 1 FROM r \
                 WHERE d < 3) SELECT v, d, count(*) FROM r GROUP BY v, d",
                self.filter(&scope, 40)
            ),
        }
    }

    fn invalid(&mut self) -> String {
        let table = self.pick_table().name;
        match self.rng.below(9) {
            0 => format!("SELECT nothing FROM {table}"),
            1 => "SELECT * FROM no_such_table".to_owned(),
            2 => format!("SELECT * FROM {table} WHERE"),
            3 => format!("SELECT nofunction(1) FROM {table}"),
            4 => format!("SELECT k FROM {table} AS x, {table} AS y"),
            5 => format!("SELECT count(*) FROM {table} GROUP BY 9"),
            6 => format!("SELECT 1 FROM {table} UNION SELECT 1, 2 FROM {table}"),
            7 => format!("SELECT length() FROM {table}"),
            _ => format!(
                "SELECT max(count(*)) FROM {table} WHERE sum(1) > {}",
                literal(&super::values::any_value(self.rng))
            ),
        }
    }
}
