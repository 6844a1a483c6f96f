//! One request or reply of the protocol.

use bytes::Bytes;

use super::frame::{FLAG_ONE_WAY, FLAG_REPLY};
use super::{ExtFields, Language, Text, code};

/// The version we announce: V5_3_3 (`MQVersion.java`). Peers downgrade nothing for it, and it fits the 16 bits of the Go client.
pub const VERSION: i32 = 479;

/// A request or a reply, header decoded, body opaque.
///
/// Texts and body are slices of the frame; holding one holds the read buffer it came in (up to some hundred KiB).
/// Tables that keep a text longer than the request copy it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Request code or response code, see [`code`].
    pub code: i32,
    pub language: Language,
    pub version: i32,
    /// Number that a reply repeats; unique among the requests in flight of one connection and direction.
    pub opaque: i32,
    /// Bit 0: reply. Bit 1: one-way.
    pub flag: i32,
    pub remark: Option<Text>,
    pub ext: ExtFields,
    pub body: Bytes,
}

impl Command {
    /// A request. The connection that sends it assigns `opaque`.
    pub fn request(code: i32) -> Command {
        Command {
            code,
            language: Language::Rust,
            version: VERSION,
            opaque: 0,
            flag: 0,
            remark: None,
            ext: ExtFields::new(),
            body: Bytes::new(),
        }
    }

    /// A request that must not be answered.
    pub fn one_way(code: i32) -> Command {
        Command {
            flag: FLAG_ONE_WAY,
            ..Command::request(code)
        }
    }

    /// The reply to `request`.
    pub fn reply(request: &Command, code: i32) -> Command {
        Command::reply_to(request.opaque, code)
    }

    /// The reply to the request of that `opaque`. Announces `JAVA`: old Java clients know no `RUST`.
    pub fn reply_to(opaque: i32, code: i32) -> Command {
        Command {
            language: Language::Java,
            opaque,
            flag: FLAG_REPLY,
            ..Command::request(code)
        }
    }

    /// A reply of code 0.
    pub fn success(request: &Command) -> Command {
        Command::reply(request, code::response::SUCCESS)
    }

    /// The answer to a code that nothing handles, in the words of the official server.
    pub fn not_supported(request: &Command) -> Command {
        Command::reply(request, code::response::REQUEST_CODE_NOT_SUPPORTED)
            .with_remark(format!(" request type {} not supported", request.code))
    }

    pub fn with_remark(mut self, remark: impl Into<Text>) -> Command {
        self.remark = Some(remark.into());
        self
    }

    pub fn with_body(mut self, body: impl Into<Bytes>) -> Command {
        self.body = body.into();
        self
    }

    /// Adds an extension field.
    pub fn with(mut self, key: &str, value: &str) -> Command {
        self.ext.push(key, value);
        self
    }

    pub fn is_reply(&self) -> bool {
        self.flag & FLAG_REPLY != 0
    }

    /// True for a request that must not be answered, even on error.
    pub fn is_one_way(&self) -> bool {
        self.flag & FLAG_ONE_WAY != 0
    }

    pub fn is_success(&self) -> bool {
        self.code == code::response::SUCCESS
    }

    pub fn remark_text(&self) -> &str {
        self.remark.as_deref().unwrap_or("")
    }
}
