//! INSERT, UPDATE and DELETE by chance.
//!
//! Rows always get explicit keys, except in tables that are not sharded: which integer a sharded table
//! makes up is not what one SQLite file would make up. What depends on the order in which rows are
//! visited (UPDATE … SET k = k + 1) is not generated.

use flotilla_shared::value::Value;

use super::expr::{Gen, Scope};
use super::query::weighted;
use super::schema::{Class, Column, Schema, Table};
use super::statement::{Binding, Case, Kind, Rule, render};
use crate::sim::random::Rng;

/// Kinds of writes and how often they come.
const WRITES: &[(Kind, u64)] = &[
    (Kind::Insert, 14),
    (Kind::InsertSelect, 5),
    (Kind::Upsert, 8),
    (Kind::UpdatePoint, 10),
    (Kind::Update, 9),
    (Kind::UpdateKey, 3),
    (Kind::DeletePoint, 5),
    (Kind::Delete, 4),
    (Kind::HidingCte, 3),
    (Kind::UpdateFrom, 4),
    (Kind::OwnRows, 4),
];

/// A write of some kind.
pub fn write(rng: &mut Rng, schema: &Schema) -> Case {
    let kind = weighted(rng, WRITES);
    let mut g = Gen::new(rng, schema);
    g.subqueries = u32::from(g.rng.percent(12));
    let mut rule = Rule::default();
    let mut text = match kind {
        Kind::Insert => g.insert(&mut rule),
        Kind::InsertSelect => g.insert_select(),
        Kind::Upsert => g.upsert(),
        Kind::UpdatePoint => g.update(true),
        Kind::Update => g.update(false),
        Kind::UpdateKey => g.update_key(),
        Kind::DeletePoint => g.delete(true),
        Kind::HidingCte => g.hiding_cte(),
        Kind::UpdateFrom => g.update_from(),
        Kind::OwnRows => g.own_rows(),
        _ => g.delete(false),
    };
    if g.rng.percent(25) {
        text.push_str(g.rng.pick(&[" RETURNING *", " RETURNING *, 1 + 1 AS two", " RETURNING 'done'"]));
    }
    g.finish(kind, &text, rule)
}

/// Rows that fill a table at first, as INSERT statements with literals, one row each.
pub fn fill(rng: &mut Rng, schema: &Schema, table: &Table, rows: u64) -> Vec<Case> {
    let names: Vec<&str> = table.writable().into_iter().map(|at| table.columns[at].name.as_str()).collect();
    (0..rows)
        .map(|_| {
            let row = table.row(rng);
            let mut g = Gen::new(rng, schema);
            let list: Vec<String> = row.into_iter().map(|value| g.value(value)).collect();
            let text = format!("INSERT INTO {} ({}) VALUES ({})", table.name, names.join(", "), list.join(", "));
            Case::plain(Kind::Insert, render(&text, &g.values, Binding::Inline).0)
        })
        .collect()
}

impl Gen<'_> {
    fn row_text(&mut self, table: &Table) -> String {
        let columns = table.writable().into_iter().map(|at| &table.columns[at]);
        let list: Vec<String> = columns.map(|column| self.value_of(column)).collect();
        format!("({})", list.join(", "))
    }

    /// What a statement that writes a table may name.
    pub fn scope(&self, table: &Table) -> Scope {
        super::source::scope_of(&table.name, &table.columns, &table.key)
    }

    /// Columns of an INSERT and its rows.
    fn rows_text(&mut self, table: &Table) -> (String, String, u64) {
        let count = if self.rng.percent(60) { 1 } else { self.rng.within(2, 4) };
        let names: Vec<&str> = table.writable().into_iter().map(|at| table.columns[at].name.as_str()).collect();
        let columns = match table.needs_names() || self.rng.percent(50) {
            true => format!(" ({})", names.join(", ")),
            false => String::new(),
        };
        let rows: Vec<String> = (0..count).map(|_| self.row_text(table)).collect();
        (columns, rows.join(", "), count)
    }

    fn insert(&mut self, rule: &mut Rule) -> String {
        let table = self.pick_table();
        let name = &table.name;
        let required = table.columns.iter().any(|c| !c.nullable && !c.generated && !c.decl.contains("DEFAULT"));
        if (!required || table.key_default) && self.rng.percent(30) {
            return format!("INSERT INTO {name} DEFAULT VALUES");
        }
        // A key that is left out, where one SQLite would choose the same.
        if table.rowid_alias && table.shard_key.is_empty() && self.rng.percent(30) {
            let names: Vec<&str> = table.writable()[1..].iter().map(|at| table.columns[*at].name.as_str()).collect();
            let row = table.row(self.rng);
            let list: Vec<String> = row.into_iter().skip(1).map(|value| self.value(value)).collect();
            rule.last_id = true;
            return format!("INSERT INTO {name} ({}) VALUES ({})", names.join(", "), list.join(", "));
        }
        let (columns, rows, count) = self.rows_text(&table);
        rule.last_id = table.rowid_alias && count == 1;
        format!("INSERT INTO {name}{columns} VALUES {rows}")
    }

    fn insert_select(&mut self) -> String {
        let (table, from) = (self.pick_table(), self.pick_table());
        let (source, scope) = self.named_source(&from);
        let writable = table.writable();
        let names: Vec<&str> = writable.iter().map(|at| table.columns[*at].name.as_str()).collect();
        // Keys that no other row has: those of the source, shifted.
        let list: Vec<String> = writable
            .iter()
            .map(|at| {
                let column = &table.columns[*at];
                let class = if column.class == Class::Any { Class::Int } else { column.class };
                let expr = self.expr(&scope, class, 1).sql;
                match (column.nullable, class) {
                    (true, _) => expr,
                    (false, Class::Int) => format!("coalesce({expr}, 0) + 100"),
                    (false, Class::Real) => format!("coalesce({expr}, 0.5)"),
                    (false, _) => format!("coalesce({expr}, '') || 'x'"),
                }
            })
            .collect();
        let verb = self.rng.pick(&["INSERT", "INSERT OR IGNORE"]);
        // Of several rows with one key the first stays, so their order must be known.
        let order = match &scope.total {
            Some(total) => format!(" ORDER BY {}", total.join(", ")),
            None => {
                let names: Vec<&str> = from.writable().iter().map(|at| from.columns[*at].name.as_str()).collect();
                let names = names.join(", ");
                return format!("INSERT INTO {} ({names}) SELECT {names} FROM {source} WHERE 0", from.name);
            }
        };
        let filter = self.filter(&scope, 60);
        format!(
            "{verb} INTO {} ({}) SELECT {} FROM {source}{filter}{order} LIMIT 3",
            table.name,
            names.join(", "),
            list.join(", ")
        )
    }

    fn upsert(&mut self) -> String {
        let table = self.pick_table();
        let name = &table.name;
        let (columns, rows, _) = self.rows_text(&table);
        let set: Vec<usize> = table.writable().into_iter().filter(|at| !table.key.contains(at)).collect();
        let keys: Vec<&str> = table.key.iter().map(|at| table.columns[*at].name.as_str()).collect();
        match self.rng.below(5) {
            0 => format!("INSERT OR REPLACE INTO {name}{columns} VALUES {rows}"),
            1 => format!("INSERT OR IGNORE INTO {name}{columns} VALUES {rows}"),
            2 => format!("REPLACE INTO {name}{columns} VALUES {rows}"),
            _ if keys.is_empty() => format!("INSERT INTO {name}{columns} VALUES {rows} ON CONFLICT DO NOTHING"),
            3 => format!("INSERT INTO {name}{columns} VALUES {rows} ON CONFLICT ({}) DO NOTHING", keys.join(", ")),
            _ => {
                let at = set[self.rng.below(set.len() as u64) as usize];
                let column = &table.columns[at].name;
                let filter = match self.rng.below(3) {
                    0 => format!(" WHERE excluded.{column} IS NOT {name}.{column}"),
                    _ => String::new(),
                };
                format!(
                    "INSERT INTO {name}{columns} VALUES {rows} ON CONFLICT ({}) DO UPDATE SET {column} = excluded.{column}{filter}",
                    keys.join(", ")
                )
            }
        }
    }

    /// `column = value`, of a column that is in no key.
    pub fn assignment(&mut self, table: &Table, scope: &Scope) -> String {
        let set: Vec<usize> = table
            .writable()
            .into_iter()
            .filter(|at| !table.key.contains(at) && !table.shard_key.contains(at))
            .collect();
        if set.is_empty() {
            return "k = k".to_owned();
        }
        let column = table.columns[set[self.rng.below(set.len() as u64) as usize]].clone();
        let name = &column.name;
        // Other tables of the statement may have such a column.
        let own = format!("{}.{name}", table.name);
        let value = match self.rng.below(5) {
            0 | 1 => {
                let value = column.value(self.rng);
                self.value(value)
            }
            // Sums stay small over many updates.
            2 if column.tame && column.class == Class::Int => format!("({own} + 1) % 16"),
            3 if column.class == Class::Text => format!("substr({own} || 'x', 1, 4)"),
            _ if column.tame && column.class == Class::Int => format!("({}) % 20", self.int(scope, 1).sql),
            _ if column.class == Class::Any && !column.strict => self.any(scope, 0).sql,
            _ => self.expr(scope, column.class, 0).sql,
        };
        format!("{name} = {value}")
    }

    fn update(&mut self, by_key: bool) -> String {
        let table = self.pick_table();
        let scope = self.scope(&table);
        let mut set = vec![self.assignment(&table, &scope)];
        if self.rng.percent(25) {
            let more = self.assignment(&table, &scope);
            if !set[0].starts_with(more.split(" = ").next().unwrap_or_default()) {
                set.push(more);
            }
        }
        let (name, set) = (&table.name, set.join(", "));
        if by_key {
            let more = if self.rng.percent(30) { format!(" AND {}", self.condition(&scope, 0)) } else { String::new() };
            return format!("UPDATE {name} SET {set} WHERE {}{more}", self.key_condition(&table, ""));
        }
        if self.rng.percent(12) {
            // Keys of the other side are joined, so at most one row of it fits.
            let other = self.pick_table();
            let number = |table: &Table| {
                let fits = |c: &&Column| c.tame && c.class == Class::Int && !c.generated && !c.decl.contains("KEY");
                table.columns[table.key.len()..].iter().find(fits).map(|column| column.name.clone())
            };
            if let (true, [a], [b], Some(x), Some(y)) =
                (other.name != table.name, &table.key[..], &other.key[..], number(&table), number(&other))
            {
                let (a, b) = (&table.columns[*a].name, &other.columns[*b].name);
                return format!(
                    "UPDATE {name} SET {x} = coalesce(other.{y}, 3) % 16 FROM {} AS other WHERE {name}.{a} = other.{b}",
                    other.name
                );
            }
        }
        format!("UPDATE {name} SET {set}{}", self.filter(&scope, 90))
    }

    fn update_key(&mut self) -> String {
        let table = self.pick_table();
        let scope = self.scope(&table);
        let Some(first) = table.key.first().map(|at| table.columns[*at].clone()) else { return self.update(false) };
        let name = &first.name;
        match (first.class, self.rng.below(3)) {
            (Class::Int, 0) => {
                format!("UPDATE {} SET {name} = {name} + 1000 WHERE {}", table.name, self.condition(&scope, 0))
            }
            (Class::Text, 0) => {
                format!("UPDATE {} SET {name} = {name} || '~' WHERE {}", table.name, self.key_condition(&table, ""))
            }
            _ => {
                let value = loop {
                    match first.value(self.rng) {
                        Value::Null => continue,
                        value => break value,
                    }
                };
                let value = self.value(value);
                format!("UPDATE {} SET {name} = {value} WHERE {}", table.name, self.key_condition(&table, ""))
            }
        }
    }

    fn delete(&mut self, by_key: bool) -> String {
        let table = self.pick_table();
        let scope = self.scope(&table);
        let filter = match by_key {
            true => self.key_condition(&table, ""),
            // Not too much, or nothing is left to compare.
            false => format!("({}) AND {}", self.condition(&scope, 1), self.condition(&scope, 0)),
        };
        // A table without a key has no rows that a key could name.
        let filter = if filter == "1" { self.condition(&scope, 0) } else { filter };
        format!("DELETE FROM {} WHERE {filter}", table.name)
    }
}
