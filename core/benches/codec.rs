//! What the codec costs for a send of 1 KiB, next to its physical limit: moving its bytes once.
//!
//! `cargo bench -p orrery-core --bench codec`. Decoding copies no body, so its limit is passing over the headers once; encoding has to
//! write each byte of the frame once. The rest is parsing and writing headers of some 400 bytes.

mod beside;

use std::hint::black_box;

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{Criterion, criterion_group, criterion_main};
use orrery_core::protocol::frame::{self, HeaderType, Limits, Outgoing};
use orrery_core::protocol::header::{SendHeader, SendResponseHeader};
use orrery_core::protocol::message::{Draft, Placement};
use orrery_core::protocol::send_reply::SendReply;
use orrery_core::protocol::{Command, Text, code};

use beside::Beside;

/// Frames per iteration: what a busy connection finds in a turn.
const TURN_COUNT: usize = 64;

fn send_header() -> SendHeader<'static> {
    SendHeader {
        producer_group: "BenchmarkProducerGroup",
        topic: "BenchmarkTopic",
        default_topic: "TBW102",
        default_topic_queue_count: 4,
        queue_id: 3,
        sys_flag: 0,
        born_timestamp: 1_795_331_206_489,
        flag: 0,
        properties: "KEYS\u{1}order-4711\u{2}UNIQ_KEY\u{1}7F0000010BB818B4AAC26CE9D5F80000\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}",
        reconsume_times: 0,
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: Some("broker-a"),
    }
}

fn send(opaque: i32) -> Command {
    let mut command = Command::request(code::request::SEND_MESSAGE_V2).with_body(vec![b'x'; 1024]);
    command.opaque = opaque;
    send_header().write(&mut command.ext);
    command
}

fn turn(header_type: HeaderType) -> BytesMut {
    let mut out = Outgoing::default();
    for opaque in 0..TURN_COUNT {
        frame::encode_as(header_type, &send(opaque as i32), Vec::new(), &mut out).unwrap();
    }
    out.take().drain(..).fold(BytesMut::new(), |mut all, chunk| {
        all.put_slice(&chunk);
        all
    })
}

fn decode(criterion: &mut Criterion) {
    let mut group = Beside::new(criterion, "decode 64 sends of 1 KiB", TURN_COUNT as u64);
    let limits = Limits::default();
    for (name, header_type) in [("json", HeaderType::Json), ("binary", HeaderType::Binary)] {
        let bytes = turn(header_type);
        let header_bytes = bytes.len() - TURN_COUNT * 1024;
        let limit = group.measure(&format!("{name}: limit, copy of the headers"), || {
            let mut copy = Vec::with_capacity(header_bytes);
            copy.extend_from_slice(black_box(&bytes[..header_bytes]));
            copy
        });
        let bare = group.measure(&format!("{name}: copy of the turn, which the next two contain"), || {
            bytes.clone()
        });
        let frames = group.measure(&format!("{name}: frame"), || {
            let mut buffer = bytes.clone();
            while let Some(command) = frame::decode(&mut buffer, &limits).unwrap() {
                black_box(&command);
            }
        });
        let headers = group.measure(&format!("{name}: frame and send header"), || {
            let mut buffer = bytes.clone();
            while let Some(command) = frame::decode(&mut buffer, &limits).unwrap() {
                black_box(SendHeader::read(&command.ext).unwrap());
            }
        });
        group.ratio(
            &format!("{name}: frame"),
            frames.above(bare),
            "a copy of the headers",
            limit,
        );
        let what = format!("{name}: frame and send header");
        group.ratio(&what, headers.above(bare), "a copy of the headers", limit);
    }
    group.end();
}

fn encode(criterion: &mut Criterion) {
    let mut group = Beside::new(criterion, "encode 64", TURN_COUNT as u64);
    let header = send_header();
    let body = Bytes::from(vec![b'x'; 1024]);
    let mut out = Outgoing::default();
    let sends = group.measure("sends of 1 KiB", || {
        for opaque in 0..TURN_COUNT {
            let mut command = Command::request(code::request::SEND_MESSAGE_V2).with_body(body.clone());
            command.opaque = opaque as i32;
            header.write(&mut command.ext);
            frame::encode(&command, Vec::new(), &mut out).unwrap();
        }
        black_box(out.take()).clear();
    });
    let replies = |out: &mut Outgoing| {
        for opaque in 0..TURN_COUNT {
            let mut reply = Command::reply_to(opaque as i32, code::response::SUCCESS);
            SendResponseHeader {
                message_id: Text::from_static("7F00000100002A9F00000000000A3B7C"),
                queue_id: 3,
                queue_offset: 123_456,
                transaction_id: Some(Text::from_static("7F0000010BB818B4AAC26CE9D5F80000")),
                batch_unique_id: None,
                recall_handle: None,
                region: Text::from_static("DefaultRegion"),
                trace_on: true,
            }
            .write(&mut reply.ext);
            frame::encode(&reply, Vec::new(), out).unwrap();
        }
    };
    replies(&mut out);
    let reply_bytes: Vec<u8> = out.take().iter().flatten().copied().collect();
    let answers = group.measure("replies to sends, as commands", || {
        replies(&mut out);
        black_box(out.take()).clear();
    });
    let places = [Placement {
        queue_offset: 123_456,
        physical_offset: 670_588,
        ..Placement::default()
    }];
    let straight = group.measure("replies to sends, written straight", || {
        for opaque in 0..TURN_COUNT {
            let reply = SendReply {
                opaque: opaque as i32,
                code: code::response::SUCCESS,
                store_host: Draft::new("", 0, b"").store_host,
                places: &places,
                queue_id: 3,
                queue_offset: 123_456,
                transaction_id: Some("7F0000010BB818B4AAC26CE9D5F80000"),
            };
            reply.encode(&mut out).unwrap();
        }
        black_box(out.take()).clear();
    });
    let copy_of = |bytes: &[u8]| {
        let mut copy = Vec::with_capacity(bytes.len());
        copy.extend_from_slice(black_box(bytes));
        copy
    };
    let frames = turn(HeaderType::Json);
    let send_limit = group.measure("limit: copy of the sends", || copy_of(&frames));
    let reply_limit = group.measure("limit: copy of the replies", || copy_of(&reply_bytes));
    group.ratio("encode 64 sends", sends, "a copy of their bytes", send_limit);
    group.ratio(
        "encode 64 replies, as commands",
        answers,
        "a copy of their bytes",
        reply_limit,
    );
    group.ratio(
        "encode 64 replies, written straight",
        straight,
        "a copy of their bytes",
        reply_limit,
    );
    group.end();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
