//! Configuration by RocketMQ's property names, one small struct per subsystem.
