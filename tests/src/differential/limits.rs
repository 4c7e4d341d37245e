//! LIMIT and OFFSET at the ends of their range: the largest integers, negative ones, numbers as text or as
//! reals, and what is none; as literals and as parameters.

use flotilla_shared::value::Value;

use super::expr::Gen;
use super::statement::{Order, Rule};

impl Gen<'_> {
    fn extreme_number(&mut self) -> String {
        let value = match self.rng.below(17) {
            0..=2 => Value::Integer(i64::MAX),
            3 => Value::Integer(i64::MAX - self.rng.below(4) as i64),
            4 => Value::Integer(i64::MIN),
            5 => Value::Integer(-1 - self.rng.below(4) as i64),
            6 | 16 => Value::Text(self.rng.pick(&["-3", "-1", "-9223372036854775808"]).to_owned()),
            7 => Value::Text(self.rng.pick(&["3", " 2 ", "2.0", "1e0", "9223372036854775807"]).to_owned()),
            8 => Value::Real(self.rng.pick(&[2.0, 3.0, -1.0])),
            // What no integer is equal to: an error.
            9 if self.rng.percent(40) => [Value::Real(1.5), Value::Null, Value::Text("x".into()), Value::Real(1e19)]
                [self.rng.below(4) as usize]
                .clone(),
            10 => {
                return self
                    .rng
                    .pick(&["9223372036854775806 + 1", "-(3)", "+2", "(SELECT 2)", "CAST('4' AS INTEGER)"])
                    .to_owned();
            }
            _ => Value::Integer(self.rng.below(9) as i64),
        };
        self.value(value)
    }

    fn extreme_bounds(&mut self) -> String {
        let (count, offset) = (self.extreme_number(), self.extreme_number());
        match self.rng.below(6) {
            0 => format!("LIMIT {count}"),
            1 => format!("LIMIT {offset}, {count}"),
            _ => format!("LIMIT {count} OFFSET {offset}"),
        }
    }

    /// A query of some shape with such a LIMIT.
    pub fn extreme_limit(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = self.table_source();
        // Arguments come in the order of their places, which the query without LIMIT must not disturb.
        let columns: Vec<String> = (0..self.rng.within(1, 2)).map(|_| self.any_field(&scope).sql).collect();
        let columns = columns.join(", ");
        let bounds = self.extreme_bounds();
        match (self.rng.below(8), scope.total.clone()) {
            (0..=2, Some(total)) => {
                rule.order = Order::Fixed;
                let filter = self.filter(&scope, 30);
                let way = self.direction();
                let first = self.any_field(&scope).sql;
                format!(
                    "SELECT {columns} FROM {from}{filter} ORDER BY {first} IS NULL{way}, {} {bounds}",
                    total.join(", ")
                )
            }
            (3, _) => {
                rule.order = Order::Fixed;
                let (a, b) = (self.exact(&scope, 0).sql, self.exact(&scope, 0).sql);
                format!("SELECT DISTINCT {a}, {b} FROM {from} ORDER BY 1, 2 {bounds}")
            }
            (4, _) => {
                rule.order = Order::Fixed;
                let (key, number) = (self.int(&scope, 1).sql, self.int(&scope, 0).sql);
                format!("SELECT {key} AS g, sum({number}) FROM {from} GROUP BY 1 ORDER BY g {bounds}")
            }
            (5, _) => format!("SELECT count(*) FROM (SELECT 1 FROM {from} {bounds})"),
            (6, _) => {
                let field = self.field(&scope, |field| field.exact).map_or_else(|| "1".to_owned(), |field| field.sql);
                let unlimited = format!("SELECT DISTINCT {field} FROM {from}");
                rule.unlimited = Some(unlimited.clone());
                format!("{unlimited} {bounds}")
            }
            _ => {
                let unlimited = format!("SELECT {columns} FROM {from}");
                rule.unlimited = Some(unlimited.clone());
                format!("{unlimited} {bounds}")
            }
        }
    }
}
