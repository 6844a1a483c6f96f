//! Remoting over real sockets: servers and clients against each other and against bytes no client sends.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use orrery_core::protocol::frame::{self, HeaderType, Outgoing};
use orrery_core::protocol::{Command, Language};
use orrery_core::remoting::{CallError, Connections, Inbound, Limits, Peer, Replies, Responder, Server, Service};
use orrery_core::runtime::Runtime;
use orrery_runtime_real::Real;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SECOND: Duration = Duration::from_secs(1);

/// Echoes the body.
const ECHO: i32 = 1;
/// Answers with as many bytes as the field `size` says, as one shared slice.
const LARGE: i32 = 2;
/// Is answered when [`RELEASE`] comes.
const HOLD: i32 = 3;
const RELEASE: i32 = 4;
/// Asks the client back and answers with what it says.
const ASK_BACK: i32 = 5;
const PANIC: i32 = 6;
const SILENT: i32 = 7;

#[derive(Default)]
struct Echo {
    opened: AtomicUsize,
    closed: AtomicUsize,
    served: AtomicU64,
    together_max: AtomicUsize,
    held: Mutex<Vec<(Responder, Bytes)>>,
    runtime: Mutex<Option<Real>>,
}

impl Service for Echo {
    fn opened(&self, _: &Peer) {
        self.opened.fetch_add(1, Ordering::SeqCst);
    }

    fn closed(&self, peer: &Peer) {
        assert!(!peer.is_open());
        self.closed.fetch_add(1, Ordering::SeqCst);
    }

    async fn serve(&self, peer: &Peer, commands: &mut Vec<Command>, replies: &mut Replies) {
        self.together_max.fetch_max(commands.len(), Ordering::SeqCst);
        for command in commands.drain(..) {
            self.served.fetch_add(1, Ordering::SeqCst);
            match command.code {
                LARGE => {
                    let size = command.ext.get("size").unwrap().parse().unwrap();
                    replies.push(Command::success(&command), vec![Bytes::from(vec![7; size])]);
                }
                HOLD => {
                    let held = (peer.answer_later(&command), command.body.clone());
                    self.held.lock().unwrap().push(held);
                }
                RELEASE => {
                    for (responder, body) in self.held.lock().unwrap().drain(..) {
                        responder.reply(Command::reply_to(0, 0).with_body(body), Vec::new());
                    }
                    replies.push(Command::success(&command), Vec::new());
                }
                ASK_BACK => {
                    let runtime = self.runtime.lock().unwrap().clone().unwrap();
                    let (peer, responder) = (peer.clone(), peer.answer_later(&command));
                    tokio::spawn(async move {
                        let answer = peer.call(&runtime, Command::request(307), SECOND).await;
                        let remark =
                            answer.map_or_else(|error| error.to_string(), |answer| answer.remark_text().to_owned());
                        responder.reply(Command::reply_to(0, 0).with_remark(remark), Vec::new());
                    });
                }
                PANIC => panic!("a handler that panics"),
                SILENT => {}
                _ => {
                    let body = command.body.clone();
                    replies.push(Command::success(&command).with_body(body), Vec::new());
                }
            }
        }
    }
}

/// Remembers what servers ask, answers two-way requests.
#[derive(Default)]
struct Asked {
    opaques: Mutex<Vec<i32>>,
}

impl Inbound for Asked {
    fn request(&self, _: &str, peer: &Peer, command: Command) {
        self.opaques.lock().unwrap().push(command.opaque);
        let answer = Command::success(&command).with_remark("the client");
        peer.answer_later(&command).reply(answer, Vec::new());
    }
}

struct World {
    runtime: Real,
    server: Server<Real>,
    service: Arc<Echo>,
    asked: Arc<Asked>,
    client: Connections<Real>,
    address: String,
}

async fn world(limits: Limits) -> World {
    let runtime = Real::on(tokio::runtime::Handle::current());
    let listener = runtime.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let service = Arc::new(Echo::default());
    *service.runtime.lock().unwrap() = Some(runtime.clone());
    let server = Server::start(runtime.clone(), listener, Arc::clone(&service), limits);
    let asked = Arc::new(Asked::default());
    let client = Connections::with(runtime.clone(), asked.clone(), limits, HeaderType::Json);
    World {
        address: server.address().to_string(),
        runtime,
        server,
        service,
        asked,
        client,
    }
}

impl World {
    async fn call(&self, command: Command) -> Result<Command, CallError> {
        self.client.call(&self.address, command, 5 * SECOND).await
    }

    fn another_client(&self) -> Connections<Real> {
        Connections::new(self.runtime.clone(), self.asked.clone())
    }

    async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.server.address()).await.unwrap()
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < 10 * SECOND, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn echo(body: impl Into<Bytes>) -> Command {
    Command::request(ECHO).with_body(body)
}

fn encoded(command: &Command) -> BytesMut {
    let mut out = Outgoing::default();
    frame::encode(command, Vec::new(), &mut out).unwrap();
    let mut bytes = BytesMut::new();
    out.take().drain(..).for_each(|chunk| bytes.put_slice(&chunk));
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_find_their_requests_on_one_connection() {
    let world = world(Limits::default()).await;
    let calls = (0..1000u32).map(|number| {
        let world = &world;
        async move {
            let body = Bytes::from(number.to_be_bytes().repeat(1 + number as usize % 3000));
            let reply = world.call(echo(body.clone())).await.unwrap();
            assert!(reply.is_reply());
            assert_eq!(reply.body, body);
        }
    });
    join_all(calls).await;
    assert_eq!(world.server.connection_count(), 1);
    assert!(world.service.together_max.load(Ordering::SeqCst) > 1);
    assert_eq!(world.client.late_reply_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirteen_and_a_thousand_connections_are_served_alike() {
    for count in [13, 1000] {
        let world = world(Limits::default()).await;
        let clients: Vec<_> = (0..count).map(|_| world.another_client()).collect();
        let calls = clients.iter().enumerate().map(|(number, client)| {
            let address = &world.address;
            async move {
                for round in 0..5 {
                    let body = format!("{number} {round}");
                    let reply = client.call(address, echo(body.clone()), 30 * SECOND).await.unwrap();
                    assert_eq!(reply.body, body);
                }
            }
        });
        join_all(calls).await;
        assert_eq!(world.server.connection_count(), count);
        assert_eq!(world.service.opened.load(Ordering::SeqCst), count);
        drop(clients);
        eventually("every connection is closed once", || {
            world.service.closed.load(Ordering::SeqCst) == count
        })
        .await;
        assert_eq!(world.server.connection_count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_answers_are_written_when_they_come() {
    let world = world(Limits::default()).await;
    let held = (0..100).map(|number| world.call(Command::request(HOLD).with_body(format!("held {number}"))));
    let release = async {
        eventually("all are held", || world.service.held.lock().unwrap().len() == 100).await;
        world.call(Command::request(RELEASE)).await.unwrap();
    };
    let (held, ()) = futures_util::join!(join_all(held), release);
    for (number, reply) in held.into_iter().enumerate() {
        assert_eq!(reply.unwrap().body, format!("held {number}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_asks_its_client_with_numbers_from_one() {
    let world = world(Limits::default()).await;
    for _ in 0..3 {
        let reply = world.call(Command::request(ASK_BACK)).await.unwrap();
        assert_eq!(reply.remark_text(), "the client");
    }
    assert_eq!(*world.asked.opaques.lock().unwrap(), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_way_request_is_served_and_never_answered() {
    let world = world(Limits::default()).await;
    let mut raw = world.raw().await;
    let mut one_way = Command::one_way(ECHO);
    one_way.opaque = 5;
    raw.write_all(&encoded(&one_way)).await.unwrap();
    let mut two_way = echo("x");
    two_way.opaque = 6;
    raw.write_all(&encoded(&two_way)).await.unwrap();
    let mut bytes = BytesMut::new();
    let reply = loop {
        raw.read_buf(&mut bytes).await.unwrap();
        if let Some(reply) = frame::decode(&mut bytes, &frame::Limits::default()).unwrap() {
            break reply;
        }
    };
    assert_eq!(reply.opaque, 6);
    assert_eq!(reply.language, Language::Java);
    world
        .client
        .one_way(&world.address, Command::request(ECHO))
        .await
        .unwrap();
    eventually("all three are served", || {
        world.service.served.load(Ordering::SeqCst) == 3
    })
    .await;
    world.call(echo("y")).await.unwrap();
    assert_eq!(world.client.late_reply_count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_in_both_directions() {
    let world = world(Limits::default()).await;
    let size = (16 << 20) - 1000;
    let reply = world
        .call(Command::request(LARGE).with("size", &size.to_string()))
        .await
        .unwrap();
    assert_eq!(reply.body.len(), size);
    let reply = world.call(echo(vec![3; size])).await.unwrap();
    assert_eq!(reply.body.len(), size);
    let too_large = world.call(echo(vec![3; 17 << 20])).await;
    assert!(matches!(too_large, Err(CallError::NotSent(_))), "{too_large:?}");
    let refused = world
        .call(Command::request(LARGE).with("size", "17000000"))
        .await
        .unwrap();
    assert_eq!(refused.code, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_listening_is_not_sent_and_a_lost_reply_is_unknown() {
    let world = world(Limits::default()).await;
    let nowhere = world.client.call("127.0.0.1:1", echo("x"), SECOND).await;
    assert!(matches!(nowhere, Err(CallError::NotSent(_))), "{nowhere:?}");
    let silent = world
        .client
        .call(&world.address, Command::request(SILENT), Duration::from_millis(50))
        .await;
    assert!(matches!(silent, Err(CallError::Unknown(_))), "{silent:?}");
    let panicked = world.call(Command::request(PANIC)).await;
    assert!(matches!(panicked, Err(CallError::Unknown(_))), "{panicked:?}");
    // The next call opens a connection again.
    assert_eq!(world.call(echo("again")).await.unwrap().body, "again");
    eventually("the panic closed one", || {
        world.service.closed.load(Ordering::SeqCst) == 1
    })
    .await;
    world.server.shutdown().await;
    assert_eq!(world.service.closed.load(Ordering::SeqCst), 2);
    eventually("the client has noticed", || world.client.open_addresses().is_empty()).await;
    let after = world.client.call(&world.address, echo("x"), SECOND).await;
    assert!(matches!(after, Err(CallError::NotSent(_))), "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reply_is_dropped_and_counted() {
    let world = world(Limits::default()).await;
    let timed_out = world
        .client
        .call(&world.address, Command::request(HOLD), Duration::from_millis(50))
        .await;
    assert!(matches!(timed_out, Err(CallError::Unknown(_))));
    world.call(Command::request(RELEASE)).await.unwrap();
    eventually("the late reply is counted", || world.client.late_reply_count() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_frames_close_only_their_connection() {
    let world = world(Limits::default()).await;
    world.call(echo("before")).await.unwrap();
    for bytes in [
        &[0x16, 3, 1, 2, 0, 1][..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 0, 0, 1],
        &[0, 0, 0, 8, 0, 0, 0, 4, 1, 2, 3, 4],
    ] {
        let mut raw = world.raw().await;
        // A good request before the bad bytes is still answered.
        let mut good = echo("good");
        good.opaque = 9;
        let is_greeting = bytes[0] == 0x16;
        if !is_greeting {
            raw.write_all(&encoded(&good)).await.unwrap();
        }
        raw.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // The rest is a reset where unread bytes were left.
        let _ = raw.read_to_end(&mut answer).await;
        assert_eq!(answer.is_empty(), is_greeting, "{bytes:?}");
    }
    assert_eq!(world.call(echo("after")).await.unwrap().body, "after");
    assert_eq!(world.server.connection_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_closes_a_connection_after_the_idle_time() {
    let limits = Limits {
        idle_time_max: Duration::from_millis(300),
        ..Limits::default()
    };
    let world = world(limits).await;
    let start = Instant::now();
    let mut raw = world.raw().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    raw.write_all(&[0, 0]).await.unwrap();
    assert_eq!(raw.read(&mut [0; 9]).await.unwrap(), 0);
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
    assert!(start.elapsed() < 2 * SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_is_closed_at_once() {
    let limits = Limits {
        connection_count_max: 2,
        ..Limits::default()
    };
    let world = world(limits).await;
    let first = world.raw().await;
    let second = world.raw().await;
    let mut third = world.raw().await;
    assert_eq!(third.read(&mut [0; 9]).await.unwrap_or(0), 0);
    drop((first, second));
    eventually("places are free again", || world.server.connection_count() == 0).await;
    world.call(echo("x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_owed_too_much_is_not_read_until_answered() {
    let limits = Limits {
        owed_count_max: 10,
        turn_count_max: 5,
        ..Limits::default()
    };
    let world = world(limits).await;
    let other = world.another_client();
    let held = (0..25).map(|_| world.call(Command::request(HOLD)));
    let release = async {
        for expected in [10, 10, 5] {
            eventually("as many as allowed are held", || {
                world.service.held.lock().unwrap().len() == expected
            })
            .await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(world.service.held.lock().unwrap().len(), expected);
            other
                .call(&world.address, Command::request(RELEASE), SECOND)
                .await
                .unwrap();
        }
    };
    let (held, ()) = futures_util::join!(join_all(held), release);
    assert!(held.into_iter().all(|reply| reply.is_ok()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads_is_closed_and_disturbs_nobody() {
    let limits = Limits {
        write_time_max: Duration::from_millis(500),
        ..Limits::default()
    };
    let world = world(limits).await;
    let mut raw = world.raw().await;
    let greedy = encoded(&Command::request(LARGE).with("size", "4000000"));
    for _ in 0..50 {
        raw.write_all(&greedy).await.unwrap();
    }
    let slowest = time_of_slowest(&world, 200).await;
    assert!(slowest < Duration::from_millis(400), "{slowest:?}");
    eventually("it is closed", || world.server.connection_count() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_lets_notifications_pile_up_is_closed() {
    let limits = Limits {
        queue_size_max: 1 << 20,
        ..Limits::default()
    };
    let world = world(limits).await;
    let mut raw = world.raw().await;
    raw.write_all(&encoded(&Command::request(HOLD))).await.unwrap();
    eventually("it is there", || world.service.held.lock().unwrap().len() == 1).await;
    let peer = world.service.held.lock().unwrap()[0].0.peer().clone();
    let large = Command::request(40).with_body(vec![0; 512 << 10]);
    eventually("it is closed", || {
        peer.notify(large.clone());
        !peer.is_open()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_does_not_starve_others() {
    let world = world(Limits::default()).await;
    let flood = {
        let (mut reader, mut writer) = world.raw().await.into_split();
        let frames = encoded(&echo(vec![1; 100])).repeat(1000);
        let writing = tokio::spawn(async move { while writer.write_all(&frames).await.is_ok() {} });
        let reading = tokio::spawn(async move {
            let mut sink = vec![0; 1 << 20];
            while reader.read(&mut sink).await.is_ok_and(|size| size > 0) {}
        });
        [writing, reading]
    };
    eventually("the flood flows", || {
        world.service.served.load(Ordering::SeqCst) > 10_000
    })
    .await;
    let slowest = time_of_slowest(&world, 200).await;
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn time_of_slowest(world: &World, count: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..count {
        let start = Instant::now();
        world.call(echo("x")).await.unwrap();
        slowest = slowest.max(start.elapsed());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_server_closes_everything_once() {
    let world = world(Limits::default()).await;
    world.call(echo("x")).await.unwrap();
    let raw = world.raw().await;
    eventually("both are there", || world.server.connection_count() == 2).await;
    drop(world.server);
    eventually("both are closed", || world.service.closed.load(Ordering::SeqCst) == 2).await;
    assert_eq!(world.service.opened.load(Ordering::SeqCst), 2);
    drop(raw);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_header_is_answered_in_json() {
    let world = world(Limits::default()).await;
    let binary = Connections::with(
        world.runtime.clone(),
        world.asked.clone(),
        Limits::default(),
        HeaderType::Binary,
    );
    let reply = binary.call(&world.address, echo("x"), SECOND).await.unwrap();
    assert_eq!(reply.body, "x");
    let pop = Command::request(200_050).with_body("y");
    assert_eq!(binary.call(&world.address, pop, SECOND).await.unwrap().body, "y");
}
