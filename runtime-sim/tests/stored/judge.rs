//! A store's files, judged by the checker: its own parser walks over the log and compares queues, key index and bounds with it.
//! Property C25, after every start that a test makes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use orrery_checker::history::{self, BrokerConfig, Event, Flush, Header, History, Record, Recorded};
use orrery_checker::stored::{Files, StoredBounds};
use orrery_checker::{Options, check_history};
use orrery_core::store::{Gap, StoreConfig};
use orrery_runtime_sim::{NodeId, World};

use super::Sim;

const BROKER: &str = "broker";

/// Whose files, and who asks.
pub(crate) struct Judge<'a> {
    pub(crate) world: &'a World,
    pub(crate) node: NodeId,
    pub(crate) config: &'a StoreConfig,
    pub(crate) name: &'a str,
}

impl Judge<'_> {
    /// Right after a start whose recovery ended there.
    pub(crate) fn started(&self, store: &Sim, log_end: u64, gaps: &[Gap]) {
        let bounds = store.queues().into_iter().map(|(name, bounds)| StoredBounds {
            topic: name.topic.to_string(),
            queue: name.queue_id,
            min: bounds.min,
            max: bounds.max,
        });
        self.judge(log_end, gaps, false, bounds.collect());
    }

    /// After a stop in order.
    pub(crate) fn stopped(&self) {
        self.judge(u64::MAX, &[], true, Vec::new());
    }

    fn judge(&self, log_end: u64, gaps: &[Gap], complete: bool, bounds: Vec<StoredBounds>) {
        let root = Path::new("store");
        let files = self.world.files(self.node, root);
        let below: BTreeMap<PathBuf, Bytes> = files
            .into_iter()
            .filter_map(|(path, bytes)| Some((path.strip_prefix(root).ok()?.to_path_buf(), bytes)))
            .collect();
        let files = below.iter().map(|(path, bytes)| (path.as_path(), &bytes[..]));
        let stored = Files::new(files, self.config.index_slots as usize).read(complete && self.config.index);
        let gaps = gaps.iter().map(|gap| Event::Gap {
            node: BROKER.into(),
            queue: history::Queue {
                topic: gap.topic.to_string(),
                broker: BROKER.into(),
                id: gap.queue_id,
            },
            offset: gap.offset,
        });
        let recovered = Event::Recovered {
            node: BROKER.into(),
            end: log_end,
            lost_bytes: 0,
        };
        let found = Event::Stored {
            broker: BROKER.into(),
            complete,
            stored: Box::new(stored),
            bounds,
        };
        let events = std::iter::once(recovered).chain(gaps).chain([found]);
        let history = History {
            header: header(),
            records: events.map(|event| Record { t: 0, event }).collect(),
        };
        let only = Options {
            only: vec!["C25".into()],
        };
        let report = check_history(&history, &only);
        assert!(report.violations().is_empty(), "{}: {report}", self.name);
        assert_eq!(report.evaluated.first().map(String::as_str), Some("C25"));
    }
}

fn header() -> Header {
    Header {
        history: history::VERSION,
        source: "a test of the store".into(),
        seed: None,
        records: vec![Recorded::Stores],
        brokers: vec![BrokerConfig {
            name: BROKER.into(),
            node: BROKER.into(),
            flush: Flush::Sync,
        }],
        groups: Vec::new(),
        limits: Default::default(),
        required: Default::default(),
    }
}
