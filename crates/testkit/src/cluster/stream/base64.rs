//! Base64, for the channels that carry text.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(super) fn encode(input: &[u8]) -> String {
    let mut out = String::with_capacity(input.len().div_ceil(3) * 4);
    for chunk in input.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let index = (word >> (18 - 6 * at)) & 0x3F;
            out.push(if at <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    out
}

/// What the text stands for; `None` when it is no base64.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.trim_ascii_end();
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.chunks(4) {
        let mut word = 0u32;
        for byte in chunk {
            let digit = ALPHABET.iter().position(|known| known == byte)?;
            word = word << 6 | u32::try_from(digit).ok()?;
        }
        let [_, first, second, third] = (word << (6 * (4 - chunk.len()))).to_be_bytes();
        let length = chunk.len().checked_sub(1).filter(|length| *length > 0)?;
        out.extend_from_slice(&[first, second, third][..length]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn what_was_encoded_comes_back() {
        for length in 0..20u8 {
            let bytes: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(91)).collect();
            assert_eq!(decode(encode(&bytes).as_bytes()).unwrap(), bytes);
        }
        assert_eq!(encode(b"hello"), "aGVsbG8=");
        assert_eq!(decode(b"a"), None);
        assert_eq!(decode(b"a!=="), None);
    }
}
