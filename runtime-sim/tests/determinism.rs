//! Same seed, same run: twice in a row, on two threads at once; and different seeds differ.
//! Across processes: `orrery-sim determinism`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use orrery_core::probe::Fact;
use orrery_core::runtime::{Disk, File, Listener, OpenMode, Reader, Runtime, Stream, Writer};
use orrery_runtime_sim::{LinkProfile, LogWindow, Outcome, Sim, SimRuntime, World};

/// Echoes what it reads after having written it to its disk.
async fn recorder(rt: SimRuntime, address: std::net::SocketAddr) {
    let file = rt
        .disk()
        .open(Path::new("log"), OpenMode::Create)
        .await
        .expect("a file");
    let _ = rt.disk().sync_dir(Path::new("/")).await;
    let listener = rt.listen(address).await.expect("a port");
    let mut connections = Vec::new();
    while let Ok(stream) = listener.accept().await {
        let (file, clock) = (file.clone(), rt.clone());
        connections.push(rt.spawn("connection", async move {
            let (mut reader, mut writer) = stream.split();
            let mut buffer = BytesMut::new();
            while let Ok(1..) = reader.read(&mut buffer, 4096).await {
                let bytes = buffer.split().freeze();
                let end = file.len();
                if file.write_at(end, &[&bytes]).is_err() || file.sync().await.is_err() {
                    return;
                }
                clock.announce(Fact::Flushed { upto: end });
                if writer.write_all(&mut [bytes].into()).await.is_err() {
                    return;
                }
            }
        }));
    }
}

async fn chat(rt: SimRuntime, address: std::net::SocketAddr) {
    loop {
        let Ok(stream) = rt.connect(address, Duration::from_secs(2)).await else {
            rt.sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (mut reader, mut writer) = stream.split();
        let mut buffer = BytesMut::new();
        loop {
            let size = (rt.random_u64() % 500) as usize + 1;
            let sent = writer
                .write_all(&mut [Bytes::from(vec![size as u8; size])].into())
                .await;
            let answer = rt
                .timeout(Duration::from_millis(500), reader.read(&mut buffer, 4096))
                .await;
            if sent.is_err() || !matches!(answer, Ok(Ok(1..))) {
                break;
            }
            buffer.clear();
            rt.sleep(Duration::from_millis(rt.random_u64() % 20)).await;
        }
    }
}

async fn scenario(world: World) {
    let servers: Vec<_> = (0..2).map(|n| world.add_node(&format!("server-{n}"))).collect();
    let clients: Vec<_> = (0..3).map(|n| world.add_node(&format!("client-{n}"))).collect();
    world.set_default_link(LinkProfile {
        loss: 0.005,
        ..LinkProfile::default()
    });
    for &server in &servers {
        let address = world.address(server, 1000);
        world.start(server, move |rt| recorder(rt, address));
    }
    for (index, &client) in clients.iter().enumerate() {
        let address = world.address(servers[index % 2], 1000);
        world.start(client, move |rt| chat(rt, address));
    }
    for round in 0..6u64 {
        let draw = world.draw("fault").with(round);
        let server = servers[draw.below(2) as usize];
        world
            .sleep(draw.with(1).between(Duration::from_millis(300), Duration::from_secs(2)))
            .await;
        match round {
            0 => world.kill(server),
            1 => world.power_loss(server),
            2 => world.cut(clients[0], server),
            3 => world.stall_disk(server, Duration::from_millis(700)),
            4 => world.set_drift(clients[1], 50_000),
            _ => world.pause(clients[2]),
        }
        world.sleep(Duration::from_millis(400)).await;
        if !world.is_running(server) {
            world.restart(server);
        }
        world.heal_all();
        world.resume(clients[2]);
    }
    world.sleep(Duration::from_secs(2)).await;
}

fn outcome(seed: u64, window: LogWindow) -> Outcome<()> {
    Sim::new(seed).log(window).run(scenario)
}

#[test]
fn the_same_seed_gives_the_same_run_in_one_process() {
    let hashes: Vec<_> = (0..10).map(|seed| outcome(seed, LogWindow::Off).trace_hash).collect();
    for (seed, &hash) in hashes.iter().enumerate() {
        let again = outcome(seed as u64, LogWindow::Off);
        assert_eq!(again.trace_hash, hash, "seed {seed}");
        assert!(
            again.event_count > 1_000,
            "seed {seed} has only {} events",
            again.event_count
        );
        assert!(again.panics.is_empty());
    }
    let distinct: BTreeSet<_> = hashes.iter().collect();
    assert_eq!(distinct.len(), hashes.len(), "different seeds differ");
}

#[test]
fn the_same_seed_gives_the_same_run_on_two_threads_at_once() {
    let sweep = || {
        (20..30)
            .map(|seed| outcome(seed, LogWindow::Off).trace_hash)
            .collect::<Vec<_>>()
    };
    let (one, other) = (std::thread::spawn(sweep), std::thread::spawn(sweep));
    assert_eq!(one.join().expect("a run"), other.join().expect("a run"));
}

#[test]
fn the_first_different_event_of_two_runs_is_found() {
    let (one, other) = (outcome(1, LogWindow::Off), outcome(2, LogWindow::Off));
    let window = one
        .log
        .first_difference(&other.log)
        .expect("they differ in the first block");
    let (one, other) = (outcome(1, window), outcome(2, window));
    let (a, b) = one.log.first_different_entry(&other.log).expect("in this window");
    assert_ne!(a, b);
    assert_eq!(outcome(1, window).log, one.log);
}
