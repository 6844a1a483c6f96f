//! Drivers that move commands over a runtime's network: one for servers, one for clients.
