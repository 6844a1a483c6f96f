//! Drivers that move commands over a runtime's network: [`Server`] for brokers and name servers, [`Connections`] for clients.
//!
//! Both ends are symmetric: a connection is one task, a [`Peer`] is everyone's handle to it. The task reads what is there (at most
//! a turn), hands all whole requests to its [`Service`], and writes all replies with one vectored write, without changing threads.
//! Replies that come later, notifications and calls go through the peer's queue, which wakes the task; whatever queued
//! meanwhile leaves in one write. Not here: what a command means, retries, and routes.
//!
//! Laws: `closed` follows every `opened` exactly once, whatever ends the task. A one-way request is never answered. Nothing that
//! one peer does (flooding, not reading, bytes that are no frames) costs another more than a turn. A call fails as *not
//! sent* only when no byte of it can have left.

mod client;
mod connection;
mod peer;
mod replies;
mod server;

use std::future::Future;
use std::time::Duration;

pub use client::{Connections, Inbound};
pub use peer::{Peer, Responder};
pub use replies::Replies;
pub use server::Server;

use crate::protocol::{Command, frame};

/// What a server does with its connections and their requests.
pub trait Service: Send + Sync + 'static {
    /// A connection was accepted.
    fn opened(&self, peer: &Peer) {
        let _ = peer;
    }

    /// The connection is over. Exactly once per `opened`, from the connection's own task.
    fn closed(&self, peer: &Peer) {
        let _ = peer;
    }

    /// Serves requests that arrived together, in order. Runs on the connection's own task: what it waits for, the connection
    /// waits for. The requests may be taken or left. A request is answered through `replies`, later through [`Peer::answer_later`], or never.
    fn serve(&self, peer: &Peer, commands: &mut Vec<Command>, replies: &mut Replies)
    -> impl Future<Output = ()> + Send;
}

/// What a connection and a server may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub frame: frame::Limits,
    /// Connections of a server. Default 16,384: memory for an idle one is some 10 KiB. One more is accepted and closed.
    pub connection_count_max: usize,
    /// Bytes read in a turn, after which other tasks run. Default 64 KiB: some 60 sends of 1 KiB, 100 µs of work.
    pub turn_size_max: usize,
    /// Requests handed to the service together, after which other tasks run. Default 128: bounds the replies of one write (as
    /// pulls with 256 KiB each: 32 MiB of slices, held for at most `write_time_max`), and the work that a turn of tiny requests makes.
    pub turn_count_max: usize,
    /// Requests of a connection that wait for a later answer. Default 10,000: a client of as many queues long-polls each.
    /// Beyond it reading stops until answers leave.
    pub owed_count_max: usize,
    /// Bytes of late replies and notifications queued for a peer. Default 64 MiB: a peer that lets so much pile up does not read;
    /// it is disconnected.
    pub queue_size_max: usize,
    /// Bytes of calls queued for a peer. Default 4 MiB. Beyond it callers wait for room, within their time-out.
    pub call_queue_size_max: usize,
    /// Time for one write. Default 30 s, as long as clients wait for a reply: a peer that has not taken it by then is disconnected.
    pub write_time_max: Duration,
    /// Time without traffic either way. Default 120 s, the official value on both sides. Beyond it the connection is closed.
    pub idle_time_max: Duration,
    /// Silence of a server after which a call that times out ends the connection. Default 10 s, three times the usual time-out:
    /// a host that is gone without a trace is noticed, one that pauses is not deserted.
    pub silence_time_max: Duration,
    /// Time for a TCP connection of a client. Default 3 s, the official clients' value. Beyond it the call fails as not sent.
    pub connect_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            frame: frame::Limits::default(),
            connection_count_max: 16_384,
            turn_size_max: 64 << 10,
            turn_count_max: 128,
            owed_count_max: 10_000,
            queue_size_max: 64 << 20,
            call_queue_size_max: 4 << 20,
            write_time_max: Duration::from_secs(30),
            idle_time_max: Duration::from_secs(120),
            silence_time_max: Duration::from_secs(10),
            connect_time_max: Duration::from_secs(3),
        }
    }
}

/// Why a call has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No byte of the request has left.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The request may have been served or not.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}
