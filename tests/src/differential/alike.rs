//! Terms that are alike and not equal: the same tokens but for the case of a literal, the number behind a
//! `?`, or a collation. Whoever compares SQL as text takes one for the other.

use super::expr::{Gen, Scope};
use super::statement::{Order, Rule};
use flotilla_shared::value::Value;

/// Words that differ in case only, as rows have them.
const PAIRS: &[(&str, &str)] = &[("a", "A"), ("ab", "Ab"), ("zebra", "Zebra"), ("b", "B"), ("zed", "Zed"), ("é", "É")];

impl Gen<'_> {
    /// Two terms with a result of one kind, alike and not equal.
    fn alike_terms(&mut self, scope: &Scope) -> [String; 2] {
        let (small, large) = self.rng.pick(PAIRS);
        let text = self.text(scope, 0).sql;
        let number = self.int(scope, 0).sql;
        let date = format!("datetime('2024-03-05 10:20:30', {number} || ' hours')");
        let object = format!("json_object('a', {number}, 'A', 10 - {number})");
        let both = |make: &dyn Fn(&str) -> String, of: [&str; 2]| of.map(make);
        match self.rng.below(12) {
            0 | 1 => {
                let operator = self.rng.pick(&["=", "<>", "<", "IS", ">="]);
                [small, large].map(|word| {
                    let word = self.value(Value::Text(word.to_owned()));
                    format!("{text} {operator} {word}")
                })
            }
            2 => both(&|word| format!("instr({text}, '{word}') > 0"), [small, large]),
            3 => {
                let format = self.rng.pick(&[["%m", "%M"], ["%H", "%h"], ["%j", "%J"], ["%s", "%S"], ["%w", "%W"]]);
                format.map(|format| {
                    let format = self.value(Value::Text(format.to_owned()));
                    format!("strftime({format}, {date})")
                })
            }
            4 => {
                let operator = self.rng.pick(&["json_extract(?o, ?p)", "(?o ->> ?p)", "(?o -> ?p)"]);
                ["$.a", "$.A"].map(|path| {
                    let path = self.value(Value::Text(path.to_owned()));
                    operator.replace("?o", &object).replace("?p", &path)
                })
            }
            5 => both(&|word| format!("replace({text}, '{word}', '-')"), [small, large]),
            6 => both(&|word| format!("({text} GLOB '*{word}*')"), [small, large]),
            7 => both(&|word| format!("CASE {text} WHEN '{word}' THEN '{word}' ELSE 'other' END"), [small, large]),
            8 => both(&|format| format!("printf('{format}', {number} + 10)"), ["%x", "%X"]),
            9 => {
                let quote = self.rng.pick(&["x", "X"]);
                let hex = |word: &str| word.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
                let (one, other) = (hex(small), hex(large));
                [format!("CAST({text} AS BLOB) = x'{one}'"), format!("CAST({text} AS BLOB) = {quote}'{other}'")]
            }
            // Without a name these are all `?`.
            10 => [1, 7].map(|value| {
                let value = self.value(Value::Integer(value));
                format!("({number} + {value}) % 5")
            }),
            _ => {
                let words = [small, large].map(|word| self.value(Value::Text(word.to_owned())));
                words.map(|word| format!("coalesce({text}, '') || {word}"))
            }
        }
    }

    /// A query that has both of two terms that are alike, one of them perhaps only behind FROM.
    pub fn alike(&mut self, rule: &mut Rule) -> String {
        let (from, scope) = self.table_source();
        if self.rng.percent(20)
            && let Some(total) = scope.total.clone()
        {
            return self.operand_collations(&from, &scope, &total, rule);
        }
        let [one, other] = self.alike_terms(&scope);
        let filter = self.filter(&scope, 25);
        let order = |of: &str, rule: &mut Rule| {
            rule.order = Order::Fixed;
            format!(" ORDER BY {of}")
        };
        match (self.rng.below(8), scope.total.clone()) {
            (0 | 1, Some(total)) => {
                let limit = self.small_limit();
                let way = self.rng.pick(&["", " DESC"]);
                let terms = order(&format!("{other}{way}, {}", total.join(", ")), rule);
                format!("SELECT {one}, {} FROM {from}{filter}{terms}{limit}", total[0])
            }
            (2, Some(total)) => {
                let total = total.join(", ");
                format!(
                    "SELECT {total}, row_number() OVER (ORDER BY {one}, {total}), \
                     row_number() OVER (ORDER BY {other}, {total}) FROM {from}{filter}"
                )
            }
            (0..=2, _) => format!(
                "SELECT max({one}), max({other}), count(DISTINCT {one}), count(DISTINCT {other}) FROM {from}{filter}"
            ),
            (3, _) => {
                let terms = order(&format!("{other}, {one}"), rule);
                format!("SELECT DISTINCT {one}, {other} FROM {from}{filter}{terms}{}", self.small_limit())
            }
            (4, _) => {
                let group = self.int(&scope, 0).sql;
                let terms = order(&format!("max({other}), g"), rule);
                format!(
                    "SELECT {group} + 0 AS g, max({one}) FROM {from}{filter} GROUP BY g{terms}{}",
                    self.small_limit()
                )
            }
            (5, _) => {
                let having = self.rng.pick(&[" HAVING count(*) > 1", ""]);
                format!("SELECT {one}, count(*) FROM {from}{filter} GROUP BY {one}, {other}{having}")
            }
            _ => {
                let sorted = self.rng.percent(50);
                let terms = if sorted { order(&format!("{one}, {other}"), rule) } else { String::new() };
                format!("SELECT {one}, {other}, count(*) FROM {from}{filter} GROUP BY {one}, {other}{terms}")
            }
        }
    }

    /// A LIMIT that leaves some rows, or nothing.
    pub fn small_limit(&mut self) -> String {
        if self.rng.percent(50) { format!(" LIMIT {}", self.rng.within(1, 9)) } else { String::new() }
    }

    /// ORDER BY terms that end in a COLLATE that belongs to their last operand only.
    fn operand_collations(&mut self, from: &str, scope: &Scope, total: &[String], rule: &mut Rule) -> String {
        rule.order = Order::Fixed;
        let collation = self.rng.pick(&["NOCASE", "NOCASE", "RTRIM", "BINARY"]);
        let (small, large) = self.rng.pick(PAIRS);
        let text = self.text(scope, 0).sql;
        let word = self.rng.pick(&[small, large]).to_owned();
        let word = self.value(Value::Text(word));
        let term = match self.rng.below(5) {
            0 | 1 => format!("{text} {} {word}", self.rng.pick(&["=", "<>", "<", ">=", "IS", "IS NOT"])),
            2 => format!("{text} BETWEEN 'A' AND {word}"),
            3 => format!("{text} || {word}"),
            _ => format!("{} + 0 = 1 AND {text} = {word}", self.int(scope, 0).sql),
        };
        let way = self.rng.pick(&["", " DESC", " DESC NULLS LAST"]);
        let total = total.join(", ");
        let limit = self.small_limit();
        format!("SELECT {total}, {text} FROM {from} ORDER BY {term} COLLATE {collation}{way}, {total}{limit}")
    }
}
