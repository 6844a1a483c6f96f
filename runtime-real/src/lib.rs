//! Production runtime.
