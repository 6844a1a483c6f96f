use proptest::prelude::*;

use super::*;

fn fields(list: &[(&str, &str)]) -> ExtFields {
    list.iter().copied().collect()
}

#[test]
fn long_and_one_letter_names_read_the_same_send() {
    let long = fields(&[
        ("producerGroup", "pg"),
        ("topic", "T"),
        ("queueId", "3"),
        ("sysFlag", "4"),
        ("properties", "TAGS\u{1}a\u{2}"),
        ("batch", "1"),
    ]);
    let short = fields(&[
        ("a", "pg"),
        ("b", "T"),
        ("e", "3"),
        ("f", "4"),
        ("i", "TAGS\u{1}a\u{2}"),
        ("m", "true"),
        ("unknown", "ignored"),
    ]);
    let header = SendHeader::read(&long).unwrap();
    assert_eq!(header, SendHeader::read(&short).unwrap());
    assert_eq!(header.default_topic, "TBW102");
    assert!(header.batch);
    let mut rewritten = ExtFields::new();
    header.write_long(&mut rewritten);
    assert_eq!(SendHeader::read(&rewritten).unwrap(), header);
}

#[test]
fn a_missing_or_wrong_field_is_named() {
    let missing = SendHeader::read(&fields(&[("a", "pg")])).unwrap_err();
    assert_eq!(missing.to_string(), "the field b is missing");
    let wrong = PullHeader::read(&fields(&[("queueId", "x")])).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "the field queueId is \"x\", not an integer of 32 bits"
    );
}

#[test]
fn an_empty_number_is_a_missing_one() {
    let empty = fields(&[("b", "T"), ("e", ""), ("l", "")]);
    let header = SendHeader::read(&empty).unwrap();
    assert_eq!((header.queue_id, header.max_reconsume_times), (-1, None));
    let missing = OffsetResponseHeader::read(&fields(&[("offset", "")]));
    assert_eq!(missing, Err(HeaderError::Missing { field: "offset" }));
}

proptest! {
    #[test]
    fn a_send_header_survives_the_wire(
        texts in proptest::collection::vec("\\PC{0,20}", 5),
        numbers in proptest::collection::vec(any::<i32>(), 5),
        born_timestamp: i64,
        flags: [bool; 2],
        max_reconsume_times: Option<i32>,
    ) {
        let header = SendHeader {
            producer_group: &texts[0],
            topic: &texts[1],
            default_topic: &texts[2],
            default_topic_queue_count: numbers[0],
            queue_id: numbers[1],
            sys_flag: numbers[2],
            born_timestamp,
            flag: numbers[3],
            properties: &texts[3],
            reconsume_times: numbers[4],
            unit_mode: flags[0],
            max_reconsume_times,
            batch: flags[1],
            broker_name: Some(&texts[4]),
        };
        let mut short = ExtFields::new();
        header.write(&mut short);
        prop_assert_eq!(SendHeader::read(&short).unwrap(), header.clone());
        let mut long = ExtFields::new();
        header.write_long(&mut long);
        prop_assert_eq!(SendHeader::read(&long).unwrap(), header);
    }

    #[test]
    fn arbitrary_fields_never_panic(list in proptest::collection::vec(("[a-n]|queueId|topic|offset", "\\PC{0,12}|-?[0-9]{1,22}"), 0..20)) {
        let ext: ExtFields = list.into_iter().collect();
        let _ = SendHeader::read(&ext);
        let _ = PullHeader::read(&ext);
        let _ = QueueHeader::read(&ext);
    }
}
