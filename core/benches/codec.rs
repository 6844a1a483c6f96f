//! What the codec costs for a send of 1 KiB, next to its physical limit: moving its bytes once.
//!
//! `cargo bench -p orrery-core --bench codec`. The limit of decoding is zero copies, of encoding one copy of the frame
//! (`memcpy` below); the rest is parsing and writing a header of some 400 bytes.

use std::hint::black_box;

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use orrery_core::protocol::frame::{self, HeaderType, Limits, Outgoing};
use orrery_core::protocol::header::{SendHeader, SendResponseHeader};
use orrery_core::protocol::message::{Draft, Placement};
use orrery_core::protocol::send_reply::SendReply;
use orrery_core::protocol::{Command, Text, code};

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
    let mut group = criterion.benchmark_group("decode 64 sends of 1 KiB");
    group.throughput(Throughput::Elements(TURN_COUNT as u64));
    let limits = Limits::default();
    for (name, header_type) in [("json", HeaderType::Json), ("binary", HeaderType::Binary)] {
        let bytes = turn(header_type);
        group.bench_function(format!("{name}: frame"), |bencher| {
            let decode = |buffer: &mut BytesMut| {
                while let Some(command) = frame::decode(buffer, &limits).unwrap() {
                    black_box(&command);
                }
            };
            bencher.iter_batched_ref(|| bytes.clone(), decode, BatchSize::SmallInput);
        });
        group.bench_function(format!("{name}: frame and send header"), |bencher| {
            let decode = |buffer: &mut BytesMut| {
                while let Some(command) = frame::decode(buffer, &limits).unwrap() {
                    black_box(SendHeader::read(&command.ext).unwrap());
                }
            };
            bencher.iter_batched_ref(|| bytes.clone(), decode, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode 64");
    group.throughput(Throughput::Elements(TURN_COUNT as u64));
    let header = send_header();
    let body = Bytes::from(vec![b'x'; 1024]);
    let mut out = Outgoing::default();
    group.bench_function("sends of 1 KiB", |bencher| {
        bencher.iter(|| {
            for opaque in 0..TURN_COUNT {
                let mut command = Command::request(code::request::SEND_MESSAGE_V2).with_body(body.clone());
                command.opaque = opaque as i32;
                header.write(&mut command.ext);
                frame::encode(&command, Vec::new(), &mut out).unwrap();
            }
            black_box(out.take()).clear();
        });
    });
    let places = [Placement {
        queue_offset: 123_456,
        physical_offset: 670_588,
        ..Placement::default()
    }];
    group.bench_function("replies to sends, written straight", |bencher| {
        bencher.iter(|| {
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
    });
    group.bench_function("replies to sends, as commands", |bencher| {
        bencher.iter(|| {
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
                frame::encode(&reply, Vec::new(), &mut out).unwrap();
            }
            black_box(out.take()).clear();
        });
    });
    let bytes = turn(HeaderType::Json);
    let mut copy = Vec::with_capacity(bytes.len());
    group.bench_function("the limit: memcpy of the frames", |bencher| {
        bencher.iter(|| {
            copy.clear();
            copy.extend_from_slice(black_box(&bytes));
            black_box(&copy);
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
