//! `orrery consume`: a member of a consumer group that prints what it is given.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use orrery_core::client::{
    Client, ClientConfig, ConsumerConfig, ListenerFn, MessageView, PushConsumer, StartFrom, Subscription, Verdict,
};
use orrery_runtime_real::Real;
use tokio::sync::Notify;

use super::Failure;
use super::listing::{self, Format};
use super::stop::Stop;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Name servers
    #[arg(short, long, default_value = "127.0.0.1:9876", value_name = "HOST:PORT;HOST:PORT")]
    namesrv: String,
    #[arg(short, long)]
    topic: String,
    /// Consumer group: its members share the messages, and its progress stays on the broker
    #[arg(short, long, default_value = "orrery_consume")]
    group: String,
    /// Tags to receive, as in `a || b`
    #[arg(long, default_value = "*", value_name = "EXPRESSION")]
    tag: String,
    /// Where a new group begins
    #[arg(long, value_enum, default_value = "last")]
    from: From,
    /// Keeps the order of each queue
    #[arg(long)]
    orderly: bool,
    /// Ends after this many messages
    #[arg(long, value_name = "MESSAGES")]
    count: Option<u64>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum From {
    First,
    Last,
}

pub(crate) async fn run(arguments: Arguments, real: Real) -> Result<u8, Failure> {
    let mut stop = Stop::listen()?;
    let subscription = Subscription::tags(&arguments.topic, &arguments.tag).map_err(Failure::usage)?;
    let mut config = ConsumerConfig::new(&arguments.group, vec![subscription]);
    config.start_from = match arguments.from {
        From::First => StartFrom::First,
        From::Last => StartFrom::Last,
    };
    config.concurrency = 1;
    if arguments.orderly {
        config = config.orderly();
    }
    let client = Client::start(&real, ClientConfig::new(&arguments.namesrv)).map_err(Failure::usage)?;
    let enough = Arc::new(Notify::new());
    let left = Arc::new(AtomicU64::new(arguments.count.unwrap_or(u64::MAX)));
    let listener = {
        let (enough, left) = (Arc::clone(&enough), Arc::clone(&left));
        ListenerFn(move |messages: Vec<MessageView>| {
            let verdict = print(&messages, arguments.format, &left, &enough);
            async move { verdict }
        })
    };
    let consumer = PushConsumer::start(&client, config, listener)
        .await
        .map_err(Failure::usage)?;
    tokio::select! {
        () = stop.wait() => {}
        () = enough.notified() => {}
    }
    let ended = async {
        consumer.shutdown().await;
        client.shutdown().await;
    };
    // Offsets are committed if brokers still answer; a person at a terminal does not wait longer for those that do not.
    let _ = tokio::time::timeout(Duration::from_secs(10), ended).await;
    Ok(0)
}

/// Prints messages until enough are printed; those beyond are left for the group.
fn print(messages: &[MessageView], format: Format, left: &AtomicU64, enough: &Notify) -> Verdict {
    for message in messages {
        let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if before.is_err() || listing::message(format, &message.store_host.to_string(), message).is_err() {
            return Verdict::Later;
        }
        if before == Ok(1) {
            enough.notify_one();
        }
    }
    Verdict::Success
}
