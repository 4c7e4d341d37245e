//! Set operations and VALUES by chance.

use super::expr::Gen;
use super::schema::Class;
use super::statement::{Order, Rule};

impl Gen<'_> {
    /// UNION, UNION ALL, INTERSECT and EXCEPT.
    pub fn compound(&mut self, rule: &mut Rule) -> String {
        let arms = self.rng.within(2, 3);
        let classes: Vec<Class> =
            (0..self.rng.within(1, 2)).map(|_| self.rng.pick(&[Class::Int, Class::Text, Class::Real])).collect();
        let mut sql = String::new();
        for arm in 0..arms {
            if arm > 0 {
                sql.push_str(self.rng.pick(&[" UNION ", " UNION ALL ", " INTERSECT ", " EXCEPT ", " UNION ALL "]));
            }
            let (from, scope) = self.source();
            let mut list = vec![];
            for class in &classes {
                let expr = self.expr(&scope, *class, 1);
                rule.loose |= !expr.exact;
                list.push(expr.sql);
            }
            sql.push_str(&format!("SELECT {} FROM {from}{}", list.join(", "), self.filter(&scope, 60)));
        }
        if rule.loose || self.rng.percent(50) {
            return sql;
        }
        rule.order = Order::Fixed;
        let terms: Vec<String> = (1..=classes.len()).map(|n| format!("{n}{}", self.rng.pick(&["", " DESC"]))).collect();
        let limit = if self.rng.percent(40) { format!(" LIMIT {}", self.rng.below(9)) } else { String::new() };
        format!("{sql} ORDER BY {}{limit}", terms.join(", "))
    }

    /// VALUES, alone and in FROM.
    pub fn values_clause(&mut self, rule: &mut Rule) -> String {
        rule.order = Order::Fixed;
        let rows: Vec<String> = (0..self.rng.within(1, 3))
            .map(|_| format!("({}, {})", self.literal(Class::Any).sql, self.literal(Class::Text).sql))
            .collect();
        let rows = rows.join(", ");
        match self.rng.below(4) {
            0 => format!("VALUES {rows}"),
            1 => format!("SELECT column1, column2 || 'x' FROM (VALUES {rows})"),
            2 => format!("SELECT {}, {}", self.literal(Class::Int).sql, self.literal(Class::Text).sql),
            _ => {
                rule.order = Order::Open;
                let (from, scope) = self.table_source();
                let number = self.int(&scope, 0).sql;
                format!(
                    "SELECT v.column2, count(*) FROM (VALUES {rows}) AS v LEFT JOIN {from} ON {number} = v.column1 \
                         GROUP BY v.column1, v.column2"
                )
            }
        }
    }
}
