//! Replies of a turn, encoded as they come, written together.

use bytes::Bytes;

use crate::protocol::code::response;
use crate::protocol::frame::{self, EncodeError, Outgoing};
use crate::protocol::send_reply::SendReply;
use crate::protocol::{Command, Text};

/// Replies to the requests of one turn.
pub struct Replies {
    out: Outgoing,
    /// Numbers of the turn's one-way requests.
    one_way: Vec<i32>,
}

impl Replies {
    pub(super) fn new(limits: frame::Limits) -> Replies {
        Replies {
            out: Outgoing::new(limits),
            one_way: Vec::new(),
        }
    }

    /// Adds a reply whose body is `reply.body` and then `chunks`, which are not copied. A reply to a one-way request is
    /// dropped; one that no frame can carry becomes an error reply.
    pub fn push(&mut self, reply: Command, chunks: Vec<Bytes>) {
        if self.one_way.contains(&reply.opaque) {
            return;
        }
        put(&reply, chunks, &mut self.out);
    }

    /// As [`push`](Replies::push), for a send that was stored.
    pub fn push_send(&mut self, reply: &SendReply<'_>) {
        if self.one_way.contains(&reply.opaque) {
            return;
        }
        put_send(reply, &mut self.out);
    }

    /// Bytes of the turn's replies so far.
    pub fn size(&self) -> usize {
        self.out.size()
    }

    /// Begins a turn.
    pub(super) fn expect(&mut self, requests: &[Command]) {
        self.one_way.clear();
        let one_way = requests.iter().filter(|request| request.is_one_way());
        self.one_way.extend(one_way.map(|request| request.opaque));
    }

    pub(super) fn outgoing(&mut self) -> &mut Outgoing {
        &mut self.out
    }
}

/// Encodes a reply; in place of one that no frame can carry, an error reply of the same number.
pub(super) fn put(reply: &Command, chunks: Vec<Bytes>, out: &mut Outgoing) {
    if let Err(error) = frame::encode(reply, chunks, out) {
        put_refusal(reply.opaque, reply.code, &error, out);
    }
}

/// As [`put`], for a send that was stored.
pub(super) fn put_send(reply: &SendReply<'_>, out: &mut Outgoing) {
    if let Err(error) = reply.encode(out) {
        put_refusal(reply.opaque, reply.code, &error, out);
    }
}

fn put_refusal(opaque: i32, code: i32, error: &EncodeError, out: &mut Outgoing) {
    log::warn!("reply of code {code} to request {opaque}: {error}");
    let refusal = Command::reply_to(opaque, response::SYSTEM_ERROR).with_remark(Text::from(error.to_string()));
    let encoded = frame::encode(&refusal, Vec::new(), out);
    debug_assert!(encoded.is_ok());
}
