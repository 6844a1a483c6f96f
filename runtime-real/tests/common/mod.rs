//! An `orrery` process with a folder of its own, and a blocking connection that speaks the protocol.

#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use orrery_core::protocol::frame::{self, Limits, Outgoing};
use orrery_core::protocol::{Command as Request, code};
use rustix::process::{Pid, Signal, kill_process};

/// The binary under test: `ORRERY_BINARY`, or the one that cargo has just built.
pub(crate) fn orrery() -> PathBuf {
    std::env::var_os("ORRERY_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_orrery").into(), PathBuf::from)
}

/// A running `orrery up`. Dropping it kills it.
pub(crate) struct Up {
    child: Child,
    pub(crate) namesrv: SocketAddr,
    pub(crate) broker: SocketAddr,
    errors: Arc<Mutex<String>>,
}

impl Up {
    pub(crate) fn start(dir: &std::path::Path) -> Up {
        Up::start_with(dir, &[])
    }

    pub(crate) fn start_with(dir: &std::path::Path, flags: &[&str]) -> Up {
        let mut child = Command::new(orrery())
            .args(["up", "--namesrv-port", "0", "--broker-port", "0", "--dir"])
            .arg(dir)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("orrery starts");
        let errors = Arc::new(Mutex::new(String::new()));
        let (stderr, said) = (child.stderr.take().expect("piped"), Arc::clone(&errors));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                said.lock().expect("no panic").push_str(&(line + "\n"));
            }
        });
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut address = |label: &str| {
            let found = lines.by_ref().map_while(Result::ok).find_map(|line| {
                line.trim()
                    .strip_prefix(label)
                    .and_then(|rest| rest.trim().parse::<SocketAddr>().ok())
            });
            found.unwrap_or_else(|| panic!("orrery up prints its {label}: {}", errors.lock().expect("no panic")))
        };
        let namesrv = address("name server");
        let broker = address("broker");
        // Whoever closes the pipe breaks the process's next line.
        std::thread::spawn(move || lines.for_each(drop));
        Up {
            child,
            namesrv,
            broker,
            errors,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on stderr.
    pub(crate) fn errors(&self) -> String {
        self.errors.lock().expect("no panic").clone()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Ends it as an operator does.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().expect("a child")
    }

    /// Ends it as the kernel does.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("a child");
    }

    fn signal(&mut self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a child of ours");
    }

    /// Anonymous resident memory in bytes.
    pub(crate) fn anonymous_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a child of ours");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .expect("a line");
        line.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<u64>()
            .expect("a number")
            * 1024
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A blocking connection.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    inbox: BytesMut,
    next_opaque: i32,
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr) -> Wire {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a socket");
        Wire {
            stream,
            inbox: BytesMut::new(),
            next_opaque: 1,
        }
    }

    /// Sends a request and waits for its reply.
    pub(crate) fn call(&mut self, mut request: Request) -> Request {
        request.opaque = self.next_opaque;
        self.next_opaque += 1;
        self.stream.write_all(&encoded(&request)).expect("an open connection");
        loop {
            let reply = self.receive();
            if reply.is_reply() && reply.opaque == request.opaque {
                return reply;
            }
        }
    }

    pub(crate) fn receive(&mut self) -> Request {
        loop {
            if let Some(command) = frame::decode(&mut self.inbox, &Limits::default()).expect("frames") {
                return command;
            }
            let mut bytes = [0; 16 * 1024];
            let count = self.stream.read(&mut bytes).expect("a reply within 20 s");
            assert!(count > 0, "the server closed the connection");
            self.inbox.extend_from_slice(&bytes[..count]);
        }
    }
}

pub(crate) fn encoded(command: &Request) -> Vec<u8> {
    let mut out = Outgoing::new(Limits::default());
    frame::encode(command, Vec::new(), &mut out).expect("a small command");
    out.take().iter().flatten().copied().collect()
}

/// A send of `body` to a queue.
pub(crate) fn send(topic: &str, queue_id: i32, body: &[u8]) -> Request {
    Request::request(code::request::SEND_MESSAGE_V2)
        .with("a", "test_producer")
        .with("b", topic)
        .with("c", "TBW102")
        .with("d", "4")
        .with("e", &queue_id.to_string())
        .with("f", "0")
        .with("g", "1795565286007")
        .with("h", "0")
        .with("i", "WAIT\u{1}true\u{2}")
        .with("j", "0")
        .with("k", "false")
        .with_body(body.to_vec())
}
