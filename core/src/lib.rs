//! The core of Orrery never reads a clock, opens a socket or touches a file.
//!
//! Name server, broker and client are written against [`runtime::Runtime`]; the same code runs in
//! production (`orrery-runtime-real`) and inside the simulator (`orrery-runtime-sim`).
#![forbid(unsafe_code)]

pub mod broker;
pub mod client;
pub mod config;
pub mod namesrv;
pub mod node;
pub mod probe;
pub mod protocol;
pub mod remoting;
pub mod runtime;
pub mod store;
pub mod sync;
pub mod types;
