//! What proxy and node have in common: ids, values, hashing, the registry, errors, wire types, and
//! the client that finds a group's leader.
//!
//! A request comes in as JSON ([`http`]), its SQL becomes tokens ([`lex`]), its arguments
//! [`value::Value`]s, its key a slot ([`slot`]), the slot a shard ([`registry`]); it travels to a node
//! as a [`wire::Request`] over [`rpc`], sent by [`client`], and what goes wrong on the way is an
//! [`error::Error`]. What each stage takes is kept in [`stages`]; how much may be held
//! at a time in [`budget`]. SQLite connections are set up by [`sqlite`].

pub mod budget;
pub mod client;
pub mod closed;
pub mod copies;
pub mod error;
pub mod form;
pub mod http;
pub mod ids;
pub mod json;
pub mod leaders;
pub mod lex;
pub mod measure;
pub mod members;
pub mod moves;
pub mod numeric;
pub mod registry;
pub mod rpc;
pub mod script;
pub mod slot;
pub mod sqlite;
pub mod stages;
pub mod status;
pub mod steps;
pub mod value;
pub mod wire;
