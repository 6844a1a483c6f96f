//! Configuration by RocketMQ's property names, one small struct per subsystem.
//!
//! Pure: text in, values out. No file is opened here, no environment read; a binary reads the file and passes its name
//! for messages. A wrong value is an error that names file, line, key and what is allowed; keys that Orrery does not
//! use come back as a list, so that the caller can name them once.
//!
//! Defaults are those of Apache RocketMQ 5.5.0, except where a field says otherwise.

mod broker;
mod namesrv;
mod properties;
mod section;

pub use broker::{
    Admission, BrokerConfig, BrokerRole, Flush, FlushDiskType, Identity, Messages, Network, Polling, Retention,
    StorePaths, Topics,
};
pub use namesrv::NameServerConfig;
pub use properties::{Property, parse_properties, print_properties};
pub use section::{Addresses, ConfigError, DelayLevels, HoursOfDay, UnknownKey};
