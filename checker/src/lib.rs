//! Histories and the laws they must obey.
