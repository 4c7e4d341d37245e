//! Whether two expressions are one: rule 8 of the [module page](super).

use super::scope::{Frame, Meaning, meaning};
use super::terms::without_parentheses;
use crate::analyze::core::Span;
use crate::analyze::names::{Name, names};
use crate::lex::{Kind, Tokens};

/// Are two expressions of one SELECT the same? Two that SQLite takes for one may be told apart here,
/// never the other way round.
pub fn same(tokens: &Tokens<'_>, frame: &Frame<'_>, a: &Span, b: &Span) -> bool {
    let (a, b) = (without_parentheses(tokens, a), without_parentheses(tokens, b));
    let (a_names, b_names) = (names(tokens, &a).columns, names(tokens, &b).columns);
    let (mut a_names, mut b_names) = (a_names.iter().peekable(), b_names.iter().peekable());
    let (mut at, mut bt) = (a.start, b.start);
    while at < a.end && bt < b.end {
        match (a_names.next_if(|name| name.span.start == at), b_names.next_if(|name| name.span.start == bt)) {
            (Some(left), Some(right)) if same_name(tokens, frame, left, right) => {
                (at, bt) = (left.span.end, right.span.end);
            }
            (None, None) if same_token(tokens, at, bt) => (at, bt) = (at + 1, bt + 1),
            _ => return false,
        }
    }
    at == a.end && bt == b.end
}

fn same_name(tokens: &Tokens<'_>, frame: &Frame<'_>, a: &Name, b: &Name) -> bool {
    match (meaning(tokens, &[frame], a), meaning(tokens, &[frame], b)) {
        (Some(Meaning::Column(_, left)), Some(Meaning::Column(_, right))) => left == right,
        // `"x"` is a text, whose case counts.
        (Some(Meaning::Literal), Some(Meaning::Literal)) => tokens.text(a.span.start) == tokens.text(b.span.start),
        // A result cannot see an alias, and a term of ORDER BY can: there it would be another value.
        _ => false,
    }
}

fn same_token(tokens: &Tokens<'_>, a: usize, b: usize) -> bool {
    let (left, right) = (&tokens.list[a], &tokens.list[b]);
    left.kind == right.kind
        && match left.kind {
            Kind::Param => left.param == right.param,
            Kind::Word => tokens.text(a).eq_ignore_ascii_case(tokens.text(b)),
            Kind::Quoted | Kind::Text | Kind::Blob | Kind::Number | Kind::Mark => tokens.text(a) == tokens.text(b),
        }
}
