//! Addresses: values that are parsed, compared and told. What connects and listens comes from `Runtime` alone, so core names
//! nothing of `std::net`: these types are the language's own.

pub use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
