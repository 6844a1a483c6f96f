//! The body of a registration (`RegisterBrokerBody.java`): JSON, or one zlib stream of the pieces below.
//!
//! ```text
//! i32 + bytes            DataVersion as JSON                     integers big-endian
//! i32                    count of topics
//! per topic i32 + text   name readQueues writeQueues perm filterType [attributes as JSON], single spaces
//! i32 + bytes            filter servers as JSON
//! i32, per item i32 + b  static topics as JSON, only from version V5_0_0 (413) on; ignored
//! ```

use std::collections::BTreeMap;
use std::io::{Read, Write};

use bytes::{Buf, Bytes};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::{Body, BodyError, DataVersion, TopicConfig, TopicConfigSerializeWrapper, bodies, json};

/// Bytes of an inflated registration: 64 MiB, some 500,000 topics. A longer one is an error.
const INFLATED_SIZE_MAX: usize = 64 << 20;

/// Version V3_0_11: older brokers send the topics without their envelope.
const VERSION_WITH_ENVELOPE: i32 = 37;

/// Version V5_0_0: the compressed form ends with static topics.
const VERSION_WITH_STATIC_TOPICS: i32 = 413;

bodies! {
    /// Code 103.
    #[derive(Eq, Default)]
    RegisterBrokerBody {
        filter_server_list: Vec<String>,
        topic_config_serialize_wrapper: TopicConfigSerializeWrapper,
    }
}

impl RegisterBrokerBody {
    /// Reads what a broker of `version` sent. An empty body is a registration without topics.
    pub fn read_from(version: i32, body: &[u8], compressed: bool) -> Result<RegisterBrokerBody, BodyError> {
        if body.is_empty() {
            return Ok(RegisterBrokerBody::default());
        }
        if version < VERSION_WITH_ENVELOPE {
            return Ok(RegisterBrokerBody {
                filter_server_list: Vec::new(),
                topic_config_serialize_wrapper: TopicConfigSerializeWrapper::read(body)?,
            });
        }
        if compressed {
            return read_compressed(body);
        }
        RegisterBrokerBody::read(body)
    }

    /// The compressed form, as a broker of `version` writes it.
    pub fn write_compressed(&self, version: i32) -> Bytes {
        let wrapper = &self.topic_config_serialize_wrapper;
        let mut out = Vec::new();
        put_piece(&json::write(&wrapper.data_version), &mut out);
        out.extend_from_slice(&(wrapper.topic_config_table.len() as i32).to_be_bytes());
        for config in wrapper.topic_config_table.values() {
            put_piece(topic_line(config).as_bytes(), &mut out);
        }
        put_piece(&json::write(&self.filter_server_list), &mut out);
        if version >= VERSION_WITH_STATIC_TOPICS {
            out.extend_from_slice(&0i32.to_be_bytes());
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&out).expect("memory takes every byte");
        Bytes::from(encoder.finish().expect("memory takes every byte"))
    }
}

fn read_compressed(body: &[u8]) -> Result<RegisterBrokerBody, BodyError> {
    let mut inflated = Vec::new();
    let mut decoder = ZlibDecoder::new(body).take(INFLATED_SIZE_MAX as u64 + 1);
    decoder
        .read_to_end(&mut inflated)
        .map_err(|_| BodyError::Compressed("not a zlib stream"))?;
    if inflated.len() > INFLATED_SIZE_MAX {
        return Err(BodyError::TooLong {
            size_max: INFLATED_SIZE_MAX,
        });
    }
    let mut rest = &inflated[..];
    let data_version = DataVersion::read(take_piece(&mut rest)?)?;
    let topic_count = rest.try_get_i32().map_err(|_| TRUNCATED)?;
    let mut topic_config_table = BTreeMap::new();
    for _ in 0..topic_count {
        let config = parse_topic_line(take_piece(&mut rest)?)?;
        topic_config_table.insert(config.topic_name.clone(), config);
    }
    let filter_server_list = json::read(take_piece(&mut rest)?)?;
    Ok(RegisterBrokerBody {
        filter_server_list,
        topic_config_serialize_wrapper: TopicConfigSerializeWrapper {
            data_version,
            topic_config_table,
            ..TopicConfigSerializeWrapper::default()
        },
    })
}

const TRUNCATED: BodyError = BodyError::Compressed("ends before its last piece");
const BAD_TOPIC: BodyError = BodyError::Compressed("a topic is not `name read write perm filter`");

fn take_piece<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BodyError> {
    let size = rest.try_get_i32().map_err(|_| TRUNCATED)?;
    let size = usize::try_from(size).map_err(|_| TRUNCATED)?;
    let (piece, after) = rest.split_at_checked(size).ok_or(TRUNCATED)?;
    *rest = after;
    Ok(piece)
}

fn put_piece(piece: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(piece.len() as i32).to_be_bytes());
    out.extend_from_slice(piece);
}

/// `TopicConfig.encode`.
fn topic_line(config: &TopicConfig) -> String {
    let attributes = json::write(&config.attributes);
    format!(
        "{} {} {} {} {} {}",
        config.topic_name,
        config.read_queue_nums,
        config.write_queue_nums,
        config.perm,
        config.topic_filter_type,
        String::from_utf8_lossy(&attributes)
    )
}

/// `TopicConfig.decode`.
fn parse_topic_line(line: &[u8]) -> Result<TopicConfig, BodyError> {
    let line = std::str::from_utf8(line).map_err(|_| BAD_TOPIC)?;
    let mut pieces = line.splitn(6, ' ');
    let mut next = || pieces.next().ok_or(BAD_TOPIC);
    let number = |text: &str| text.parse::<i32>().map_err(|_| BAD_TOPIC);
    let config = TopicConfig {
        topic_name: next()?.to_owned(),
        read_queue_nums: number(next()?)?,
        write_queue_nums: number(next()?)?,
        perm: number(next()?)?,
        topic_filter_type: next()?.to_owned(),
        ..TopicConfig::default()
    };
    let attributes = pieces.next().filter(|text| !text.is_empty());
    Ok(TopicConfig {
        attributes: attributes.map_or(Ok(BTreeMap::new()), |text| json::read(text.as_bytes()))?,
        ..config
    })
}
