//! The transactions of a write in several steps, each on one shard, and how statements are gathered
//! into them. Input: what [`stage`](super::stage) and the plans of its rows give. Output: [`Piece`]s
//! for [`once`](crate::execute::once) to send.

use flotilla_shared::error::Error;
use flotilla_shared::ids::GroupId;
use flotilla_shared::wire::{Claim, Statement};

use super::keys::merge_claims;
use super::stage::Row;

/// What an argument takes in the text of its statement.
const MARK_BYTES: usize = 8;

/// One transaction on one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// The shard.
    pub shard: GroupId,
    /// What it must own.
    pub claims: Vec<Claim>,
    /// What it runs.
    pub statements: Vec<Statement>,
    /// The first so many of them are guards, which give no rows and change nothing.
    pub guards: usize,
    /// What it removes was inserted elsewhere, and is not counted again.
    pub silent: bool,
    /// It holds the last row of an INSERT, whose rowid is the answer's.
    pub last_row: bool,
    /// The piece, by its place in the list, that must have taken effect before.
    pub after: Option<usize>,
    /// What undoes that one when this one does nothing.
    pub undo: Option<Box<Piece>>,
}

impl Piece {
    /// About how many bytes it takes in a log entry.
    pub fn size_bytes(&self) -> usize {
        self.statements.iter().map(|s| s.sql.len() + s.params.size_bytes() + 8).sum()
    }
}

/// Gathers statements into transactions.
#[derive(Default)]
pub struct Pieces {
    /// Those gathered.
    pub list: Vec<Piece>,
    /// When the next one begins.
    pub max_bytes: usize,
    /// Of each piece.
    size_bytes: Vec<usize>,
    /// Rows that each piece's guards are to be about.
    guarded: Vec<Vec<Row>>,
}

impl Pieces {
    /// None yet.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, ..Self::default() }
    }

    /// The same for statements that hold only while these rows are what they were.
    pub fn add_guarded(&mut self, shard: GroupId, claims: Vec<Claim>, statements: Vec<Statement>, rows: Vec<Row>) {
        let bytes: usize = rows.iter().flatten().map(|value| value.size_bytes() + MARK_BYTES).sum();
        let at = self.place(Piece { shard, claims, statements, ..Piece::default() }, bytes);
        self.guarded[at].extend(rows);
    }

    /// The pieces, each beginning with the guards of its rows.
    ///
    /// # Errors
    /// Those of `guards`.
    pub fn with_guards(self, guards: impl Fn(&[Row]) -> Result<Vec<Statement>, Error>) -> Result<Vec<Piece>, Error> {
        let guard = |(piece, rows): (Piece, Vec<Row>)| {
            let mut statements = guards(&rows)?;
            let guards = statements.len();
            statements.extend(piece.statements);
            Ok(Piece { statements, guards, ..piece })
        };
        self.list.into_iter().zip(self.guarded).map(guard).collect()
    }

    /// Adds statements that belong together to the last piece of their shard, or to a new one when
    /// that is full.
    pub fn add(&mut self, shard: GroupId, claims: Vec<Claim>, statements: Vec<Statement>, last_row: bool) {
        self.place(Piece { shard, claims, statements, last_row, ..Piece::default() }, 0);
    }

    /// Puts a piece into one of its shard, and tells which.
    fn place(&mut self, more: Piece, further_bytes: usize) -> usize {
        let bytes = more.size_bytes() + further_bytes;
        if more.last_row {
            self.list.iter_mut().for_each(|piece| piece.last_row = false);
        }
        let open = (0..self.list.len()).rev().find(|at| self.list[*at].shard == more.shard);
        match open.filter(|at| self.size_bytes[*at] + bytes <= self.max_bytes) {
            Some(at) => {
                let piece = &mut self.list[at];
                piece.statements.extend(more.statements);
                piece.last_row |= more.last_row;
                if more.claims.iter().any(|claim| !piece.claims.contains(claim)) {
                    piece.claims.extend(more.claims);
                    piece.claims = merge_claims(std::mem::take(&mut piece.claims));
                }
                self.size_bytes[at] += bytes;
                at
            }
            None => {
                self.list.push(more);
                self.size_bytes.push(bytes);
                self.guarded.push(Vec::new());
                self.list.len() - 1
            }
        }
    }
}
