//! Hostile input against running servers: frames of real clients, mutated, at a name server and a broker in processes of their own.
//!
//! Nothing may panic, memory may not grow, and another client may not notice: every send of it is acknowledged, and its p99 stays
//! below five times that of quiet times (or below [`P99_FLOOR`], where the machine and not the server is measured), also beside
//! a connection that floods and one that never reads. `ORRERY_HOSTILE_FRAMES` sets the number of frames, `ORRERY_BINARY` the binary:
//! a million take seconds with a release build.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use flate2::read::GzDecoder;
use orrery_core::protocol::body::{Body, SubscriptionGroupConfig};
use orrery_core::protocol::code::request;
use orrery_core::protocol::frame::{self, HeaderType, Outgoing};
use orrery_core::protocol::header::{PullFlag, PullHeader, SendHeader};
use orrery_core::protocol::{Command, Text};
use orrery_core::remoting::{Connections, Inbound, Peer};
use orrery_runtime_real::Real;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Frames in a run of the test suite: seconds with a debug build.
const FRAME_COUNT: u64 = 40_000;
/// Frames of one connection, after which the next is opened: pulls parked by it go with it.
const CONNECTION_FRAME_COUNT: usize = 2_000;
const CONNECTION_COUNT: u64 = 4;
/// Bytes by which a server's own memory may grow after the first fifth of the frames.
const GROWTH_MAX: u64 = 64 << 20;
/// Below this a p99 says nothing about the server: two cores run servers, attackers and the measuring client.
const P99_FLOOR: Duration = Duration::from_millis(50);
const TOPIC: &str = "TopicOfTheInnocent";

fn orrery() -> PathBuf {
    std::env::var_os("ORRERY_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_orrery").into(), PathBuf::from)
}

/// A server process: its address, and what it writes to stderr.
struct Server {
    process: Child,
    address: SocketAddr,
    stderr: Arc<Mutex<String>>,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let mut process = Process::new(orrery())
            .args(arguments)
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the orrery binary starts");
        let mut errors = process.stderr.take().expect("piped");
        let stderr = Arc::new(Mutex::new(String::new()));
        let collected = Arc::clone(&stderr);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(size @ 1..) = errors.read(&mut chunk) {
                let text = String::from_utf8_lossy(&chunk[..size]).into_owned();
                collected.lock().unwrap().push_str(&text);
            }
        });
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().expect("piped"));
        stdout.read_line(&mut line).expect("a line of output");
        let address = line.split([' ', ',', '\n']).find_map(|word| word.parse().ok());
        let address: SocketAddr = address.unwrap_or_else(|| panic!("{line:?} {}", stderr.lock().unwrap()));
        Server {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], address.port())),
            stderr,
        }
    }

    /// Bytes of memory that are the process's own, files that it maps left out.
    fn own_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).expect("the process is alive");
        let line = status.lines().find(|line| line.starts_with("RssAnon:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kibibytes.expect("RssAnon in kB") << 10
    }

    fn assert_unharmed(&mut self, memory_before: u64) {
        assert!(self.process.try_wait().unwrap().is_none(), "the server has ended");
        let stderr = self.stderr.lock().unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        let growth = self.own_memory().saturating_sub(memory_before);
        println!(
            "{}: {} KiB own memory, grown by {} KiB",
            self.address,
            self.own_memory() >> 10,
            growth >> 10
        );
        assert!(growth < GROWTH_MAX, "grown by {growth} bytes");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// SplitMix64: a mutation is a function of its number.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Requests of real clients by code, so that rare ones come as often as common ones.
struct Corpus(Vec<Vec<Bytes>>);

impl Corpus {
    fn read() -> Corpus {
        let packed: &[u8] = include_bytes!("../../core/tests/vectors/wire/frames.jsonl.gz");
        let mut by_code: BTreeMap<i32, Vec<Bytes>> = BTreeMap::new();
        for line in BufReader::new(GzDecoder::new(packed)).lines() {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            let hex = line["hex"].as_str().unwrap().as_bytes();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            let bytes: Bytes = hex.chunks(2).map(byte).collect();
            if line["flag"].as_i64().unwrap() & 1 == 0 {
                let code = line["code"].as_i64().unwrap() as i32;
                by_code.entry(code).or_default().push(bytes);
            }
        }
        Corpus(by_code.into_values().collect())
    }

    /// A mutated frame, and whether it is broken as a frame, so that the server will hang up.
    fn mutated(&self, draw: &mut Draw) -> (Vec<u8>, bool) {
        let frames = draw.pick(&self.0);
        let mut frame = draw.pick(frames).to_vec();
        match draw.below(1000) {
            // The length word, the header word, or noise in place of a frame.
            0 => {
                let place = draw.below(8);
                frame[place] ^= 1 << draw.below(8);
                (frame, true)
            }
            1 => {
                frame.iter_mut().for_each(|byte| *byte = draw.next() as u8);
                (frame, true)
            }
            // Bytes of the body.
            2..300 => {
                let header_size = u32::from_be_bytes([0, frame[5], frame[6], frame[7]]) as usize;
                let body = &mut frame[8 + header_size..];
                for _ in 0..1 + draw.below(8) {
                    if !body.is_empty() {
                        let place = draw.below(body.len());
                        body[place] = draw.next() as u8;
                    }
                }
                (frame, false)
            }
            // Values of the header.
            _ => (self.with_odd_fields(&frame, draw), false),
        }
    }

    fn with_odd_fields(&self, frame: &[u8], draw: &mut Draw) -> Vec<u8> {
        const ODD: [&str; 16] = [
            "",
            "-1",
            "0",
            "1",
            "-2147483648",
            "2147483647",
            "-9223372036854775808",
            "9223372036854775807",
            "1e9",
            "NaN",
            "null",
            "true",
            "\u{0}\u{1}\u{2}",
            "%RETRY%",
            "../../etc",
            "99999999999999999999999999",
        ];
        let mut bytes = BytesMut::from(frame);
        let Ok(Some(mut command)) = frame::decode(&mut bytes, &frame::Limits::default()) else {
            return frame.to_vec();
        };
        let fields: Vec<(String, String)> = command
            .ext
            .iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        for _ in 0..1 + draw.below(3) {
            match draw.below(8) {
                0 if !fields.is_empty() => command.ext.remove(&draw.pick(&fields).0),
                1 => command.ext.push(&"k".repeat(1 + draw.below(300)), "v"),
                2 if !fields.is_empty() => command.ext.push(&draw.pick(&fields).0, &"x".repeat(draw.below(40_000))),
                3 => command.code = draw.pick(request::ALL).0,
                4 => command.version = draw.next() as i32,
                5 => command.flag = draw.below(8) as i32,
                6 => command.body = command.body.slice(..draw.below(command.body.len() + 1)),
                _ if !fields.is_empty() => {
                    let key = &draw.pick(&fields).0;
                    // Names stay among the known ones: a new topic or group is growth that was asked for.
                    let is_name = ["topic", "b", "c", "group", "a", "name"]
                        .iter()
                        .any(|name| key.to_lowercase().ends_with(name));
                    let odd = draw.below(ODD.len());
                    command.ext.push(key, ODD[if is_name { 0 } else { odd }]);
                }
                _ => {}
            }
        }
        let header_type = if draw.below(2) == 0 {
            HeaderType::Json
        } else {
            HeaderType::Binary
        };
        let mut out = Outgoing::default();
        if frame::encode_as(header_type, &command, Vec::new(), &mut out).is_err() {
            return frame.to_vec();
        }
        out.take().drain(..).flatten().collect()
    }
}

/// Sends `count` mutated frames to `address`, over as many connections as it takes, reading whatever comes back.
async fn attack(address: SocketAddr, corpus: Arc<Corpus>, seed: u64, count: u64, sent: Arc<AtomicU64>) {
    let mut draw = Draw(seed);
    let mut left = count;
    while left > 0 {
        let Ok(stream) = TcpStream::connect(address).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (mut reader, mut writer) = stream.into_split();
        let reading = tokio::spawn(async move {
            let mut sink = vec![0; 64 << 10];
            while reader.read(&mut sink).await.is_ok_and(|size| size > 0) {}
        });
        let mut of_connection = 0;
        let mut broken = false;
        while left > 0 && !broken && of_connection < CONNECTION_FRAME_COUNT {
            let mut batch = Vec::new();
            while left > 0 && !broken && batch.len() < 32 << 10 {
                let (frame, breaks) = corpus.mutated(&mut draw);
                batch.extend_from_slice(&frame);
                broken = breaks;
                left -= 1;
                of_connection += 1;
            }
            // Parked pulls may use up what the server owes us: it stops reading, and we go on with another connection.
            let written = tokio::time::timeout(Duration::from_secs(2), writer.write_all(&batch)).await;
            broken |= !matches!(written, Ok(Ok(())));
        }
        sent.fetch_add(of_connection as u64, Ordering::Relaxed);
        drop(writer);
        // What was written is served before the end of stream is noticed.
        let _ = tokio::time::timeout(Duration::from_millis(50), reading).await;
    }
}

struct Nothing;

impl Inbound for Nothing {
    fn request(&self, _: &str, _: &Peer, _: Command) {}
}

/// A client with a topic of its own.
struct Innocent {
    client: Connections<Real>,
    address: String,
}

impl Innocent {
    fn new(broker: SocketAddr) -> Innocent {
        let runtime = Real::on(tokio::runtime::Handle::current());
        Innocent {
            client: Connections::new(runtime, Arc::new(Nothing)),
            address: broker.to_string(),
        }
    }

    async fn call(&self, command: Command) -> Command {
        let reply = self.client.call(&self.address, command, Duration::from_secs(10)).await;
        reply.expect("a reply within ten seconds")
    }

    async fn create_topic_and_group(&self) {
        let create = Command::request(request::UPDATE_AND_CREATE_TOPIC)
            .with("topic", TOPIC)
            .with("defaultTopic", "TBW102")
            .with("readQueueNums", "1")
            .with("writeQueueNums", "1")
            .with("perm", "6")
            .with("topicFilterType", "SINGLE_TAG");
        let reply = self.call(create).await;
        assert!(reply.is_success(), "{reply:?}");
        let group = SubscriptionGroupConfig::new("Innocent").write();
        let create = Command::request(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP).with_body(group);
        let reply = self.call(create).await;
        assert!(reply.is_success(), "{reply:?}");
    }

    async fn send(&self, number: u64) {
        let header = SendHeader {
            producer_group: "Innocent",
            topic: TOPIC,
            default_topic: "TBW102",
            default_topic_queue_count: 1,
            queue_id: 0,
            sys_flag: 0,
            born_timestamp: 0,
            flag: 0,
            properties: "",
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
            broker_name: None,
        };
        let mut send = Command::request(request::SEND_MESSAGE_V2).with_body(number.to_string().repeat(100));
        header.write(&mut send.ext);
        let reply = self.call(send).await;
        assert!(reply.is_success(), "{reply:?}");
        assert_eq!(reply.ext.get("queueOffset"), Some(number.to_string().as_str()));
    }

    /// Sends for `duration` or until `done`; latencies, ascending.
    async fn send_for(&self, next: &mut u64, duration: Duration, done: &AtomicBool) -> Vec<Duration> {
        let start = Instant::now();
        let mut latencies = Vec::new();
        while start.elapsed() < duration && !done.load(Ordering::Relaxed) {
            let sent = Instant::now();
            self.send(*next).await;
            latencies.push(sent.elapsed());
            *next += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        latencies.sort_unstable();
        latencies
    }

    /// Every message is there, in order.
    async fn read_back(&self, count: u64) {
        let mut offset = 0;
        while offset < count as i64 {
            let header = PullHeader {
                consumer_group: Text::from_static("Innocent"),
                topic: Text::from_static(TOPIC),
                queue_id: 0,
                queue_offset: offset,
                message_count_max: 32,
                sys_flag: PullFlag::SUBSCRIPTION,
                commit_offset: 0,
                suspend_timeout_ms: 0,
                subscription: Some(Text::from_static("*")),
                subscription_version: 0,
                expression_type: None,
                message_bytes_max: None,
                request_source: None,
                proxy_forward_client_id: None,
                broker_name: None,
            };
            let mut pull = Command::request(request::PULL_MESSAGE);
            header.write(&mut pull.ext);
            let reply = self.call(pull).await;
            assert!(reply.is_success(), "at {offset}: {reply:?}");
            let mut body = &reply.body[..];
            while !body.is_empty() {
                let size = u32::from_be_bytes(body[..4].try_into().unwrap()) as usize;
                let queue_offset = i64::from_be_bytes(body[20..28].try_into().unwrap());
                assert_eq!(queue_offset, offset);
                let text = offset.to_string().repeat(100);
                assert!(body[..size].windows(text.len()).any(|part| part == text.as_bytes()));
                body = &body[size..];
                offset += 1;
            }
        }
    }
}

fn p99(latencies: &[Duration]) -> Duration {
    latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default()
}

fn assert_undisturbed(what: &str, quiet: &[Duration], disturbed: &[Duration]) {
    let (before, after) = (p99(quiet), p99(disturbed));
    let ratio = after.as_secs_f64() / before.as_secs_f64();
    println!(
        "p99 {before:?} quiet, {after:?} beside {what} ({ratio:.1}x, {} sends)",
        disturbed.len()
    );
    assert!(
        ratio < 5.0 || after < P99_FLOOR,
        "p99 {before:?} became {after:?} beside {what}"
    );
}

fn start_servers(dir: &Path) -> (Server, Server) {
    let name_server = Server::start(&["namesrv", "--listen", "127.0.0.1:0"]);
    let config = dir.join("broker.conf");
    let text = format!(
        "listenPort=0\nbindAddress=127.0.0.1\nbrokerIP1=127.0.0.1\nstorePathRootDir={}\nmappedFileSizeCommitLog=67108864\n\
         autoCreateTopicEnable=false\nautoCreateSubscriptionGroup=false\n",
        dir.join("store").display()
    );
    std::fs::write(&config, text).unwrap();
    let namesrv = name_server.address.to_string();
    let broker = Server::start(&["broker", "-c", config.to_str().unwrap(), "-n", &namesrv]);
    (name_server, broker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_survive_mutated_frames_and_other_clients_do_not_notice() {
    let frame_count = std::env::var("ORRERY_HOSTILE_FRAMES").map_or(FRAME_COUNT, |count| count.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let (mut name_server, mut broker) = start_servers(dir.path());
    let innocent = Innocent::new(broker.address);
    innocent.create_topic_and_group().await;
    let mut next = 0;
    let never = AtomicBool::new(false);
    innocent.send_for(&mut next, Duration::from_millis(500), &never).await;
    let quiet = innocent.send_for(&mut next, Duration::from_secs(2), &never).await;

    let corpus = Arc::new(Corpus::read());
    let sent = Arc::new(AtomicU64::new(0));
    let mut memory = (0, 0);
    let start = Instant::now();
    // A fifth to fill pools and caches, then the rest.
    for (round, share) in [(0, frame_count / 5), (1, frame_count - frame_count / 5)] {
        let attacks = (0..CONNECTION_COUNT).map(|index| {
            let target = if index == 0 {
                name_server.address
            } else {
                broker.address
            };
            let seed = 1 + round * CONNECTION_COUNT + index;
            tokio::spawn(attack(
                target,
                Arc::clone(&corpus),
                seed,
                share / CONNECTION_COUNT,
                Arc::clone(&sent),
            ))
        });
        let attacks: Vec<_> = attacks.collect();
        let done = AtomicBool::new(false);
        let sending = innocent.send_for(&mut next, Duration::from_secs(3600), &done);
        let waiting = async {
            for attack in attacks {
                attack.await.unwrap();
            }
            done.store(true, Ordering::Relaxed);
        };
        let (disturbed, ()) = futures_util::join!(sending, waiting);
        if round == 0 {
            memory = (name_server.own_memory(), broker.own_memory());
        } else {
            assert_undisturbed("mutated frames", &quiet, &disturbed);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let sent = sent.load(Ordering::Relaxed);
    println!("{sent} mutated frames in {seconds:.1} s");
    assert!(sent + 2 * CONNECTION_COUNT >= frame_count);
    name_server.assert_unharmed(memory.0);
    broker.assert_unharmed(memory.1);
    innocent.read_back(next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_and_a_peer_that_never_reads_disturb_no_other_client() {
    let dir = tempfile::tempdir().unwrap();
    let (_name_server, mut broker) = start_servers(dir.path());
    let innocent = Innocent::new(broker.address);
    innocent.create_topic_and_group().await;
    let mut next = 0;
    let never = AtomicBool::new(false);
    innocent.send_for(&mut next, Duration::from_millis(500), &never).await;
    let quiet = innocent.send_for(&mut next, Duration::from_secs(2), &never).await;
    let memory = broker.own_memory();

    let request = |code| {
        let mut out = Outgoing::default();
        frame::encode(&Command::request(code), Vec::new(), &mut out).unwrap();
        let frame: Vec<u8> = out.take().drain(..).flatten().collect();
        frame.repeat(100)
    };
    let config = request(request::GET_BROKER_RUNTIME_INFO);
    let mut deaf = TcpStream::connect(broker.address).await.unwrap();
    let deaf = tokio::spawn(async move { while deaf.write_all(&config).await.is_ok() {} });
    let disturbed = innocent.send_for(&mut next, Duration::from_secs(2), &never).await;
    assert_undisturbed("a peer that never reads", &quiet, &disturbed);

    let (mut reader, mut writer) = TcpStream::connect(broker.address).await.unwrap().into_split();
    let flooding = request(request::GET_BROKER_CONFIG);
    let flood = tokio::spawn(async move { while writer.write_all(&flooding).await.is_ok() {} });
    let answers = tokio::spawn(async move {
        let mut sink = vec![0; 1 << 20];
        while reader.read(&mut sink).await.is_ok_and(|size| size > 0) {}
    });
    let disturbed = innocent.send_for(&mut next, Duration::from_secs(2), &never).await;
    assert_undisturbed("a flood", &quiet, &disturbed);
    broker.assert_unharmed(memory);
    for task in [deaf, flood, answers] {
        task.abort();
    }
    innocent.read_back(next).await;
}
