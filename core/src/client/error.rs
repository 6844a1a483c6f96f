//! How a request to a broker or name server can fail, as far as the caller may conclude anything from it.

use crate::protocol::code::response;

/// Why a request has no success to show. A lost reply is *unknown*, not failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No byte of it has left: nothing has happened.
    #[error("not sent: {reason}")]
    NotSent { reason: String },
    /// The peer answered an error.
    #[error("refused with code {code} ({}): {remark}", response::name(*code).unwrap_or("unknown code"))]
    Refused { code: i32, remark: String },
    /// It may have happened or not: the answer is missing, late or unreadable, or the peer answered an error that says neither.
    #[error("outcome unknown: {reason}")]
    Unknown { reason: String },
}

impl RequestError {
    pub(super) fn not_sent(reason: impl Into<String>) -> RequestError {
        RequestError::NotSent { reason: reason.into() }
    }

    pub(super) fn unknown(reason: impl Into<String>) -> RequestError {
        RequestError::Unknown { reason: reason.into() }
    }

    /// The code of a refusal.
    pub fn code(&self) -> Option<i32> {
        match self {
            RequestError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Why a client, producer or consumer did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("no name server is configured")]
    NoNameServer,
    #[error("{count} name servers exceed {}", super::config::NAME_SERVER_COUNT_MAX)]
    TooManyNameServers { count: usize },
    #[error("group name `{0}` is empty, too long or holds characters outside of [%a-zA-Z0-9_|-]")]
    BadGroup(String),
    #[error("the client already has a {kind} of group `{group}`")]
    GroupTaken { kind: &'static str, group: String },
    #[error("setting {setting} is out of range: {reason}")]
    BadSetting { setting: &'static str, reason: String },
    #[error("file of local offsets: {0}")]
    Offsets(String),
    #[error("the client is shut down")]
    ShutDown,
}
