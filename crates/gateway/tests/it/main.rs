//! The gateway's HTTP half on loopback: real clients, real services, and services that behave badly.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod bodies;
mod crowds;
mod entrances;
mod faults;
mod heads;
mod interim;
mod pages;
mod protocols;
mod smuggling;
mod support;
mod upgrades;
mod upstreams;
mod waits;
