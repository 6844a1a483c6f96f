//! The client: routes, producer, push consumer, administration; works against stock RocketMQ too.
//!
//! One [`Client`] holds the connections, the routes and the heartbeats; any number of [`Producer`]s, [`PushConsumer`]s
//! and [`Admin`]s share it. Machines without IO (`process_queue`, `rebalance`, `retry`, `route`, `subscription`) decide;
//! the drivers around them ask brokers and wait.
//!
//! Never here: what a broker or a store does. A lost reply is *unknown*, not failed ([`RequestError`]), and an
//! [`observer`] can watch every wire attempt, fetch, delivery, commit and lock.

pub mod admin;
mod calls;
pub mod config;
pub mod consumer;
pub mod error;
mod inbound;
mod instance;
pub mod message;
pub mod observer;
pub mod offsets;
pub mod process_queue;
pub mod producer;
pub mod rebalance;
pub mod retry;
pub mod route;
mod sending;
mod signal;
pub mod subscription;
pub mod unique_id;

pub use admin::{Admin, Boundary, OffsetBounds, Pulled, TopicSpecification};
pub use config::{ClientConfig, ConsumeOrder, ConsumerConfig, MessageModel, ProducerConfig, StartFrom};
pub use consumer::{Listener, ListenerFn, PushConsumer};
pub use error::{RequestError, StartError};
pub use instance::Client;
pub use message::{Message, MessageError, MessageView};
pub use observer::Observer;
pub use producer::Producer;
pub use sending::{SendReceipt, Target};
pub use subscription::{Subscription, SubscriptionError};

/// Durability grade of an acknowledged send. All but the first say "stored on the master only, weaker than asked for".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendStatus {
    SendOk,
    FlushDiskTimeout,
    FlushSlaveTimeout,
    SlaveNotAvailable,
}

impl SendStatus {
    /// RocketMQ's name of it.
    pub fn name(self) -> &'static str {
        match self {
            SendStatus::SendOk => "SEND_OK",
            SendStatus::FlushDiskTimeout => "FLUSH_DISK_TIMEOUT",
            SendStatus::FlushSlaveTimeout => "FLUSH_SLAVE_TIMEOUT",
            SendStatus::SlaveNotAvailable => "SLAVE_NOT_AVAILABLE",
        }
    }
}

/// What a listener says about the messages it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Processed; they do not come again, short of a crash or a rebalance.
    Success,
    /// Not processed. Concurrent: they come again through the retry topic after a delay that grows, in the end to the dead
    /// letters. Orderly: the queue pauses and delivers them again. Broadcasting: they are dropped.
    Later,
}
