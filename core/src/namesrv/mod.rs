//! The name server: a pure route table, KV configuration, and the small drivers around them.
//!
//! Name servers do not talk to each other: brokers register with all of them, clients ask any of them.
//!
//! | file | holds |
//! |---|---|
//! | [`routes`] | which broker has which topic and is alive: a table with invariants |
//! | [`kv`] | key-value configuration |
//! | [`state`] | both, and how each request is answered, without IO |
//! | `server` | connections, expiry, the file of KV configuration: all that is asynchronous |

pub mod kv;
pub mod routes;
mod server;
pub mod state;

#[cfg(test)]
mod tests;

pub use crate::config::NameServerConfig;
pub use server::{NameServer, StartError};
