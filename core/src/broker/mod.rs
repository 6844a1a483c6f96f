//! A broker: it stores what producers send, hands it to consumers, and keeps what it promised over kill and power loss.

pub mod state;
