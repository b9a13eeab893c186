//! `adit up` as a process, against the fake cluster.

mod autotunnel;
mod browser;
mod dynamic;
mod imported;
mod lines;
mod ports;
mod publish;
mod reload;
mod remote;
mod support;
// By `setsid` of util-linux.
#[cfg(target_os = "linux")]
mod terminal;
mod tls;
mod trouble;
