//! A node: the process that hosts replicas of groups.
//!
//! The life of a write here: it arrives as a frame on the internal port ([`server`]), waits in its
//! group's queue, and is proposed together with all that wait ([`propose`]); openraft appends it to
//! the shared log ([`log`]) and sends it to the followers ([`network`]); once a majority has synced
//! it, the state machine ([`state`]) applies it and answers. Reads wait for a proof of leadership that they
//! share ([`read`]), or of how new what a replica holds is ([`proof`]). [`host`] starts and stops replicas, [`manifest`] keeps which, [`pulse`] sends their heartbeats, [`handover`] passes leadership on, [`balance`]
//! spreads it over the nodes, [`streams`] answers large reads in pieces, [`bootstrap`] brings a cluster into
//! being, [`compact`] keeps the log small, [`members`] changes who belongs to a group, [`jobs`] drives long work from the leader of `meta`,
//! [`api`] answers people over HTTP, [`metrics`] machines; [`stages`] tells them where the time goes, [`busy`] when
//! background work is under way.

pub mod api;
pub mod balance;
pub mod bootstrap;
pub mod busy;
pub mod compact;
pub mod consensus;
pub mod handover;
pub mod host;
pub mod jobs;
pub mod log;
pub mod manifest;
pub mod members;
pub mod metrics;
pub mod network;
pub mod options;
pub mod proof;
pub mod propose;
pub mod pulse;
pub mod read;
pub mod run;
pub mod server;
pub mod stages;
pub mod state;
pub mod streams;
