//! Window functions by chance: each gives one right answer, because the window's order is total or the
//! function does not see the order of rows that tie.

use super::expr::{Gen, Scope};
use super::statement::{Order, Rule};

impl Gen<'_> {
    /// A query with window functions.
    pub fn window(&mut self, rule: &mut Rule) -> String {
        let table = loop {
            let table = self.pick_table();
            if !table.key.is_empty() {
                break table;
            }
        };
        let (from, scope) = match self.rng.below(6) {
            0 => self.colocated_join(),
            1 => self.join(),
            _ => self.named_source(&table),
        };
        // A join may have rows that nothing tells apart, and so no order of all of them.
        let (from, scope) = if scope.total.is_some() { (from, scope) } else { self.named_source(&table) };
        let closed = from.contains(" WHERE ");
        let total = scope.total.clone().unwrap_or_default().join(", ");
        let named = self.rng.percent(20);
        let calls: Vec<String> = (0..self.rng.within(1, 3))
            .map(|n| match named && n == 0 {
                true => format!("sum({}) OVER win", self.int(&scope, 0).sql),
                false => self.window_call(&scope, &total),
            })
            .collect();
        let window = match named {
            true => format!(" WINDOW win AS (PARTITION BY {} ORDER BY {total})", self.int(&scope, 0).sql),
            false => String::new(),
        };
        let filter = if closed { String::new() } else { self.filter(&scope, 30) };
        let sql = format!("SELECT {total}, {} FROM {from}{filter}{window}", calls.join(", "));
        if self.rng.percent(50) {
            return sql;
        }
        rule.order = Order::Fixed;
        format!("{sql} ORDER BY {total}")
    }

    fn window_call(&mut self, scope: &Scope, total: &str) -> String {
        let partition = match self.rng.below(3) {
            0 => String::new(),
            1 => format!("PARTITION BY {} ", self.any_field(scope).sql),
            _ => format!("PARTITION BY {} % 3 ", self.int(scope, 0).sql),
        };
        let exclude = self.rng.pick(&["", "", "", " EXCLUDE CURRENT ROW", " EXCLUDE TIES", " EXCLUDE GROUP"]);
        let way = self.rng.pick(&["", " DESC"]);
        let number = self.number(scope, 0).sql;
        match self.rng.below(10) {
            0 => format!("row_number() OVER ({partition}ORDER BY {total})"),
            1 => {
                let function = self.rng.pick(&["rank", "dense_rank", "percent_rank", "cume_dist"]);
                format!("{function}() OVER ({partition}ORDER BY {}{way})", self.any_field(scope).sql)
            }
            2 => format!("ntile(3) OVER ({partition}ORDER BY {total})"),
            3 => {
                let function = self.rng.pick(&["lag", "lead"]);
                format!("{function}({number}, 1, -1) OVER ({partition}ORDER BY {total}{way})")
            }
            4 => {
                let function = self.rng.pick(&["first_value", "last_value"]);
                format!("{function}({}) OVER ({partition}ORDER BY {total})", self.any_field(scope).sql)
            }
            5 => format!(
                "nth_value({number}, 2) OVER ({partition}ORDER BY {total} ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
            ),
            6 => {
                let frame = self.rng.pick(&[
                    "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
                    "ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
                    "ROWS UNBOUNDED PRECEDING",
                    "ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
                ]);
                let function = self.rng.pick(&["sum", "count", "min", "max", "avg"]);
                format!("{function}({number}) OVER ({partition}ORDER BY {total} {frame}{exclude})")
            }
            7 => {
                let by = self.int(scope, 0).sql;
                let frame = self.rng.pick(&[
                    "RANGE BETWEEN 2 PRECEDING AND CURRENT ROW",
                    "RANGE BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING",
                    "GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
                ]);
                format!("sum({number}) OVER ({partition}ORDER BY {by} + 0{way} {frame}{exclude})")
            }
            8 => format!("count(*) FILTER (WHERE {}) OVER ({partition}ORDER BY {total})", self.condition(scope, 0)),
            _ => {
                let function = self.rng.pick(&["sum", "count", "max"]);
                format!("{function}({number}) OVER ({partition})")
            }
        }
    }
}
