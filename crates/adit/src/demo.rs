//! `adit demo`: a sample web service behind a tunnel, everything in one process and on loopback.

pub(crate) use service::serve;

mod answer;
mod base64;
mod facts;
mod page;
mod recent;
mod service;
mod sha1;
mod websocket;
mod websocket_frame;
