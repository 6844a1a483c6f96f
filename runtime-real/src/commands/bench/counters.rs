//! Counters of the broker itself, from its runtime info: bytes written and syncs. A broker that does not keep them (Apache RocketMQ)
//! has none, and what is unknown is never shown as 0.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use orrery_core::protocol::Command;
use orrery_core::protocol::code::{request, response};
use orrery_runtime_real::Real;
use serde::Deserialize;

use super::connection::Connection;

/// Totals since the broker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) bytes_written: u64,
    pub(super) writes: u64,
    pub(super) syncs: u64,
}

impl Counters {
    /// The sum over all brokers; `None` if one does not answer or does not count.
    pub(super) async fn ask(real: &Real, addresses: &[SocketAddr]) -> Option<Counters> {
        let mut sum = Counters::default();
        for address in addresses {
            let mut connection = Connection::open(real, *address).await.ok()?;
            let command = Command::request(request::GET_BROKER_RUNTIME_INFO);
            let reply = connection.call(real, &command).await.ok()?;
            let counters = (reply.code == response::SUCCESS).then(|| Counters::read(&reply.body))??;
            sum.bytes_written += counters.bytes_written;
            sum.writes += counters.writes;
            sum.syncs += counters.syncs;
        }
        Some(sum)
    }

    fn read(body: &[u8]) -> Option<Counters> {
        #[derive(Deserialize)]
        struct Info {
            table: BTreeMap<String, String>,
        }
        let info: Info = serde_json::from_slice(body).ok()?;
        let total = |name: &str| info.table.get(name)?.parse::<u64>().ok();
        Some(Counters {
            bytes_written: total("writeBytesTotal")?,
            writes: total("writeCallsTotal")?,
            syncs: total("syncCallsTotal")?,
        })
    }

    pub(super) fn since(self, earlier: Counters) -> Counters {
        Counters {
            bytes_written: self.bytes_written.saturating_sub(earlier.bytes_written),
            writes: self.writes.saturating_sub(earlier.writes),
            syncs: self.syncs.saturating_sub(earlier.syncs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_or_unknown_but_never_zero_by_accident() {
        let body =
            br#"{"table":{"writeBytesTotal":"120","writeCallsTotal":"7","syncCallsTotal":"3","putTps":"1 2 3"}}"#;
        let counters = Counters {
            bytes_written: 120,
            writes: 7,
            syncs: 3,
        };
        assert_eq!(Counters::read(body), Some(counters));
        assert_eq!(Counters::read(br#"{"table":{"putTps":"1 2 3"}}"#), None);
        assert_eq!(Counters::read(b"{"), None);
    }
}
