//! SSH without its protocol: which host keys are known, and how a server is reached.

mod client_config;
mod file_pattern;
mod known_hosts;
mod settings;

pub use client_config::{Asked, ClientConfig, ClientConfigError, ConfigFile, Include};
pub use file_pattern::FilePattern;
pub use known_hosts::{Hashed, HostKey, KnownHosts, Place, Verdict, host_name, key_list};
pub use settings::{SettingsError, SshSettings, StrictHostKeys, expand};
