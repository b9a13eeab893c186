//! The whole program, as its users run it: `adit server` and `adit expose` as processes, real peers, loopback only.

mod attack;
mod cli;
mod http;
mod life;
mod support;
mod tcp;
