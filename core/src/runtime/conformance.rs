//! One suite for every implementation of [`Runtime`](super::Runtime).
