//! What a producer does after a wire attempt: return, try elsewhere, give up; and what it may claim about the message.
//!
//! The law: a send is *refused* or *not sent* only if no attempt can have stored the message. As soon as one attempt's
//! fate is unknown and none was stored, the fate of the send is unknown. (DefaultMQProducerImpl.sendDefaultImpl)

use std::time::Duration;

use crate::protocol::code::response;

/// Fate of one wire attempt, as far as the decision needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Stored,
    Refused(i32),
    NotSent,
    Unknown,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Return,
    /// Another attempt, on another broker if there is one, with this much time left.
    Retry {
        time_left: Duration,
    },
    GiveUp(GiveUp),
}

/// What is known when a send has no success to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    NotSent,
    Refused,
    Unknown,
}

/// The attempts of one logical send.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    attempts_left: u32,
    timeout: Duration,
    any_may_be_stored: bool,
}

impl Retries {
    /// One attempt and up to `retry_count` more, all within `timeout`.
    pub fn new(retry_count: u32, timeout: Duration) -> Retries {
        Retries {
            attempts_left: retry_count.saturating_add(1),
            timeout,
            any_may_be_stored: false,
        }
    }

    /// Takes the fate of the attempt that just ended, `elapsed` after the send began.
    pub fn after(&mut self, fate: Fate, elapsed: Duration) -> Step {
        self.attempts_left = self.attempts_left.saturating_sub(1);
        let (may_be_stored, may_retry) = match fate {
            Fate::Stored => return Step::Return,
            Fate::Refused(code) => (may_be_stored(code), is_retried(code)),
            Fate::NotSent => (false, true),
            Fate::Unknown => (true, true),
        };
        self.any_may_be_stored |= may_be_stored;
        let time_left = self.timeout.saturating_sub(elapsed);
        if may_retry && self.attempts_left > 0 && !time_left.is_zero() {
            return Step::Retry { time_left };
        }
        Step::GiveUp(match fate {
            _ if self.any_may_be_stored => GiveUp::Unknown,
            Fate::Refused(_) => GiveUp::Refused,
            _ => GiveUp::NotSent,
        })
    }
}

/// Codes after which Java's synchronous send tries again (`retryResponseCodes`).
fn is_retried(code: i32) -> bool {
    matches!(
        code,
        response::TOPIC_NOT_EXIST
            | response::SERVICE_NOT_AVAILABLE
            | response::SYSTEM_ERROR
            | response::SYSTEM_BUSY
            | response::NO_PERMISSION
            | response::NO_BUYER_ID
            | response::NOT_IN_CURRENT_UNIT
            | response::GO_AWAY
    )
}

/// Whether a broker that answered this error may have stored the message all the same: everything but the codes
/// defined as refusals before the append.
pub fn may_be_stored(code: i32) -> bool {
    !matches!(
        code,
        response::SYSTEM_BUSY
            | response::REQUEST_CODE_NOT_SUPPORTED
            | response::MESSAGE_ILLEGAL
            | response::SERVICE_NOT_AVAILABLE
            | response::VERSION_NOT_SUPPORTED
            | response::NO_PERMISSION
            | response::TOPIC_NOT_EXIST
            | response::SUBSCRIPTION_GROUP_NOT_EXIST
            | response::INVALID_PARAMETER
            | response::FLOW_CONTROL
            | response::NO_BUYER_ID
            | response::NOT_IN_CURRENT_UNIT
            | response::GO_AWAY
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);
    const SOON: Duration = Duration::from_millis(10);

    #[test]
    fn a_stored_message_is_not_sent_again() {
        assert_eq!(Retries::new(2, TIMEOUT).after(Fate::Stored, SOON), Step::Return);
    }

    #[test]
    fn two_retries_make_three_attempts() {
        let mut retries = Retries::new(2, TIMEOUT);
        assert!(matches!(retries.after(Fate::NotSent, SOON), Step::Retry { .. }));
        assert!(matches!(retries.after(Fate::NotSent, SOON), Step::Retry { .. }));
        assert_eq!(retries.after(Fate::NotSent, SOON), Step::GiveUp(GiveUp::NotSent));
    }

    #[test]
    fn the_total_time_bounds_the_attempts() {
        let mut retries = Retries::new(9, TIMEOUT);
        let step = retries.after(Fate::Unknown, Duration::from_secs(1));
        assert_eq!(
            step,
            Step::Retry {
                time_left: Duration::from_secs(2)
            }
        );
        assert_eq!(retries.after(Fate::NotSent, TIMEOUT), Step::GiveUp(GiveUp::Unknown));
    }

    #[test]
    fn a_bad_message_is_refused_at_once() {
        let step = Retries::new(2, TIMEOUT).after(Fate::Refused(response::MESSAGE_ILLEGAL), SOON);
        assert_eq!(step, Step::GiveUp(GiveUp::Refused));
    }

    #[test]
    fn one_unknown_attempt_makes_the_whole_send_unknown() {
        let mut retries = Retries::new(1, TIMEOUT);
        assert!(matches!(retries.after(Fate::Unknown, SOON), Step::Retry { .. }));
        let step = retries.after(Fate::Refused(response::TOPIC_NOT_EXIST), SOON);
        assert_eq!(step, Step::GiveUp(GiveUp::Unknown));
    }

    #[test]
    fn a_system_error_may_hide_a_stored_message() {
        let step = Retries::new(0, TIMEOUT).after(Fate::Refused(response::SYSTEM_ERROR), SOON);
        assert_eq!(step, Step::GiveUp(GiveUp::Unknown));
    }
}
