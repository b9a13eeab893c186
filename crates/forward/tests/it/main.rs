//! Bad input and bad days: forwards through a fake cluster in which everything goes wrong that goes wrong in real ones.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod api_server;
mod crowds;
mod dead_peers;
mod keepalive;
mod kubeconfig;
mod leases;
mod plugins;
mod pods;
mod probe;
mod proxies;
mod services;
mod silence;
mod slow;
mod ssh;
mod streams;
mod support;
mod transports;
