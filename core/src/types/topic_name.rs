//! Names of RocketMQ's own topics that more than one room of core knows. Source: `common/topic/TopicValidator.java`.

/// Where messages with a delay level wait, one queue per level. Its queues carry delivery times in place of tags codes.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Half messages of transactions.
pub const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// Operations on half messages.
pub const HALF_OP_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// Timer messages of RocketMQ.
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";
/// Checkpoints and acknowledgements of POP.
pub const REVIVE_TOPIC_PREFIX: &str = "rmq_sys_REVIVE_LOG_";
