//! Servers that a benchmark starts for itself: child processes on loopback, ended by their ids, never by name.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::floor::Mode;

/// How long a server may take to open its port. Apache RocketMQ with a pre-touched heap takes 13 s on a small machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may take to end in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server. Dropping it kills it.
pub(super) struct Server {
    child: Child,
    pub(super) address: SocketAddr,
    pub(super) dir: PathBuf,
    stopped: bool,
}

/// How a broker flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    Async,
    Sync,
}

impl Flush {
    pub(super) fn property(self) -> &'static str {
        match self {
            Flush::Async => "ASYNC_FLUSH",
            Flush::Sync => "SYNC_FLUSH",
        }
    }
}

impl Server {
    /// Our own broker, without a name server, with its store below `dir`.
    pub(super) fn orrery(dir: &Path, flush: Flush) -> anyhow::Result<Server> {
        let port = free_port()?;
        let config = broker_config(dir, flush, port)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["broker", "-c"]).arg(config);
        Server::start(command, dir, port, "broker")
    }

    /// The floor server.
    pub(super) fn floor(dir: &Path, mode: Mode) -> anyhow::Result<Server> {
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
        command.args(["bench", "floor", "--mode", mode.name(), "--listen", &listen, "--dir"]);
        command.arg(dir.join("floor"));
        Server::start(command, dir, port, "floor")
    }

    /// Starts `command` and waits until the port is open. Its output goes to `<name>.log` in `dir`.
    pub(super) fn start(mut command: Command, dir: &Path, port: u16, name: &str) -> anyhow::Result<Server> {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let log_path = dir.join(format!("{name}.log"));
        let log = File::create(&log_path).with_context(|| log_path.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
        let mut server = Server {
            child,
            address: (Ipv4Addr::LOCALHOST, port).into(),
            dir: dir.to_owned(),
            stopped: false,
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(server.address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("the {name} ended with {status}: {}", end_of(&log_path));
            }
            if Instant::now() > deadline {
                bail!(
                    "the {name} did not open port {port} in {} s: {}",
                    START_TIMEOUT.as_secs(),
                    end_of(&log_path)
                );
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops its processor time without ending it, so that it takes nothing from others.
    pub(super) fn freeze(&mut self) {
        self.stopped = self.signal(Signal::STOP).is_ok();
    }

    pub(super) fn thaw(&mut self) {
        if std::mem::take(&mut self.stopped) {
            let _ = self.signal(Signal::CONT);
        }
    }

    /// Ends it as an operator does.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.thaw();
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("process {} did not end within {} s", self.pid(), STOP_TIMEOUT.as_secs());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Ends it as the kernel does.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Settings that both brokers understand alike, beside addresses and folders; everything else is by default. Disks are small, so that neither
/// broker deletes or refuses because one is used to 75 %.
pub(super) fn settings(flush: Flush) -> Vec<String> {
    let flush = format!("flushDiskType={}", flush.property());
    let others = [
        "brokerRole=ASYNC_MASTER",
        "mappedFileSizeCommitLog=1073741824",
        "fileReservedTime=72",
        "deleteWhen=04",
        "diskMaxUsedSpaceRatio=95",
        "diskSpaceCleanForciblyRatio=100",
        "diskSpaceWarningLevelRatio=100",
    ];
    std::iter::once(flush)
        .chain(others.into_iter().map(str::to_owned))
        .collect()
}

pub(super) fn broker_config(dir: &Path, flush: Flush, port: u16) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let store = std::path::absolute(dir.join("store"))?;
    let text = format!(
        "brokerClusterName=DefaultCluster\nbrokerName=bench\nbrokerId=0\nbrokerIP1=127.0.0.1\nlistenPort={port}\n\
         storePathRootDir={}\nstorePathCommitLog={}\n{}\n",
        store.display(),
        store.join("commitlog").display(),
        settings(flush).join("\n")
    );
    let path = dir.join("broker.conf");
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// A free port whose neighbours a Java broker also wants (its HA port is the next, its fast port two below): they were free as well.
pub(super) fn free_port() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let neighbours = port.checked_sub(2).zip(port.checked_add(1));
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if neighbours.is_some_and(|(below, above)| port > 1026 && is_free(below) && is_free(above) && is_free(port)) {
            return Ok(port);
        }
    }
    bail!("no free port with free neighbours on 127.0.0.1")
}

fn end_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
