//! The whole program, as its users run it: `adit server`, `adit expose`, `adit forward`, `adit up` and `adit daemon` as processes, real peers, loopback only.

mod attack;
mod cli;
mod config;
mod daemon;
mod deploy;
mod doctor;
mod forward;
mod http;
mod life;
mod monitor;
mod ssh;
mod support;
mod tcp;
mod trust;
mod up;
