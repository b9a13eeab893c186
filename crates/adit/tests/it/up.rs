//! `adit up` as a process, against the fake cluster.

mod autotunnel;
mod dynamic;
mod lines;
mod ports;
mod publish;
mod reload;
mod remote;
mod support;
mod tls;
mod trouble;
