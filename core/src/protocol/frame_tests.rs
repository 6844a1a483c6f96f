use proptest::prelude::*;

use super::*;
use crate::protocol::ExtFields;

fn frame_of(header_type: u8, header: &[u8], body: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_u32((4 + header.len() + body.len()) as u32);
    frame.put_u32(u32::from(header_type) << 24 | header.len() as u32);
    frame.put_slice(header);
    frame.put_slice(body);
    frame
}

fn decode_json(header: &str) -> Result<Command, FrameError> {
    let decoded = decode(&mut frame_of(0, header.as_bytes(), b""), &Limits::default())?;
    Ok(decoded.expect("the frame is whole"))
}

fn bytes_of(out: &mut Outgoing) -> BytesMut {
    out.take().drain(..).fold(BytesMut::new(), |mut all, chunk| {
        all.put_slice(&chunk);
        all
    })
}

#[test]
fn numbers_booleans_nulls_and_unknown_keys_are_read() {
    let header = concat!(
        r#" {"code":310,"language":"JAVA","version":121,"opaque":7,"flag":0,"x":[1,{"y":null}],"#,
        r#""remark":null,"extFields":{"e":1,"g":1795331206489,"k":false,"n":null,"i":"KEYS\u0001a\u0002","z":"ü😀"}}"#,
        "\n"
    );
    let command = decode_json(header).unwrap();
    assert_eq!((command.code, command.version, command.opaque), (310, 121, 7));
    assert_eq!(command.remark, None);
    let expected: ExtFields = [
        ("e", "1"),
        ("g", "1795331206489"),
        ("k", "false"),
        ("i", "KEYS\u{1}a\u{2}"),
        ("z", "ü😀"),
    ]
    .into_iter()
    .collect();
    assert_eq!(command.ext, expected);
}

#[test]
fn unknown_languages_and_ordinals_are_tolerated() {
    assert_eq!(
        decode_json(r#"{"language":"COBOL"}"#).unwrap().language,
        Language::Unknown
    );
    assert_eq!(decode_json(r#"{"language":null}"#).unwrap().language, Language::Unknown);
    assert_eq!(decode_json(r#"{"language":9}"#).unwrap().language, Language::Go);
    assert_eq!(decode_json(r#"{}"#).unwrap().language, Language::Unknown);
}

#[test]
fn surrogate_pairs_join_and_lone_halves_are_replaced() {
    let command = decode_json(r#"{"remark":"\ud83d\ude00 \ud83d x \ude00"}"#).unwrap();
    assert_eq!(command.remark_text(), "😀 \u{FFFD} x \u{FFFD}");
}

#[test]
fn plain_texts_are_slices_of_the_frame() {
    let header = r#"{"code":1,"extFields":{"topic":"TopicOfSlices"}}"#;
    let mut buffer = frame_of(0, header.as_bytes(), b"");
    let memory = buffer.as_ptr_range();
    let command = decode(&mut buffer, &Limits::default()).unwrap().unwrap();
    let topic = command.ext.get_text("topic").unwrap();
    assert_eq!(topic, "TopicOfSlices");
    assert!(memory.contains(&topic.as_ptr()));
}

#[test]
fn broken_headers_are_errors() {
    for header in [
        "",
        "{",
        "[]",
        "{}x",
        r#"{"a"}"#,
        r#"{"code":1.5}"#,
        r#"{"code":3000000000}"#,
        r#"{"code":"x"}"#,
        r#"{"a":01}"#,
        r#"{"remark":"\q"}"#,
        r#"{"remark":"\u12"}"#,
        r#"{"remark":"\"#,
        r#"{"remark":"abc\"#,
        r#"{"a":tru}"#,
        r#"{,}"#,
        r#"{"a":1,}"#,
        r#"{"extFields":[]}"#,
        r#"{"extFields":"x"}"#,
    ] {
        assert!(decode_json(header).is_err(), "{header:?} was read");
    }
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    assert!(decode_json(&deep).is_err());
    let not_utf8 = decode(&mut frame_of(0, b"{\"remark\":\"\xff\"}", b""), &Limits::default());
    assert_eq!(not_utf8, Err(FrameError::Header(HeaderError::NotUtf8)));
}

#[test]
fn limits_hold_before_the_frame_has_arrived() {
    let limits = Limits::default();
    let size_of = |bytes: &[u8]| frame_size(bytes, &limits);
    assert_eq!(size_of(&[0, 0xff, 0xff, 0xfc]), Ok(Some(16 << 20)));
    assert!(matches!(
        size_of(&[0, 0xff, 0xff, 0xfd]),
        Err(FrameError::TooLong { .. })
    ));
    assert!(matches!(size_of(&[0xff; 4]), Err(FrameError::TooLong { .. })));
    assert!(matches!(size_of(&[0, 0, 0, 3]), Err(FrameError::TooShort { .. })));
    assert!(matches!(
        size_of(&[0, 0, 0, 9, 0, 0, 0, 6]),
        Err(FrameError::HeaderBeyondFrame { .. })
    ));
    assert!(matches!(
        size_of(&[0, 0x20, 0, 0, 0, 0x10, 0, 1]),
        Err(FrameError::HeaderTooLong { .. })
    ));
    assert!(matches!(
        size_of(&[0, 0, 0, 9, 2, 0, 0, 1]),
        Err(FrameError::UnknownHeaderType(2))
    ));
    let fields: Vec<String> = (0..257).map(|n| format!(r#""k{n}":"""#)).collect();
    let header = format!(r#"{{"extFields":{{{}}}}}"#, fields.join(","));
    assert_eq!(
        decode_json(&header),
        Err(FrameError::Header(HeaderError::TooManyFields { count_max: 256 }))
    );
}

#[test]
fn a_frame_that_claims_much_reserves_nothing() {
    let mut buffer = BytesMut::with_capacity(64);
    buffer.put_slice(&[0, 0xff, 0xff, 0xfc, 0, 0, 0, 100]);
    let capacity = buffer.capacity();
    assert_eq!(decode(&mut buffer, &Limits::default()), Ok(None));
    assert_eq!(buffer.capacity(), capacity);
}

#[test]
fn large_bodies_and_all_chunks_travel_without_a_copy() {
    let large = Bytes::from(vec![7; Outgoing::COPY_SIZE_MAX + 1]);
    let small = Bytes::from_static(b"small");
    let mut out = Outgoing::default();
    let command = Command::request(11);
    encode(
        &command.clone().with_body(small.clone()),
        vec![small.clone(), large.clone()],
        &mut out,
    )
    .unwrap();
    encode(&command.with_body(large.clone()), vec![Bytes::new()], &mut out).unwrap();
    let size = out.size();
    let chunks: Vec<Bytes> = out.take().drain(..).collect();
    let pointers = [1, 2, 4].map(|index| chunks[index].as_ptr());
    assert_eq!(pointers, [small.as_ptr(), large.as_ptr(), large.as_ptr()]);
    assert!(
        chunks[0].ends_with(b"small"),
        "a small body is copied behind its header"
    );
    assert_eq!(chunks.len(), 5);
    assert_eq!(chunks.iter().map(Bytes::len).sum::<usize>(), size);
    assert!(out.is_empty());
}

#[test]
fn what_no_frame_can_carry_leaves_the_rest_untouched() {
    let mut out = Outgoing::default();
    encode(&Command::request(34), Vec::new(), &mut out).unwrap();
    let size = out.size();
    let large = Bytes::from(vec![0; 16 << 20]);
    let too_long = encode(&Command::request(11), vec![large], &mut out);
    assert!(matches!(too_long, Err(EncodeError::TooLong { .. })));
    let pop = encode_as(HeaderType::Binary, &Command::request(200_050), Vec::new(), &mut out);
    assert_eq!(pop, Err(EncodeError::CodeBeyond16Bits(200_050)));
    assert_eq!(out.size(), size);
    let mut sent = bytes_of(&mut out);
    assert_eq!(decode(&mut sent, &Limits::default()).unwrap().unwrap().code, 34);
    assert!(sent.is_empty());
}

fn any_command() -> impl Strategy<Value = Command> {
    let header = (-32768..32768i32, 0..14u8, 0..32768i32, any::<i32>(), any::<i32>());
    let remark = proptest::option::of("\\PC{1,40}|[\u{1}\u{2}\"\\\\/\n😀]{1,9}");
    let ext = proptest::collection::vec(
        (
            "[a-zA-Z_%\"\u{1}é]{1,12}",
            "\\PC{1,30}|[\u{0}\u{1}\u{2}\"\\\\\n\u{7f}]{1,9}",
        ),
        0..20,
    );
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    (header, remark, ext, body).prop_map(|(header, remark, ext, body)| Command {
        code: header.0,
        language: Language::from_code(header.1),
        version: header.2,
        opaque: header.3,
        flag: header.4,
        remark: remark.map(Text::from),
        ext: ext.into_iter().collect(),
        body: Bytes::from(body),
    })
}

type Decoded = (i64, Option<String>, Vec<(String, String)>);

/// The slow twin of the JSON scanner.
fn decode_by_serde(header: &str) -> Option<Decoded> {
    let value: serde_json::Value = serde_json::from_str(header).ok()?;
    let object = value.as_object()?;
    let code = object.get("code").map_or(Some(0), serde_json::Value::as_i64)?;
    let remark = match object.get("remark") {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(remark)) => Some(remark.clone()),
        Some(_) => return None,
    };
    let mut ext = Vec::new();
    if let Some(fields) = object.get("extFields") {
        for (key, value) in fields.as_object()? {
            match value {
                serde_json::Value::Null => {}
                serde_json::Value::String(text) => ext.push((key.clone(), text.clone())),
                serde_json::Value::Bool(value) => ext.push((key.clone(), value.to_string())),
                serde_json::Value::Number(value) if !value.is_f64() => ext.push((key.clone(), value.to_string())),
                _ => return None,
            }
        }
    }
    Some((code, remark, ext))
}

proptest! {
    #[test]
    fn commands_survive_both_headers(command in any_command(), cut in any::<proptest::sample::Index>()) {
        for header_type in [HeaderType::Json, HeaderType::Binary] {
            let mut out = Outgoing::default();
            encode_as(header_type, &command, Vec::new(), &mut out).unwrap();
            let whole = bytes_of(&mut out);
            let mut part = BytesMut::from(&whole[..cut.index(whole.len())]);
            prop_assert_eq!(decode(&mut part, &Limits::default()), Ok(None));
            let mut whole = whole;
            let decoded = decode(&mut whole, &Limits::default()).unwrap().unwrap();
            prop_assert!(whole.is_empty());
            prop_assert_eq!(&decoded, &command);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), header_type in 0..3u8) {
        let _ = decode(&mut BytesMut::from(&bytes[..]), &Limits::default());
        let _ = decode(&mut frame_of(header_type, &bytes, b""), &Limits::default());
    }

    #[test]
    fn mutated_frames_never_panic(
        command in any_command(),
        binary in any::<bool>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut out = Outgoing::default();
        let header_type = if binary { HeaderType::Binary } else { HeaderType::Json };
        encode_as(header_type, &command, Vec::new(), &mut out).unwrap();
        let mut bytes = bytes_of(&mut out);
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let _ = decode(&mut bytes, &Limits::default());
    }

    #[test]
    fn the_scanner_agrees_with_a_json_library(
        header in r#"\{("code":-?[0-9]{1,5}|"remark":("[a\\"nu0-9d]{0,8}"|null)|"extFields":\{("a\\u0041":(true|-?[0-9]{1,3}|"[ \\nu0e]{0,7}"|null|\{\}))?\})?(, ?"x":[0-9.eE+-]{1,5})?\} ?"#
    ) {
        if let Some((code, remark, ext)) = decode_by_serde(&header) {
            let command = decode_json(&header).unwrap();
            prop_assert_eq!(i64::from(command.code), code);
            prop_assert_eq!(command.remark.as_deref(), remark.as_deref());
            prop_assert_eq!(command.ext, ext.into_iter().collect());
        }
    }

    #[test]
    fn what_we_write_a_json_library_reads(command in any_command()) {
        let mut out = Outgoing::default();
        encode(&command, Vec::new(), &mut out).unwrap();
        let bytes = bytes_of(&mut out);
        let header = std::str::from_utf8(&bytes[PREFIX_SIZE..bytes.len() - command.body.len()]).unwrap();
        let (code, remark, ext) = decode_by_serde(header).unwrap();
        prop_assert_eq!(i64::from(command.code), code);
        prop_assert_eq!(command.remark.as_deref(), remark.as_deref());
        prop_assert_eq!(&command.ext, &ext.into_iter().collect());
    }
}
