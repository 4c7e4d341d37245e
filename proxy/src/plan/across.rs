//! What a write over several shards may do: the one place that decides it.
//!
//! Every write that turns out to need more than one transaction, whether it was planned from its keys
//! or after rows were read, asks here. Until there are atomic writes across shards the answer is no,
//! by the name `cross_shard_write`, unless the client sets `allow_partial`: then each part stands for
//! itself and the answer tells of each. An atomic path takes over by answering otherwise.

use flotilla_shared::error::{Code, Error};

/// Why a write needs several transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Rows of so many shards.
    Shards(usize),
    /// Rows of one shard in so many transactions, because one cannot hold them.
    Pieces(usize),
}

/// May the write go on, each part for itself?
///
/// # Errors
/// [`Code::CrossShardWrite`], or [`Code::TooLarge`] for one shard.
pub fn decide(spread: Spread, allow_partial: bool, what: &str, table: &str) -> Result<(), Error> {
    match spread {
        Spread::Shards(0 | 1) | Spread::Pieces(0 | 1) => Ok(()),
        _ if allow_partial => Ok(()),
        Spread::Shards(shards) => Err(Error::new(
            Code::CrossShardWrite,
            format!("the statement would {what} rows of {table} on {shards} shards"),
        )
        .hint("fix the shard key with = or IN, write each shard's rows in a statement of their own, or set allow_partial=true to do without atomicity")),
        Spread::Pieces(pieces) => Err(Error::new(
            Code::TooLarge,
            format!("the statement would {what} more rows of {table} than one transaction holds: it takes {pieces}"),
        )
        .hint("write fewer rows at a time, or set allow_partial=true to do without atomicity")),
    }
}
