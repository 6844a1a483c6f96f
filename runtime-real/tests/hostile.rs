//! Hostile neighbours: mutated frames, a flood, and a peer that never reads. The broker lives, does not grow, and serves others.
//!
//! `ORRERY_HOSTILE_FRAMES` sets how many mutated frames are sent: 20,000 by default, a million in the gate.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{Up, Wire, encoded, send};
use flate2::read::GzDecoder;
use orrery_core::protocol::Command;
use orrery_core::protocol::code::{request, response};

const TOPIC: &str = "Neighbours";
const ATTACKER_COUNT: u64 = 4;
/// Anonymous memory that the storm may add: buffers and tables for names that mutation invented.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// Deterministic randomness: the same storm every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Frames of real clients, without those whose very purpose is to change the broker for everyone.
fn frames() -> Vec<Vec<u8>> {
    let packed = include_bytes!("../../core/tests/vectors/wire/frames.jsonl.gz");
    let lines = BufReader::new(GzDecoder::new(&packed[..])).lines();
    let frames = lines.map(|line| {
        let line: serde_json::Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        let hex = line["hex"].as_str().expect("hex").as_bytes();
        let pairs = hex.chunks(2).map(|pair| std::str::from_utf8(pair).expect("hex"));
        pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
    });
    frames.filter(|frame: &Vec<u8>| frame.len() < 8192).collect()
}

fn mutated(frame: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0..=3 => bytes[at] = random.next() as u8,
            4 => bytes[at] ^= 1 << random.below(8),
            5 => bytes.truncate(at.max(8)),
            6 => {
                let piece = bytes[at..(at + random.below(64)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                // A number where there was another.
                let huge = [&b"2147483647"[..], b"-1", b"9223372036854775807", b"1e9", b"\\u0000"][random.below(5)];
                bytes.splice(at..at, huge.iter().copied());
            }
        }
    }
    // Most frames say their true length, so that what is inside gets looked at.
    if random.below(10) > 0 && bytes.len() >= 8 {
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
    }
    bytes
}

/// Sends `count` mutated frames, on a new connection whenever the broker has had enough of one.
fn storm(broker: SocketAddr, count: u64, seed: u64, frames: &[Vec<u8>]) {
    let mut random = Random(seed);
    let mut left = count;
    while left > 0 {
        let mut stream = TcpStream::connect(broker).expect("the broker accepts");
        let mut reading = stream.try_clone().expect("a socket");
        let reader = thread::spawn(move || {
            let mut bytes = vec![0; 64 * 1024];
            while reading.read(&mut bytes).is_ok_and(|count| count > 0) {}
        });
        while left > 0 {
            let batch: Vec<u8> = (0..16.min(left))
                .flat_map(|_| mutated(&frames[random.below(frames.len())], &mut random))
                .collect();
            left = left.saturating_sub(16);
            if stream.write_all(&batch).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(std::net::Shutdown::Both);
        reader.join().expect("no panic");
    }
}

/// A client that sends one message at a time and remembers how long each took.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Neighbour {
    fn start(broker: SocketAddr) -> Neighbour {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut wire = Wire::connect(broker);
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let started = Instant::now();
                let reply = wire.call(send(TOPIC, 0, &[b'x'; 1024]));
                times.push(started.elapsed());
                assert_eq!(reply.code, response::SUCCESS, "{}", reply.remark_text());
            }
            times
        });
        Neighbour { stop, thread }
    }

    /// The 99th percentile of what it saw.
    fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().expect("the neighbour is unharmed");
        times.sort();
        times[times.len() * 99 / 100]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    All,
    Nothing,
}

fn up_with_topic(dir: &std::path::Path) -> Up {
    let up = Up::start(dir);
    let mut wire = Wire::connect(up.broker);
    let created = wire.call(
        Command::request(request::UPDATE_AND_CREATE_TOPIC)
            .with("topic", TOPIC)
            .with("defaultTopic", "TBW102")
            .with("readQueueNums", "4")
            .with("writeQueueNums", "4")
            .with("perm", "6")
            .with("topicFilterType", "SINGLE_TAG")
            .with("topicSysFlag", "0")
            .with("order", "false"),
    );
    assert_eq!(created.code, response::SUCCESS, "{}", created.remark_text());
    up
}

#[test]
fn mutated_frames_harm_nobody() {
    let count: u64 = std::env::var("ORRERY_HOSTILE_FRAMES").map_or(20_000, |count| count.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut up = up_with_topic(dir.path());
    let frames = Arc::new(frames());
    storm(up.broker, 2_000, 1, &frames);
    let before = up.anonymous_bytes();
    let neighbour = Neighbour::start(up.broker);
    let attackers: Vec<_> = (0..ATTACKER_COUNT)
        .map(|index| {
            let (broker, frames) = (up.broker, Arc::clone(&frames));
            thread::spawn(move || storm(broker, count / ATTACKER_COUNT, 2 + index, &frames))
        })
        .collect();
    for attacker in attackers {
        attacker.join().expect("attackers end");
    }
    let p99 = neighbour.stop();
    assert!(up.is_alive(), "{}", up.errors());
    assert!(!up.errors().contains("panicked"), "{}", up.errors());
    let after = up.anonymous_bytes();
    println!("{count} mutated frames; neighbour's p99 {p99:?}; memory {before} -> {after} bytes");
    assert!(after < before + GROWTH_BYTES_MAX, "{before} -> {after} bytes");
    assert_eq!(
        Wire::connect(up.broker).call(send(TOPIC, 1, b"after")).code,
        response::SUCCESS
    );
}

#[test]
fn a_flood_and_a_peer_that_never_reads_slow_nobody_much() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let up = up_with_topic(dir.path());
    let calm = {
        let neighbour = Neighbour::start(up.broker);
        thread::sleep(Duration::from_secs(2));
        neighbour.stop()
    };
    let before = up.anonymous_bytes();
    let stop = Arc::new(AtomicBool::new(false));
    let flood = encoded(&send(TOPIC, 1, &[b'y'; 1024])).repeat(64);
    let hostile: Vec<_> = [Reading::All, Reading::Nothing]
        .map(|reading| {
            let (stop, flood, broker) = (Arc::clone(&stop), flood.clone(), up.broker);
            thread::spawn(move || {
                let mut stream = TcpStream::connect(broker).expect("the broker accepts");
                stream
                    .set_write_timeout(Some(Duration::from_millis(100)))
                    .expect("a socket");
                let mut replies = stream.try_clone().expect("a socket");
                let reader = (reading == Reading::All).then(|| {
                    thread::spawn(move || {
                        let mut bytes = vec![0; 256 * 1024];
                        while replies.read(&mut bytes).is_ok_and(|count| count > 0) {}
                    })
                });
                // A write that times out goes on where it stopped, so that the frames stay whole.
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    at = (at + stream.write(&flood[at..]).unwrap_or(0)) % flood.len();
                }
                let _ = stream.shutdown(std::net::Shutdown::Both);
                if let Some(reader) = reader {
                    reader.join().expect("no panic");
                }
            })
        })
        .into();
    let neighbour = Neighbour::start(up.broker);
    thread::sleep(Duration::from_secs(4));
    let besieged = neighbour.stop();
    let after = up.anonymous_bytes();
    stop.store(true, Ordering::Relaxed);
    for hostile in hostile {
        hostile.join().expect("no panic");
    }
    println!("neighbour's p99: {calm:?} alone, {besieged:?} besieged; memory {before} -> {after} bytes");
    assert!(after < before + GROWTH_BYTES_MAX, "{before} -> {after} bytes");
    // The bound is 5x on a quiet machine; tests share theirs with other tests.
    assert!(
        besieged < calm * 5 + Duration::from_millis(5),
        "{calm:?} alone, {besieged:?} besieged"
    );
}
