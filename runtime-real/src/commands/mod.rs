//! The commands of `orrery`, one file each.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod consume;
mod listing;
pub(crate) mod produce;
pub(crate) mod serve;
mod stop;
pub(crate) mod tail;

/// Why a command could not do its work.
pub(crate) enum Failure {
    /// Wrong usage or configuration: exit code 2.
    Usage(anyhow::Error),
    /// An operation failed: exit code 1.
    Operation(anyhow::Error),
}

impl Failure {
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Failure {
        Failure::Usage(error.into())
    }

    pub(crate) fn operation(error: impl Into<anyhow::Error>) -> Failure {
        Failure::Operation(error.into())
    }

    /// Says what the failure is about.
    pub(crate) fn about(self, what: &str) -> Failure {
        match self {
            Failure::Usage(error) => Failure::Usage(error.context(what.to_owned())),
            Failure::Operation(error) => Failure::Operation(error.context(what.to_owned())),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Operation(_) => 1,
        }
    }

    pub(crate) fn cause(&self) -> &anyhow::Error {
        match self {
            Failure::Usage(cause) | Failure::Operation(cause) => cause,
        }
    }
}

/// What `?` meets in a command's work is a failed operation; wrong usage says so itself.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Operation(error.into())
    }
}
