//! # C01 Phantom or corrupt
//!
//! **Law.** Every message that is delivered or found by the final scan was sent, before, and carries the body, tag and
//! keys it was sent with.
//!
//! **Why clients depend on it.** An application acts on what it reads. A record assembled from a torn write, a slice of the
//! wrong file or another message's properties is worse than a lost one: nobody notices.
//!
//! **How.** Each read is compared with the invocation of the message that its body names. O(n).

use super::{Findings, Law, Property};
use crate::history::Recorded;
use crate::ledger::{Ledger, NEVER, Print};
use crate::names::{Id, NONE};

pub(super) const PROPERTY: Property = Property {
    law: Law {
        id: "C01",
        title: "phantom or corrupt message",
        needs: &[Recorded::Sends],
        also: None,
    },
    check,
};

fn check(ledger: &Ledger, findings: &mut Findings) {
    for delivery in &ledger.deliveries {
        let by = format_args!("{} of {}", ledger.text(delivery.client), ledger.text(delivery.group)).to_string();
        judge(
            ledger,
            findings,
            delivery.started,
            delivery.queue,
            delivery.offset,
            delivery.uid,
            delivery.print,
            &by,
        );
    }
    for queue in ledger.queue_ids() {
        for entry in ledger.scans.get(&queue).map_or(&[][..], |scan| &scan.entries) {
            judge(
                ledger,
                findings,
                entry.t,
                queue,
                entry.offset,
                entry.uid,
                entry.print,
                "the final scan",
            );
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn judge(ledger: &Ledger, findings: &mut Findings, t: u64, queue: Id, offset: i64, uid: Id, read: Print, by: &str) {
    let message = (uid != NONE).then(|| ledger.messages[uid as usize]);
    let wrong = match message {
        None => "its body names no message".to_owned(),
        Some(message) if message.sent == NEVER => "nobody sent it".to_owned(),
        Some(message) if message.sent > t => "it was sent only later".to_owned(),
        Some(message) if message.print != read => difference(ledger, message.print, read),
        Some(message) if !ledger.queue_info(queue).system && message.topic != ledger.queue_info(queue).topic => {
            format!("it was sent to topic {}", ledger.text(message.topic))
        }
        Some(_) => return,
    };
    let (slot, name) = (ledger.queue_name(queue), ledger.uid_name(uid));
    findings.violation(t, format!("{by} read {name} at {slot} offset {offset}: {wrong}"));
}

fn difference(ledger: &Ledger, sent: Print, read: Print) -> String {
    if (sent.crc, sent.size) != (read.crc, read.size) {
        return format!(
            "body of {} bytes with CRC {:08x}, sent {} bytes with CRC {:08x}",
            read.size, read.crc, sent.size, sent.crc
        );
    }
    let (what, sent, read) = if sent.tag != read.tag {
        ("tag", sent.tag, read.tag)
    } else {
        ("keys", sent.keys, read.keys)
    };
    format!("{what} {}, sent {}", ledger.text(read), ledger.text(sent))
}

#[cfg(test)]
mod tests {
    use crate::story::{Story, broken};

    #[test]
    fn a_message_read_as_it_was_sent_is_accepted() {
        let mut story = Story::new();
        story.send("a", 0, 0).deliver("g", "c1", 0, 0, "a");
        assert_eq!(broken(&story), [] as [&str; 0]);
    }

    #[test]
    fn a_message_nobody_sent_and_a_flipped_byte_are_rejected() {
        let mut phantom = Story::new();
        phantom.send("a", 0, 0).deliver("g", "c1", 0, 1, "b");
        assert_eq!(broken(&phantom), ["C01"]);

        let mut flipped = Story::new();
        flipped.send("a", 0, 0).deliver("g", "c1", 0, 0, "a");
        flipped.flip_last_delivery();
        assert_eq!(broken(&flipped), ["C01"]);
    }
}
