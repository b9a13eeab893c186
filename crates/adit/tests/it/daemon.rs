//! `adit daemon` and the commands that speak with it, as processes.

mod support;

mod life;
mod single;
mod takeover;
