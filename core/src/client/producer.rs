//! Sends messages.
//!
//! Every send is a future: awaiting one is RocketMQ's synchronous send, polling many at once its asynchronous send.
//! There is no queue inside; how many are in flight is how many the caller polls (and what the connection allows).

use std::sync::Arc;

use super::config::ProducerConfig;
use super::error::{RequestError, StartError};
use super::instance::Client;
use super::message::{Message, MessageError, is_name};
use super::sending::{SendReceipt, Sending, Target};
use crate::runtime::Runtime;
use crate::types::MessageQueue;

/// A handle to a producer of one group; clones share it.
pub struct Producer<R: Runtime> {
    registered: Arc<Registered<R>>,
}

/// The group is free again when the last handle is gone.
struct Registered<R: Runtime> {
    sending: Sending<R>,
    registration: u64,
    /// Keeps the shared tasks alive.
    _client: Client<R>,
}

impl<R: Runtime> Drop for Registered<R> {
    fn drop(&mut self) {
        let group = &self.sending.config.group;
        self.sending.core.forget_producer(group, self.registration);
    }
}

impl<R: Runtime> Clone for Producer<R> {
    fn clone(&self) -> Self {
        Producer {
            registered: self.registered.clone(),
        }
    }
}

impl<R: Runtime> Producer<R> {
    /// A producer whose group the brokers will hear of. One per group and client.
    pub fn start(client: &Client<R>, config: ProducerConfig) -> Result<Producer<R>, StartError> {
        if !is_name(&config.group) {
            return Err(StartError::BadGroup(config.group));
        }
        let registration = client.core().add_producer(&config.group)?;
        Ok(Producer {
            registered: Arc::new(Registered {
                sending: Sending::new(client.core().clone(), config),
                registration,
                _client: client.clone(),
            }),
        })
    }

    /// Sends to the next queue of the round.
    ///
    /// [`RequestError::Unknown`] means that the message may be stored, even twice: sending it again is the caller's choice.
    /// Dropping the future leaves the fate of an attempt on its way unknown too.
    pub async fn send(&self, message: &Message) -> Result<SendReceipt, RequestError> {
        self.send_to(message, Target::Any).await
    }

    /// Sends to a queue of the caller's choice.
    pub async fn send_to(&self, message: &Message, target: Target<'_>) -> Result<SendReceipt, RequestError> {
        let prepared = self.registered.sending.prepare(message).map_err(invalid)?;
        self.registered.sending.send(&prepared, target).await
    }

    /// Sends messages of one topic as one request; they get consecutive offsets of one queue.
    pub async fn send_batch(&self, messages: &[Message], target: Target<'_>) -> Result<SendReceipt, RequestError> {
        let prepared = self.registered.sending.prepare_batch(messages).map_err(invalid)?;
        self.registered.sending.send(&prepared, target).await
    }

    /// Sends once and waits for no answer: `Ok` says that the request was handed to the connection, nothing more.
    pub async fn send_one_way(&self, message: &Message, target: Target<'_>) -> Result<(), RequestError> {
        let prepared = self.registered.sending.prepare(message).map_err(invalid)?;
        self.registered.sending.send_one_way(&prepared, target).await
    }

    /// The queues that a message of this topic can go to.
    pub async fn queues(&self, topic: &str) -> Result<Vec<Arc<MessageQueue>>, RequestError> {
        Ok(self.registered.sending.route(topic).await?.publish.clone())
    }

    /// Tells the brokers that this group is gone from here.
    pub async fn shutdown(&self) {
        let sending = &self.registered.sending;
        let group = &sending.config.group;
        sending.core.remove_producer(group, self.registered.registration).await;
    }
}

fn invalid(error: MessageError) -> RequestError {
    RequestError::not_sent(error.to_string())
}
