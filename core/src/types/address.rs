//! Addresses: values that are parsed, compared and told. What connects and listens comes from `Runtime` alone, so this is the
//! one place of core that names `std::net`.

pub use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
