//! Tests of the record codec.

use proptest::prelude::*;

use super::*;

fn draft<'a>(topic: &'a str, body: &'a [u8], properties: &'a str) -> Draft<'a> {
    Draft {
        topic,
        queue_id: 3,
        flag: 7,
        sys_flag: sys_flag::COMPRESSED,
        born_time: WallMillis(1_700_000_000_000),
        born_host: "10.1.2.3:40000".parse().unwrap(),
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 2,
        prepared_transaction_offset: 5,
        body,
        properties,
    }
}

const PLACE: Placement = Placement {
    queue_offset: 42,
    physical_offset: 4096,
    store_time: WallMillis(1_700_000_000_123),
};

fn encoded(draft: &Draft<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(draft, body_crc(draft.body), &PLACE, &mut out);
    out
}

#[test]
fn an_empty_ipv4_record_takes_91_bytes_and_its_topic() {
    assert_eq!(encoded(&draft("T", b"", "")).len(), RECORD_FIXED_SIZE + 1);
}

#[test]
fn a_topic_beyond_127_bytes_makes_version_2() {
    let topic = "%RETRY%".to_owned() + &"g".repeat(130);
    let bytes = encoded(&draft(&topic, b"body", ""));
    let record = RecordView::parse_checked(&bytes).unwrap();
    assert_eq!(record.magic, MAGIC_V2);
    assert_eq!(record.topic, topic);
}

#[test]
fn ipv6_hosts_set_their_bits_and_read_back() {
    let mut message = draft("T", b"x", "");
    message.born_host = "[2001:db8::1]:9".parse().unwrap();
    message.store_host = "[::ffff:10.0.0.1]:10911".parse().unwrap();
    let bytes = encoded(&message);
    let record = RecordView::parse_checked(&bytes).unwrap();
    assert_eq!(record.born_host, message.born_host);
    assert_eq!(record.store_host, "10.0.0.1:10911".parse().unwrap());
    assert_eq!(store_time(&bytes[..STORE_TIME_PREFIX_SIZE]), Some(PLACE.store_time));
}

#[test]
fn a_flipped_bit_in_the_body_fails_the_crc() {
    let mut bytes = encoded(&draft("T", b"hello", ""));
    bytes[90] ^= 4;
    assert!(matches!(
        RecordView::parse_checked(&bytes),
        Err(RecordError::Crc { .. })
    ));
}

#[test]
fn java_hash_equals_java() {
    assert_eq!(java_hash("TagA"), 2_598_919);
    assert_eq!(java_hash("Aa"), java_hash("BB"));
    assert_eq!(java_hash("é😀"), {
        let units = [0xe9i32, 0xd83d, 0xde00];
        units.iter().fold(0i32, |h, u| h.wrapping_mul(31).wrapping_add(*u))
    });
}

#[test]
fn offset_message_id_is_javas() {
    let host: SocketAddr = "127.0.0.1:10911".parse().unwrap();
    let id = offset_message_id(host, 674);
    assert_eq!(id, "7F00000100002A9F00000000000002A2");
    assert_eq!(parse_offset_message_id(&id), Ok((host, 674)));
    let host: SocketAddr = "[2001:db8::1]:10911".parse().unwrap();
    let id = offset_message_id(host, 1);
    assert_eq!(id.len(), 56);
    assert_eq!(parse_offset_message_id(&id), Ok((host, 1)));
    assert!(parse_offset_message_id("0A").is_err());
    assert!(parse_offset_message_id(&"é".repeat(16)).is_err());
}

#[test]
fn a_batch_with_a_wrong_size_ends_with_an_error() {
    let mut body = Vec::new();
    let message = BatchMessage {
        flag: 1,
        body: b"one",
        properties: "K\u{1}v\u{2}",
    };
    encode_batch_message(&message, &mut body);
    encode_batch_message(&message, &mut body);
    let first = body.len() / 2;
    body[first + 3] += 1;
    let read: Vec<_> = batch(&body).collect();
    assert_eq!(read, [Ok(message), Err(BatchError::Framing { at: first })]);
}

proptest! {
    #[test]
    fn records_round_trip(
        topic in "[a-zA-Z%_-]{1,255}", body in prop::collection::vec(any::<u8>(), 0..300), properties in "\\PC{0,80}",
        born in any::<u32>(), port in any::<u16>(), v6 in any::<bool>(),
    ) {
        let mut message = draft(&topic, &body, &properties);
        message.born_host = if v6 {
            SocketAddr::new(IpAddr::V6(Ipv6Addr::from(u128::from(born) << 64 | 1)), port)
        } else {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::from(born)), port)
        };
        let mut bytes = encoded(&message);
        prop_assert_eq!(bytes.len(), encoded_size(&message));
        bytes.extend_from_slice(b"next");
        let record = RecordView::parse_checked(&bytes).unwrap();
        prop_assert_eq!(record.topic, &topic);
        prop_assert_eq!(record.body, &body[..]);
        prop_assert_eq!(record.properties, properties.as_bytes());
        prop_assert_eq!(record.born_host, message.born_host);
        prop_assert_eq!(record.queue_offset, PLACE.queue_offset);
        prop_assert_eq!(record.store_time, PLACE.store_time);
        prop_assert!(record.check_position(PLACE.physical_offset).is_ok());
        prop_assert!(record.check_position(0).is_err());
    }

    #[test]
    fn batches_round_trip(messages in prop::collection::vec((any::<i32>(), prop::collection::vec(any::<u8>(), 0..50), "\\PC{0,30}"), 0..8)) {
        let mut body = Vec::new();
        for (flag, text, properties) in &messages {
            encode_batch_message(&BatchMessage { flag: *flag, body: text, properties }, &mut body);
        }
        let read: Vec<_> = batch(&body).map(|message| message.unwrap()).collect();
        prop_assert_eq!(read.len(), messages.len());
        for (message, (flag, text, properties)) in read.iter().zip(&messages) {
            prop_assert_eq!(message.flag, *flag);
            prop_assert_eq!(message.body, &text[..]);
            prop_assert_eq!(message.properties, properties);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = RecordView::parse_checked(&bytes);
        let _ = store_time(&bytes);
        let _ = batch(&bytes).count();
        let _ = records(&Bytes::from(bytes)).count();
    }

    #[test]
    fn mutated_records_never_panic(at in 0usize..100, value in any::<u8>()) {
        let mut bytes = encoded(&draft("Topic", b"hello", "TAGS\u{1}a\u{2}"));
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = RecordView::parse_checked(&bytes);
    }
}
