//! Forwards through a real `sshd` on loopback, and its bad days.

mod agent;
mod bed;
mod host_keys;
mod jumps;
mod logins;
mod openssh;
mod outages;
mod remote;
mod streams;
