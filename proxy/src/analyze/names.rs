//! Which names stand in an expression.
//!
//! Input: tokens of an expression. Output: [`Name`]s; what they mean is found by
//! [`resolve`](super::resolve).

use super::core::{Span, Walk};
use crate::lex::{Kind, Tokens};

/// A column as an expression names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// Its tokens, qualifiers included.
    pub span: Span,
    /// The table that it is qualified with, in lower case.
    pub qualifier: Option<String>,
    /// The column.
    pub column: String,
}

/// What stands in the way of running an expression elsewhere than where it was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    /// Columns, in order.
    pub columns: Vec<Name>,
    /// Functions called, in lower case, with the place of their name.
    pub functions: Vec<(usize, String)>,
    /// It holds a SELECT.
    pub subquery: bool,
    /// Its value changes from call to call or from moment to moment.
    pub volatile: bool,
}

/// Words that are no names wherever they stand in an expression.
const RESERVED: &str = "AND OR NOT IS IN BETWEEN CASE WHEN THEN ELSE COLLATE ESCAPE NULL ISNULL NOTNULL EXISTS SELECT \
    DISTINCT FROM AS WHERE ORDER GROUP HAVING LIMIT VALUES ON USING JOIN UNION INTERSECT EXCEPT ALL";

/// Words that are operators between operands, and names elsewhere.
const OPERATORS: [&str; 4] = ["LIKE", "GLOB", "MATCH", "REGEXP"];

/// Functions whose value is not a matter of their arguments alone, or that may read the clock.
const VOLATILE: &str = "random randomblob changes total_changes last_insert_rowid date time datetime julianday unixepoch strftime \
    timediff current_date current_time current_timestamp sqlite_offset";

/// Those of them that only read the clock when they are told to.
pub const DATES: [&str; 7] = ["date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff"];

/// Reads the names of an expression.
pub fn names(tokens: &Tokens<'_>, span: &Span) -> Names {
    let mut names = Names::default();
    let mut at = span.start;
    while at < span.end {
        let kind = tokens.list[at].kind;
        let here = at;
        at += 1;
        // `'t'.x` is a column: SQLite takes a text for a name there.
        let qualifies = kind == Kind::Text && tokens.is_mark(at, ".");
        if !matches!(kind, Kind::Word | Kind::Quoted) && !qualifies {
            continue;
        }
        let text = tokens.text(here);
        if kind == Kind::Word {
            if text.eq_ignore_ascii_case("SELECT") || tokens.is_in_table(here) {
                names.subquery = true;
            }
            if text.eq_ignore_ascii_case("COLLATE") {
                at += 1;
                continue;
            }
            // In `CAST(x AS type)` the type ends with the parenthesis, save for its own.
            if text.eq_ignore_ascii_case("AS") {
                let mut walk = Walk::new(tokens);
                while at < span.end && walk.step(at).is_some() {
                    at += 1;
                }
                continue;
            }
            let operator = here > span.start
                && OPERATORS.iter().any(|word| text.eq_ignore_ascii_case(word))
                && !tokens.is_mark(at, "(");
            let end = text.eq_ignore_ascii_case("END") && tokens.has_word("CASE");
            if operator || end || RESERVED.split_ascii_whitespace().any(|word| text.eq_ignore_ascii_case(word)) {
                continue;
            }
        }
        let Some(name) = tokens.name(here) else { continue };
        let lower = name.to_ascii_lowercase();
        let volatile = VOLATILE.split_ascii_whitespace().any(|word| lower == word);
        if tokens.is_mark(at, "(") && at < span.end {
            names.volatile |= volatile && !(DATES.contains(&lower.as_str()) && is_fixed(tokens, &lower, at));
            names.functions.push((here, lower));
            continue;
        }
        // A word of the clock is a function without parentheses.
        if kind == Kind::Word && lower.starts_with("current_") && volatile && !tokens.is_mark(at, ".") {
            names.volatile = true;
            continue;
        }
        if tokens.is_mark(at, ".") && at + 1 < span.end {
            let mut qualifier = lower;
            let mut last = at + 1;
            if tokens.is_mark(at + 2, ".") && at + 3 < span.end {
                qualifier = tokens.name(last).unwrap_or_default().to_ascii_lowercase();
                last = at + 3;
            }
            at = last + 1;
            let column = tokens.name(last).unwrap_or_default();
            names.columns.push(Name { span: here..at, qualifier: Some(qualifier), column });
        } else {
            names.columns.push(Name { span: here..at, qualifier: None, column: name });
        }
    }
    names
}

/// Is the list of arguments of a date function at `open` made of literals, none of which brings in the clock or the
/// time zone? Then `date('1995-09-01', '+1 month')` is a constant. `strftime` with a format alone tells the time.
fn is_fixed(tokens: &Tokens<'_>, function: &str, open: usize) -> bool {
    let Some(close) = tokens.closing(open) else { return false };
    let fixed = |at: usize| match tokens.list[at].kind {
        Kind::Text => !["now", "localtime", "utc", "auto", "subsec", "subsecond"]
            .iter()
            .any(|word| tokens.name(at).is_none_or(|text| text.trim().eq_ignore_ascii_case(word))),
        Kind::Number => true,
        Kind::Mark => matches!(tokens.text(at), "," | "-" | "+"),
        _ => false,
    };
    let times = function != "strftime" || (open + 1..close).any(|at| tokens.is_mark(at, ","));
    open + 1 < close && times && (open + 1..close).all(fixed)
}

/// The conjuncts of a condition: what AND joins at its top.
pub fn conjuncts(tokens: &Tokens<'_>, span: &Span) -> Vec<Span> {
    let mut walk = Walk::new(tokens);
    let (mut parts, mut begin, mut between) = (Vec::new(), span.start, 0usize);
    for at in span.clone() {
        if walk.step(at) != Some(true) {
            continue;
        }
        if tokens.is_word(at, "OR") {
            return vec![span.clone()];
        }
        if tokens.is_word(at, "BETWEEN") {
            between += 1;
        } else if tokens.is_word(at, "AND") {
            match between {
                0 => {
                    parts.push(begin..at);
                    begin = at + 1;
                }
                _ => between -= 1,
            }
        }
    }
    parts.push(begin..span.end);
    // One pair of parentheses around several conjuncts changes nothing.
    parts
        .into_iter()
        .flat_map(|part| {
            match tokens.is_mark(part.start, "(") && tokens.closing(part.start) == Some(part.end - 1) && part.len() > 2
            {
                true => conjuncts(tokens, &(part.start + 1..part.end - 1)),
                false => vec![part],
            }
        })
        .collect()
}
