//! Header blocks: one stateful zlib stream each way for the whole connection.
//!
//! Every block continues the stream of those before it, so each one that arrives has to be inflated, wanted or
//! not, and in the order of the wire.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::dictionary::DICTIONARY;
use crate::headers::{self, HeaderFault, Headers, INFLATED_MAX};

/// 4 KiB of history: the dictionary and the last dozens of blocks, which are nearly equal. More costs memory only.
const WINDOW_BITS: u8 = 12;

/// Blocks are short, so the work of the higher levels is not worth their bytes.
const LEVEL: u32 = 4;

/// Room that is made at a time, when a block needs more.
const STEP: usize = 512;

/// Compresses the header blocks of a connection.
#[derive(Debug)]
pub struct HeaderWriter {
    zlib: Compress,
    plain: Vec<u8>,
}

impl HeaderWriter {
    /// The beginning of a connection.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "a fresh stream takes any dictionary")]
    pub fn new() -> Self {
        let mut zlib = Compress::new_with_window_bits(Compression::new(LEVEL), true, WINDOW_BITS);
        zlib.set_dictionary(DICTIONARY).expect("a fresh stream takes any dictionary");
        Self { zlib, plain: Vec::new() }
    }

    /// Appends the block of `headers` to `out`. It has to be sent, and in this order.
    #[expect(clippy::missing_panics_doc, reason = "deflating into a vector with room cannot fail")]
    pub fn write(&mut self, headers: &[(&str, &str)], out: &mut Vec<u8>) {
        self.plain.clear();
        headers::encode(headers, &mut self.plain);
        let begin = self.zlib.total_in();
        loop {
            out.reserve(STEP);
            let done = usize::try_from(self.zlib.total_in() - begin).unwrap_or(usize::MAX);
            let rest = self.plain.get(done..).unwrap_or_default();
            self.zlib.compress_vec(rest, out, FlushCompress::Sync).expect("the stream is never ended");
            // Room that is left says that nothing is held back.
            if out.len() < out.capacity() {
                return;
            }
        }
    }
}

impl Default for HeaderWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// Inflates the header blocks of a connection.
#[derive(Debug)]
pub struct HeaderReader {
    zlib: Decompress,
    plain: Vec<u8>,
}

impl HeaderReader {
    /// The beginning of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self { zlib: Decompress::new(true), plain: Vec::new() }
    }

    /// Reads the next block of the connection.
    ///
    /// # Errors
    /// What is wrong with it. The connection cannot be read any further after [`HeaderFault::Compression`] and
    /// [`HeaderFault::TooLarge`].
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderFault> {
        self.plain.clear();
        self.inflate(block)?;
        headers::parse(&self.plain)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<(), HeaderFault> {
        let begin = self.zlib.total_in();
        loop {
            self.plain.reserve_exact(STEP);
            let done = usize::try_from(self.zlib.total_in() - begin).unwrap_or(usize::MAX);
            let rest = block.get(done..).unwrap_or_default();
            match self.zlib.decompress_vec(rest, &mut self.plain, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) => {
                    if self.plain.len() > INFLATED_MAX {
                        return Err(HeaderFault::TooLarge);
                    }
                    // Room that is left says that nothing is held back, and zlib takes all it can.
                    if self.plain.len() < self.plain.capacity() {
                        return Ok(());
                    }
                }
                Ok(Status::StreamEnd) => return Err(HeaderFault::Compression),
                Err(error) if error.needs_dictionary().is_some() => {
                    // Refused when it is another dictionary than ours that is asked for.
                    self.zlib.set_dictionary(DICTIONARY).map_err(|_| HeaderFault::Compression)?;
                }
                Err(_) => return Err(HeaderFault::Compression),
            }
        }
    }
}

impl Default for HeaderReader {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::NAMES_MAX;
    use proptest::prelude::*;

    /// What a writer of another make compresses, with the dictionary it is given.
    fn deflate(dictionary: Option<&[u8]>, plain: &[u8], flush: FlushCompress) -> Vec<u8> {
        let mut zlib = Compress::new(Compression::best(), true);
        if let Some(dictionary) = dictionary {
            zlib.set_dictionary(dictionary).unwrap();
        }
        let mut out = Vec::with_capacity(plain.len() + 100);
        zlib.compress_vec(plain, &mut out, flush).unwrap();
        out
    }

    fn pairs(headers: &Headers) -> Vec<(&str, &str)> {
        headers.iter().collect()
    }

    #[test]
    fn a_second_block_is_shorter_for_what_the_first_has_said() {
        let (mut writer, mut reader) = (HeaderWriter::new(), HeaderReader::new());
        let mut lengths = Vec::new();
        for id in ["0", "1", "2"] {
            let mut block = Vec::new();
            let sent = [("streamtype", "data"), ("port", "8080"), ("requestid", id)];
            writer.write(&sent, &mut block);
            assert_eq!(pairs(&reader.read(&block).unwrap()), sent);
            lengths.push(block.len());
        }
        assert!(lengths[1] * 2 < lengths[0], "{lengths:?}");
    }

    #[test]
    fn a_block_that_is_left_out_breaks_those_behind_it() {
        let (mut writer, mut reader) = (HeaderWriter::new(), HeaderReader::new());
        writer.write(&[("a", "1")], &mut Vec::new());
        let mut second = Vec::new();
        writer.write(&[("a", "1")], &mut second);
        assert_eq!(reader.read(&second), Err(HeaderFault::Compression));
    }

    #[test]
    fn ten_thousand_blocks_go_through_one_pair() {
        let (mut writer, mut reader) = (HeaderWriter::new(), HeaderReader::new());
        let mut block = Vec::new();
        for n in 0..10_000 {
            let id = n.to_string();
            block.clear();
            let long = "x".repeat(n % 700);
            let sent = [("requestid", id.as_str()), ("padding", long.as_str())];
            writer.write(&sent, &mut block);
            assert_eq!(pairs(&reader.read(&block).unwrap()), sent);
        }
    }

    #[test]
    fn a_bomb_is_refused_without_holding_what_it_inflates_to() {
        let mut plain = vec![0, 0, 0, 1, 0, 0, 0, 1, b'a', 1, 0, 0, 0];
        plain.resize(16 << 20, 0);
        let bomb = deflate(Some(DICTIONARY), &plain, FlushCompress::Sync);
        assert!(bomb.len() < 64 * 1024, "it fits a frame: {}", bomb.len());
        let mut reader = HeaderReader::new();
        assert_eq!(reader.read(&bomb), Err(HeaderFault::TooLarge));
        assert!(reader.plain.capacity() < INFLATED_MAX + 2 * STEP, "{}", reader.plain.capacity());
    }

    #[test]
    fn a_block_of_exactly_the_cap_is_read_and_of_one_byte_more_is_not() {
        for (length, outcome) in [(INFLATED_MAX, Ok(())), (INFLATED_MAX + 1, Err(HeaderFault::TooLarge))] {
            let value = length - 4 - 5 - 4;
            let mut plain = vec![0, 0, 0, 1, 0, 0, 0, 1, b'a'];
            plain.extend(u32::try_from(value).unwrap().to_be_bytes());
            plain.resize(length, b'v');
            let block = deflate(Some(DICTIONARY), &plain, FlushCompress::Sync);
            assert_eq!(HeaderReader::new().read(&block).map(drop), outcome);
        }
    }

    #[test]
    fn a_compression_without_our_dictionary_or_with_an_end_is_refused_where_it_must_be() {
        let read = |dictionary, flush| HeaderReader::new().read(&deflate(dictionary, &[0; 4], flush));
        assert!(read(Some(DICTIONARY), FlushCompress::Sync).is_ok());
        assert!(read(None, FlushCompress::Sync).is_ok(), "nothing in it needs the dictionary");
        assert_eq!(read(Some(b"other"), FlushCompress::Sync), Err(HeaderFault::Compression));
        assert_eq!(read(Some(DICTIONARY), FlushCompress::Finish), Err(HeaderFault::Compression));
        assert_eq!(HeaderReader::new().read(b"no zlib"), Err(HeaderFault::Compression));
        assert_eq!(HeaderReader::new().read(b""), Err(HeaderFault::Length));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(blocks in prop::collection::vec(
            prop::collection::btree_map("[a-z-]{1,12}", "\\PC{0,60}", 0..12), 0..8,
        )) {
            let (mut writer, mut reader) = (HeaderWriter::new(), HeaderReader::new());
            for block in &blocks {
                let sent: Vec<(&str, &str)> = block.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                let mut wire = Vec::new();
                writer.write(&sent, &mut wire);
                let headers = reader.read(&wire).unwrap();
                prop_assert_eq!(pairs(&headers), sent);
            }
        }

        #[test]
        fn flipped_and_truncated_blocks_never_panic(flip in any::<(usize, u8)>(), cut in any::<usize>()) {
            let mut wire = Vec::new();
            let mut writer = HeaderWriter::new();
            for id in ["0", "1"] {
                writer.write(&[("streamtype", "data"), ("port", "8080"), ("requestid", id)], &mut wire);
            }
            let at = flip.0 % wire.len();
            wire[at] ^= flip.1;
            wire.truncate(cut % (wire.len() + 1));
            if let Ok(headers) = HeaderReader::new().read(&wire) {
                prop_assert!(headers.len() <= NAMES_MAX);
            }
        }
    }
}
