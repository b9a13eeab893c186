//! Bad input and bad days: forwards through a fake cluster in which everything goes wrong that goes wrong in real ones.

mod api_server;
mod crowds;
mod kubeconfig;
mod leases;
mod plugins;
mod pods;
mod proxies;
mod services;
mod silence;
mod slow;
mod streams;
mod support;
mod transports;
