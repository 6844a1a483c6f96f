//! Orrery in simulation: TCP, disks and clocks of our own on the madsim executor.
//!
//! A [`World`] owns everything that outlives a process: networks, disks, clocks, liveness. A [`SimRuntime`] is one
//! process's view of it and implements [`orrery_core::runtime::Runtime`]. Every simulation runs on a fresh OS thread,
//! is single-threaded, and is a function of its seed: two runs have the same [`Outcome::trace_hash`].
//!
//! ```
//! use std::time::Duration;
//! use bytes::{Bytes, BytesMut};
//! use orrery_core::runtime::{Listener, Reader, Runtime, Stream, Writer};
//! use orrery_runtime_sim::run;
//!
//! let outcome = run(7, |world| async move {
//!     let server = world.add_node("server"); // 10.0.0.1
//!     let client = world.add_node("client"); // 10.0.0.2
//!     let address = world.address(server, 9876);
//!     // The process on `server`: killed and restarted by the world; when the future ends, the process exits.
//!     world.start(server, move |rt| async move {
//!         let listener = rt.listen(address).await.expect("free port");
//!         while let Ok(stream) = listener.accept().await {
//!             let (mut reader, mut writer) = stream.split();
//!             let mut buffer = BytesMut::new();
//!             while let Ok(1..) = reader.read(&mut buffer, 4096).await {
//!                 let _ = writer.write_all(&mut [buffer.split().freeze()].into()).await;
//!             }
//!         }
//!     });
//!     world.sleep(Duration::from_secs(1)).await; // true time, no node's clock
//!     let rt = world.runtime(client); // a process without a main function: the scenario drives it
//!     let stream = rt.connect(address, Duration::from_secs(3)).await.expect("server is up");
//!     let (mut reader, mut writer) = stream.split();
//!     writer.write_all(&mut [Bytes::from_static(b"ping")].into()).await.expect("connected");
//!     let mut buffer = BytesMut::new();
//!     reader.read(&mut buffer, 4096).await.expect("echo");
//!     world.power_loss(server);
//!     world.restart(server);
//!     buffer.freeze()
//! });
//! assert_eq!(outcome.value, "ping");
//! assert!(outcome.panics.is_empty());
//! ```

#[cfg(not(madsim))]
compile_error!(
    "runtime-sim needs `--cfg madsim`: run cargo inside the repository and unset RUSTFLAGS, which replaces .cargo/config.toml"
);

mod clock;
pub mod disk;
mod effects;
mod events;
pub mod net;
mod process;
mod random;
mod run;
mod sites;
mod state;
mod timer;
mod trace;
mod world;

pub use disk::{CrashPoint, DiskFault, DiskFaults, DiskProfile, Fate, Newest, PowerCut, SimDisk, SimFile, SimLock};
pub use effects::Effects;
pub use net::{LinkProfile, NetSettings, SimListener, SimReader, SimStream, SimWriter};
pub use process::{SimRuntime, SimTask};
pub use random::Draw;
pub use run::{Outcome, Panic, Sim, run};
pub use sites::SiteCount;
pub use trace::{CHECKPOINT_EVENTS, LogEntry, LogWindow, TraceLog};
pub use world::{FactRecord, NODE_COUNT_MAX, NodeId, World};
