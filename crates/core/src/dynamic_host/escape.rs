//! Names of contexts as labels of a host, and back.
//!
//! | written | means |
//! |---|---|
//! | `--2f` | the byte of these two hex digits, here `/`; whatever a label cannot hold: capitals, `/`, `:`, `@`, `_` |
//! | `--` and something else | two hyphens |
//! | `0--41` at the start of a label | the escape alone, as a label cannot begin with a hyphen |
//! | `00--41` at the start of a label | the same, and no dot before it: names longer than a label go on in the next |
//! | `.` | a dot |

use crate::name::LABEL_MAX;

/// In front of a label that begins with an escape.
const START: &str = "0";
/// In front of a label that goes on with the one before it.
const GO_ON: &str = "00";

/// Whether the first character may stand for itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// Where it can.
    AsItIs,
    /// It is escaped, so that the whole does not look like an alias.
    Escaped,
}

/// What labels mean; `None` when their escapes make no text, or a control character.
pub(super) fn decode(labels: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(labels.len());
    for (index, label) in labels.split('.').enumerate() {
        let (goes_on, label) = match label.strip_prefix(GO_ON).or_else(|| label.strip_prefix(START)) {
            Some(escape) if escape_at(escape.as_bytes()).is_some() => (label.starts_with(GO_ON), escape),
            Some(_) | None => (false, label),
        };
        if index > 0 && !goes_on {
            bytes.push(b'.');
        }
        decode_label(label.as_bytes(), &mut bytes);
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains(char::is_control)).then_some(text)
}

/// The labels for a context.
pub(super) fn encode(context: &str, first: First) -> String {
    let parts: Vec<&[u8]> = split_at_dots(context);
    let mut labels = String::with_capacity(context.len() + 8);
    for (index, part) in parts.into_iter().enumerate() {
        if index > 0 {
            labels.push('.');
        }
        encode_label(part, index == 0 && first == First::Escaped, &mut labels);
    }
    labels
}

fn decode_label(mut label: &[u8], bytes: &mut Vec<u8>) {
    while let [first, rest @ ..] = label {
        match escape_at(label) {
            Some((byte, rest)) => {
                bytes.push(byte);
                label = rest;
            }
            None => {
                bytes.push(*first);
                label = rest;
            }
        }
    }
}

/// The byte of an escape that stands here, and what follows.
fn escape_at(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'-', b'-', high, low, rest @ ..] = text else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some((digit(*high)? << 4 | digit(*low)?, rest))
}

/// The parts that become labels: a dot with nothing before or behind it is a character of its part.
fn split_at_dots(context: &str) -> Vec<&[u8]> {
    let bytes = context.as_bytes();
    let mut parts = Vec::new();
    let mut start = 0;
    for (at, _) in context.match_indices('.') {
        let next_is_dot_or_end = matches!(bytes.get(at + 1), None | Some(b'.'));
        if at > start && !next_is_dot_or_end {
            parts.extend(bytes.get(start..at));
            start = at + 1;
        }
    }
    parts.extend(bytes.get(start..));
    parts
}

/// Writes a part of a context as a label, or as several when it is too long for one.
fn encode_label(part: &[u8], escape_first: bool, labels: &mut String) {
    let mut pieces: Vec<Piece> = (0..part.len()).filter_map(|at| Piece::new(part.get(at..)?)).collect();
    for at in [0, part.len().saturating_sub(1)] {
        if let Some(piece) = pieces.get_mut(at) {
            piece.escaped |= piece.byte == b'-';
        }
    }
    let whole: String = pieces.iter().map(|piece| piece.text()).collect();
    // All of these would be read as something else: the label behind the namespace, an internationalised name.
    let mistakable = whole == super::NAMESPACE || whole.starts_with("xn--") || looks_like_a_start(&whole);
    if let Some(piece) = pieces.first_mut() {
        piece.escaped |= escape_first || mistakable;
    }
    let mut prefix = START;
    let mut rest = pieces.as_mut_slice();
    while !rest.is_empty() {
        let (label, next) = rest.split_at_mut(fitting(rest, prefix));
        if let Some(piece) = next.first_mut() {
            piece.escaped = true;
        }
        if label.first().is_some_and(|piece| piece.escaped) {
            labels.push_str(prefix);
        }
        labels.extend(label.iter().map(|piece| piece.text()));
        if !next.is_empty() {
            labels.push('.');
        }
        (prefix, rest) = (GO_ON, next);
    }
}

/// How many pieces one label holds, at least one. It does not end with a hyphen when something follows.
fn fitting(pieces: &[Piece], prefix: &str) -> usize {
    let mut length = if pieces.first().is_some_and(|piece| piece.escaped) { prefix.len() } else { 0 };
    let fits = |piece: &&Piece| {
        length += piece.text().len();
        length <= LABEL_MAX
    };
    let count = pieces.iter().take_while(fits).count();
    if count == pieces.len() {
        return count;
    }
    let ends_well = |count: &usize| pieces.get(count - 1).is_some_and(|piece| piece.text() != "-");
    (1..=count).rev().find(ends_well).unwrap_or(count.max(1))
}

/// Whether a label that is not meant so begins like one that begins with an escape.
fn looks_like_a_start(label: &str) -> bool {
    let after = label.strip_prefix(GO_ON).or_else(|| label.strip_prefix(START));
    after.is_some_and(|after| escape_at(after.as_bytes()).is_some())
}

/// One byte of a context.
struct Piece {
    byte: u8,
    escaped: bool,
}

impl Piece {
    /// The first byte of a text. It is escaped when no label can hold it, capital letters included, or when it would
    /// make an escape of what follows.
    fn new(text: &[u8]) -> Option<Self> {
        let byte = *text.first()?;
        let plain = byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        Some(Self { byte, escaped: !plain || escape_at(text).is_some() })
    }

    fn text(&self) -> String {
        if self.escaped { format!("--{:02x}", self.byte) } else { char::from(self.byte).to_string() }
    }
}
