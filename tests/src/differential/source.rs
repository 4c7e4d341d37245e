//! FROM clauses and subqueries by chance.

use super::expr::{Expr, Gen, Scope};
use super::schema::{Class, Column, Table};

fn fields(alias: &str, columns: &[Column]) -> Vec<Expr> {
    let field = |column: &Column| Expr {
        sql: format!("{alias}.{}", column.name),
        class: column.class,
        exact: column.exact,
        tame: column.tame,
    };
    columns.iter().map(field).collect()
}

/// What a source named `alias` offers.
pub fn scope_of(alias: &str, columns: &[Column], key: &[usize]) -> Scope {
    let total = key.iter().map(|at| columns[*at].key_term(&format!("{alias}."))).collect();
    Scope { fields: fields(alias, columns), total: (!key.is_empty()).then_some(total) }
}

impl Gen<'_> {
    /// A table by chance.
    pub fn pick_table(&mut self) -> Table {
        self.schema.tables[self.rng.below(self.schema.tables.len() as u64) as usize].clone()
    }

    /// One table, under its own name or an alias.
    pub fn table_source(&mut self) -> (String, Scope) {
        let table = self.pick_table();
        self.named_source(&table)
    }

    /// A certain table, under its own name or an alias, its names written in one of many ways.
    pub fn named_source(&mut self, table: &Table) -> (String, Scope) {
        let name = match self.rng.below(24) {
            0 => format!("main.{}", table.name),
            1 => format!("\"{}\"", table.name),
            2 => table.name.to_uppercase(),
            3 => format!("[{}]", table.name),
            _ => table.name.clone(),
        };
        if self.aliases == 0 && self.rng.percent(40) {
            self.aliases += 1;
            let scope = scope_of(&table.name, &table.columns, &table.key);
            return (name, self.renamed(scope));
        }
        let alias = self.alias("t");
        let keyword = self.rng.pick(&["AS ", ""]);
        let mut scope = scope_of(&alias, &table.columns, &table.key);
        if table.rowid_alias && self.rng.percent(15) {
            let sql = format!("{alias}.{}", self.rng.pick(&["rowid", "_rowid_", "oid"]));
            scope.fields.push(Expr { sql, class: Class::Int, exact: true, tame: true });
        }
        (format!("{name} {keyword}{alias}"), self.renamed(scope))
    }

    /// Some names in capitals or in quotes, and some without their table where there is only one.
    fn renamed(&mut self, mut scope: Scope) -> Scope {
        let alone = self.aliases == 1 && self.subqueries == 0 && self.alone;
        let names = scope.fields.iter_mut().map(|field| &mut field.sql).chain(scope.total.iter_mut().flatten());
        for sql in names {
            let Some((table, column)) = sql.split_once('.').filter(|(_, column)| !column.starts_with('"')) else {
                continue;
            };
            let (column, collation) =
                column.split_once(' ').map_or((column, String::new()), |(column, rest)| (column, format!(" {rest}")));
            let column = match self.rng.below(24) {
                0 => column.to_uppercase(),
                1 => format!("\"{column}\""),
                2 => format!("[{column}]"),
                3 => format!("`{column}`"),
                _ => column.to_owned(),
            };
            let table = if alone && self.rng.percent(40) { String::new() } else { format!("{table}.") };
            *sql = format!("{table}{column}{collation}");
        }
        scope
    }

    /// A view.
    pub fn view_source(&mut self) -> (String, Scope) {
        let view = self.schema.views[self.rng.below(self.schema.views.len() as u64) as usize].clone();
        let alias = self.alias("v");
        (format!("{} AS {alias}", view.name), scope_of(&alias, &view.columns, &view.key))
    }

    /// A table, seldom a view or a subquery.
    pub fn source(&mut self) -> (String, Scope) {
        match self.rng.below(10) {
            0 => self.view_source(),
            1 if self.subqueries > 0 => self.derived(),
            _ => self.table_source(),
        }
    }

    /// A subquery in FROM whose columns are `x`, `y` and `z`.
    pub fn derived(&mut self) -> (String, Scope) {
        let (sql, columns, key) = self.derived_query();
        let alias = self.alias("s");
        (format!("({sql}) AS {alias}"), scope_of(&alias, &columns, &key))
    }

    /// A query with named columns, and the key of its rows; none when rows may be equal.
    pub fn derived_query(&mut self) -> (String, Vec<Column>, Vec<usize>) {
        self.subqueries = self.subqueries.saturating_sub(1);
        let (from, scope) = self.table_source();
        let filter = self.filter(&scope, 60);
        let column = |name: &str, expr: &Expr| Column {
            name: name.into(),
            decl: String::new(),
            class: expr.class,
            exact: expr.exact,
            tame: expr.tame,
            nullable: true,
            ..Column::default()
        };
        let number = Expr { sql: String::new(), class: Class::Int, exact: true, tame: true };
        match self.rng.below(8) {
            4 => {
                let (a, b) = (self.int(&scope, 1).sql, self.int(&scope, 0).sql);
                let (other, other_scope) = self.table_source();
                let (c, d) = (self.int(&other_scope, 1).sql, self.int(&other_scope, 0).sql);
                let operator = self.rng.pick(&["UNION ALL", "UNION", "EXCEPT", "INTERSECT"]);
                let sql =
                    format!("SELECT {a} AS x, {b} AS y FROM {from}{filter} {operator} SELECT {c}, {d} FROM {other}");
                let key = if operator == "UNION ALL" { vec![] } else { vec![0, 1] };
                (sql, vec![column("x", &number), column("y", &number)], key)
            }
            5 => {
                let rows: Vec<String> = (0..self.rng.within(1, 4))
                    .map(|_| format!("({}, {})", self.literal(Class::Int).sql, self.literal(Class::Int).sql))
                    .collect();
                let sql = format!("SELECT column1 AS x, column2 AS y FROM (VALUES {})", rows.join(", "));
                (sql, vec![column("x", &number), column("y", &number)], vec![])
            }
            6 => {
                let sql = "SELECT value AS x, key AS y FROM json_each('[3, 1, 4, 1, 5]')".to_owned();
                (sql, vec![column("x", &number), column("y", &number)], vec![1])
            }
            0 => {
                let group = self.exact(&scope, 1);
                let inner = self.int(&scope, 0);
                let aggregate = self.rng.pick(&["sum", "max", "min", "count"]);
                let sql = format!(
                    "SELECT {} AS x, {aggregate}({}) AS y, count(*) AS z FROM {from}{filter} GROUP BY 1",
                    group.sql, inner.sql
                );
                (sql, vec![column("x", &group), column("y", &inner), column("z", &inner)], vec![0])
            }
            1 => {
                let (a, b) = (self.exact(&scope, 1), self.exact(&scope, 0));
                let sql = format!("SELECT DISTINCT {} AS x, {} AS y FROM {from}{filter}", a.sql, b.sql);
                (sql, vec![column("x", &a), column("y", &b)], vec![0, 1])
            }
            2 if scope.total.is_some() => {
                let (a, b) = (self.anything(&scope, 1), self.number(&scope, 0));
                let total = scope.total.clone().unwrap_or_default().join(", ");
                let count = self.rng.within(1, 9);
                let sql =
                    format!("SELECT {} AS x, {} AS y FROM {from}{filter} ORDER BY {total} LIMIT {count}", a.sql, b.sql);
                (sql, vec![column("x", &a), column("y", &b)], vec![])
            }
            _ => {
                let (a, b) = (self.anything(&scope, 1), self.number(&scope, 1));
                let sql = format!("SELECT {} AS x, {} AS y FROM {from}{filter}", a.sql, b.sql);
                (sql, vec![column("x", &a), column("y", &b)], vec![])
            }
        }
    }

    /// A WHERE clause, or nothing.
    pub fn filter(&mut self, scope: &Scope, percent: u64) -> String {
        if self.rng.percent(percent) { format!(" WHERE {}", self.condition(scope, 2)) } else { String::new() }
    }

    /// Tables that lie beside each other, joined on what they are sharded by.
    pub fn colocated_join(&mut self) -> (String, Scope) {
        let (parent, child) = (self.schema.tables[0].clone(), self.schema.tables[1].clone());
        let (mut first, mut second) = (parent, child);
        match self.rng.below(5) {
            0 | 1 => std::mem::swap(&mut first, &mut second),
            2 => second = first.clone(),
            _ => (),
        }
        let (a, b) = (self.alias("t"), self.alias("t"));
        let on: Vec<String> = first
            .shard_key
            .iter()
            .zip(&second.shard_key)
            .map(|(x, y)| format!("{a}.{} = {b}.{}", first.columns[*x].name, second.columns[*y].name))
            .collect();
        let kind = self.rng.pick(&["JOIN", "INNER JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", ","]);
        let scope = scope_of(&a, &first.columns, &first.key).and(scope_of(&b, &second.columns, &second.key));
        let on = on.join(" AND ");
        let sql = match kind {
            "," => format!("{} AS {a}, {} AS {b} WHERE {on}", first.name, second.name),
            _ => {
                let more = if self.rng.percent(25) { format!(" AND {}", self.condition(&scope, 0)) } else { "".into() };
                format!("{} AS {a} {kind} {} AS {b} ON {on}{more}", first.name, second.name)
            }
        };
        (sql, scope)
    }

    /// Two or three tables, joined in any way.
    pub fn join(&mut self) -> (String, Scope) {
        let (mut sql, mut scope) = self.source();
        let more = if self.rng.percent(20) { 2 } else { 1 };
        for _ in 0..more {
            let (next, next_scope) = self.source();
            let on = self.join_condition(&scope, &next_scope);
            let kind =
                self.rng.pick(&["JOIN", "JOIN", "LEFT JOIN", "LEFT OUTER JOIN", "RIGHT JOIN", "FULL OUTER JOIN"]);
            sql = match self.rng.below(10) {
                0 if more == 1 => format!("{sql} CROSS JOIN {next}"),
                _ => format!("{sql} {kind} {next} ON {on}"),
            };
            scope = scope.and(next_scope);
        }
        (sql, scope)
    }

    fn join_condition(&mut self, left: &Scope, right: &Scope) -> String {
        let class = self.rng.pick(&[Class::Int, Class::Int, Class::Text, Class::Real]);
        let (a, b) = (self.expr(left, class, 0).sql, self.expr(right, class, 0).sql);
        match self.rng.below(8) {
            0 => format!("{a} < {b} AND {}", self.condition(right, 0)),
            1 => format!("{a} IS {b}"),
            2 => format!("{a} = {b} AND {}", self.condition(left, 1)),
            _ => format!("{a} = {b}"),
        }
    }

    /// A join by USING or NATURAL, and the columns that `*` gives.
    pub fn named_join(&mut self) -> Option<String> {
        let (first, second) = (self.pick_table(), self.pick_table());
        if first.name == second.name {
            return None;
        }
        let names: Vec<String> = first
            .columns
            .iter()
            .filter(|column| {
                let same = |other: &&Column| other.name == column.name && other.class == column.class && !other.hidden;
                !column.hidden && second.columns.iter().any(|other| same(&other))
            })
            .map(|column| column.name.clone())
            .collect();
        let kind = self.rng.pick(&["JOIN", "LEFT JOIN", "FULL JOIN", "RIGHT JOIN"]);
        if names.is_empty() || self.rng.percent(35) {
            return Some(format!("{} NATURAL {kind} {}", first.name, second.name));
        }
        let using = &names[..(self.rng.within(1, 2) as usize).min(names.len())];
        Some(format!("{} {kind} {} USING ({})", first.name, second.name, using.join(", ")))
    }

    /// Equality between a column of an inner and one of an outer query.
    fn correlation(&mut self, inner: &Scope, outer: &Scope) -> String {
        let class = self.rng.pick(&[Class::Int, Class::Int, Class::Text]);
        let fits = |field: &Expr| field.class == class;
        match (self.field(inner, fits), self.field(outer, fits)) {
            (Some(a), Some(b)) => format!("{} = {}", a.sql, b.sql),
            _ => self.condition(inner, 0),
        }
    }

    /// A subquery that gives one number, perhaps one that depends on the row outside.
    pub fn scalar_subquery(&mut self, outer: &Scope) -> Option<String> {
        if self.subqueries == 0 {
            return None;
        }
        self.subqueries -= 1;
        self.aliases += 1;
        let (from, scope) = self.table_source();
        let filter = match self.rng.below(3) {
            0 => self.filter(&scope, 70),
            1 => format!(" WHERE {}", self.correlation(&scope, outer)),
            _ => format!(" WHERE {} AND {}", self.correlation(&scope, outer), self.condition(&scope, 1)),
        };
        let inner = self.int(&scope, 0).sql;
        Some(match (self.rng.below(6), &scope.total) {
            (0, Some(total)) => {
                let total = total.join(", ");
                format!("(SELECT {inner} AS first FROM {from}{filter} ORDER BY first DESC, {total} LIMIT 1)")
            }
            (1, _) => format!("(SELECT sum({inner}) FROM {from}{filter})"),
            (2, _) => format!("(SELECT max({inner}) FROM {from}{filter})"),
            _ => format!("(SELECT count(*) FROM {from}{filter})"),
        })
    }

    /// EXISTS, IN and comparisons with subqueries.
    pub fn condition_with_subquery(&mut self, outer: &Scope) -> String {
        self.subqueries = self.subqueries.saturating_sub(1);
        self.aliases += 1;
        let (from, scope) = self.table_source();
        let filter = self.filter(&scope, 50);
        match self.rng.below(9) {
            6 => {
                let (a, b) = (self.int(outer, 0).sql, self.int(outer, 0).sql);
                let (c, d) = (self.literal(Class::Int).sql, self.literal(Class::Int).sql);
                match self.rng.below(3) {
                    0 => format!("({a}, {b}) {} ({c}, {d})", self.rng.pick(&["<", ">=", "=", "IS"])),
                    1 => format!("({a}, {b}) IN (VALUES ({c}, {d}), ({d}, {c}), (1, 2))"),
                    _ => format!("{a} IN (VALUES ({c}), ({d}))"),
                }
            }
            // Two levels below, with the row of the outermost.
            7 => {
                let (inner, inner_scope) = self.table_source();
                let (one, two) = (self.correlation(&scope, outer), self.correlation(&inner_scope, outer));
                let (a, b) = (self.int(&scope, 0).sql, self.int(&inner_scope, 0).sql);
                format!("EXISTS (SELECT 1 FROM {from} WHERE {one} OR {a} IN (SELECT {b} FROM {inner} WHERE {two}))")
            }
            8 => {
                let (a, b) = (self.text(outer, 0).sql, self.text(&scope, 0).sql);
                let correlation = self.correlation(&scope, outer);
                format!("{a} <= (SELECT max({b} || '') FROM {from} WHERE {correlation})")
            }
            0 | 1 => {
                let not = self.rng.pick(&["", "NOT "]);
                let correlation = self.correlation(&scope, outer);
                let more = if self.rng.percent(30) { self.condition(&scope, 0) } else { "1".into() };
                format!("{not}EXISTS (SELECT 1 FROM {from} WHERE {correlation} AND {more})")
            }
            2 | 3 => {
                let not = self.rng.pick(&["", "NOT "]);
                let class = self.rng.pick(&[Class::Int, Class::Text]);
                let (a, b) = (self.expr(outer, class, 0).sql, self.expr(&scope, class, 0).sql);
                format!("{a} {not}IN (SELECT {b} FROM {from}{filter})")
            }
            4 => {
                let (a, b) = (self.int(outer, 0).sql, self.int(&scope, 0).sql);
                let aggregate = self.rng.pick(&["max", "min", "avg", "count"]);
                format!("{a} >= (SELECT {aggregate}({b}) FROM {from}{filter})")
            }
            _ => {
                let (a, b) = (self.int(outer, 0).sql, self.int(&scope, 0).sql);
                let (c, d) = (self.int(outer, 0).sql, self.int(&scope, 0).sql);
                format!("({a}, {c}) IN (SELECT {b}, {d} FROM {from}{filter})")
            }
        }
    }
}
