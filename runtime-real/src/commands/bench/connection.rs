//! One TCP connection that speaks the remoting protocol with as little work as possible: no time-out per request, no task
//! per reply, no retry.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use orrery_core::protocol::Command;
use orrery_core::protocol::frame::{self, Limits, Outgoing};
use orrery_core::runtime::{Reader, Runtime, Stream, Writer};
use orrery_runtime_real::{Real, RealReader, RealWriter};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes taken in one read.
const READ_BYTES_MAX: usize = 256 * 1024;

pub(super) struct Connection {
    reader: RealReader,
    writer: RealWriter,
    inbox: BytesMut,
    limits: Limits,
}

impl Connection {
    pub(super) async fn open(real: &Real, address: SocketAddr) -> anyhow::Result<Connection> {
        let stream = real.connect(address, CONNECT_TIMEOUT).await?;
        let (reader, writer) = stream.split();
        Ok(Connection {
            reader,
            writer,
            inbox: BytesMut::new(),
            limits: Limits::default(),
        })
    }

    pub(super) async fn send_command(&mut self, command: &Command) -> anyhow::Result<()> {
        let mut out = Outgoing::new(self.limits);
        frame::encode(command, Vec::new(), &mut out)?;
        Ok(self.writer.write_all(out.take()).await?)
    }

    /// The next frame among the bytes that are here.
    pub(super) fn received(&mut self) -> anyhow::Result<Option<Command>> {
        Ok(frame::decode(&mut self.inbox, &self.limits)?)
    }

    /// Waits for more bytes. Dropping the future loses none.
    pub(super) async fn receive(&mut self) -> anyhow::Result<()> {
        match self.reader.read(&mut self.inbox, READ_BYTES_MAX).await? {
            0 => bail!("the server closed the connection"),
            _ => Ok(()),
        }
    }

    /// One request and its reply, on a connection with nothing else in flight.
    pub(super) async fn call(&mut self, real: &Real, command: &Command) -> anyhow::Result<Command> {
        let exchange = async {
            self.send_command(command).await?;
            loop {
                while let Some(reply) = self.received()? {
                    if reply.is_reply() && reply.opaque == command.opaque {
                        return Ok(reply);
                    }
                }
                self.receive().await?;
            }
        };
        real.timeout(CALL_TIMEOUT, exchange)
            .await
            .context("no answer within 5 s")?
    }
}
