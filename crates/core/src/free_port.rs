//! In which order ports near a taken one are tried.
//!
//! It only says which; whoever asks binds one and holds it, because a port that is free now may be taken a moment later.

/// How far from the taken port one is looked for.
pub const REACH: u16 = 99;

/// Ports below it need a privilege on most systems.
pub const FIRST: u16 = 1024;

/// The ports from one to [`REACH`] away, nearest first and the higher of two first, from [`FIRST`] to 65535.
///
/// Port 0 stands for any free port and has no neighbours.
pub fn near(port: u16) -> impl Iterator<Item = u16> {
    let reach = if port == 0 { 0 } else { REACH };
    (1..=reach)
        .flat_map(move |delta| [port.checked_add(delta), port.checked_sub(delta)])
        .flatten()
        .filter(|p| *p >= FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_nearest_come_first_and_the_higher_before_the_lower() {
        let first: Vec<u16> = near(5432).take(5).collect();
        assert_eq!(first, [5433, 5431, 5434, 5430, 5435]);
        assert_eq!(near(5432).count(), 198);
        assert_eq!(near(5432).last(), Some(5333));
    }

    #[test]
    fn the_ends_of_the_range_are_not_left() {
        assert_eq!(near(65_535).take(2).collect::<Vec<_>>(), [65_534, 65_533]);
        assert_eq!(near(1024).take(2).collect::<Vec<_>>(), [1025, 1026]);
        assert_eq!(near(1000).collect::<Vec<_>>(), (1024..=1099).collect::<Vec<_>>());
        assert_eq!(near(80).next(), None);
        assert_eq!(near(0).next(), None);
    }

    proptest! {
        #[test]
        fn each_is_near_allowed_and_named_once(port in any::<u16>()) {
            let all: Vec<u16> = near(port).collect();
            prop_assert!(all.iter().all(|p| *p >= FIRST && *p != port && p.abs_diff(port) <= REACH));
            prop_assert!(all.is_sorted_by_key(|p| p.abs_diff(port)));
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        }
    }
}
