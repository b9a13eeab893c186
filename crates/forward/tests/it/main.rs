//! Bad input and bad days: forwards through a fake cluster in which everything goes wrong that goes wrong in real ones.

mod kubeconfig;
mod plugins;
mod pods;
mod proxies;
mod services;
mod support;
mod transports;
