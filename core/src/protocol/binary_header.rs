//! Header type 1: RocketMQ's binary form (`RocketMQSerializable.java`).
//!
//! ```text
//! i16 code | i8 language | i16 version | i32 opaque | i32 flag
//! i32 + bytes remark (0: none)
//! i32 size of the map in bytes, then until exhausted: i16 + bytes key, i32 + bytes value
//! ```
//!
//! The code has 16 bits: the 200050 family cannot travel in it, and an empty value is the same as a missing one.

use bytes::{Buf, BufMut, BytesMut};

use super::frame::{EncodeError, HeaderError, Limits};
use super::{Command, Language, Text};

/// Reads `header` into `command`.
pub(super) fn decode(mut header: &[u8], limits: &Limits, command: &mut Command) -> Result<(), HeaderError> {
    command.code = header.try_get_i16().map_err(|_| HeaderError::Truncated)?.into();
    command.language = Language::from_code(header.try_get_u8().map_err(|_| HeaderError::Truncated)?);
    command.version = header.try_get_i16().map_err(|_| HeaderError::Truncated)?.into();
    command.opaque = header.try_get_i32().map_err(|_| HeaderError::Truncated)?;
    command.flag = header.try_get_i32().map_err(|_| HeaderError::Truncated)?;
    let remark = take_long(&mut header)?;
    if !remark.is_empty() {
        command.remark = Some(Text::from(text(remark)?));
    }
    let mut map = take_long(&mut header)?;
    let mut ext = std::mem::take(&mut command.ext);
    ext.own_buffer().reserve(map.len());
    while !map.is_empty() {
        let key_size = map.try_get_i16().map_err(|_| HeaderError::Truncated)?;
        let key = text(take(&mut map, key_size.into())?)?;
        let value = text(take_long(&mut map)?)?;
        if ext.len() >= limits.ext_count_max {
            return Err(HeaderError::TooManyFields {
                count_max: limits.ext_count_max,
            });
        }
        if !key.is_empty() && !value.is_empty() {
            ext.push(key, value);
        }
    }
    command.ext = ext;
    Ok(())
}

fn take_long<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], HeaderError> {
    let size = input.try_get_i32().map_err(|_| HeaderError::Truncated)?;
    take(input, size)
}

fn take<'a>(input: &mut &'a [u8], size: i32) -> Result<&'a [u8], HeaderError> {
    let size = usize::try_from(size).map_err(|_| HeaderError::Truncated)?;
    let (piece, rest) = input.split_at_checked(size).ok_or(HeaderError::Truncated)?;
    *input = rest;
    Ok(piece)
}

fn text(bytes: &[u8]) -> Result<&str, HeaderError> {
    std::str::from_utf8(bytes).map_err(|_| HeaderError::NotUtf8)
}

/// Appends the header of `command`, or says why this form cannot carry it.
pub(super) fn encode(command: &Command, out: &mut BytesMut) -> Result<(), EncodeError> {
    let code = i16::try_from(command.code).map_err(|_| EncodeError::CodeBeyond16Bits(command.code))?;
    let version = i16::try_from(command.version).map_err(|_| EncodeError::CodeBeyond16Bits(command.version))?;
    out.put_i16(code);
    out.put_u8(command.language.code());
    out.put_i16(version);
    out.put_i32(command.opaque);
    out.put_i32(command.flag);
    put_long(command.remark_text(), out);
    let map_size: usize = command.ext.iter().map(|(key, value)| 6 + key.len() + value.len()).sum();
    out.reserve(4 + map_size);
    out.put_i32(map_size as i32);
    for (key, value) in command.ext.iter() {
        let key_size = i16::try_from(key.len()).map_err(|_| EncodeError::KeyTooLong(key.len()))?;
        out.put_i16(key_size);
        out.put_slice(key.as_bytes());
        put_long(value, out);
    }
    Ok(())
}

fn put_long(text: &str, out: &mut BytesMut) {
    out.put_i32(text.len() as i32);
    out.put_slice(text.as_bytes());
}
