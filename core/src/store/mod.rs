//! RocketMQ's files: commit log, consume queues, checkpoint; append, flush, dispatch, recovery, reads.
