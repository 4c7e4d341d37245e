//! Conditions as trees: the forms that can restrict a key, all else as [`Node::Other`].
//!
//! [`grammar`](crate::analyze::grammar) makes them, [`predicate`](crate::analyze::predicate) reads
//! them.

use flotilla_shared::slot::Affinity;

use crate::analyze::term::Term;

/// A name in a condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// The table instance, if it is qualified.
    pub of: Option<String>,
    /// The column.
    pub column: String,
}

/// A comparison of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// `=`.
    Equal,
    /// `IS`, `IS NOT DISTINCT FROM`.
    Is,
    /// `<`.
    Less,
    /// `<=`.
    AtMost,
    /// `>`.
    More,
    /// `>=`.
    AtLeast,
}

impl Compare {
    /// The same comparison with its sides exchanged.
    pub fn flipped(self) -> Self {
        match self {
            Self::Less => Self::More,
            Self::AtMost => Self::AtLeast,
            Self::More => Self::Less,
            Self::AtLeast => Self::AtMost,
            same => same,
        }
    }
}

/// The forms that matter.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A name.
    Column(Name),
    /// A literal or a parameter.
    Term(Term),
    /// `CAST(… AS type)`, which has an affinity where it is compared.
    Cast(Affinity),
    /// `(a, b, …)`.
    Row(Vec<Expr>),
    /// All hold.
    And(Vec<Expr>),
    /// One holds.
    Or(Vec<Expr>),
    /// A comparison.
    Compare(Compare, Box<Expr>, Box<Expr>),
    /// `IN (a, b, …)`, or `IN (VALUES …)` with each row as a [`Node::Row`].
    In(Box<Expr>, Vec<Expr>),
    /// `BETWEEN low AND high`.
    Between(Box<Expr>, Box<Expr>, Box<Expr>),
    /// Anything else.
    Other,
}

/// An expression and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub node: Node,
    /// Its first token.
    pub first: usize,
    /// The token behind it.
    pub end: usize,
    /// It is the same for every row and on every machine, once the arguments are known.
    pub constant: bool,
}
