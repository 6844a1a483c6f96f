//! Simulated seconds per wall second of the bare runtime: two brokers, two name servers, four clients, each client with
//! 100 sends of 1 KiB and 100 deliveries a second, every send written, one sync per 10 ms, a heartbeat per second to each
//! name server. What core does with a message comes on top.
//!
//! `cargo bench -p orrery-runtime-sim --bench speed [seconds]`

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use orrery_core::runtime::{Disk, File, Listener, OpenMode, Reader, Runtime, Stream, Writer};
use orrery_runtime_sim::{NodeId, Outcome, SimRuntime, World, run};

const PORT: u16 = 9876;
const REQUEST_SIZE: usize = 1024;

/// Answers each request of [`REQUEST_SIZE`] bytes with 100 bytes.
async fn serve(rt: SimRuntime, address: std::net::SocketAddr) {
    let file = rt
        .disk()
        .open(Path::new("log"), OpenMode::Create)
        .await
        .expect("a file");
    file.allocate(1 << 30).await.expect("room");
    let (syncing, clock) = (file.clone(), rt.clone());
    let _flusher = rt.spawn("flush", async move {
        loop {
            clock.sleep(Duration::from_millis(10)).await;
            syncing.sync().await.expect("a healthy disk");
        }
    });
    let listener = rt.listen(address).await.expect("a port");
    let mut connections = Vec::new();
    while let Ok(stream) = listener.accept().await {
        let file = file.clone();
        connections.push(rt.spawn("connection", async move {
            let (mut reader, mut writer) = stream.split();
            let mut buffer = BytesMut::new();
            let mut at = 0;
            while let Ok(1..) = reader.read(&mut buffer, 64 << 10).await {
                let mut replies = std::collections::VecDeque::new();
                while buffer.len() >= REQUEST_SIZE {
                    let request = buffer.split_to(REQUEST_SIZE);
                    file.write_at(at % (1 << 29), &[&request]).expect("room");
                    at += REQUEST_SIZE as u64;
                    replies.push_back(Bytes::from_static(&[1; 100]));
                }
                if writer.write_all(&mut replies).await.is_err() {
                    return;
                }
            }
        }));
    }
}

async fn ask(rt: SimRuntime, address: std::net::SocketAddr, every: Duration) {
    let stream = rt.connect(address, Duration::from_secs(3)).await.expect("a server");
    let (mut reader, mut writer) = stream.split();
    let request = Bytes::from(vec![7; REQUEST_SIZE]);
    let mut buffer = BytesMut::new();
    loop {
        writer.write_all(&mut [request.clone()].into()).await.expect("a server");
        buffer.clear();
        let reply = async {
            while buffer.len() < 100 {
                reader.read(&mut buffer, 4096).await.expect("a server");
            }
        };
        rt.timeout(Duration::from_secs(3), reply).await.expect("an answer");
        rt.sleep(every).await;
    }
}

async fn scenario(world: World, seconds: u64) -> u64 {
    let servers: Vec<NodeId> = ["broker-a", "broker-b", "name-a", "name-b"]
        .map(|name| world.add_node(name))
        .into();
    let clients: Vec<NodeId> = (0..4).map(|n| world.add_node(&format!("client-{n}"))).collect();
    for &server in &servers {
        let address = world.address(server, PORT);
        world.start(server, move |rt| serve(rt, address));
    }
    world.sleep(Duration::from_millis(10)).await;
    for &client in &clients {
        let addresses: Vec<_> = servers.iter().map(|&server| world.address(server, PORT)).collect();
        world.start(client, move |rt| {
            let addresses = addresses.clone();
            async move {
                let mut tasks = Vec::new();
                for &broker in &addresses[..2] {
                    for _send_or_pull in 0..2 {
                        tasks.push(rt.spawn("ask", ask(rt.clone(), broker, Duration::from_millis(18))));
                    }
                }
                for &name_server in &addresses[2..] {
                    tasks.push(rt.spawn("beat", ask(rt.clone(), name_server, Duration::from_secs(1))));
                }
                std::future::pending::<()>().await;
            }
        });
    }
    world.sleep(Duration::from_secs(seconds)).await;
    world.disk(servers[0]).capacity_bytes
}

fn main() {
    let seconds = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(60);
    for seed in 0..3 {
        let started = Instant::now();
        let outcome: Outcome<u64> = run(seed, move |world| scenario(world, seconds));
        let wall = started.elapsed().as_secs_f64();
        println!(
            "seed {seed}: {seconds} simulated s in {wall:.3} s, {:.0} per wall second, {} events a simulated second",
            seconds as f64 / wall,
            outcome.event_count / seconds,
        );
    }
}
