//! The name server: a pure route table, KV configuration, and the small service that drives them.
