//! Requests that brokers make of a client. (ClientRemotingProcessor.java)
//!
//! | code | effect |
//! |---|---|
//! | 40 members of a group changed | its consumer rebalances now |
//! | 220 offsets were reset | its consumer takes the queues again at the new offsets |
//!
//! Any other code is answered "not supported", unless it was one-way.

use std::sync::Weak;

use super::instance::ClientCore;
use crate::protocol::Command;
use crate::protocol::body::{Body, ResetOffsetBody};
use crate::protocol::code::request;
use crate::protocol::header::{ConsumerGroupHeader, ResetOffsetHeader};
use crate::remoting::{Inbound, Peer};
use crate::runtime::Runtime;

/// Hands requests to the client while it lives.
pub(super) struct Requests<R: Runtime> {
    core: Weak<ClientCore<R>>,
}

impl<R: Runtime> Requests<R> {
    pub(super) fn new(core: Weak<ClientCore<R>>) -> Requests<R> {
        Requests { core }
    }

    fn members_changed(&self, command: &Command) {
        let Ok(header) = ConsumerGroupHeader::read(&command.ext) else {
            return;
        };
        let member = self.core.upgrade().and_then(|core| core.member(&header.consumer_group));
        if let Some(member) = member {
            member.rebalance_soon();
        }
    }

    fn reset_offsets(&self, command: &Command) {
        let (Ok(header), Ok(body)) = (
            ResetOffsetHeader::read(&command.ext),
            ResetOffsetBody::read(&command.body),
        ) else {
            return;
        };
        let member = self.core.upgrade().and_then(|core| core.member(&header.group));
        if let Some(member) = member {
            member.reset_offsets(&header.topic, &body.offset_table.0);
        }
    }
}

impl<R: Runtime> Inbound for Requests<R> {
    fn request(&self, _address: &str, peer: &Peer, command: Command) {
        match command.code {
            request::NOTIFY_CONSUMER_IDS_CHANGED => self.members_changed(&command),
            request::RESET_CONSUMER_CLIENT_OFFSET => self.reset_offsets(&command),
            _ if command.is_one_way() => {}
            _ => {
                let reply = Command::not_supported(&command);
                peer.answer_later(&command).reply(reply, Vec::new());
            }
        }
    }

    fn closed(&self, address: &str) {
        if let Some(core) = self.core.upgrade() {
            core.connection_lost(address);
        }
    }
}
