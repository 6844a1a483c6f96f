//! Frames: how commands lie in a byte stream (`NettyDecoder.java`, `RemotingCommand.java`).
//!
//! ```text
//! offset  size  meaning                        all integers big-endian
//! 0       4     length of what follows: 4 + header size + body size
//! 4       1     header type: 0 JSON, 1 ROCKETMQ binary
//! 5       3     header size
//! 8       h     header
//! 8 + h   b     body, the rest
//! ```
//!
//! Sans-IO. Decoding takes whole frames off the front of a buffer that the caller fills; it reserves nothing, so a frame that
//! claims 16 MiB costs only what has really arrived. Encoding copies heads and small bodies together and passes large
//! bodies on as they are. After an error the stream has no known next frame: close the connection.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Command, ExtFields, Language, Text, binary_header, json_header};

/// Length word and header word.
pub const PREFIX_SIZE: usize = 8;

/// Bits of [`Command::flag`].
pub const FLAG_REPLY: i32 = 1;
pub const FLAG_ONE_WAY: i32 = 2;

/// How large a frame may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a frame with its length word. Default 16 MiB, the official decoder's value (`com.rocketmq.remoting.frameMaxLength`);
    /// a longer frame is an error.
    pub frame_size_max: usize,
    /// Bytes of a header. Default 1 MiB: properties hold at most 32,767 bytes, each written as up to six. A longer one is
    /// an error.
    pub header_size_max: usize,
    /// Extension fields of a header. Default 256: the official ones have about twenty. More are an error.
    pub ext_count_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            frame_size_max: 16 << 20,
            header_size_max: 1 << 20,
            ext_count_max: 256,
        }
    }
}

/// The form of a header. Each frame says its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderType {
    /// What every client reads; servers answer nothing else.
    #[default]
    Json,
    /// RocketMQ's binary form. Cannot carry codes beyond 16 bits.
    Binary,
}

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {size} bytes, at most {size_max} allowed")]
    TooLong { size: u64, size_max: usize },
    #[error("frame length {length} is less than its header word")]
    TooShort { length: i32 },
    #[error("header of {size} bytes, at most {size_max} allowed")]
    HeaderTooLong { size: usize, size_max: usize },
    #[error("header of {size} bytes in a frame of {frame_size}")]
    HeaderBeyondFrame { size: usize, frame_size: usize },
    #[error("unknown header type {0}")]
    UnknownHeaderType(u8),
    #[error("header: {0}")]
    Header(#[from] HeaderError),
}

/// Bytes that are no header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("not UTF-8")]
    NotUtf8,
    #[error("expected {expected} at byte {at}")]
    Json { expected: &'static str, at: usize },
    #[error("ends before its last field")]
    Truncated,
    #[error("more than {count_max} extension fields")]
    TooManyFields { count_max: usize },
}

/// A command that no frame can carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("frame of {size} bytes, at most {size_max} allowed")]
    TooLong { size: usize, size_max: usize },
    #[error("{0} does not fit the 16 bits of a binary header")]
    CodeBeyond16Bits(i32),
    #[error("extension key of {0} bytes")]
    KeyTooLong(usize),
}

/// Takes the first frame off `buffer`; `None` if it has not arrived whole.
///
/// Texts and body of the command are slices of `buffer`'s memory.
pub fn decode(buffer: &mut BytesMut, limits: &Limits) -> Result<Option<Command>, FrameError> {
    decode_into(buffer, limits, &mut ExtFields::new())
}

/// As [`decode`], using the room of the empty list `spare`, which is taken if a frame was.
pub(crate) fn decode_into(
    buffer: &mut BytesMut,
    limits: &Limits,
    spare: &mut ExtFields,
) -> Result<Option<Command>, FrameError> {
    let Some(size) = frame_size(buffer, limits)? else {
        return Ok(None);
    };
    if buffer.len() < size {
        return Ok(None);
    }
    let mut frame = buffer.split_to(size).freeze();
    let (header_type, header_size) = header_word(&frame);
    frame.advance(PREFIX_SIZE);
    let header = frame.split_to(header_size);
    let mut command = Command {
        language: Language::Unknown,
        version: 0,
        ext: std::mem::take(spare),
        body: frame,
        ..Command::request(0)
    };
    match header_type {
        0 => {
            let text = Text::try_from(header).map_err(|_| HeaderError::NotUtf8)?;
            json_header::decode(text, limits, &mut command)?;
        }
        1 => binary_header::decode(&header, limits, &mut command)?,
        other => return Err(FrameError::UnknownHeaderType(other)),
    }
    Ok(Some(command))
}

/// Bytes of the first frame with its length word, checked as far as the prefix has arrived; `None` before that.
pub fn frame_size(buffer: &[u8], limits: &Limits) -> Result<Option<usize>, FrameError> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    let size = u64::from(length) + 4;
    if size > limits.frame_size_max as u64 {
        let size_max = limits.frame_size_max;
        return Err(FrameError::TooLong { size, size_max });
    }
    if length < 4 {
        return Err(FrameError::TooShort { length: length as i32 });
    }
    let frame_size = size as usize;
    if buffer.len() >= PREFIX_SIZE {
        let (header_type, size) = header_word(buffer);
        if header_type > 1 {
            return Err(FrameError::UnknownHeaderType(header_type));
        }
        if size > frame_size - PREFIX_SIZE {
            return Err(FrameError::HeaderBeyondFrame { size, frame_size });
        }
        if size > limits.header_size_max {
            let size_max = limits.header_size_max;
            return Err(FrameError::HeaderTooLong { size, size_max });
        }
    }
    Ok(Some(frame_size))
}

fn header_word(frame: &[u8]) -> (u8, usize) {
    let word = u32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
    ((word >> 24) as u8, (word & 0x00FF_FFFF) as usize)
}

/// Appends `command` to `out`; its body is `command.body`, copied if small, followed by `chunks`. Those are neither copied nor
/// looked at, however small: they may be slices of a mapping, whose bytes only the kernel may touch.
pub fn encode(command: &Command, chunks: Vec<Bytes>, out: &mut Outgoing) -> Result<(), EncodeError> {
    encode_as(HeaderType::Json, command, chunks, out)
}

/// As [`encode`], with the header in the form asked for. On error `out` is as before.
pub fn encode_as(
    header_type: HeaderType,
    command: &Command,
    chunks: Vec<Bytes>,
    out: &mut Outgoing,
) -> Result<(), EncodeError> {
    let body_size = command.body.len() + chunks.iter().map(Bytes::len).sum::<usize>();
    encode_head(header_type, body_size, out, |head| match header_type {
        HeaderType::Json => {
            json_header::encode(command, head);
            Ok(())
        }
        HeaderType::Binary => binary_header::encode(command, head),
    })?;
    out.put_body(&command.body);
    for chunk in chunks {
        out.put_chunk(chunk);
    }
    Ok(())
}

/// Appends a frame that is a JSON header alone. On error `out` is as before.
pub(super) fn encode_header(out: &mut Outgoing, write: impl FnOnce(&mut BytesMut)) -> Result<(), EncodeError> {
    encode_head(HeaderType::Json, 0, out, |head| {
        write(head);
        Ok(())
    })
}

/// Prefix and header, for a body that follows. On error `out` is as before.
fn encode_head(
    header_type: HeaderType,
    body_size: usize,
    out: &mut Outgoing,
    write: impl FnOnce(&mut BytesMut) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.head.len();
    out.head.put_u64(0);
    let written = write(&mut out.head);
    let finished = written.and_then(|()| finish_head(header_type, body_size, out, start));
    if finished.is_err() {
        out.head.truncate(start);
    }
    finished
}

fn finish_head(header_type: HeaderType, body_size: usize, out: &mut Outgoing, start: usize) -> Result<(), EncodeError> {
    let header_size = out.head.len() - start - PREFIX_SIZE;
    let size = PREFIX_SIZE + header_size + body_size;
    let size_max = out.limits.frame_size_max;
    if size > size_max || header_size > out.limits.header_size_max {
        return Err(EncodeError::TooLong { size, size_max });
    }
    let type_bits = match header_type {
        HeaderType::Json => 0,
        HeaderType::Binary => 1 << 24,
    };
    out.head[start..start + 4].copy_from_slice(&((size - 4) as u32).to_be_bytes());
    out.head[start + 4..start + 8].copy_from_slice(&(header_size as u32 | type_bits).to_be_bytes());
    out.size += PREFIX_SIZE + header_size;
    Ok(())
}

/// Frames on their way out: heads and small bodies gathered in one buffer, large bodies and chunks as slices in between.
#[derive(Debug, Default)]
pub struct Outgoing {
    head: BytesMut,
    chunks: VecDeque<Bytes>,
    size: usize,
    limits: Limits,
}

impl Outgoing {
    /// Bodies up to this many bytes are copied: cheaper than an element of a vectored write.
    pub const COPY_SIZE_MAX: usize = 4096;

    pub fn new(limits: Limits) -> Outgoing {
        Outgoing {
            limits,
            ..Outgoing::default()
        }
    }

    /// Bytes waiting.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Moves everything waiting in `other` behind what waits here.
    pub fn append(&mut self, other: &mut Outgoing) {
        if self.is_empty() {
            std::mem::swap(self, other);
            return;
        }
        if !other.is_empty() {
            self.finish_head();
            self.size += other.size;
            self.chunks.append(other.take());
        }
    }

    /// Everything waiting, in order, for a writer to empty.
    pub fn take(&mut self) -> &mut VecDeque<Bytes> {
        self.finish_head();
        self.size = 0;
        &mut self.chunks
    }

    fn put_body(&mut self, body: &Bytes) {
        self.size += body.len();
        if body.len() <= Outgoing::COPY_SIZE_MAX {
            self.head.put_slice(body);
        } else {
            self.finish_head();
            self.chunks.push_back(body.clone());
        }
    }

    fn put_chunk(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.size += chunk.len();
            self.finish_head();
            self.chunks.push_back(chunk);
        }
    }

    fn finish_head(&mut self) {
        if !self.head.is_empty() {
            self.chunks.push_back(self.head.split().freeze());
        }
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
