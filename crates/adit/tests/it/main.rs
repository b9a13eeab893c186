//! The whole program, as its users run it: `adit server`, `adit expose` and `adit forward` as processes, real peers, loopback only.

mod attack;
mod cli;
mod config;
mod forward;
mod http;
mod life;
mod support;
mod tcp;
mod trust;
