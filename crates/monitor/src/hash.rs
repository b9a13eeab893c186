//! Maps of what is looked up for each connection that ends. The standard hash is a third of all the work then; this one is
//! quick, and begins otherwise in each process (by the addresses that the system chooses for it) and in each map, so nobody
//! can choose addresses that fall on each other.

use foldhash::fast::RandomState;

/// As the standard library's.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;
/// As the standard library's.
pub(crate) type HashSet<K> = std::collections::HashSet<K, RandomState>;
