//! Which queues of a topic a consumer takes: a pure function of the sorted queues and the sorted client ids.
//!
//! Every member of a group computes its own share, so all must see equal inputs and sort them equally: queues by
//! topic, broker name and id, clients by id, strings in Java's order (UTF-16 code units). Given equal inputs the shares
//! are disjoint and cover every queue. (AllocateMessageQueueAveragely.java, AllocateMessageQueueAveragelyByCircle.java)

use std::cmp::Ordering;

use crate::types::MessageQueue;

/// How the queues of a topic are shared among the members of a group. All members must use the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Allocation {
    /// Contiguous runs of queues, the first clients one longer. `AVG` on the wire.
    #[default]
    Average,
    /// Every C-th queue. `AVG_BY_CIRCLE` on the wire.
    Circle,
}

/// The share of `own_id`, sorted. `None` if `own_id` is not among `client_ids`: the broker does not know us (yet).
pub fn allocate(
    allocation: Allocation,
    queues: &[MessageQueue],
    client_ids: &[String],
    own_id: &str,
) -> Option<Vec<MessageQueue>> {
    let mut clients: Vec<&str> = client_ids.iter().map(String::as_str).collect();
    clients.sort_by(|a, b| java_order(a, b));
    clients.dedup();
    let index = clients.iter().position(|client| *client == own_id)?;
    let mut sorted: Vec<&MessageQueue> = queues.iter().collect();
    sorted.sort_by(|a, b| queue_order(a, b));
    sorted.dedup();
    let share = match allocation {
        Allocation::Average => average(sorted.len(), clients.len(), index),
        Allocation::Circle => (index..sorted.len()).step_by(clients.len()).collect(),
    };
    Some(share.into_iter().map(|position| sorted[position].clone()).collect())
}

/// Positions of the average share of client `index` among `client_count`.
fn average(queue_count: usize, client_count: usize, index: usize) -> Vec<usize> {
    let longer_count = queue_count % client_count;
    let is_longer = index < longer_count;
    let size = if queue_count <= client_count {
        1
    } else {
        queue_count / client_count + usize::from(is_longer)
    };
    let start = if is_longer {
        index * size
    } else {
        index * size + longer_count
    };
    (start..queue_count.min(start + size)).collect()
}

/// Java's `String.compareTo`: UTF-16 code units, which differs from code points beyond the basic plane.
pub fn java_order(a: &str, b: &str) -> Ordering {
    if a.is_ascii() && b.is_ascii() {
        return a.cmp(b);
    }
    a.encode_utf16().cmp(b.encode_utf16())
}

/// Java's `MessageQueue.compareTo`.
pub fn queue_order(a: &MessageQueue, b: &MessageQueue) -> Ordering {
    java_order(&a.topic, &b.topic)
        .then_with(|| java_order(&a.broker_name, &b.broker_name))
        .then_with(|| a.queue_id.cmp(&b.queue_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn queues(count: i32) -> Vec<MessageQueue> {
        (0..count)
            .map(|queue_id| MessageQueue {
                topic: "T".into(),
                broker_name: "a".into(),
                queue_id,
            })
            .collect()
    }

    fn clients(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("c{index:03}")).collect()
    }

    fn ids(allocation: Allocation, queue_count: i32, client_count: usize, index: usize) -> Vec<i32> {
        let clients = clients(client_count);
        allocate(allocation, &queues(queue_count), &clients, &clients[index])
            .unwrap()
            .iter()
            .map(|queue| queue.queue_id)
            .collect()
    }

    #[test]
    fn average_gives_the_first_clients_one_more() {
        assert_eq!(ids(Allocation::Average, 8, 3, 0), [0, 1, 2]);
        assert_eq!(ids(Allocation::Average, 8, 3, 1), [3, 4, 5]);
        assert_eq!(ids(Allocation::Average, 8, 3, 2), [6, 7]);
        assert_eq!(ids(Allocation::Average, 4, 4, 3), [3]);
    }

    #[test]
    fn more_clients_than_queues_leaves_the_last_ones_idle() {
        assert_eq!(ids(Allocation::Average, 2, 3, 0), [0]);
        assert_eq!(ids(Allocation::Average, 2, 3, 1), [1]);
        assert!(ids(Allocation::Average, 2, 3, 2).is_empty());
        assert!(ids(Allocation::Average, 0, 3, 0).is_empty());
    }

    #[test]
    fn circle_deals_like_cards() {
        assert_eq!(ids(Allocation::Circle, 8, 3, 0), [0, 3, 6]);
        assert_eq!(ids(Allocation::Circle, 8, 3, 2), [2, 5]);
        assert!(ids(Allocation::Circle, 2, 3, 2).is_empty());
    }

    #[test]
    fn an_unknown_member_gets_no_answer_at_all() {
        assert_eq!(allocate(Allocation::Average, &queues(4), &clients(2), "stranger"), None);
    }

    #[test]
    fn strings_sort_by_utf16_units_as_in_java() {
        // U+1F600 is the surrogate pair D83D DE00 and sorts before U+FF21 in Java, after it by code point.
        assert_eq!(java_order("\u{1F600}", "\u{FF21}"), Ordering::Less);
        assert_eq!("\u{1F600}".cmp("\u{FF21}"), Ordering::Greater);
        assert_eq!(java_order("a", "b"), Ordering::Less);
    }

    proptest! {
        #[test]
        fn shares_are_disjoint_and_cover_all_queues(
            queue_count in 0i32..60, client_count in 1usize..20, circle: bool, reversed: bool,
        ) {
            let allocation = if circle { Allocation::Circle } else { Allocation::Average };
            let mut queues = queues(queue_count);
            let mut clients = clients(client_count);
            if reversed {
                queues.reverse();
                clients.reverse();
            }
            let mut seen: Vec<i32> = Vec::new();
            let mut sizes: Vec<usize> = Vec::new();
            for client in &clients {
                let share = allocate(allocation, &queues, &clients, client).unwrap();
                sizes.push(share.len());
                seen.extend(share.iter().map(|queue| queue.queue_id));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..queue_count).collect::<Vec<_>>());
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }
}
