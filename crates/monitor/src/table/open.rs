//! How many connections are open.

use crate::decode::Record;

/// Of the open connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Those that were asked for here.
    pub outgoing: usize,
    /// Those that others asked for.
    pub incoming: usize,
    /// Those whose owner is not known.
    pub unowned: usize,
}

impl Open {
    pub(super) fn add(&mut self, record: &Record) {
        let (direction, unowned) = self.of(record);
        *direction += 1;
        unowned.into_iter().for_each(|count| *count += 1);
    }

    pub(super) fn remove(&mut self, record: &Record) {
        let (direction, unowned) = self.of(record);
        *direction = direction.saturating_sub(1);
        unowned.into_iter().for_each(|count| *count = count.saturating_sub(1));
    }

    const fn of(&mut self, record: &Record) -> (&mut usize, Option<&mut usize>) {
        let direction = if record.incoming { &mut self.incoming } else { &mut self.outgoing };
        (direction, if record.owner.is_none() { Some(&mut self.unowned) } else { None })
    }
}
