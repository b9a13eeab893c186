//! Which known words a mistyped one is near to, for hints.

/// Longer words are no misspellings; comparing them would cost time that grows with the square.
const LENGTH_MAX: usize = 256;

/// The shortest word that is looked for within others.
const PART_MIN: usize = 3;

/// The candidate that was probably meant, if one is near enough.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &'a str| Some((spelling(word, candidate)?, candidate));
    candidates.into_iter().filter_map(near).min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

/// Up to `most` candidates, nearest first: those that are spelled alike, then those that contain the word or are
/// contained in it, as `prod` in `gke_acme_europe_prod`.
#[must_use]
pub fn near_matches<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    let rank = |candidate: &'a str| {
        let near = spelling(word, candidate).or_else(|| containment(word, candidate));
        near.map(|distance| (distance, candidate))
    };
    let mut found: Vec<_> = candidates.into_iter().filter_map(rank).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(most).map(|(_, candidate)| candidate).collect()
}

/// How far the candidate is, when it is spelled alike: one change, and one more for every five letters.
fn spelling(word: &str, candidate: &str) -> Option<usize> {
    let length = candidate.chars().count();
    let found = distance(word, candidate)?;
    // Two words of which nothing is alike are not near, however short they are.
    (found <= 1 + length / 5 && found < length.max(word.chars().count())).then_some(found)
}

/// Behind all that are spelled alike, by how much is not shared.
fn containment(word: &str, candidate: &str) -> Option<usize> {
    let (word, candidate) = (folded(word), folded(candidate));
    let (short, long) = if word.len() <= candidate.len() { (&word, &candidate) } else { (&candidate, &word) };
    let contained = short.len() >= PART_MIN && long.windows(short.len()).any(|part| part == short.as_slice());
    contained.then(|| LENGTH_MAX + long.len() - short.len())
}

/// Insertions, deletions, replacements and swaps of neighbours from one word to the other. Case does not count, nor
/// whether it is `-` or `_`.
fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b) = (folded(a), folded(b));
    if a.len().max(b.len()) > LENGTH_MAX {
        return None;
    }
    // The rows of the usual table for the letter before the last, the last, and this one.
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, y) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(x != y);
            row[j + 1] = replaced.min(row[j] + 1).min(last[j + 1] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    Some(last[b.len()])
}

fn folded(word: &str) -> Vec<char> {
    word.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONTEXTS: [&str; 5] = ["prod", "staging", "gke_acme_europe-west1_prod", "minikube", "kind-test"];

    #[test]
    fn a_slip_of_the_finger_is_found() {
        for (word, meant) in
            [("prd", "prod"), ("stagign", "staging"), ("Minikub", "minikube"), ("kind_tset", "kind-test")]
        {
            assert_eq!(nearest(word, CONTEXTS), Some(meant), "{word}");
        }
    }

    #[test]
    fn what_has_nothing_in_common_is_not_proposed() {
        assert_eq!(nearest("zzzzzz", CONTEXTS), None);
        assert_eq!(nearest("x", ["a", "b"]), None);
        assert_eq!(nearest("", CONTEXTS), None);
        assert_eq!(nearest("prod", []), None);
    }

    #[test]
    fn two_letters_in_the_wrong_order_are_one_slip() {
        assert_eq!(nearest("scv", ["svc", "sts"]), Some("svc"));
        assert_eq!(nearest("node", ["pods", "job"]), None, "two letters of four are too many");
    }

    #[test]
    fn a_part_of_a_name_brings_the_whole_name_after_those_spelled_alike() {
        assert_eq!(near_matches("prod", CONTEXTS, 3), ["prod", "gke_acme_europe-west1_prod"]);
        assert_eq!(near_matches("prod-eu", CONTEXTS, 3), ["prod"]);
        assert_eq!(near_matches("st", CONTEXTS, 3), [""; 0], "two letters are in too many names");
    }

    #[test]
    fn no_more_are_proposed_than_asked_for() {
        let many: Vec<String> = (0..100).map(|n| format!("cluster-{n}")).collect();
        assert_eq!(near_matches("cluster", many.iter().map(String::as_str), 3).len(), 3);
    }

    #[test]
    fn endless_words_are_near_to_nothing() {
        let long = "a".repeat(100_000);
        assert_eq!(nearest(&long, ["a", "b"]), None);
    }

    proptest! {
        #[test]
        fn the_distance_is_the_same_both_ways_and_zero_only_to_itself(a in "[a-c]{0,8}", b in "[a-c]{0,8}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == Some(0), a == b);
        }

        #[test]
        fn one_wrong_letter_is_always_forgiven(word in "[a-z]{3,20}", at in 0usize..20) {
            let mut typed: Vec<char> = word.chars().collect();
            let at = at % typed.len();
            typed[at] = '9';
            let typed: String = typed.into_iter().collect();
            prop_assert_eq!(nearest(&typed, [word.as_str()]), Some(word.as_str()));
        }

        #[test]
        fn no_text_makes_it_panic(word in any::<String>(), other in any::<String>()) {
            let _ = (nearest(&word, [other.as_str()]), near_matches(&word, [other.as_str()], 3));
        }
    }
}
