//! The list of metrics, read out of their own text.

/// Reads names, types and help texts out of an OpenMetrics text.
pub fn described(text: &str) -> Vec<(String, String, String)> {
    let mut list = Vec::new();
    let mut help = ("", "");
    for line in text.lines() {
        if let Some((name, text)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help = (name, text.trim_end_matches('.'));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
            && name == help.0
        {
            list.push((name.to_owned(), kind.to_owned(), help.1.to_owned()));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_types_and_help_are_read() {
        let text = "# HELP a_total What a is.\n# TYPE a_total counter\na_total 1\n# EOF\n";
        assert_eq!(described(text), [("a_total".into(), "counter".into(), "What a is".into())]);
    }
}
