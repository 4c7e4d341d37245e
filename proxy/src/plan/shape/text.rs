//! SQL put together from pieces of a statement's own text, with its parameters numbered anew.
//!
//! Nothing is printed from a tree: a piece is copied as written, or replaced as a whole.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Statement;

use crate::analyze::core::Span;
use crate::lex::{Kind, Tokens};
use crate::mirror::Prepared;

/// SQL that waits for the arguments of the statement that it was cut from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Template {
    /// The text, with parameters `?1`, `?2`, …
    pub sql: String,
    /// For each of them, its number in the original statement.
    params: Vec<usize>,
}

impl Template {
    /// Puts arguments in.
    ///
    /// # Errors
    /// [`Code::WrongArgCount`] when one is missing.
    pub fn fill(&self, prepared: &Prepared, params: &Params) -> Result<Statement, Error> {
        let args: Option<Vec<Value>> =
            self.params.iter().map(|number| prepared.arg(params, *number).cloned()).collect();
        let args = args.ok_or_else(|| Error::new(Code::WrongArgCount, "a parameter has no argument"))?;
        Ok(Statement { sql: self.sql.clone(), params: Params::Positional(args) })
    }
}

/// What stands in place of some tokens.
pub type Swap = (Span, String);

/// Writes a [`Template`].
pub struct Writer<'a, 'b> {
    tokens: &'a Tokens<'b>,
    out: Template,
}

impl<'a, 'b> Writer<'a, 'b> {
    /// A writer that copies from these tokens.
    pub fn new(tokens: &'a Tokens<'b>) -> Self {
        Self { tokens, out: Template::default() }
    }

    /// Adds text of its own.
    pub fn push(&mut self, text: &str) -> &mut Self {
        self.out.sql.push_str(text);
        self
    }

    /// Copies tokens as written.
    pub fn copy(&mut self, span: &Span) -> &mut Self {
        self.copy_with(span, &[])
    }

    /// Copies tokens, some of them replaced; `swaps` are in order.
    pub fn copy_with(&mut self, span: &Span, swaps: &[Swap]) -> &mut Self {
        let mut swaps = swaps.iter().peekable();
        let mut at = span.start;
        let mut copied_to = None;
        while at < span.end {
            let token = &self.tokens.list[at];
            // Between two tokens stands what stood there, comments included.
            match copied_to {
                Some(end) => self.out.sql.push_str(&self.tokens.sql[end..token.span.start]),
                None => self.out.sql.push(' '),
            }
            if let Some((swapped, text)) = swaps.next_if(|(swapped, _)| swapped.start == at) {
                self.out.sql.push_str(text);
                at = swapped.end;
                copied_to = Some(self.tokens.list[at - 1].span.end);
                continue;
            }
            match token.kind {
                Kind::Param => self.param(token.param),
                _ => self.out.sql.push_str(&self.tokens.sql[token.span.clone()]),
            }
            copied_to = Some(token.span.end);
            at += 1;
        }
        self.out.sql.push(' ');
        self
    }

    fn param(&mut self, number: usize) {
        let params = &mut self.out.params;
        let new = params.iter().position(|old| *old == number).unwrap_or_else(|| {
            params.push(number);
            params.len() - 1
        });
        self.out.sql.push_str(&format!("?{}", new + 1));
    }

    /// The finished text.
    pub fn finish(self) -> Template {
        self.out
    }
}
