//! Summaries of result files.
