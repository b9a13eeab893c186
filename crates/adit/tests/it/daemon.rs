//! `adit daemon` and the commands that speak with it, as processes.

mod support;

mod activation;
mod bad_days;
// By `unshare` and `nsenter` of util-linux, and `ip`.
#[cfg(target_os = "linux")]
mod carried;
mod desktop;
mod life;
mod limits;
mod metrics;
// By `unshare` and `nsenter` of util-linux.
#[cfg(target_os = "linux")]
mod networks;
mod notified;
mod openssh;
mod ports;
mod published;
mod refused;
mod single;
mod takeover;
mod top;
