//! Names that are too long for their column.

/// What stands in the place of what is left out.
const LEFT_OUT: char = '…';

/// `text` in `width` columns. The middle is left out of what is too long, and of the ends so much stays that it is told
/// apart from `others`; if what is different lies deep inside, that is what is shown.
pub(in crate::command::up) fn shortened(text: &str, width: usize, others: &[&str]) -> String {
    let text: Vec<char> = text.chars().collect();
    if text.len() <= width || width < 3 {
        return text.into_iter().take(width).collect();
    }
    let shared: Vec<Shared> = others.iter().filter_map(|other| Shared::with(&text, other)).collect();
    let keep = width - 1;
    let usual = keep / 2;
    let cut = |head: usize| {
        let tail = keep - head;
        (shared.iter().filter(|shared| shared.hide(head, tail)).count(), head.abs_diff(usual))
    };
    let head = (0..=keep).min_by_key(|head| cut(*head)).unwrap_or(usual);
    match shared.iter().filter(|shared| shared.hide(head, keep - head)).map(|shared| shared.front).max() {
        // Something of each end is worth having, too, but not as much.
        Some(difference) => inside(&text, difference, width),
        None => ends(&text, head, keep - head),
    }
}

/// How many characters a text has in common with another one, at either end.
struct Shared {
    front: usize,
    back: usize,
}

impl Shared {
    /// `None` with itself.
    fn with(text: &[char], other: &str) -> Option<Self> {
        let front = text.iter().zip(other.chars()).take_while(|(one, other)| **one == *other).count();
        if front == text.len() && other.chars().count() == front {
            return None;
        }
        let back = text.iter().rev().zip(other.chars().rev()).take_while(|(one, other)| **one == *other).count();
        Some(Self { front, back })
    }

    /// Whether ends of these lengths look the same in both.
    const fn hide(&self, head: usize, tail: usize) -> bool {
        head <= self.front && tail <= self.back
    }
}

fn ends(text: &[char], head: usize, tail: usize) -> String {
    let (front, back) = (&text[..head], &text[text.len() - tail..]);
    front.iter().chain([&LEFT_OUT]).chain(back).collect()
}

/// A piece of it, with a little of what is before the difference.
fn inside(text: &[char], difference: usize, width: usize) -> String {
    let piece = width - 2;
    let begin = difference.saturating_sub(piece / 3).clamp(1, text.len() - piece - 1);
    [LEFT_OUT].iter().chain(&text[begin..begin + piece]).chain([&LEFT_OUT]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(shortened("k8s://prod/shop/service/web:80", 11, &[]), "k8s:/…eb:80");
        assert_eq!(shortened("short", 11, &["shore"]), "short");
        assert_eq!(shortened("short", 2, &[]), "sh");
    }

    #[test]
    fn what_tells_a_name_from_others_stays() {
        let names = ["orders-in-team-blue-of-the-company", "orders-in-team-green-of-the-company"];
        assert_eq!(shortened(names[0], 20, &names), "ord…e-of-the-company");
        let same = ["web-80.svc.default", "web-80.svc.default"];
        assert_eq!(shortened(same[0], 9, &same), "web-…ault", "twice the same is the same");
    }

    #[test]
    fn names_that_differ_only_deep_inside_show_that() {
        let names = [
            "payments-frontend-80.svc.team-a-production.ns.prod.cx.k8s.localhost",
            "payments-frontend-80.svc.team-b-production.ns.prod.cx.k8s.localhost",
        ];
        let shown = names.map(|name| shortened(name, 14, &names));
        assert_eq!(shown, ["…eam-a-produc…", "…eam-b-produc…"]);
    }

    proptest::proptest! {
        #[test]
        fn it_is_never_too_wide_and_two_names_that_are_not_the_same_are_not_shown_the_same(
            front in "[a-c]{0,20}", one in "[a-c]{7}", other in "[a-c]{7}", back in "[a-c]{0,20}", width in 5_usize..40
        ) {
            let names = [format!("{front}{one}{back}"), format!("{front}{other}{back}")];
            let both = [names[0].as_str(), names[1].as_str()];
            let shown = both.map(|name| shortened(name, width, &both));
            proptest::prop_assert!(shown.iter().all(|shown| shown.chars().count() <= width));
            proptest::prop_assert!(names[0] == names[1] || shown[0] != shown[1], "{shown:?}");
        }
    }
}
