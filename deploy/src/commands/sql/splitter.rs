//! Cuts a stream of SQL text into statements, as `sqlite3_complete()` would (SQLite's
//! `src/complete.c`): a semicolon ends a statement unless it stands in a string, a quoted name, a
//! comment, or the body of a CREATE TRIGGER, which ends with `;END;`.
//!
//! Text comes in pieces of any size from a file or a terminal; [`Piece`]s come out, with the line on
//! which each begins. Comments and blank space between statements are dropped. A line that begins
//! with a dot where a statement could begin is a command of the shell. Refused: a statement over
//! [`MAX_STATEMENT_BYTES`], text that is not UTF-8, and an end of input inside a string or trigger.

use std::fmt;

/// Far above what the server takes. A file that reaches this has an open quote.
pub const MAX_STATEMENT_BYTES: usize = 64 << 20;

/// Some editors begin a file with it; it looks like the first letter of a word.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// One statement, without its semicolon.
    Statement(Text),
    /// A command of the shell, with its dot.
    Dot(Text),
}

/// Text with its place in the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text, trimmed.
    pub text: String,
    /// The line, from 1, on which it begins.
    pub line: u64,
}

/// Why the input cannot be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SplitError {
    /// A statement over [`MAX_STATEMENT_BYTES`] begins on this line.
    TooLarge(u64),
    /// Bytes that are no UTF-8 in the statement on this line.
    NotUtf8(u64),
    /// The input ended within this: what is open, and where the statement began.
    Unfinished(&'static str, u64),
}

impl SplitError {
    /// The line on which the statement begins.
    pub fn line(&self) -> u64 {
        match self {
            Self::TooLarge(line) | Self::NotUtf8(line) | Self::Unfinished(_, line) => *line,
        }
    }
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(line) => write!(
                f,
                "the statement on line {line} is over {} MiB; is a quote left open?",
                MAX_STATEMENT_BYTES >> 20
            ),
            Self::NotUtf8(line) => write!(f, "the statement on line {line} is not UTF-8"),
            Self::Unfinished(what, line) => write!(f, "the input ends within {what} of the statement on line {line}"),
        }
    }
}

/// The states of `sqlite3_complete()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between statements.
    Start,
    /// In a statement that a semicolon ends.
    Normal,
    /// After EXPLAIN.
    Explain,
    /// After CREATE, perhaps TEMP.
    Create,
    /// In a trigger.
    Trigger,
    /// After a semicolon in a trigger.
    Semicolon,
    /// After `;END` in a trigger.
    End,
}

/// The tokens that matter; blank space and comments change nothing but [`State::Explain`] less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Semicolon,
    Other,
    Explain,
    Create,
    Temp,
    Trigger,
    End,
}

impl State {
    fn next(self, token: Token) -> Self {
        use State::{Create, End, Explain, Normal, Semicolon, Start, Trigger};
        match (self, token) {
            (Start | Normal | Explain | Create | End, Token::Semicolon) => Start,
            (Trigger | Semicolon, Token::Semicolon) => Semicolon,
            (Start, Token::Explain) => Explain,
            // The words of EXPLAIN QUERY PLAN come as Other, and what follows is no trigger to keep.
            (Start | Explain, Token::Create) => Create,
            (Create, Token::Temp) => Create,
            (Create, Token::Trigger) => Trigger,
            (Semicolon, Token::End) => End,
            (Trigger | Semicolon | End, _) => Trigger,
            (Start | Normal | Explain | Create, _) => Normal,
        }
    }
}

/// Where in the text the next byte falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lexer {
    Blank,
    /// In a word that began at this byte of the buffer.
    Word(usize),
    /// After one `-`, which may open a comment.
    Dash,
    /// After one `/`, which may open a comment.
    Slash,
    LineComment,
    BlockComment,
    /// After a `*` in a block comment.
    BlockStar,
    /// Until this closing quote.
    Quote(u8),
    /// In a command of the shell.
    Dot,
}

/// Cuts text into pieces; see the module.
#[derive(Debug)]
pub struct Splitter {
    buffer: Vec<u8>,
    state: State,
    lexer: Lexer,
    /// The line of the next byte.
    line: u64,
    /// The line of the first token in the buffer.
    first_line: u64,
    /// Does the buffer hold a token, not only blank space and comments?
    has_token: bool,
    at_line_start: bool,
}

impl Default for Splitter {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            state: State::Start,
            lexer: Lexer::Blank,
            line: 1,
            first_line: 1,
            has_token: false,
            at_line_start: true,
        }
    }
}

impl Splitter {
    /// Could the input end here?
    pub fn is_between_statements(&self) -> bool {
        !self.has_token && !matches!(self.lexer, Lexer::BlockComment | Lexer::BlockStar)
    }

    /// Takes the next piece of input and appends what it completes.
    ///
    /// # Errors
    /// [`SplitError::TooLarge`] and [`SplitError::NotUtf8`].
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<Piece>) -> Result<(), SplitError> {
        for &byte in bytes {
            self.byte(byte, out)?;
            if byte == b'\n' {
                self.line += 1;
                self.at_line_start = true;
            } else if byte != b'\r' {
                self.at_line_start = false;
            }
        }
        Ok(())
    }

    /// The input has ended: a last statement needs no semicolon. The splitter is as new afterwards.
    ///
    /// # Errors
    /// [`SplitError::Unfinished`] and [`SplitError::NotUtf8`].
    pub fn finish(&mut self) -> Result<Option<Piece>, SplitError> {
        let mut out = Vec::new();
        let ended = match self.lexer {
            Lexer::Dot => self.emit(Piece::Dot, &mut out),
            Lexer::Quote(_) => Err(SplitError::Unfinished("a string or quoted name", self.first_line)),
            _ => {
                self.end_word();
                match self.state {
                    State::Trigger | State::Semicolon => {
                        Err(SplitError::Unfinished("the trigger body", self.first_line))
                    }
                    _ => self.emit(Piece::Statement, &mut out),
                }
            }
        };
        *self = Self::default();
        ended.map(|()| out.pop())
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<Piece>) -> Result<(), SplitError> {
        match self.lexer {
            Lexer::Quote(close) => {
                self.push(byte)?;
                if byte == close {
                    self.lexer = Lexer::Blank;
                }
                Ok(())
            }
            Lexer::LineComment => {
                if byte == b'\n' {
                    self.end_comment();
                }
                self.push_in_statement(byte)
            }
            Lexer::BlockComment | Lexer::BlockStar => {
                self.push_in_statement(byte)?;
                match (self.lexer, byte) {
                    (Lexer::BlockStar, b'/') => self.end_comment(),
                    (_, b'*') => self.lexer = Lexer::BlockStar,
                    _ => self.lexer = Lexer::BlockComment,
                }
                Ok(())
            }
            Lexer::Dot => match byte {
                b'\n' => self.emit(Piece::Dot, out),
                _ => self.push(byte),
            },
            Lexer::Dash if byte == b'-' => self.open_comment(byte, Lexer::LineComment),
            Lexer::Slash if byte == b'*' => self.open_comment(byte, Lexer::BlockComment),
            Lexer::Dash | Lexer::Slash => {
                // It was an operator after all.
                self.lexer = Lexer::Blank;
                self.token(Token::Other);
                self.plain(byte, out)
            }
            Lexer::Word(_) if is_word_byte(byte) => self.push(byte),
            Lexer::Word(_) => {
                self.end_word();
                self.plain(byte, out)
            }
            Lexer::Blank => self.plain(byte, out),
        }
    }

    /// A byte outside of words, strings and comments.
    fn plain(&mut self, byte: u8, out: &mut Vec<Piece>) -> Result<(), SplitError> {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b'\x0c' => self.push_in_statement(byte),
            b';' => {
                self.state = self.state.next(Token::Semicolon);
                if self.state == State::Start {
                    return self.emit(Piece::Statement, out);
                }
                self.push(byte)
            }
            b'.' if self.at_line_start && !self.has_token => {
                self.begin_token();
                self.lexer = Lexer::Dot;
                self.push(byte)
            }
            b'-' | b'/' => {
                // Not yet known to be a token: a comment between statements is dropped.
                self.lexer = if byte == b'-' { Lexer::Dash } else { Lexer::Slash };
                self.push(byte)
            }
            b'\'' | b'"' | b'`' | b'[' => {
                self.token(Token::Other);
                self.lexer = Lexer::Quote(if byte == b'[' { b']' } else { byte });
                self.push(byte)
            }
            _ if is_word_byte(byte) => {
                self.begin_token();
                self.lexer = Lexer::Word(self.buffer.len());
                self.push(byte)
            }
            _ => {
                self.token(Token::Other);
                self.push(byte)
            }
        }
    }

    fn begin_token(&mut self) {
        if !self.has_token {
            self.has_token = true;
            self.first_line = self.line;
        }
    }

    fn token(&mut self, token: Token) {
        self.begin_token();
        self.state = self.state.next(token);
    }

    fn end_word(&mut self) {
        let Lexer::Word(start) = self.lexer else { return };
        let word = &self.buffer[start..];
        let word = word.strip_prefix(BYTE_ORDER_MARK).unwrap_or(word);
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        let token = if is("create") {
            Token::Create
        } else if is("trigger") {
            Token::Trigger
        } else if is("temp") || is("temporary") {
            Token::Temp
        } else if is("end") {
            Token::End
        } else if is("explain") {
            Token::Explain
        } else {
            Token::Other
        };
        self.lexer = Lexer::Blank;
        self.token(token);
    }

    fn open_comment(&mut self, byte: u8, lexer: Lexer) -> Result<(), SplitError> {
        if !self.has_token {
            self.buffer.clear();
        }
        self.lexer = lexer;
        self.push_in_statement(byte)
    }

    fn end_comment(&mut self) {
        self.lexer = Lexer::Blank;
    }

    /// Keeps blank space and comments only inside of a statement.
    fn push_in_statement(&mut self, byte: u8) -> Result<(), SplitError> {
        if self.has_token { self.push(byte) } else { Ok(()) }
    }

    fn push(&mut self, byte: u8) -> Result<(), SplitError> {
        if self.buffer.len() >= MAX_STATEMENT_BYTES {
            return Err(SplitError::TooLarge(self.first_line));
        }
        self.buffer.push(byte);
        Ok(())
    }

    fn emit(&mut self, piece: fn(Text) -> Piece, out: &mut Vec<Piece>) -> Result<(), SplitError> {
        let bytes = std::mem::take(&mut self.buffer);
        self.state = State::Start;
        self.lexer = Lexer::Blank;
        if std::mem::take(&mut self.has_token) {
            let text = std::str::from_utf8(&bytes).map_err(|_| SplitError::NotUtf8(self.first_line))?;
            let text = text.trim_start_matches('\u{feff}').trim();
            if !text.is_empty() {
                out.push(piece(Text { text: text.to_owned(), line: self.first_line }));
            }
        }
        Ok(())
    }
}

/// As SQLite's `IdChar`: letters, digits, `_`, `$` and all that is not ASCII.
fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests;
