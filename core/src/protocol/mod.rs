//! RocketMQ's remoting wire format, sans-IO: frames, commands, headers, bodies, messages.
