//! The restart in place: what goes on, what is told, what refuses it, and who comes through it.
//!
//! Each test runs a process of its own: the server of tests/flow/server.rs, which does what its clients say, or an
//! example. SIGHUP goes to that process alone. A restart is over when the log says so; nothing else is waited for but
//! lines, bytes, files and ends. The numbers in the comments are those of the acceptance cases of the flow.

#![cfg(all(feature = "config", feature = "signals", feature = "daemon"))]

mod common;
#[path = "flow/running.rs"]
mod running;

#[path = "restart/clients.rs"]
mod clients;
#[path = "restart/descriptors.rs"]
mod descriptors;
#[path = "restart/leaving.rs"]
mod leaving;
#[path = "restart/listeners.rs"]
mod listeners;
#[path = "restart/order.rs"]
mod order;
#[path = "restart/process.rs"]
mod process;
#[path = "restart/reload.rs"]
mod reload;
#[path = "restart/rollback.rs"]
mod rollback;
#[path = "restart/storms.rs"]
mod storms;
#[path = "restart/streams.rs"]
mod streams;
#[path = "restart/upgrade.rs"]
mod upgrade;
#[path = "restart/work.rs"]
mod work;
