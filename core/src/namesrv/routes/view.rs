//! What readers of the route table see: routes of a topic, lists of topics, the cluster.
//!
//! Views are copies in a defined order (by name), so that the table's lock is held only for the copy and the same table
//! always gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use super::{MASTER_ID, PERMISSION_WRITE, Queues, Routes};
use crate::protocol::body::DataVersion;

/// Topics that no one writes and that brokers use to find their own set (`TopicValidator.SYNC_BROKER_MEMBER_GROUP_PREFIX`).
const MEMBER_GROUP_PREFIX: &str = "rmq_sys_SYNC_BROKER_MEMBER_";

const FLAG_UNIT: i32 = 1;
const FLAG_UNIT_SUBSCRIPTION: i32 = 2;

/// A broker set as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerView {
    pub cluster: String,
    pub broker_name: String,
    pub addresses: BTreeMap<i64, String>,
    pub zone_name: Option<String>,
    pub acting_master: bool,
}

/// Where a topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteView {
    pub queues: Vec<(String, Queues)>,
    pub brokers: Vec<BrokerView>,
}

/// Which topics a list asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicListView<'a> {
    All,
    Cluster(&'a str),
    Unit,
    UnitSubscription,
    UnitSubscriptionOnly,
}

impl Routes {
    /// Where `topic` is; `None` if no broker has it (`pickupTopicRouteData`).
    pub fn route(&self, topic: &str) -> Option<RouteView> {
        let queues = self.topics.get(topic)?;
        let brokers = queues.keys().filter_map(|name| self.broker(name)).collect();
        let queues = queues
            .iter()
            .map(|(name, queues)| (name.clone(), queues.clone()))
            .collect();
        let mut route = RouteView { queues, brokers };
        if self.options.support_acting_master && !topic.starts_with(MEMBER_GROUP_PREFIX) {
            route.show_acting_masters();
        }
        Some(route)
    }

    /// One broker set.
    pub fn broker(&self, name: &str) -> Option<BrokerView> {
        let set = self.brokers.get(name)?;
        let addresses = set.members.iter().map(|(id, member)| (*id, member.address.clone()));
        Some(BrokerView {
            cluster: set.cluster.clone(),
            broker_name: name.to_owned(),
            addresses: addresses.collect(),
            zone_name: set.zone_name.clone(),
            acting_master: set.acting_master,
        })
    }

    /// Every broker set, by name.
    pub fn brokers(&self) -> Vec<BrokerView> {
        self.brokers.keys().filter_map(|name| self.broker(name)).collect()
    }

    /// Names of broker sets by cluster.
    pub fn clusters(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut clusters: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, set) in &self.brokers {
            clusters.entry(set.cluster.clone()).or_default().insert(name.clone());
        }
        clusters
    }

    /// Names of topics, sorted.
    pub fn topic_list(&self, which: TopicListView<'_>) -> Vec<String> {
        let wanted = self.topics.iter().filter(|(_, queues)| self.is_wanted(which, queues));
        wanted.map(|(topic, _)| topic.clone()).collect()
    }

    /// The data version that a broker registered last.
    pub fn data_version(&self, broker_name: &str, address: &str) -> Option<&DataVersion> {
        let set = self.brokers.get(broker_name)?;
        let member = set.members.values().find(|member| member.address == address)?;
        Some(&member.data_version)
    }

    fn is_wanted(&self, which: TopicListView<'_>, queues: &BTreeMap<String, Queues>) -> bool {
        // The Java server looks at one broker's flag too.
        let flag = queues.values().next().map_or(0, |queues| queues.system_flag);
        match which {
            TopicListView::All => true,
            TopicListView::Cluster(cluster) => queues
                .keys()
                .any(|name| self.brokers.get(name).is_some_and(|set| set.cluster == cluster)),
            TopicListView::Unit => flag & FLAG_UNIT != 0,
            TopicListView::UnitSubscription => flag & FLAG_UNIT_SUBSCRIPTION != 0,
            TopicListView::UnitSubscriptionOnly => flag & FLAG_UNIT_SUBSCRIPTION != 0 && flag & FLAG_UNIT == 0,
        }
    }
}

impl RouteView {
    /// A set without a primary whose topic cannot be written shows its lowest replica as the primary, so that locks and
    /// offsets find someone to ask.
    fn show_acting_masters(&mut self) {
        for broker in &mut self.brokers {
            let is_writable = self
                .queues
                .iter()
                .any(|(name, queues)| *name == broker.broker_name && queues.permission & PERMISSION_WRITE != 0);
            if is_writable || !broker.acting_master || broker.addresses.contains_key(&MASTER_ID) {
                continue;
            }
            if let Some((_, address)) = broker.addresses.pop_first() {
                broker.addresses.insert(MASTER_ID, address);
            }
        }
    }
}
