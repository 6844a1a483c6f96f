//! `orrery produce`: one message per argument, or per line of standard input.

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use orrery_core::client::{Client, ClientConfig, Message, Producer, ProducerConfig, SendReceipt};
use orrery_runtime_real::Real;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::Failure;
use super::listing::{Format, quiet_on_closed_pipe};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Name servers
    #[arg(short, long, default_value = "127.0.0.1:9876", value_name = "HOST:PORT;HOST:PORT")]
    namesrv: String,
    #[arg(short, long)]
    topic: String,
    #[arg(short, long, default_value = "orrery_produce")]
    group: String,
    /// Tag that consumers can subscribe to
    #[arg(long)]
    tag: Option<String>,
    /// Key to find the message by
    #[arg(short, long)]
    key: Option<String>,
    /// Property of every message; may be repeated
    #[arg(short, long = "property", value_name = "NAME=VALUE", value_parser = name_and_value)]
    properties: Vec<(String, String)>,
    /// Delay level, 1 (1 s) to 18 (2 h)
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=18))]
    delay_level: Option<u8>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Bodies; without any, each line of standard input is one
    #[arg(value_name = "BODY")]
    bodies: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments, real: Real) -> Result<u8, Failure> {
    let client = Client::start(&real, ClientConfig::new(&arguments.namesrv)).map_err(Failure::usage)?;
    let producer = Producer::start(&client, ProducerConfig::new(&arguments.group)).map_err(Failure::usage)?;
    let done = send_all(&arguments, &producer).await;
    producer.shutdown().await;
    client.shutdown().await;
    done.map(|()| 0)
}

async fn send_all(arguments: &Arguments, producer: &Producer<Real>) -> Result<(), Failure> {
    for body in &arguments.bodies {
        send(arguments, producer, Bytes::copy_from_slice(body.as_bytes())).await?;
    }
    if arguments.bodies.is_empty() {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await.context("standard input")? {
            // RocketMQ has no empty bodies.
            if !line.is_empty() {
                send(arguments, producer, line.into()).await?;
            }
        }
    }
    Ok(())
}

async fn send(arguments: &Arguments, producer: &Producer<Real>, body: Bytes) -> Result<(), Failure> {
    let mut message = Message::new(&arguments.topic, body);
    if let Some(tag) = &arguments.tag {
        message = message.with_tag(tag);
    }
    if let Some(key) = &arguments.key {
        message = message.with_keys(key);
    }
    if let Some(level) = arguments.delay_level {
        message = message.with_delay_level(level);
    }
    for (name, value) in &arguments.properties {
        message = message.with_property(name, value);
    }
    let receipt = producer
        .send(&message)
        .await
        .with_context(|| format!("send to {}", arguments.topic))?;
    quiet_on_closed_pipe(print(arguments.format, &receipt))?;
    Ok(())
}

fn print(format: Format, receipt: &SendReceipt) -> std::io::Result<()> {
    let queue = &receipt.queue;
    match format {
        Format::Table => super::listing::line(&format!(
            "{}  {}/{}  offset {}  id {}",
            receipt.status.name(),
            queue.broker_name,
            queue.queue_id,
            receipt.offset,
            receipt.message_id
        )),
        Format::Json => super::listing::json(&json!({
            "status": receipt.status.name(),
            "topic": queue.topic,
            "brokerName": queue.broker_name,
            "queueId": queue.queue_id,
            "offset": receipt.offset,
            "messageId": receipt.message_id,
            "offsetMessageId": receipt.offset_message_id,
        })),
    }
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE, neither empty".to_owned()),
    }
}
