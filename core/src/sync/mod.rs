//! Deterministic wake-ups: a FIFO watch and notify. Channels come from `futures-channel`.
