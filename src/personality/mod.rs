//! Server kinds that other ecosystems have, each built on the mux: a folder that knows the traits of the mux and a codec, and
//! no socket. Only clients for programs and tests, which wait, have one of their own.

pub mod message;
