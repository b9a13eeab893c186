//! SSH without its protocol: which host keys are known, and how a server is reached.

mod known_hosts;
mod settings;

pub use known_hosts::{Hashed, HostKey, KnownHosts, Place, Verdict, host_name, key_list};
pub use settings::{SettingsError, SshSettings, StrictHostKeys, expand};
