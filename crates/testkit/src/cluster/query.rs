//! The path and the query of a request, decoded.

/// The value of a parameter.
pub(super) fn value<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Whether a parameter is set to something true.
pub(super) fn flag(query: &[(String, String)], name: &str) -> bool {
    matches!(value(query, name), Some("true" | "1" | "t" | "T" | "TRUE" | "True"))
}

/// All parameters in their order.
pub(super) fn parse(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        })
        .collect()
}

/// The segments of a path.
pub(super) fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|segment| !segment.is_empty()).map(|segment| decode(segment, false)).collect()
}

fn decode(text: &str, plus: bool) -> String {
    if !text.bytes().any(|byte| byte == b'%' || (plus && byte == b'+')) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, hex) {
            (b'%', Some(decoded)) => {
                out.push(decoded);
                at += 2;
            }
            (b'+', _) if plus => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{flag, parse, segments, value};

    #[test]
    fn parameters_and_segments_are_decoded() {
        let query = parse("labelSelector=app%3Dweb%2Ctier+in+%28a%2Cb%29&watch=true&command=a&command=b&bare&bad=%zz");
        assert_eq!(value(&query, "labelSelector"), Some("app=web,tier in (a,b)"));
        assert!(flag(&query, "watch") && !flag(&query, "bare"));
        assert_eq!(query.iter().filter(|(key, _)| key == "command").count(), 2);
        assert_eq!(value(&query, "bad"), Some("%zz"));
        assert_eq!(segments("/api/v1//pods/a%2Fb+c/"), ["api", "v1", "pods", "a/b+c"]);
    }
}
