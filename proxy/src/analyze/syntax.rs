//! Constructs of a SELECT, UPDATE or DELETE, from its syntax tree.
//!
//! Input: the tokens, respelled so that the parser cannot read them otherwise than SQLite does:
//! identifiers quoted, parameters by number, hexadecimal numbers in decimal, `IS` spelled out.
//! Output: [`Syntax`]. What cannot be parsed gives none. The parser's operator precedence differs from
//! SQLite's in places, so nothing here depends on it; what conditions say about keys is read by
//! [`grammar`](crate::analyze::grammar).

use std::ops::ControlFlow;

use flotilla_shared::value::Value;
use sqlparser::ast::{
    Expr, FromTable, Function, FunctionArguments, GroupByExpr, ObjectName, Query, SetExpr, Statement, TableFactor,
    TableWithJoins, visit_expressions,
};
use sqlparser::dialect::SQLiteDialect;
use sqlparser::parser::Parser;

use crate::analyze::term::number;
use crate::lex::{Kind, Tokens};

/// Longest statement that is parsed: the parser is slower than SQLite's, and long statements are
/// INSERTs, which do not come here.
const MAX_PARSED_BYTES: usize = 64 << 10;

/// Functions that need all rows of a group.
pub const AGGREGATES: &[&str] = &[
    "count",
    "sum",
    "avg",
    "total",
    "min",
    "max",
    "group_concat",
    "string_agg",
    "json_group_array",
    "json_group_object",
    "jsonb_group_array",
    "jsonb_group_object",
    "median",
    "percentile",
    "percentile_cont",
    "percentile_disc",
];

/// What matters of a statement's syntax.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Syntax {
    /// The one table that it is about, as named; none when there are several.
    pub table: Option<String>,
    /// There is a SELECT or an `IN table` within it, whose rows may be anywhere.
    pub nested: bool,
    /// Constructs for which rows of several shards cannot just be put together.
    pub constructs: Vec<&'static str>,
}

impl Syntax {
    /// Reads a SELECT, UPDATE or DELETE.
    pub fn read(tokens: &Tokens<'_>) -> Option<Self> {
        if tokens.sql.len() > MAX_PARSED_BYTES {
            return None;
        }
        let text = respell(tokens)?;
        let mut list = Parser::new(&SQLiteDialect {}).try_with_sql(&text).ok()?.parse_statements().ok()?;
        let statement = list.pop().filter(|_| list.is_empty())?;
        let mut syntax = Self::default();
        match &statement {
            Statement::Query(query) => syntax.query(query),
            Statement::Update(update) => {
                if update.from.is_some() {
                    syntax.constructs.push("UPDATE … FROM");
                }
                syntax.single_table(std::slice::from_ref(&update.table));
            }
            Statement::Delete(delete) => {
                let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
                if !delete.tables.is_empty() || delete.using.is_some() {
                    syntax.constructs.push("several tables");
                }
                syntax.single_table(from);
            }
            _ => return None,
        }
        if nested(tokens, &statement) {
            syntax.constructs.push("subquery");
            syntax.nested = true;
        }
        syntax.functions(&statement);
        Some(syntax)
    }

    fn query(&mut self, query: &Query) {
        let mut note = |there: bool, name| {
            if there {
                self.constructs.push(name);
            }
        };
        note(query.with.is_some(), "WITH");
        note(query.order_by.is_some(), "ORDER BY");
        note(query.limit_clause.is_some() || query.fetch.is_some(), "LIMIT");
        let SetExpr::Select(select) = &*query.body else {
            self.constructs.push("UNION, INTERSECT, EXCEPT or VALUES");
            return;
        };
        note(select.distinct.is_some(), "DISTINCT");
        note(!matches!(&select.group_by, GroupByExpr::Expressions(list, _) if list.is_empty()), "GROUP BY");
        note(select.having.is_some(), "HAVING");
        note(!select.named_window.is_empty(), "WINDOW");
        self.single_table(&select.from);
        if query.with.is_some() {
            self.table = None;
        }
    }

    fn single_table(&mut self, from: &[TableWithJoins]) {
        let [TableWithJoins { relation: TableFactor::Table { name, args: None, .. }, joins }] = from else {
            self.constructs.push(if from.is_empty() { "no table" } else { "join or subquery" });
            return;
        };
        if !joins.is_empty() {
            self.constructs.push("join");
            return;
        }
        self.table = last_name(name);
    }

    fn functions(&mut self, statement: &Statement) {
        let constructs = &mut self.constructs;
        let _: ControlFlow<()> = visit_expressions(statement, |expr| {
            if let Expr::Function(function) = expr {
                if function.over.is_some() {
                    constructs.push("window function");
                } else if is_aggregate(function) {
                    constructs.push("aggregate function");
                }
            }
            ControlFlow::Continue(())
        });
        constructs.dedup();
    }
}

/// Is there a SELECT besides the statement's own, or an `IN table`? A VALUES reads no rows.
fn nested(tokens: &Tokens<'_>, statement: &Statement) -> bool {
    let own = usize::from(matches!(statement, Statement::Query(_)));
    tokens.count_word("SELECT") > own || (0..tokens.list.len()).any(|index| tokens.is_in_table(index))
}

fn is_aggregate(function: &Function) -> bool {
    let Some(name) = last_name(&function.name) else { return true };
    let name = name.to_ascii_lowercase();
    let many = matches!(&function.args, FunctionArguments::List(list) if list.args.len() > 1);
    // With several arguments, min and max compare these.
    AGGREGATES.contains(&name.as_str()) && !(many && matches!(name.as_str(), "min" | "max"))
}

fn last_name(name: &ObjectName) -> Option<String> {
    name.0.last()?.as_ident().map(|ident| ident.value.clone())
}

/// Words of SQLite's grammar that shape a SELECT, UPDATE or DELETE. All others are names there.
const GRAMMAR: &str = "\
    ABORT ALL AND AS ASC BETWEEN BY CASE CAST COLLATE CROSS CURRENT CURRENT_DATE CURRENT_TIME \
    CURRENT_TIMESTAMP DELETE DESC DISTINCT ELSE END ESCAPE EXCEPT EXCLUDE EXISTS FAIL FILTER FIRST \
    FOLLOWING FROM FULL GLOB GROUP GROUPS HAVING IGNORE IN INDEXED INNER INTERSECT INTO IS ISNULL JOIN \
    LAST LEFT LIKE LIMIT MATCH MATERIALIZED NATURAL NO NOT NOTNULL NULL NULLS OFFSET ON OR ORDER OTHERS \
    OUTER OVER PARTITION PRECEDING RANGE RECURSIVE REGEXP REPLACE RETURNING RIGHT ROLLBACK ROW ROWS \
    SELECT SET THEN TIES TRUE FALSE UNBOUNDED UNION UPDATE USING VALUES WHEN WHERE WINDOW WITH";

/// Deepest nesting of parentheses that is parsed: the parser goes back and forth over nested ones,
/// and the time doubles with each level.
const MAX_NESTING: usize = 10;

/// The statement in a spelling that leaves the parser no choice.
fn respell(tokens: &Tokens<'_>) -> Option<String> {
    let mut text = String::with_capacity(tokens.sql.len() * 2);
    let mut depth = 0usize;
    for (index, token) in tokens.list.iter().enumerate() {
        let raw = tokens.text(index);
        match raw {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ => (),
        }
        if depth > MAX_NESTING {
            return None;
        }
        match token.kind {
            _ if is_index_hint(tokens, index) => (),
            Kind::Word if !GRAMMAR.split(' ').any(|word| word.eq_ignore_ascii_case(raw)) => quote(&mut text, raw),
            Kind::Word if raw.eq_ignore_ascii_case("IS") => respell_is(tokens, index, &mut text),
            Kind::Word if raw.eq_ignore_ascii_case("ISNULL") => text.push_str("IS NULL"),
            Kind::Word if raw.eq_ignore_ascii_case("NOTNULL") => text.push_str("IS NOT NULL"),
            // `IS NOT x` is spelled at its IS.
            Kind::Word if raw.eq_ignore_ascii_case("NOT") && is_plain_is(tokens, index.wrapping_sub(1)) => (),
            Kind::Quoted => quote(&mut text, &tokens.name(index)?),
            Kind::Number => match number(raw, false)? {
                Value::Integer(n) => text.push_str(&n.to_string()),
                _ => text.push_str(&raw.replace('_', "")),
            },
            Kind::Param => text.push_str(&format!("?{}", token.param)),
            Kind::Mark if raw == "==" => text.push('='),
            // Unknown to the parser; another operator of the same rank shows it the same structure.
            Kind::Mark if raw == "<<" || raw == ">>" => text.push('|'),
            _ => text.push_str(raw),
        }
        text.push(' ');
    }
    Some(text)
}

/// Is token `index` part of `INDEXED BY name` or `NOT INDEXED`, which do not change the rows?
fn is_index_hint(tokens: &Tokens<'_>, index: usize) -> bool {
    let by = |first: usize| tokens.is_word(first, "INDEXED") && tokens.is_word(first + 1, "BY");
    let not = |first: usize| tokens.is_word(first, "NOT") && tokens.is_word(first + 1, "INDEXED");
    (index.saturating_sub(2)..=index).any(by) || (index.saturating_sub(1)..=index).any(not)
}

fn quote(text: &mut String, name: &str) {
    text.push('"');
    text.push_str(&name.replace('"', "\"\""));
    text.push('"');
}

/// Is token `index` an `IS` that compares with an expression?
fn is_plain_is(tokens: &Tokens<'_>, index: usize) -> bool {
    if !tokens.is_word(index, "IS") {
        return false;
    }
    let next = index + 1 + usize::from(tokens.is_word(index + 1, "NOT"));
    !["NULL", "TRUE", "FALSE", "DISTINCT"].iter().any(|word| tokens.is_word(next, word))
}

fn respell_is(tokens: &Tokens<'_>, index: usize, text: &mut String) {
    text.push_str(match (is_plain_is(tokens, index), tokens.is_word(index + 1, "NOT")) {
        (false, _) => "IS",
        (true, false) => "IS NOT DISTINCT FROM",
        (true, true) => "IS DISTINCT FROM",
    });
}
