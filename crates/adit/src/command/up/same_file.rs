//! State that is kept by the path of a configuration: it is found again by every path that leads to the same file.

use std::path::Path;

/// The keys that are other spellings of the path `own` of a file: through a link, with `..`, or from before a directory
/// was linked. A path stays as it was given, as links are swapped for new versions of the same configuration.
pub(super) fn other_spellings<'a, K>(config: &Path, own: &K, keys: impl Iterator<Item = &'a K>) -> Vec<K>
where
    K: AsRef<Path> + Clone + PartialEq + 'a,
{
    let Ok(real) = config.canonicalize() else { return Vec::new() };
    let is_same = |key: &&K| *key != own && key.as_ref().canonicalize().is_ok_and(|other| other == real);
    keys.filter(is_same).cloned().collect()
}
