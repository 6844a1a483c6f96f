//! The name server: a pure route table, KV configuration, and the small drivers around them.
//!
//! Name servers do not talk to each other: brokers register with all of them, clients ask any of them.
//!
//! | file | holds |
//! |---|---|
//! | [`routes`] | which broker has which topic and is alive: a table with invariants |
//! | [`kv`] | key-value configuration and its file |
//! | [`state`] | both, and how each request is answered, without IO |
//! | `server` | connections, expiry, saving: the only part that is asynchronous |

pub mod kv;
pub mod routes;
pub mod state;

#[cfg(test)]
mod tests;
