//! What only a simulated network can show: cuts, loss, silence, resets, back-pressure to the byte.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use orrery_core::runtime::{Elapsed, Listener, NetError, NetErrorKind, Reader, Runtime, Stream, Writer};
use orrery_runtime_sim::net::WINDOW_SIZE;
use orrery_runtime_sim::{LinkProfile, NodeId, Outcome, SimReader, SimRuntime, SimWriter, World, run};

const PORT: u16 = 9876;
const PATIENCE: Duration = Duration::from_secs(60);

/// Two nodes, a server that hands out its halves, and a client connected to it.
struct Pair {
    world: World,
    server: NodeId,
    client: NodeId,
    rt: SimRuntime,
    reader: SimReader,
    writer: SimWriter,
    server_reader: SimReader,
    server_writer: SimWriter,
}

async fn pair(world: World) -> Pair {
    let (server, client) = (world.add_node("server"), world.add_node("client"));
    let (server_rt, rt) = (world.runtime(server), world.runtime(client));
    let listener = server_rt.listen(world.address(server, PORT)).await.unwrap();
    let stream = rt.connect(world.address(server, PORT), PATIENCE).await.unwrap();
    let accepted = listener.accept().await.unwrap();
    let (reader, writer) = stream.split();
    let (server_reader, server_writer) = accepted.split();
    Pair {
        world,
        server,
        client,
        rt,
        reader,
        writer,
        server_reader,
        server_writer,
    }
}

fn with_pair<T, F>(seed: u64, scenario: F) -> Outcome<T>
where
    T: Send + 'static,
    F: AsyncFn(&mut Pair) -> T + Send + 'static,
{
    run(seed, move |world| async move {
        let mut pair = pair(world).await;
        scenario(&mut pair).await
    })
}

async fn write(writer: &mut SimWriter, size: usize) -> Result<(), NetError> {
    let mut chunks = VecDeque::from([Bytes::from(vec![7; size])]);
    writer.write_all(&mut chunks).await
}

async fn read(reader: &mut SimReader) -> Result<usize, NetErrorKind> {
    let mut buffer = BytesMut::new();
    reader.read(&mut buffer, 1 << 20).await.map_err(|error| error.kind)
}

fn millis(value: u64) -> Duration {
    Duration::from_millis(value)
}

#[test]
fn a_host_without_power_does_not_answer_at_all() {
    run(1, |world| async move {
        let (server, client) = (world.add_node("server"), world.add_node("client"));
        world.power_loss(server);
        let rt = world.runtime(client);
        let started = world.now();
        let error = rt
            .connect(world.address(server, PORT), millis(3_000))
            .await
            .unwrap_err();
        assert_eq!(error.kind, NetErrorKind::TimedOut);
        assert!(world.now() - started >= millis(2_900));
        assert_eq!(world.effects().connects_timed_out, 1);
        drop(world.runtime(server)); // boots
        let error = rt.connect(world.address(server, PORT), PATIENCE).await.unwrap_err();
        assert_eq!(error.kind, NetErrorKind::Refused);
    });
}

#[test]
fn a_syn_is_repeated_until_the_cut_heals() {
    run(2, |world| async move {
        let (server, client) = (world.add_node("server"), world.add_node("client"));
        let listener = world.runtime(server).listen(world.address(server, PORT)).await.unwrap();
        for (from, to) in [(client, server), (server, client)] {
            world.cut(from, to);
            let rt = world.runtime(client);
            let address = world.address(server, PORT);
            let connecting = rt
                .clone()
                .spawn("connect", async move { rt.connect(address, PATIENCE).await });
            world.sleep(millis(2_000)).await;
            world.heal(from, to);
            let started = world.now();
            connecting.await.unwrap().unwrap();
            assert!(world.now() - started > millis(500), "the third SYN leaves after 3 s");
            listener.accept().await.unwrap();
        }
        assert!(world.effects().packets_cut >= 4);
    });
}

#[test]
fn a_one_way_cut_delays_and_loses_nothing() {
    with_pair(3, async |pair: &mut Pair| {
        pair.world.cut(pair.client, pair.server);
        for _ in 0..50 {
            write(&mut pair.writer, 1000).await.unwrap();
            pair.world.sleep(millis(10)).await;
        }
        pair.world.sleep(millis(4_500)).await;
        assert_eq!(
            pair.world.effects().bytes_cut,
            pair.world.effects_of(pair.client).bytes_cut
        );
        assert!(pair.world.effects().bytes_cut >= 50_000);
        // The other direction works all the while.
        write(&mut pair.server_writer, 10).await.unwrap();
        assert_eq!(read(&mut pair.reader).await, Ok(10));
        pair.world.heal(pair.client, pair.server);
        let healed = pair.world.now();
        let mut received = 0;
        while received < 50_000 {
            received += read(&mut pair.server_reader).await.unwrap();
        }
        assert_eq!(received, 50_000);
        let recovery = pair.world.now() - healed;
        assert!(
            recovery > millis(100),
            "{recovery:?}: not before the next retransmission"
        );
        assert!(recovery < millis(5_000), "{recovery:?}");
    });
}

#[test]
fn silence_ends_a_connection_after_the_user_timeout() {
    with_pair(4, async |pair: &mut Pair| {
        pair.world.partition(&[pair.client], &[pair.server]);
        let started = pair.world.now();
        write(&mut pair.writer, 10).await.unwrap();
        assert_eq!(read(&mut pair.reader).await, Err(NetErrorKind::TimedOut));
        let took = pair.world.now() - started;
        assert!((millis(29_900)..millis(30_500)).contains(&took), "{took:?}");
        assert_eq!(
            write(&mut pair.writer, 10).await.unwrap_err().kind,
            NetErrorKind::TimedOut
        );
        assert_eq!(pair.world.effects().connections_timed_out, 1);
    });
}

#[test]
fn the_window_is_exact_and_opens_when_the_peer_reads() {
    with_pair(5, async |pair: &mut Pair| {
        let mut chunks = VecDeque::from([Bytes::from(vec![7; 1 << 20])]);
        let blocked = pair.rt.timeout(millis(2_000), pair.writer.write_all(&mut chunks)).await;
        assert_eq!(blocked.unwrap_err(), Elapsed);
        let accepted = (1 << 20) - chunks.iter().map(Bytes::len).sum::<usize>();
        assert_eq!(accepted as u64, WINDOW_SIZE);
        let (_, received) = futures_util::join!(pair.writer.write_all(&mut chunks), async {
            let mut received = 0;
            while received < 1 << 20 {
                received += read(&mut pair.server_reader).await.unwrap();
            }
            received
        });
        assert_eq!(received, 1 << 20);
    });
}

#[test]
fn a_lost_window_update_is_asked_for_again() {
    with_pair(6, async |pair: &mut Pair| {
        let mut chunks = VecDeque::from([Bytes::from(vec![7; 1 << 20])]);
        let blocked = pair.rt.timeout(millis(1_000), pair.writer.write_all(&mut chunks)).await;
        assert!(blocked.is_err());
        pair.world.cut(pair.server, pair.client);
        read(&mut pair.server_reader).await.unwrap(); // the update vanishes
        pair.world.sleep(millis(500)).await;
        pair.world.heal(pair.server, pair.client);
        // Nobody reads meanwhile: only a probe can tell the writer that there is room.
        let left: usize = chunks.iter().map(Bytes::len).sum();
        let _ = pair
            .rt
            .timeout(millis(10_000), pair.writer.write_all(&mut chunks))
            .await;
        let written = left - chunks.iter().map(Bytes::len).sum::<usize>();
        assert_eq!(written as u64, WINDOW_SIZE, "the writer was never woken");
    });
}

#[test]
fn a_lossy_link_delivers_everything_in_order() {
    let outcome = with_pair(7, async |pair: &mut Pair| {
        let lossy = LinkProfile {
            loss: 0.2,
            ..LinkProfile::default()
        };
        pair.world.set_default_link(lossy);
        let mut expected = Vec::new();
        let mut received = BytesMut::new();
        for round in 0..200u32 {
            let bytes = round.to_le_bytes().repeat(300);
            expected.extend_from_slice(&bytes);
            let mut chunks = VecDeque::from([Bytes::from(bytes)]);
            pair.writer.write_all(&mut chunks).await.unwrap();
        }
        while received.len() < expected.len() {
            pair.server_reader.read(&mut received, 1 << 20).await.unwrap();
        }
        assert!(received == expected);
        pair.world.effects()
    });
    assert!(outcome.value.packets_lost > 20);
    assert!(outcome.value.packets_retransmitted > 20);
}

#[test]
fn latency_and_bandwidth_take_their_time() {
    with_pair(8, async |pair: &mut Pair| {
        let slow = LinkProfile {
            latency: millis(40),
            jitter: millis(10),
            loss: 0.0,
            bytes_per_second: Some(100_000),
        };
        pair.world.set_link(pair.client, pair.server, slow);
        let started = pair.world.now();
        write(&mut pair.writer, 1).await.unwrap();
        read(&mut pair.server_reader).await.unwrap();
        let took = pair.world.now() - started;
        assert!((millis(40)..millis(52)).contains(&took), "{took:?}");
        let started = pair.world.now();
        write(&mut pair.writer, 200_000).await.unwrap();
        let mut received = 0;
        while received < 200_000 {
            received += read(&mut pair.server_reader).await.unwrap();
        }
        let took = pair.world.now() - started;
        assert!((millis(2_000)..millis(2_200)).contains(&took), "{took:?}");
    });
}

#[test]
fn a_killed_process_leaves_a_kernel_that_says_so() {
    with_pair(9, async |pair: &mut Pair| {
        write(&mut pair.server_writer, 10).await.unwrap();
        pair.world.kill(pair.server);
        assert_eq!(read(&mut pair.reader).await, Ok(10), "what was sent arrives");
        let started = pair.world.now();
        assert_eq!(read(&mut pair.reader).await, Ok(0));
        assert!(pair.world.now() - started < millis(5));
        write(&mut pair.writer, 10).await.unwrap();
        pair.world.sleep(millis(10)).await;
        assert_eq!(write(&mut pair.writer, 10).await.unwrap_err().kind, NetErrorKind::Reset);
        assert_eq!(pair.world.effects().connections_reset, 1);
        let address = pair.world.address(pair.server, PORT);
        let refused = pair.rt.connect(address, PATIENCE).await.unwrap_err();
        assert_eq!(refused.kind, NetErrorKind::Refused);
    });
}

#[test]
fn a_killed_process_with_unread_bytes_resets() {
    with_pair(10, async |pair: &mut Pair| {
        write(&mut pair.writer, 10).await.unwrap();
        pair.world.sleep(millis(10)).await;
        pair.world.kill(pair.server);
        assert_eq!(read(&mut pair.reader).await, Err(NetErrorKind::Reset));
    });
}

#[test]
fn power_loss_is_silent_until_the_host_is_back() {
    with_pair(11, async |pair: &mut Pair| {
        pair.world.power_loss(pair.server);
        let idle = pair.rt.timeout(millis(120_000), read(&mut pair.reader)).await;
        assert_eq!(idle.unwrap_err(), Elapsed, "an idle reader hears nothing");
        write(&mut pair.writer, 10).await.unwrap();
        pair.world.sleep(millis(5_000)).await;
        drop(pair.world.runtime(pair.server)); // boots: another kernel, which knows nothing
        assert_eq!(read(&mut pair.reader).await, Err(NetErrorKind::Reset));
    });
}

#[test]
fn a_stopped_process_goes_on_where_it_stopped() {
    run(12, |world| async move {
        let (server, client) = (world.add_node("server"), world.add_node("client"));
        let address = world.address(server, PORT);
        world.start(server, move |rt| async move {
            let listener = rt.listen(address).await.unwrap();
            let (mut reader, mut writer) = listener.accept().await.unwrap().split();
            let mut buffer = BytesMut::new();
            while let Ok(1..) = reader.read(&mut buffer, 1 << 20).await {
                writer
                    .write_all(&mut VecDeque::from([buffer.split().freeze()]))
                    .await
                    .unwrap();
            }
        });
        world.sleep(millis(10)).await;
        let rt = world.runtime(client);
        let (mut reader, mut writer) = rt.connect(address, PATIENCE).await.unwrap().split();
        world.pause(server);
        write(&mut writer, 100_000).await.unwrap();
        let silent = rt.timeout(millis(60_000), read(&mut reader)).await;
        assert_eq!(
            silent.unwrap_err(),
            Elapsed,
            "the kernel acknowledges, the process does not answer"
        );
        world.resume(server);
        let mut received = 0;
        while received < 100_000 {
            received += read(&mut reader).await.unwrap();
        }
        assert_eq!(world.effects().pauses, 1);
    });
}

#[test]
fn names_resolve_to_the_nodes_that_bear_them() {
    run(13, |world| async move {
        let (one, two) = (world.add_node("broker-a"), world.add_node("broker-b"));
        let rt = world.runtime(two);
        assert_eq!(rt.resolve("broker-a:10911").await.unwrap(), [world.address(one, 10911)]);
        assert_eq!(
            rt.resolve("localhost:1").await.unwrap(),
            ["127.0.0.1:1".parse().unwrap()]
        );
        for wrong in ["broker-c:1", "broker-a", "broker-a:x", "broker-a:70000", ""] {
            assert_eq!(rt.resolve(wrong).await.unwrap_err().kind, NetErrorKind::NameNotFound);
        }
        world.set_name("cluster", &["10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap()]);
        let both = rt.resolve("cluster:5").await.unwrap();
        assert_eq!(both, [world.address(two, 5), world.address(one, 5)]);
    });
}

#[test]
fn a_backlogged_connection_is_reset_when_its_listener_goes() {
    run(14, |world| async move {
        let (server, client) = (world.add_node("server"), world.add_node("client"));
        let listener = world.runtime(server).listen(world.address(server, PORT)).await.unwrap();
        let rt = world.runtime(client);
        let stream = rt.connect(world.address(server, PORT), PATIENCE).await.unwrap();
        world.sleep(millis(10)).await;
        drop(listener);
        let (mut reader, _writer) = stream.split();
        assert_eq!(read(&mut reader).await, Err(NetErrorKind::Reset));
    });
}
