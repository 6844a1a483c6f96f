//! Bodies: what travels behind the headers of client management, routes and operators, as JSON.
//!
//! Members stand in alphabetical order and absent ones are left out, as fastjson writes them; reading ignores unknown
//! members, takes defaults for missing ones, and understands the dialects of the clients (see [`json`]).
//! Not here: records of messages ([`super::message`]) and texts in Java's properties format.

mod consumer;
mod group;
mod heartbeat;
pub mod json;
mod lenient;
mod operator;
mod register;
mod route;
mod security;
mod stats;
mod topic;

pub use consumer::*;
pub use group::*;
pub use heartbeat::*;
pub use json::{BodyError, EmptyMap, QueueMap};
pub use operator::*;
pub use register::*;
pub use route::*;
pub use security::*;
pub use stats::*;
pub use topic::*;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A body that is JSON in RocketMQ's dialect.
pub trait Body: Serialize + DeserializeOwned {
    fn read(body: &[u8]) -> Result<Self, BodyError> {
        json::read(body)
    }

    fn write(&self) -> Bytes {
        json::write(self)
    }
}

/// Declares bodies: serde with RocketMQ's member names.
macro_rules! bodies {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl super::Body for $name {}
    )*};
}
use bodies;

#[cfg(test)]
mod tests;
