//! UPDATE and DELETE that read other rows: under a CTE that has their table's name, FROM joins, and from the
//! rows of the table itself.
//!
//! What is written never depends on which of several rows of a source is the last, nor on the order in which
//! rows are met, unless the table has an order of its own.

use super::expr::{Expr, Gen, Scope};
use super::schema::{Class, Column, Table};
use super::source::scope_of;

/// A column of numbers that an UPDATE may set.
fn number(table: &Table) -> Option<&Column> {
    let free = table.writable().into_iter().filter(|at| !table.key.contains(at) && !table.shard_key.contains(at));
    free.map(|at| &table.columns[at]).find(|column| column.tame && column.class == Class::Int)
}

/// The name of the only column of the key.
fn only_key(table: &Table) -> Option<&Column> {
    let [at] = table.key[..] else { return None };
    Some(&table.columns[at]).filter(|column| column.key_collation.is_none() && !column.hidden)
}

impl Gen<'_> {
    fn tables_with(&self, fits: impl Fn(&Table) -> bool) -> Vec<Table> {
        self.schema.tables.iter().filter(|table| fits(table)).cloned().collect()
    }

    fn pick_with(&mut self, fits: impl Fn(&Table) -> bool) -> Option<Table> {
        let fitting = self.tables_with(fits);
        let at = self.rng.below(fitting.len() as u64) as usize;
        fitting.into_iter().nth(at)
    }

    /// A write under a CTE that has the name of its table: the target is the table, all else is the CTE.
    pub fn hiding_cte(&mut self) -> String {
        let Some(table) = self.pick_with(|table| number(table).is_some() && !table.key.is_empty()) else {
            return "DELETE FROM no_such_table".to_owned();
        };
        let other = loop {
            let other = self.pick_table();
            if other.name != table.name {
                break other;
            }
        };
        let alias = self.alias("t");
        let inner = scope_of(&alias, &other.columns, &other.key);
        let set = number(&table).map(|column| column.name.clone()).unwrap_or_default();
        let names: Vec<String> = table.writable().into_iter().map(|at| table.columns[at].name.clone()).collect();
        let list: Vec<String> = table
            .writable()
            .into_iter()
            .zip(&names)
            .map(|(at, name)| format!("{} AS {name}", self.expr(&inner, table.columns[at].class, 0).sql))
            .collect();
        let name = &table.name;
        let filter = self.filter(&inner, 40);
        let with = format!("WITH {name} AS (SELECT {} FROM {} AS {alias}{filter})", list.join(", "), other.name);
        let scope = self.scope(&table);
        let condition = match self.rng.below(3) {
            0 => format!("{set} IN (SELECT {set} FROM {name})"),
            1 => format!("{set} = {}", self.literal(Class::Int).sql),
            _ => self.condition(&scope, 1),
        };
        match self.rng.below(4) {
            0 => format!("{with} DELETE FROM {name} WHERE {condition} AND {}", self.condition(&scope, 0)),
            1 => format!("{with} UPDATE {name} SET {set} = (SELECT count(*) FROM {name}) % 16 WHERE {condition}"),
            2 => format!(
                "{with} UPDATE {name} SET {set} = (SELECT max({set}) FROM {name}) WHERE {}",
                self.key_condition(&table, "")
            ),
            _ => format!("{with} UPDATE {name} SET {} WHERE {condition}", self.assignment(&table, &scope)),
        }
    }

    /// UPDATE … FROM: the FROM clause is a query of its own, whatever it is joined by.
    pub fn update_from(&mut self) -> String {
        if self.rng.percent(40)
            && let Some(text) = self.update_from_using()
        {
            return text;
        }
        let Some(table) = self.pick_with(|table| number(table).is_some()) else { return self.own_rows() };
        let scope = self.scope(&table);
        let (one, two) = (self.pick_table(), self.pick_table());
        let (a, b) = (self.alias("s"), self.alias("s"));
        let left = scope_of(&a, &one.columns, &one.key);
        let right = scope_of(&b, &two.columns, &two.key);
        let mut assignment = self.assignment(&table, &scope);
        let mut condition = self.same(&scope, &left);
        let (one, two) = (format!("{} AS {a}", one.name), format!("{} AS {b}", two.name));
        let join = self.rng.pick(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let from = match self.rng.below(6) {
            0 | 1 => format!("{one} NATURAL {join} {two}"),
            2 => {
                if self.rng.percent(50) {
                    condition = format!("{condition} AND {} IS NULL", self.any_field(&right).sql);
                }
                format!("{one} {join} {two} ON {} = {}", self.int(&left, 0).sql, self.int(&right, 0).sql)
            }
            3 => {
                condition = format!("{condition} AND {}", self.same(&left, &right));
                format!("{one}, {two}")
            }
            4 => {
                let (group, value) = (self.int(&left, 0).sql, self.int(&left, 0).sql);
                assignment = format!("{} = q.m % 16", number(&table).map_or("k", |column| column.name.as_str()));
                condition = format!("{} = q.g", self.int(&scope, 0).sql);
                format!("(SELECT {group} + 0 AS g, max({value}) AS m FROM {one} GROUP BY 1) AS q")
            }
            _ => {
                let own = scope_of("q", &table.columns, &table.key);
                condition = format!("{} AND {}", self.same(&scope, &own), self.condition(&own, 0));
                format!("{} AS q", table.name)
            }
        };
        format!("UPDATE {} SET {assignment} FROM {from} WHERE {condition}", table.name)
    }

    /// A number of the one is a number of the other.
    fn same(&mut self, one: &Scope, other: &Scope) -> String {
        let numbers = |field: &Expr| field.tame && field.class == Class::Int;
        match (self.field(one, numbers), self.field(other, numbers)) {
            (Some(a), Some(b)) => format!("{} = {}", a.sql, b.sql),
            _ => self.condition(other, 0),
        }
    }

    /// Two tables joined by a column that the target has as well; keys fix one row of them.
    fn update_from_using(&mut self) -> Option<String> {
        let keyed = self.tables_with(|table| only_key(table).is_some() && number(table).is_some());
        let pick = |g: &mut Self| keyed.get(g.rng.below(keyed.len() as u64) as usize);
        let (table, one, two) = (pick(self)?, pick(self)?, pick(self)?);
        if one.name == two.name || one.name == table.name || two.name == table.name {
            return None;
        }
        let (x, y, z) = (number(table)?, number(one)?, number(two)?);
        let key = only_key(table)?;
        let (key_of_one, key_of_two) = (only_key(one)?, only_key(two)?);
        if key_of_one.class != key_of_two.class {
            return None;
        }
        let (own, fixed) = (key.value(self.rng), key_of_two.value(self.rng));
        let (own, fixed) = (self.value(own), self.value(fixed));
        let join = self.rng.pick(&["JOIN", "LEFT JOIN", "RIGHT JOIN"]);
        let from = format!("{} AS s1 {join} {} AS s2 USING (k)", one.name, two.name);
        let value = self
            .rng
            .pick(&[format!("s2.{}", z.name), format!("s1.{}", y.name)].each_ref().map(String::as_str))
            .to_owned();
        let condition = if self.rng.percent(50) {
            format!("{}.k = {own}", table.name)
        } else {
            format!("{}.k <> {own}", table.name)
        };
        Some(format!(
            "UPDATE {} SET {} = coalesce({value}, 5) % 16 FROM {from} WHERE {condition} AND s2.k = {fixed}",
            table.name, x.name
        ))
    }

    /// Each row is set by what those before it, in the order of their rowids, became.
    fn numbered(&mut self) -> Option<String> {
        let table = self.pick_with(|table| table.rowid_alias && number(table).is_some())?;
        let (name, set, key) = (&table.name, &number(&table)?.name, &table.columns[table.key[0]].name);
        let more = match self.rng.below(3) {
            0 => String::new(),
            _ => format!(", (SELECT 1 FROM {} LIMIT 1)", self.pick_table().name),
        };
        Some(format!(
            "UPDATE {name} SET {set} = (SELECT coalesce(max(x.{set}), 0) + 1 FROM {name} AS x{more} \
             WHERE {name}.{key} IS NOT NULL) % 50"
        ))
    }

    /// A write that looks at the rows of its own table.
    pub fn own_rows(&mut self) -> String {
        if self.rng.percent(20)
            && let Some(text) = self.numbered()
        {
            return text;
        }
        let Some(table) = self.pick_with(|table| number(table).is_some() && !table.key.is_empty()) else {
            return "DELETE FROM no_such_table".to_owned();
        };
        let name = table.name.clone();
        let set = number(&table).map(|column| column.name.clone()).unwrap_or_default();
        let alias = self.alias("x");
        let (scope, own) = (self.scope(&table), scope_of(&alias, &table.columns, &table.key));
        let key = &table.columns[table.key[0]];
        let first = key.name.clone();
        let total = own.total.clone().unwrap_or_default().join(", ");
        let filter = self.filter(&own, 50);
        let way = self.rng.pick(&["", " DESC"]);
        match self.rng.below(6) {
            0 => format!(
                "DELETE FROM {name} WHERE {set} = (SELECT {}({alias}.{set}) FROM {name} AS {alias}{filter}) AND {}",
                self.rng.pick(&["min", "max"]),
                self.condition(&scope, 0)
            ),
            1 => format!(
                "DELETE FROM {name} WHERE {first} IN (SELECT {alias}.{first} FROM {name} AS {alias}{filter} ORDER BY {total}{way} LIMIT 1)"
            ),
            // A job is taken: its state is looked at once to choose it and once to change it.
            2 => format!(
                "UPDATE {name} SET {set} = 15 WHERE {set} IS NOT 15 AND {first} = \
                 (SELECT {alias}.{first} FROM {name} AS {alias} WHERE {alias}.{set} IS NOT 15 ORDER BY {total}{way} LIMIT 1)"
            ),
            // The column that is set is not looked at.
            3 => format!(
                "UPDATE {name} SET {set} = (SELECT count(*) FROM {name} AS {alias} WHERE {alias}.{first} {} {name}.{first}) % 16 WHERE {}",
                self.rng.pick(&["<", "<=", "="]),
                self.condition(&scope, 0)
            ),
            4 => format!(
                "UPDATE {name} SET {set} = 7 WHERE NOT EXISTS (SELECT 1 FROM {name} AS {alias} WHERE {alias}.{first} < {name}.{first}) AND {}",
                self.condition(&scope, 0)
            ),
            _ => format!(
                "UPDATE {name} SET {set} = (SELECT sum({alias}.{set}) FROM {name} AS {alias}{filter}) % 16 WHERE {}",
                self.key_condition(&table, "")
            ),
        }
    }
}
