//! The reply to a send that was stored, written without a command in between: no list of fields, no texts of their own.
//!
//! The bytes are those that [`frame::encode`] writes for [`SendReply::command`]. Pure.

use bytes::{BufMut, BytesMut};

use super::frame::{self, EncodeError, Outgoing};
use super::header::DEFAULT_REGION;
use super::json_header::{put_integer, put_string};
use super::message::{self, OFFSET_ID_SIZE_MAX, Placement};
use super::{Command, ExtFields, VERSION};
use crate::types::address::SocketAddr;

/// What a sender is told of a message in the log.
#[derive(Clone, Copy, Debug)]
pub struct SendReply<'a> {
    /// Number of the request.
    pub opaque: i32,
    /// 0, or what a stored message lacks (`FLUSH_DISK_TIMEOUT`, ...).
    pub code: i32,
    /// The host that message ids name.
    pub store_host: SocketAddr,
    /// Places of the message, or of each message of a batch.
    pub places: &'a [Placement],
    pub queue_id: i32,
    pub queue_offset: i64,
    /// The unique key.
    pub transaction_id: Option<&'a str>,
}

impl SendReply<'_> {
    /// Appends the reply as a frame. On error `out` is as before.
    pub fn encode(&self, out: &mut Outgoing) -> Result<(), EncodeError> {
        frame::encode_header(out, |head| self.put_header(head))
    }

    fn put_header(&self, out: &mut BytesMut) {
        let key_size = self.transaction_id.map_or(0, str::len);
        out.reserve(300 + key_size + self.places.len() * (OFFSET_ID_SIZE_MAX + 1));
        out.put_slice(b"{\"code\":");
        put_integer(self.code, out);
        out.put_slice(b",\"extFields\":{\"msgId\":\"");
        let mut digits = [0; OFFSET_ID_SIZE_MAX];
        for (index, place) in self.places.iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            let id = message::offset_id_digits(self.store_host, place.physical_offset, &mut digits);
            out.put_slice(id.as_bytes());
        }
        out.put_slice(b"\",\"queueId\":\"");
        put_integer(self.queue_id, out);
        out.put_slice(b"\",\"queueOffset\":\"");
        put_integer(self.queue_offset, out);
        out.put_u8(b'"');
        if let Some(key) = self.transaction_id {
            out.put_slice(b",\"transactionId\":");
            put_string(key, out);
        }
        out.put_slice(
            b",\"MSG_REGION\":\"DefaultRegion\",\"TRACE_ON\":\"true\"},\"flag\":1,\"language\":\"JAVA\",\"opaque\":",
        );
        put_integer(self.opaque, out);
        out.put_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
        put_integer(VERSION, out);
        out.put_u8(b'}');
    }

    /// The same reply as a command.
    pub fn command(&self) -> Command {
        let mut reply = Command::reply_to(self.opaque, self.code);
        let ids = self.places.iter();
        let ids = ids.map(|place| message::offset_message_id(self.store_host, place.physical_offset));
        reply.ext.push("msgId", &ids.collect::<Vec<_>>().join(","));
        reply.ext.push_integer("queueId", self.queue_id.into());
        reply.ext.push_integer("queueOffset", self.queue_offset);
        if let Some(key) = self.transaction_id {
            reply.ext.push("transactionId", key);
        }
        push_trace(&mut reply.ext);
        reply
    }
}

/// What every answer to a send carries, refusals too: Java does not look whether there are fields at all.
pub fn push_trace(ext: &mut ExtFields) {
    ext.push("MSG_REGION", &DEFAULT_REGION);
    ext.push_bool("TRACE_ON", true);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::address::{IpAddr, Ipv4Addr, Ipv6Addr};

    fn bytes(out: &mut Outgoing) -> Vec<u8> {
        out.take().drain(..).flatten().collect()
    }

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_command(
            opaque: i32,
            code: i32,
            offsets in prop::collection::vec(any::<u64>(), 1..4),
            queue_id: i32,
            queue_offset: i64,
            key in prop::option::of("[a-z\"\\\\\u{1}é]{0,12}"),
            port: u16,
            v6: bool,
        ) {
            let ip = if v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
            let place = |offset: &u64| Placement { physical_offset: *offset, ..Placement::default() };
            let places: Vec<Placement> = offsets.iter().map(place).collect();
            let reply = SendReply {
                opaque,
                code,
                store_host: SocketAddr::new(ip, port),
                places: &places,
                queue_id,
                queue_offset,
                transaction_id: key.as_deref(),
            };
            let (mut direct, mut general) = (Outgoing::default(), Outgoing::default());
            reply.encode(&mut direct).unwrap();
            frame::encode(&reply.command(), Vec::new(), &mut general).unwrap();
            prop_assert_eq!(direct.size(), general.size());
            prop_assert_eq!(bytes(&mut direct), bytes(&mut general));
        }
    }
}
