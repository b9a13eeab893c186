//! Names and values of a header block, as they are inside the compression.
//!
//! A count, then for each name its length and bytes and its value's length and bytes, all numbers of 32 bits.
//! Names are lower-case and stand once; several values of one name are parted by NUL.

/// Names in one block, at the most. Kubernetes uses up to four.
pub const NAMES_MAX: usize = 100;

/// What a block may inflate to.
pub const INFLATED_MAX: usize = 32 * 1024;

/// The headers of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    pairs: Vec<(Box<str>, Box<str>)>,
}

impl Headers {
    /// The first value of a name in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// All values of a name in lower case.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let value = self.pairs.iter().find(|(known, _)| &**known == name).map(|(_, value)| &**value);
        value.into_iter().flat_map(|value| value.split('\0'))
    }

    /// Every name with its values, those still parted by NUL.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (&**name, &**value))
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no name. Kubernetes answers every stream so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// Why a header block cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The compressed bytes are no continuation of the connection's zlib stream.
    #[error("the compression is broken")]
    Compression,
    /// It inflates to more than the cap.
    #[error("it inflates to more than {INFLATED_MAX} bytes")]
    TooLarge,
    /// It has more names than the cap.
    #[error("it has {count} names")]
    TooMany {
        /// How many it announces.
        count: u32,
    },
    /// It ends before what it announces, or goes on behind it.
    #[error("its lengths do not fit")]
    Length,
    /// A name is empty, or no text of printable ASCII.
    #[error("it has a name that is none")]
    Name,
    /// A name stands twice.
    #[error("it has a name twice")]
    Duplicate,
}

/// Writes a block. Names are written in lower case; a name that comes again adds a value to its first.
pub(crate) fn encode(headers: &[(&str, &str)], out: &mut Vec<u8>) {
    let is_first = |at: usize| {
        let name = headers[at].0;
        headers[..at].iter().all(|(earlier, _)| !earlier.eq_ignore_ascii_case(name))
    };
    let firsts = (0..headers.len()).filter(|at| is_first(*at));
    put_length(out, firsts.clone().count());
    for at in firsts {
        let name = headers[at].0;
        put_length(out, name.len());
        out.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
        let length_at = out.len();
        put_length(out, 0);
        let values = headers[at..].iter().filter(|(later, _)| later.eq_ignore_ascii_case(name));
        for (nth, (_, value)) in values.enumerate() {
            if nth > 0 {
                out.push(0);
            }
            out.extend_from_slice(value.as_bytes());
        }
        let length = wire_length(out.len() - length_at - 4);
        out[length_at..length_at + 4].copy_from_slice(&length);
    }
}

/// Reads a block that fills `bytes`. Upper-case names are taken as lower-case ones.
pub(crate) fn parse(mut bytes: &[u8]) -> Result<Headers, HeaderFault> {
    let count = take_number(&mut bytes)?;
    if usize::try_from(count).map_or(true, |count| count > NAMES_MAX) {
        return Err(HeaderFault::TooMany { count });
    }
    let mut pairs: Vec<(Box<str>, Box<str>)> = Vec::new();
    for _ in 0..count {
        let name = take_text(&mut bytes)?;
        let name = std::str::from_utf8(name).map_err(|_| HeaderFault::Name)?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(HeaderFault::Name);
        }
        let name = name.to_ascii_lowercase().into_boxed_str();
        if pairs.iter().any(|(known, _)| *known == name) {
            return Err(HeaderFault::Duplicate);
        }
        let value = String::from_utf8_lossy(take_text(&mut bytes)?).into_owned();
        pairs.push((name, value.into_boxed_str()));
    }
    if !bytes.is_empty() {
        return Err(HeaderFault::Length);
    }
    Ok(Headers { pairs })
}

fn take_number(bytes: &mut &[u8]) -> Result<u32, HeaderFault> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(HeaderFault::Length)?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*number))
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], HeaderFault> {
    let length = take_number(bytes)?;
    let length = usize::try_from(length).map_err(|_| HeaderFault::Length)?;
    let (text, rest) = bytes.split_at_checked(length).ok_or(HeaderFault::Length)?;
    *bytes = rest;
    Ok(text)
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&wire_length(length));
}

fn wire_length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(headers: &[(&str, &str)]) -> Headers {
        let mut block = Vec::new();
        encode(headers, &mut block);
        parse(&block).unwrap()
    }

    fn block(count: u32, texts: &[&[u8]]) -> Vec<u8> {
        let mut out = count.to_be_bytes().to_vec();
        for text in texts {
            put_length(&mut out, text.len());
            out.extend_from_slice(text);
        }
        out
    }

    #[test]
    fn names_are_written_in_lower_case() {
        let headers = round_trip(&[("streamType", "Data"), ("port", "80")]);
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("streamtype", "Data"), ("port", "80")]);
        assert_eq!(headers.get("streamType"), None);
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn values_of_one_name_are_joined_by_nul_and_parted_again() {
        let headers = round_trip(&[("a", "1"), ("b", "2"), ("A", "3")]);
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "1\x003"), ("b", "2")]);
        assert_eq!(headers.values("a").collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(headers.get("a"), Some("1"));
        assert_eq!(headers.values("c").count(), 0);
    }

    #[test]
    fn an_empty_block_is_four_zero_bytes() {
        let mut out = Vec::new();
        encode(&[], &mut out);
        assert_eq!(out, [0; 4]);
        assert!(parse(&out).unwrap().is_empty());
    }

    #[test]
    fn a_name_that_stands_twice_is_refused_in_any_case() {
        assert_eq!(parse(&block(2, &[b"a", b"1", b"A", b"2"])), Err(HeaderFault::Duplicate));
    }

    #[test]
    fn a_hundred_names_are_read_and_one_more_is_refused() {
        let names: Vec<String> = (0..101).map(|n| format!("n{n}")).collect();
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(round_trip(&pairs[..100]).len(), 100);
        let mut out = Vec::new();
        encode(&pairs, &mut out);
        assert_eq!(parse(&out), Err(HeaderFault::TooMany { count: 101 }));
        assert_eq!(parse(&[0xff; 4]), Err(HeaderFault::TooMany { count: u32::MAX }));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        for bytes in [&b""[..], &[0, 0, 0], &block(1, &[b"a"]), &block(0, &[b""]), &block(1, &[b"a", b"b", b"c"])] {
            assert_eq!(parse(bytes), Err(HeaderFault::Length), "{bytes:02x?}");
        }
        let mut long = block(1, &[]);
        long.extend_from_slice(&[0xff; 8]);
        assert_eq!(parse(&long), Err(HeaderFault::Length));
    }

    #[test]
    fn a_name_must_be_printable_ascii() {
        for name in [&b""[..], b"a b", b"\0", b"\xff", "ü".as_bytes()] {
            assert_eq!(parse(&block(1, &[name, b"v"])), Err(HeaderFault::Name), "{name:02x?}");
        }
    }

    #[test]
    fn a_value_that_is_no_text_is_taken_as_far_as_it_is_one() {
        let headers = parse(&block(1, &[b"a", b"x\xffy"])).unwrap();
        assert_eq!(headers.get("a"), Some("x\u{fffd}y"));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(pairs in prop::collection::btree_map("[a-z-]{1,12}", "[ -~]{0,40}", 0..20)) {
            let sent: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let headers = round_trip(&sent);
            prop_assert_eq!(headers.iter().collect::<Vec<_>>(), sent);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![Just(0u8), 0u8..8, any::<u8>()], 0..80)) {
            let _ = parse(&bytes);
        }
    }
}
