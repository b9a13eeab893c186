//! Stub.
use crate::name::{Hostname, NameError};
use std::fmt;
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(Hostname),
    Wildcard(Hostname),
}
impl HostPattern {
    pub fn parse(t: &str) -> Result<Self, NameError> {
        match t.strip_prefix("*.") {
            Some(r) => Hostname::parse(r).map(Self::Wildcard),
            None => Hostname::parse(t).map(Self::Exact),
        }
    }
}
impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(h) => h.fmt(f),
            Self::Wildcard(h) => write!(f, "*.{h}"),
        }
    }
}
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPrefix(String);
impl PathPrefix {
    pub fn parse(t: &str) -> Result<Self, NameError> {
        if t.starts_with('/') && !t.contains("..") { Ok(Self(t.to_owned())) } else { Err(NameError::Empty) }
    }
}
impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
