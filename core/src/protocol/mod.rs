//! RocketMQ's remoting wire format, sans-IO: frames, commands, headers, bodies, messages.
//!
//! Lenient where real clients are odd, strict in what it writes. Not here: sockets, time, and what a command means.

mod binary_header;
pub mod body;
pub mod code;
mod command;
mod ext;
pub mod frame;
pub mod header;
mod json_header;
mod language;
pub mod message;
pub mod properties;
mod scan;
pub mod send_reply;

pub use command::{Command, VERSION};
pub use ext::{ExtFields, Span};
pub use language::Language;

/// Text that is a slice of the frame it came in.
pub type Text = bytestring::ByteString;
