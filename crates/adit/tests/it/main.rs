//! The whole program, as its users run it: `adit server`, `adit expose`, `adit forward` and `adit up` as processes, real peers, loopback only.

mod attack;
mod cli;
mod config;
mod forward;
mod http;
mod life;
mod support;
mod tcp;
mod trust;
mod up;
