//! Topics and subscription groups: created by operators, by sends, by heartbeats. A creation is answered, and a message
//! for a new topic stored, only after the table that names it is durable.
//!
//! Sources: `TopicConfigManager.java` (`createTopicInSendMessageMethod`), `AdminBrokerProcessor.java`.

use std::sync::Arc;
use std::time::Duration;

use super::{Operations, Reason, Refusal, SendRequest};
use crate::broker::persist::Table;
use crate::broker::state::Change;
use crate::broker::state::groups;
use crate::broker::state::topics;
use crate::protocol::body::{Permission, SubscriptionGroupConfig, TopicConfig};
use crate::runtime::Runtime;

/// How long an operator's creation waits for name servers to know of it. Beyond, it is answered all the same: the next
/// registration tells them.
const REGISTRATION_WAIT: Duration = Duration::from_secs(2);

/// Changes of a topic's attributes: `+key=value` sets, `-key` removes (`AttributeParser.java`).
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a str);

impl Attributes<'_> {
    fn apply(self, config: &mut TopicConfig) -> Result<(), Refusal> {
        for change in self.0.split(',').map(str::trim).filter(|change| !change.is_empty()) {
            let illegal = || Refusal::new(Reason::InvalidParameter, format!("illegal attribute change {change:?}"));
            if let Some(key) = change.strip_prefix('-') {
                config.attributes.remove(key);
                continue;
            }
            let (key, value) = change
                .strip_prefix('+')
                .and_then(|pair| pair.split_once('='))
                .ok_or_else(illegal)?;
            if key.is_empty() || value.is_empty() {
                return Err(illegal());
            }
            if key == "queue.type" && value != "SimpleCQ" || key == "cleanup.policy" && value != "DELETE" {
                let remark = format!("the attribute {key}={value} is not supported by this broker");
                return Err(Refusal::new(Reason::InvalidParameter, remark));
            }
            config.attributes.insert(key.to_owned(), value.to_owned());
        }
        Ok(())
    }
}

impl<R: Runtime> Operations<R> {
    /// Creates a topic or replaces its configuration (attributes are merged).
    pub async fn put_topic(&self, mut config: TopicConfig, attributes: Attributes<'_>) -> Result<(), Refusal> {
        let invalid = |remark: String| Refusal::new(Reason::InvalidParameter, remark);
        topics::check_name(&config.topic_name).map_err(|error| invalid(error.to_string()))?;
        if !topics::queue_counts_fit(&config) || topics::queue_count(&config) == 0 {
            let max = topics::QUEUE_COUNT_MAX;
            return Err(invalid(format!("queue counts must lie in 0..={max}, not both 0")));
        }
        if !(0..=7).contains(&config.perm) {
            return Err(invalid(format!(
                "perm {} is not made of 4 (read), 2 (write), 1 (inherit)",
                config.perm
            )));
        }
        {
            let mut tables = self.tables();
            if tables.topics.is_system(&config.topic_name) {
                let remark = format!("The topic[{}] is conflict with system topic.", config.topic_name);
                return Err(invalid(remark));
            }
            if let Some(known) = tables.topics.get(&config.topic_name) {
                config.attributes.clone_from(&known.attributes);
            }
            attributes.apply(&mut config)?;
            self.apply(&mut tables, Change::PutTopic(config));
        }
        self.saver.durable(Table::Topics).await?;
        self.await_registration().await;
        Ok(())
    }

    pub async fn remove_topic(&self, topic: &str) -> Result<(), Refusal> {
        {
            let mut tables = self.tables();
            if tables.topics.is_system(topic) {
                let remark = format!("The topic[{topic}] is conflict with system topic.");
                return Err(Refusal::new(Reason::InvalidParameter, remark));
            }
            self.apply(&mut tables, Change::RemoveTopic { topic });
        }
        self.saver.durable(Table::Topics).await?;
        let deleted = self.store.delete_topic(topic).await;
        deleted.map_err(|error| Refusal::store_failed(&error))?;
        self.await_registration().await;
        Ok(())
    }

    async fn await_registration(&self) {
        let registered = self.registry.registered_as_of_now();
        // Not in time is no failure: see REGISTRATION_WAIT.
        let _ = self.runtime.timeout(REGISTRATION_WAIT, registered).await;
    }

    /// The topic of a send that names none we know: made from the template, if that can be inherited.
    pub(super) async fn create_for_send(&self, request: &SendRequest<'_>) -> Result<Arc<TopicConfig>, Refusal> {
        if request.topic.starts_with(topics::RETRY_PREFIX) {
            let config = topics::topic(request.topic, 1, Permission::READ_WRITE);
            return self.ensure_topic(config).await;
        }
        let config = {
            let tables = self.tables();
            let template = tables
                .topics
                .get(request.default_topic)
                .filter(|template| topics::is_inherited(template));
            let Some(template) = template else {
                return Err(Refusal::topic_missing(request.topic));
            };
            let wanted = request.default_queue_count.clamp(0, topics::QUEUE_COUNT_MAX);
            let queue_count = wanted.min(template.write_queue_nums);
            TopicConfig {
                topic_sys_flag: template.topic_sys_flag,
                ..topics::topic(request.topic, queue_count, template.perm & !Permission::INHERIT)
            }
        };
        self.ensure_topic(config).await
    }

    /// The topic as it is, or as given if it did not exist; durable either way.
    async fn ensure_topic(&self, config: TopicConfig) -> Result<Arc<TopicConfig>, Refusal> {
        let created = {
            let mut tables = self.tables();
            if let Some(known) = tables.topics.get(&config.topic_name) {
                return Ok(known.clone());
            }
            topics::check_name(&config.topic_name)
                .map_err(|error| Refusal::new(Reason::InvalidParameter, error.to_string()))?;
            let name = config.topic_name.clone();
            self.apply(&mut tables, Change::PutTopic(config));
            tables.topics.get(&name).cloned().expect("put above")
        };
        self.saver.durable(Table::Topics).await?;
        Ok(created)
    }

    pub(super) async fn retry_topic(&self, group: &str, queue_count: i32) -> Result<Arc<TopicConfig>, Refusal> {
        let name = topics::retry_topic(group);
        let queue_count = queue_count.clamp(1, topics::QUEUE_COUNT_MAX);
        self.ensure_topic(topics::topic(name, queue_count, Permission::READ_WRITE))
            .await
    }

    pub(super) async fn dead_letter_topic(&self, group: &str) -> Result<Arc<TopicConfig>, Refusal> {
        let name = topics::dead_letter_topic(group);
        self.ensure_topic(topics::topic(name, 1, Permission::READ_WRITE)).await
    }

    /// The group's configuration; made with defaults if that is allowed. `None`: there is none and cannot be one.
    pub(super) async fn group_or_create(&self, name: &str) -> Result<Option<Arc<SubscriptionGroupConfig>>, Refusal> {
        let created = {
            let mut tables = self.tables();
            if let Some(known) = tables.groups.get(name) {
                return Ok(Some(known.clone()));
            }
            let may_create = self.config.topics.auto_create_subscription_group || groups::is_predefined(name);
            if !may_create || groups::check_name(name).is_err() {
                return Ok(None);
            }
            self.apply(&mut tables, Change::PutGroup(SubscriptionGroupConfig::new(name)));
            tables.groups.get(name).cloned()
        };
        self.saver.durable(Table::Groups).await?;
        Ok(created)
    }

    pub async fn put_group(&self, config: SubscriptionGroupConfig) -> Result<(), Refusal> {
        groups::check_name(&config.group_name)
            .map_err(|error| Refusal::new(Reason::InvalidParameter, error.to_string()))?;
        self.propose(Change::PutGroup(config));
        self.saver.durable(Table::Groups).await?;
        Ok(())
    }

    pub async fn remove_group(&self, group: &str, and_offsets: bool) -> Result<(), Refusal> {
        self.propose(Change::RemoveGroup { group, and_offsets });
        self.saver.durable(Table::Groups).await?;
        Ok(())
    }
}
