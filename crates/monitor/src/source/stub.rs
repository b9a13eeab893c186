//! The source of systems that tell nothing: the same API, and it says so.

use std::time::Duration;

use super::{Counts, Obstacle, Source, SourceError, Way};
use crate::decode::Record;

/// Tells nothing.
#[derive(Debug)]
pub struct Stub {
    way: Way,
}

impl Stub {
    /// With the reason why there is nothing better.
    #[must_use]
    pub fn new(reason: Option<Obstacle>) -> Self {
        let reason = reason.unwrap_or_else(|| Obstacle {
            message: "connections can be seen on Linux only".into(),
            hint: "run adit there".into(),
        });
        Self { way: Way { source: "stub", missing: vec!["everything"], reason: Some(reason), ..Way::default() } }
    }
}

impl Source for Stub {
    fn way(&self) -> &Way {
        &self.way
    }

    fn events(&mut self, _: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
        Ok(())
    }

    fn survey(&mut self, _: &mut dyn FnMut(Record)) -> Result<(), SourceError> {
        Ok(())
    }

    fn counts(&mut self) -> Result<Counts, SourceError> {
        Ok(Counts::default())
    }

    fn wait(&self, up_to: Duration) {
        std::thread::park_timeout(up_to);
    }
}
