//! One suite for every implementation of [`Runtime`]: what core relies on, and nothing more.
//!
//! Each case is an `async fn` that panics when the runtime breaks a promise. [`conformance_cases!`](crate::conformance_cases)
//! lists them, so that a runtime's tests report each by name:
//!
//! ```ignore
//! macro_rules! tests {
//!     ($($case:ident)*) => { $(#[test] fn $case() { with_stage(|stage| conformance::$case(stage)) })* };
//! }
//! orrery_core::conformance_cases!(tests);
//! ```
//!
//! Not here: what only a simulated world can show (power loss, partitions, stalls); see `runtime-sim`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join;

use super::{
    Disk, DiskErrorKind, Elapsed, File, Listener, NetErrorKind, OpenMode, Reader, Runtime, Stream, Task, TaskEnd,
    TaskSet, Writer,
};
use crate::types::address::{IpAddr, SocketAddr};

/// Calls the macro `$each` with the names of all cases.
#[macro_export]
macro_rules! conformance_cases {
    ($each:ident) => {
        $each! {
            bytes_arrive_in_order_and_complete
            both_directions_run_at_once
            both_ends_agree_on_their_addresses
            a_half_closed_connection_goes_on_in_the_other_direction
            a_connection_dropped_in_order_ends_the_stream
            a_connection_dropped_with_unread_bytes_is_reset
            a_peer_that_does_not_read_accepts_a_bounded_number_of_bytes
            a_closed_port_refuses
            a_taken_port_is_in_use
            a_cancelled_read_loses_nothing
            a_cancelled_accept_loses_no_connection
            an_address_resolves_to_itself
            sleep_is_never_early
            a_timeout_is_never_early_and_drops_the_future
            a_ready_future_beats_its_timeout
            monotonic_time_does_not_go_back
            random_values_differ
            a_task_returns_its_value
            a_dropped_handle_cancels_its_task
            a_cancelled_task_says_so
            a_panicking_task_says_so
            yielding_lets_others_run
            a_task_set_ends_its_tasks
            written_bytes_are_read_back
            synced_bytes_are_read_after_reopening
            a_write_beyond_the_end_leaves_zeros
            a_read_outside_of_the_file_is_an_error
            allocation_grows_and_never_shrinks
            zeroing_a_range_leaves_the_rest
            what_was_written_or_read_is_resident
            open_modes_are_kept
            a_directory_lists_its_names_in_order
            a_rename_replaces_its_target
            slices_and_handles_survive_removal
            only_an_empty_directory_is_removed
            a_lock_is_exclusive_until_dropped
            a_file_knows_when_it_was_modified
            a_disk_knows_its_space
        }
    };
}

/// Where a case plays: two runtimes that reach each other, and an empty directory.
pub struct Stage<R> {
    pub server: R,
    /// May be the same as `server`.
    pub client: R,
    /// An address of the server.
    pub ip: IpAddr,
    /// An existing, empty directory on the server's disk.
    pub dir: PathBuf,
}

/// Longer than anything may take that is not meant to take long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes in flight that no TCP stack exceeds without a reader.
const IN_FLIGHT_SIZE_MAX: usize = 64 << 20;

type Halves<R> = (
    <<R as Runtime>::Stream as Stream>::Reader,
    <<R as Runtime>::Stream as Stream>::Writer,
);

impl<R: Runtime> Stage<R> {
    async fn listen(&self) -> R::Listener {
        let address = SocketAddr::new(self.ip, 0);
        self.server.listen(address).await.expect("a free port")
    }

    /// Client's halves, server's halves.
    async fn connection(&self) -> (Halves<R>, Halves<R>) {
        let listener = self.listen().await;
        let connect = self.client.connect(listener.local_address(), PATIENCE);
        let (accepted, connected) = join(listener.accept(), connect).await;
        (
            connected.expect("the listener is there").split(),
            accepted.expect("a connection").split(),
        )
    }

    async fn file(&self, name: &str) -> <R::Disk as Disk>::File {
        let path = self.dir.join(name);
        self.server.disk().open(&path, OpenMode::New).await.expect("a new file")
    }
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index * 31 + index / 251) as u8).collect()
}

async fn send(writer: &mut impl Writer, bytes: &[u8]) {
    let mut chunks = VecDeque::from([Bytes::copy_from_slice(bytes)]);
    writer.write_all(&mut chunks).await.expect("an open connection");
    assert!(chunks.is_empty(), "write_all empties the queue");
}

async fn read_to_end(reader: &mut impl Reader, limit: usize) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    loop {
        let before = buffer.len();
        let count = reader.read(&mut buffer, limit).await.expect("an open connection");
        assert_eq!(buffer.len(), before + count, "read appends what it says");
        assert!(count <= limit, "read keeps to its limit");
        if count == 0 {
            return buffer.to_vec();
        }
    }
}

async fn read_exactly(reader: &mut impl Reader, size: usize) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    while buffer.len() < size {
        let limit = size - buffer.len();
        let count = reader.read(&mut buffer, limit).await.expect("an open connection");
        assert!(count > 0, "the stream ended after {} of {size} bytes", buffer.len());
    }
    buffer.to_vec()
}

pub async fn bytes_arrive_in_order_and_complete<R: Runtime>(stage: Stage<R>) {
    let ((_client_reader, mut writer), (mut reader, _server_writer)) = stage.connection().await;
    let expected = pattern(1 << 20);
    let mut chunks: VecDeque<Bytes> = VecDeque::new();
    let mut rest = expected.as_slice();
    let mut size = 1;
    while !rest.is_empty() {
        let (chunk, tail) = rest.split_at(size.min(rest.len()));
        chunks.push_back(Bytes::copy_from_slice(chunk));
        chunks.push_back(Bytes::new());
        rest = tail;
        size = size * 3 % 70_001 + 1;
    }
    let writing = async {
        writer.write_all(&mut chunks).await.expect("an open connection");
        writer.close().await.expect("an open connection");
    };
    let ((), received) = join(writing, read_to_end(&mut reader, 7_777)).await;
    assert!(received == expected, "{} of {} bytes", received.len(), expected.len());
}

pub async fn both_directions_run_at_once<R: Runtime>(stage: Stage<R>) {
    let (client, server) = stage.connection().await;
    let work = |rt: &R, (mut reader, mut writer): Halves<R>| {
        let writing = rt.spawn("write", async move {
            send(&mut writer, &pattern(2 << 20)).await;
            writer.close().await.expect("an open connection");
            writer
        });
        rt.spawn("read", async move {
            let received = read_to_end(&mut reader, 64 << 10).await;
            let _writer = writing.await;
            received
        })
    };
    let (at_client, at_server) = join(work(&stage.client, client), work(&stage.server, server)).await;
    let expected = pattern(2 << 20);
    assert!(at_client.expect("a finished task") == expected);
    assert!(at_server.expect("a finished task") == expected);
}

pub async fn both_ends_agree_on_their_addresses<R: Runtime>(stage: Stage<R>) {
    let listener = stage.listen().await;
    assert_ne!(listener.local_address().port(), 0);
    let connect = stage.client.connect(listener.local_address(), PATIENCE);
    let (accepted, connected) = join(listener.accept(), connect).await;
    let (accepted, connected) = (accepted.expect("a connection"), connected.expect("a connection"));
    assert_eq!(connected.peer_address(), listener.local_address());
    assert_eq!(accepted.local_address(), listener.local_address());
    assert_eq!(accepted.peer_address(), connected.local_address());
}

pub async fn a_half_closed_connection_goes_on_in_the_other_direction<R: Runtime>(stage: Stage<R>) {
    let ((mut client_reader, mut client_writer), (mut server_reader, mut server_writer)) = stage.connection().await;
    send(&mut client_writer, b"question").await;
    client_writer.close().await.expect("an open connection");
    assert_eq!(read_to_end(&mut server_reader, 4096).await, b"question");
    stage.server.sleep(Duration::from_millis(20)).await;
    send(&mut server_writer, b"answer").await;
    assert_eq!(read_exactly(&mut client_reader, 6).await, b"answer");
    server_writer.close().await.expect("an open connection");
    assert_eq!(read_to_end(&mut client_reader, 4096).await, b"");
}

pub async fn a_connection_dropped_in_order_ends_the_stream<R: Runtime>(stage: Stage<R>) {
    let ((mut client_reader, client_writer), (server_reader, mut server_writer)) = stage.connection().await;
    send(&mut server_writer, b"last words").await;
    drop(server_reader);
    drop(server_writer);
    assert_eq!(read_to_end(&mut client_reader, 4096).await, b"last words");
    drop(client_writer);
}

pub async fn a_connection_dropped_with_unread_bytes_is_reset<R: Runtime>(stage: Stage<R>) {
    let ((mut client_reader, mut client_writer), (server_reader, server_writer)) = stage.connection().await;
    send(&mut client_writer, &pattern(100)).await;
    stage.server.sleep(Duration::from_millis(100)).await;
    drop(server_writer);
    drop(server_reader);
    stage.client.sleep(Duration::from_millis(100)).await;
    let mut written = Ok(());
    for _ in 0..20 {
        let mut chunks = VecDeque::from([Bytes::from_static(b"anyone there?")]);
        written = client_writer.write_all(&mut chunks).await;
        if written.is_err() {
            break;
        }
        stage.client.sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(written.expect_err("writing to nobody").kind, NetErrorKind::Reset);
    let mut buffer = BytesMut::new();
    while let Ok(1..) = client_reader.read(&mut buffer, 4096).await {}
}

pub async fn a_peer_that_does_not_read_accepts_a_bounded_number_of_bytes<R: Runtime>(stage: Stage<R>) {
    let ((_client_reader, mut writer), (mut reader, _server_writer)) = stage.connection().await;
    let chunk = Bytes::from(pattern(1 << 20));
    let mut chunks: VecDeque<Bytes> = std::iter::repeat_n(chunk.clone(), IN_FLIGHT_SIZE_MAX >> 20).collect();
    let total = IN_FLIGHT_SIZE_MAX;
    let blocked = stage
        .client
        .timeout(Duration::from_millis(500), writer.write_all(&mut chunks))
        .await;
    assert!(
        matches!(blocked, Err(Elapsed)),
        "{total} bytes were accepted without a reader"
    );
    let left: usize = chunks.iter().map(Bytes::len).sum();
    assert!(left > 0, "what was not written stays in the queue");
    let writing = async {
        writer.write_all(&mut chunks).await.expect("an open connection");
        writer.close().await.expect("an open connection");
    };
    let ((), received) = join(writing, read_to_end(&mut reader, 1 << 20)).await;
    assert_eq!(
        received.len(),
        total,
        "a write that was cancelled is continued, not repeated"
    );
    for (index, part) in received.chunks(chunk.len()).enumerate() {
        assert!(part == chunk, "chunk {index} differs");
    }
}

pub async fn a_closed_port_refuses<R: Runtime>(stage: Stage<R>) {
    let listener = stage.listen().await;
    let address = listener.local_address();
    drop(listener);
    let Err(error) = stage.client.connect(address, PATIENCE).await else {
        panic!("connected to a closed port");
    };
    assert_eq!(error.kind, NetErrorKind::Refused);
}

pub async fn a_taken_port_is_in_use<R: Runtime>(stage: Stage<R>) {
    let listener = stage.listen().await;
    let Err(error) = stage.server.listen(listener.local_address()).await else {
        panic!("bound a port twice");
    };
    assert_eq!(error.kind, NetErrorKind::AddressInUse);
    let address = listener.local_address();
    drop(listener);
    stage.server.yield_now().await;
    stage.server.listen(address).await.expect("the port is free again");
}

pub async fn a_cancelled_read_loses_nothing<R: Runtime>(stage: Stage<R>) {
    let ((_client_reader, mut writer), (mut reader, _server_writer)) = stage.connection().await;
    let expected = pattern(4_000);
    let rt = stage.client.clone();
    let sent = expected.clone();
    let writing = stage.client.spawn("write", async move {
        for piece in sent.chunks(100) {
            send(&mut writer, piece).await;
            rt.sleep(Duration::from_millis(2)).await;
        }
        writer.close().await.expect("an open connection");
        writer
    });
    let mut buffer = BytesMut::new();
    let mut cancelled = 0;
    loop {
        let read = reader.read(&mut buffer, 64);
        match stage.server.timeout(Duration::from_millis(1), read).await {
            Ok(Ok(0)) => break,
            Ok(result) => drop(result.expect("an open connection")),
            Err(Elapsed) => cancelled += 1,
        }
    }
    let _writer = writing.await;
    assert!(cancelled > 0, "the case needs reads that are cancelled");
    assert!(buffer == expected, "{} of {} bytes", buffer.len(), expected.len());
}

pub async fn a_cancelled_accept_loses_no_connection<R: Runtime>(stage: Stage<R>) {
    let listener = stage.listen().await;
    let address = listener.local_address();
    for _ in 0..3 {
        let accept = stage.server.timeout(Duration::from_millis(2), listener.accept()).await;
        assert!(matches!(accept, Err(Elapsed)));
    }
    let connecting = stage.client.connect(address, PATIENCE);
    let accepting = async {
        loop {
            let accept = listener.accept();
            if let Ok(stream) = stage.server.timeout(Duration::from_millis(1), accept).await {
                return stream;
            }
        }
    };
    let (connected, accepted) = join(connecting, accepting).await;
    connected.expect("a connection");
    accepted.expect("a connection");
}

pub async fn an_address_resolves_to_itself<R: Runtime>(stage: Stage<R>) {
    let resolved = stage.server.resolve("10.1.2.3:9876").await.expect("an address");
    assert_eq!(resolved, ["10.1.2.3:9876".parse().expect("an address")]);
    stage
        .server
        .resolve("name-without-port")
        .await
        .expect_err("a port is needed");
}

pub async fn sleep_is_never_early<R: Runtime>(stage: Stage<R>) {
    for millis in [1, 2, 7, 30] {
        let duration = Duration::from_millis(millis);
        let before = stage.server.mono();
        stage.server.sleep(duration).await;
        let slept = stage.server.mono().since(before);
        assert!(slept >= duration, "{slept:?} instead of {duration:?}");
        assert!(slept < duration + PATIENCE, "{slept:?} instead of {duration:?}");
    }
}

/// Says when it is dropped.
struct Tell(Arc<AtomicBool>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Tell {
    fn new() -> (Tell, Arc<AtomicBool>) {
        let told = Arc::new(AtomicBool::new(false));
        (Tell(told.clone()), told)
    }
}

pub async fn a_timeout_is_never_early_and_drops_the_future<R: Runtime>(stage: Stage<R>) {
    let duration = Duration::from_millis(15);
    let before = stage.server.mono();
    let (tell, dropped) = Tell::new();
    let never = async move {
        let _tell = tell;
        std::future::pending::<()>().await;
    };
    let result = stage.server.timeout(duration, never).await;
    assert_eq!(result, Err(Elapsed));
    assert!(stage.server.mono().since(before) >= duration);
    assert!(dropped.load(Ordering::SeqCst), "the future is dropped on time-out");
    let in_time = stage.server.timeout(PATIENCE, stage.server.sleep(duration)).await;
    assert_eq!(in_time, Ok(()));
}

pub async fn a_ready_future_beats_its_timeout<R: Runtime>(stage: Stage<R>) {
    let result = stage.server.timeout(Duration::ZERO, std::future::ready(7)).await;
    assert_eq!(result, Ok(7));
}

pub async fn monotonic_time_does_not_go_back<R: Runtime>(stage: Stage<R>) {
    let mut last = stage.server.mono();
    for _ in 0..100 {
        stage.server.yield_now().await;
        let now = stage.server.mono();
        assert!(now >= last);
        last = now;
    }
    let year_2020_ms = 1_577_836_800_000;
    assert!(stage.server.wall().0 > year_2020_ms, "wall time counts from 1970");
}

pub async fn random_values_differ<R: Runtime>(stage: Stage<R>) {
    let mut values: Vec<u64> = (0..64).map(|_| stage.server.random_u64()).collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!(values.len(), 64);
}

pub async fn a_task_returns_its_value<R: Runtime>(stage: Stage<R>) {
    let rt = stage.server.clone();
    let task = stage.server.spawn("value", async move {
        rt.sleep(Duration::from_millis(5)).await;
        42
    });
    assert!(!task.is_finished());
    assert_eq!(task.await, Ok(42));
    let rt = stage.server.clone();
    let task = stage.server.spawn_background("background", async move {
        rt.yield_now().await;
        rt.sleep(Duration::from_millis(5)).await;
        43
    });
    assert_eq!(task.await, Ok(43));
    let task = stage.server.spawn("quick", async {});
    stage.server.sleep(Duration::from_millis(50)).await;
    assert!(task.is_finished());
    assert_eq!(task.await, Ok(()), "a finished task can still be joined");
}

pub async fn a_dropped_handle_cancels_its_task<R: Runtime>(stage: Stage<R>) {
    let (tell, dropped) = Tell::new();
    let turns = Arc::new(AtomicUsize::new(0));
    let (rt, counter) = (stage.server.clone(), turns.clone());
    let task = stage.server.spawn("endless", async move {
        let _tell = tell;
        loop {
            counter.fetch_add(1, Ordering::SeqCst);
            rt.sleep(Duration::from_millis(1)).await;
        }
    });
    stage.server.sleep(Duration::from_millis(30)).await;
    assert!(turns.load(Ordering::SeqCst) > 1);
    drop(task);
    stage.server.sleep(Duration::from_millis(50)).await;
    assert!(
        dropped.load(Ordering::SeqCst),
        "the future is dropped soon after the handle"
    );
    let after = turns.load(Ordering::SeqCst);
    stage.server.sleep(Duration::from_millis(30)).await;
    assert_eq!(turns.load(Ordering::SeqCst), after);
}

pub async fn a_cancelled_task_says_so<R: Runtime>(stage: Stage<R>) {
    let (tell, dropped) = Tell::new();
    let task: R::Task<()> = stage.server.spawn("endless", async move {
        let _tell = tell;
        std::future::pending::<()>().await;
    });
    stage.server.sleep(Duration::from_millis(5)).await;
    task.cancel();
    assert_eq!(task.await, Err(TaskEnd::Cancelled));
    assert!(
        dropped.load(Ordering::SeqCst),
        "an awaited cancellation has dropped the future"
    );
}

pub async fn a_panicking_task_says_so<R: Runtime>(stage: Stage<R>) {
    let task: R::Task<()> = stage.server.spawn("panics", async {
        panic!("this panic is part of the conformance suite");
    });
    assert_eq!(task.await, Err(TaskEnd::Panicked));
    let task = stage.server.spawn("after", async { 1 });
    assert_eq!(task.await, Ok(1), "other tasks go on");
}

pub async fn yielding_lets_others_run<R: Runtime>(stage: Stage<R>) {
    let done = Arc::new(AtomicBool::new(false));
    let flag = done.clone();
    let _other = stage
        .server
        .spawn("other", async move { flag.store(true, Ordering::SeqCst) });
    let waiting = async {
        while !done.load(Ordering::SeqCst) {
            stage.server.yield_now().await;
        }
    };
    let before = stage.server.mono();
    let result = stage.server.timeout(PATIENCE, waiting).await;
    assert_eq!(result, Ok(()));
    assert!(
        stage.server.mono().since(before) < PATIENCE,
        "a yielding task is polled again by itself"
    );
}

pub async fn a_task_set_ends_its_tasks<R: Runtime>(stage: Stage<R>) {
    let mut tasks = TaskSet::<R>::new();
    let turns = Arc::new(AtomicUsize::new(0));
    for index in 0..100 {
        let (rt, turns) = (stage.server.clone(), turns.clone());
        tasks.spawn(&stage.server, "member", async move {
            rt.sleep(Duration::from_millis(index % 5)).await;
            turns.fetch_add(1, Ordering::SeqCst);
        });
    }
    tasks.join().await;
    assert_eq!(turns.load(Ordering::SeqCst), 100);
    let (tell, dropped) = Tell::new();
    tasks.spawn(&stage.server, "endless", async move {
        let _tell = tell;
        std::future::pending::<()>().await;
    });
    tasks.shutdown().await;
    assert!(dropped.load(Ordering::SeqCst));
    assert!(tasks.is_empty());
}

pub async fn written_bytes_are_read_back<R: Runtime>(stage: Stage<R>) {
    let file = stage.file("log").await;
    file.write_at(0, &[b"head", b"", b"-", b"tail"]).expect("room");
    assert_eq!(file.len(), 9);
    assert_eq!(file.read_hot(0, 9).expect("in range"), "head-tail");
    assert_eq!(file.read(5, 4).await.expect("in range"), "tail");
    file.write_at(4, &[b"+"]).expect("room");
    assert_eq!(file.clone().read_hot(0, 9).expect("in range"), "head+tail");
    let big = pattern(300_000);
    file.write_at(9, &[&big[..100], &big[100..]]).expect("room");
    assert!(file.read_hot(9, big.len()).expect("in range") == big);
    assert!(file.read(9, big.len()).await.expect("in range") == big);
    assert!(!file.is_empty());
}

pub async fn synced_bytes_are_read_after_reopening<R: Runtime>(stage: Stage<R>) {
    let file = stage.file("log").await;
    let path = file.path().to_owned();
    file.write_at(0, &[b"first"]).expect("room");
    file.sync().await.expect("a healthy disk");
    file.write_at(5, &[b"second"]).expect("room");
    file.sync_in_place().expect("a healthy disk");
    stage.server.disk().sync_dir(&stage.dir).await.expect("a healthy disk");
    drop(file);
    let file = stage
        .server
        .disk()
        .open(&path, OpenMode::Existing)
        .await
        .expect("it exists");
    assert_eq!(file.len(), 11);
    assert_eq!(file.read(0, 11).await.expect("in range"), "firstsecond");
    assert_eq!(file.read_hot(0, 11).expect("in range"), "firstsecond");
}

pub async fn a_write_beyond_the_end_leaves_zeros<R: Runtime>(stage: Stage<R>) {
    let file = stage.file("sparse").await;
    file.write_at(10_000, &[b"x"]).expect("room");
    assert_eq!(file.len(), 10_001);
    let bytes = file.read(0, 10_001).await.expect("in range");
    assert!(bytes[..10_000].iter().all(|&byte| byte == 0));
    assert_eq!(bytes[10_000], b'x');
}

pub async fn a_read_outside_of_the_file_is_an_error<R: Runtime>(stage: Stage<R>) {
    let file = stage.file("short").await;
    file.write_at(0, &[b"12345"]).expect("room");
    for (offset, size) in [(0, 6), (5, 1), (6, 1), (u64::MAX, 1), (u64::MAX - 1, usize::MAX)] {
        let hot = file.read_hot(offset, size).expect_err("outside of the file");
        assert_eq!(hot.kind, DiskErrorKind::OutOfRange, "{size} at {offset}");
        let cold = file.read(offset, size).await.expect_err("outside of the file");
        assert_eq!(cold.kind, DiskErrorKind::OutOfRange, "{size} at {offset}");
    }
    assert_eq!(file.read_hot(4, 1).expect("in range"), "5");
}

pub async fn allocation_grows_and_never_shrinks<R: Runtime>(stage: Stage<R>) {
    let file = stage.file("segment").await;
    file.write_at(0, &[b"data"]).expect("room");
    file.allocate(1 << 20).await.expect("room");
    assert_eq!(file.len(), 1 << 20);
    file.allocate(10).await.expect("room");
    assert_eq!(file.len(), 1 << 20);
    assert_eq!(file.read(0, 4).await.expect("in range"), "data");
    let rest = file.read((1 << 20) - 100, 100).await.expect("in range");
    assert!(rest.iter().all(|&byte| byte == 0));
    file.write_at((1 << 20) - 2, &[b"ab"]).expect("room");
    assert_eq!(file.len(), 1 << 20);
}

pub async fn zeroing_a_range_leaves_the_rest<R: Runtime>(stage: Stage<R>) {
    let file = stage.file("cut").await;
    let mut expected = pattern(20_000);
    file.write_at(0, &[&expected]).expect("room");
    file.zero_range(100, 9_000).await.expect("room");
    expected[100..9_100].fill(0);
    assert!(file.read(0, 20_000).await.expect("in range") == expected);
    file.zero_range(19_990, 5_000).await.expect("room");
    expected[19_990..].fill(0);
    let bytes = file.read(0, 20_000).await.expect("in range");
    assert!(bytes == expected);
    file.write_at(200, &[b"again"]).expect("room");
    assert_eq!(file.read_hot(199, 7).expect("in range"), "\0again\0");
    file.fill(202, 30_000).await.expect("room");
    assert_eq!(file.read_hot(199, 7).expect("in range"), "\0ag\0\0\0\0");
    assert_eq!(file.len(), 30_202);
}

pub async fn what_was_written_or_read_is_resident<R: Runtime>(stage: Stage<R>) {
    let file = stage.file("pages").await;
    let expected = pattern(100_000);
    file.write_at(0, &[&expected]).expect("room");
    file.allocate(1 << 20).await.expect("room");
    assert!(file.resident(0, 100_000));
    assert!(file.resident(5_000, 1));
    let mut buffer = vec![0; 90_000];
    assert!(file.read_resident(7, &mut buffer).expect("in range"));
    assert!(buffer == expected[7..90_007]);
    file.write_at(50_000, &[b"changed"]).expect("room");
    let mut buffer = [0; 7];
    assert!(file.read_resident(50_000, &mut buffer).expect("in range"));
    assert_eq!(&buffer, b"changed");
    // Any range may be asked to be read ahead; whatever comes of it, a read gives the bytes.
    file.will_read(512 << 10, 256 << 10);
    file.will_read(u64::MAX - 1, usize::MAX);
    file.read(512 << 10, 256 << 10).await.expect("in range");
    assert!(file.resident(512 << 10, 256 << 10));
    for (offset, size) in [(0, (1 << 20) + 1), (1 << 20, 1), (u64::MAX, 2)] {
        assert!(!file.resident(offset, size), "{size} at {offset}");
    }
    let outside = file.read_resident((1 << 20) - 1, &mut [0; 2]);
    assert_eq!(
        outside.expect_err("outside of the file").kind,
        DiskErrorKind::OutOfRange
    );
    // Read once: the same bytes, wherever they come from.
    for (offset, size) in [(0, 1), (4095, 2), (7, 90_000), (99_990, 100_000), ((1 << 20) - 5, 5)] {
        let read = file.read(offset, size).await.expect("in range");
        let looked = file.read_once(offset, size, move |bytes, _| bytes == read).await;
        assert!(looked.expect("in range"), "{size} at {offset}");
    }
    let outside = file.read_once(1 << 20, 1, |bytes, _| bytes).await;
    assert_eq!(
        outside.expect_err("outside of the file").kind,
        DiskErrorKind::OutOfRange
    );
    assert!(file.resident(1 << 20, 0));
    assert!(file.read_resident(1 << 20, &mut []).expect("in range"));
}

pub async fn open_modes_are_kept<R: Runtime>(stage: Stage<R>) {
    let disk = stage.server.disk();
    let path = stage.dir.join("file");
    let kind = |result: Result<<R::Disk as Disk>::File, super::DiskError>| result.err().map(|error| error.kind);
    assert_eq!(
        kind(disk.open(&path, OpenMode::Existing).await),
        Some(DiskErrorKind::NotFound)
    );
    assert_eq!(kind(disk.open(&path, OpenMode::Create).await), None);
    let file = disk.open(&path, OpenMode::Create).await.expect("it exists");
    file.write_at(0, &[b"kept"]).expect("room");
    assert_eq!(kind(disk.open(&path, OpenMode::Create).await), None);
    assert_eq!(file.len(), 4, "opening does not truncate");
    assert_eq!(
        kind(disk.open(&path, OpenMode::New).await),
        Some(DiskErrorKind::AlreadyExists)
    );
    let orphan = stage.dir.join("missing").join("file");
    assert_eq!(
        kind(disk.open(&orphan, OpenMode::Create).await),
        Some(DiskErrorKind::NotFound)
    );
}

pub async fn a_directory_lists_its_names_in_order<R: Runtime>(stage: Stage<R>) {
    let disk = stage.server.disk();
    disk.create_dir_all(&stage.dir.join("b/inner")).await.expect("room");
    disk.create_dir_all(&stage.dir.join("b/inner"))
        .await
        .expect("it may exist");
    for name in ["c", "a", "00000000000000000000"] {
        stage.file(name).await;
    }
    stage.file("b/deep").await;
    let entries = disk.list(&stage.dir).await.expect("it exists");
    let names: Vec<_> = entries
        .iter()
        .map(|entry| (entry.name.as_str(), entry.is_dir))
        .collect();
    assert_eq!(
        names,
        [("00000000000000000000", false), ("a", false), ("b", true), ("c", false)]
    );
    let missing = disk.list(&stage.dir.join("missing")).await;
    assert_eq!(missing.expect_err("it is missing").kind, DiskErrorKind::NotFound);
}

pub async fn a_rename_replaces_its_target<R: Runtime>(stage: Stage<R>) {
    let disk = stage.server.disk();
    let (from, to) = (stage.dir.join("new"), stage.dir.join("table"));
    let old = stage.file("table").await;
    old.write_at(0, &[b"old"]).expect("room");
    stage.file("new").await.write_at(0, &[b"new content"]).expect("room");
    disk.rename(&from, &to).await.expect("it exists");
    let file = disk.open(&to, OpenMode::Existing).await.expect("it exists");
    assert_eq!(file.read(0, 11).await.expect("in range"), "new content");
    assert_eq!(
        old.read_hot(0, 3).expect("in range"),
        "old",
        "an open handle keeps its file"
    );
    assert_eq!(disk.list(&stage.dir).await.expect("it exists").len(), 1);
    let again = disk.rename(&from, &to).await;
    assert_eq!(again.expect_err("it is gone").kind, DiskErrorKind::NotFound);
}

pub async fn slices_and_handles_survive_removal<R: Runtime>(stage: Stage<R>) {
    let disk = stage.server.disk();
    let file = stage.file("expired").await;
    let expected = pattern(50_000);
    file.write_at(0, &[&expected]).expect("room");
    disk.sync_dir(&stage.dir).await.expect("a healthy disk");
    let slice = file.read_hot(0, 50_000).expect("in range");
    disk.remove(file.path()).await.expect("it exists");
    disk.sync_dir(&stage.dir).await.expect("a healthy disk");
    assert!(disk.list(&stage.dir).await.expect("it exists").is_empty());
    assert!(file.read_hot(10, 40_000).expect("in range") == expected[10..40_010]);
    assert_eq!(
        disk.remove(file.path()).await.expect_err("it is gone").kind,
        DiskErrorKind::NotFound
    );
    drop(file);
    assert!(slice == expected, "a slice outlives name and handle");
}

pub async fn only_an_empty_directory_is_removed<R: Runtime>(stage: Stage<R>) {
    let disk = stage.server.disk();
    let dir = stage.dir.join("queue");
    disk.create_dir_all(&dir).await.expect("room");
    drop(stage.file("queue/0").await);
    disk.remove_dir(&dir).await.expect_err("it is not empty");
    disk.remove(&dir).await.expect_err("it is a directory");
    disk.remove(&dir.join("0")).await.expect("it exists");
    disk.remove_dir(&dir).await.expect("it is empty");
    assert_eq!(
        disk.list(&dir).await.expect_err("it is gone").kind,
        DiskErrorKind::NotFound
    );
}

pub async fn a_lock_is_exclusive_until_dropped<R: Runtime>(stage: Stage<R>) {
    let disk = stage.server.disk();
    let path = stage.dir.join("lock");
    let lock = disk.lock(&path).await.expect("a free lock");
    let Err(error) = disk.lock(&path).await else {
        panic!("locked twice");
    };
    assert_eq!(error.kind, DiskErrorKind::Locked);
    drop(lock);
    let _lock = disk.lock(&path).await.expect("a free lock");
}

pub async fn a_file_knows_when_it_was_modified<R: Runtime>(stage: Stage<R>) {
    let file = stage.file("dated").await;
    file.write_at(0, &[b"1"]).expect("room");
    let first = file.modified().await.expect("it exists");
    let off = stage.server.wall().millis_since(first);
    assert!(off.abs() < 10_000, "{off} ms from the node's wall clock");
    stage.server.sleep(Duration::from_millis(50)).await;
    assert_eq!(file.modified().await.expect("it exists"), first);
    file.write_at(0, &[b"2"]).expect("room");
    assert!(file.modified().await.expect("it exists") > first);
}

pub async fn a_disk_knows_its_space<R: Runtime>(stage: Stage<R>) {
    let space = stage.server.disk().space(&stage.dir).await.expect("it exists");
    assert!(space.total_bytes > 0);
    assert!(space.available_bytes <= space.total_bytes);
}
