//! The client: routes, producer, push consumer, rebalance; works against stock RocketMQ too.
