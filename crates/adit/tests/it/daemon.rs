//! `adit daemon` and the commands that speak with it, as processes.

mod support;

mod activation;
mod bad_days;
mod desktop;
mod life;
mod limits;
mod metrics;
mod ports;
mod single;
mod takeover;
mod top;
