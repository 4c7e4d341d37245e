//! The transactions of a write in several steps, each on one shard, and how statements are gathered
//! into them. Input: what [`stage`](super::stage) and the plans of its rows give. Output: [`Piece`]s
//! for [`once`](crate::execute::once) to send.

use flotilla_shared::ids::GroupId;
use flotilla_shared::wire::{Claim, Statement};

use super::keys::merge_claims;

/// One transaction on one shard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// The shard.
    pub shard: GroupId,
    /// What it must own.
    pub claims: Vec<Claim>,
    /// What it runs.
    pub statements: Vec<Statement>,
    /// What it removes was inserted elsewhere, and is not counted again.
    pub silent: bool,
    /// It holds the last row of an INSERT, whose rowid is the answer's.
    pub last_row: bool,
    /// The piece, by its place in the list, that must have taken effect before.
    pub after: Option<usize>,
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
}

impl Pieces {
    /// None yet.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, ..Self::default() }
    }

    /// Adds statements that belong together to the last piece of their shard, or to a new one when
    /// that is full.
    pub fn add(&mut self, shard: GroupId, claims: Vec<Claim>, statements: Vec<Statement>, last_row: bool) {
        let more = Piece { shard, claims, statements, last_row, ..Piece::default() };
        let bytes = more.size_bytes();
        if last_row {
            self.list.iter_mut().for_each(|piece| piece.last_row = false);
        }
        let open = (0..self.list.len()).rev().find(|at| self.list[*at].shard == shard);
        match open.filter(|at| self.size_bytes[*at] + bytes <= self.max_bytes) {
            Some(at) => {
                let piece = &mut self.list[at];
                piece.statements.extend(more.statements);
                piece.last_row |= last_row;
                if more.claims.iter().any(|claim| !piece.claims.contains(claim)) {
                    piece.claims.extend(more.claims);
                    piece.claims = merge_claims(std::mem::take(&mut piece.claims));
                }
                self.size_bytes[at] += bytes;
            }
            None => {
                self.list.push(more);
                self.size_bytes.push(bytes);
            }
        }
    }
}
