//! Bytes in any chunking → whole frames.
//!
//! A frame that lies whole in the caller's chunk is handed out as a slice of it, without a copy; only
//! one that straddles chunks is collected. At most one frame is ever held, and its size was checked first.

use crate::frame::{HEADER_LEN, Header, HeaderError, Limits};

/// Collects frames out of a byte stream.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    partial: Vec<u8>,
    header: Option<Header>,
}

impl Decoder {
    /// A decoder that holds the peer to `limits`.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, partial: Vec::new(), header: None }
    }

    /// Changes what the peer may send, e.g. after authentication.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether the stream may end here without cutting a frame.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.partial.is_empty() && self.header.is_none()
    }

    /// Takes the next frame off the front of `input` and hands it to `on_frame`.
    ///
    /// Returns `Ok(None)` when `input` is used up without a whole frame; what it held is kept.
    ///
    /// # Errors
    /// The header's fault. The decoder is of no use afterwards.
    pub fn next<R>(
        &mut self,
        input: &mut &[u8],
        on_frame: impl FnOnce(Header, &[u8]) -> R,
    ) -> Result<Option<R>, HeaderError> {
        if self.is_between_frames()
            && let Some((head, rest)) = input.split_first_chunk::<HEADER_LEN>()
        {
            let header = Header::decode(head, self.limits)?;
            let length = header.length as usize;
            if let Some((payload, rest)) = rest.split_at_checked(length) {
                *input = rest;
                return Ok(Some(on_frame(header, payload)));
            }
        }
        self.collect(input, on_frame)
    }

    fn collect<R>(
        &mut self,
        input: &mut &[u8],
        on_frame: impl FnOnce(Header, &[u8]) -> R,
    ) -> Result<Option<R>, HeaderError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                self.take(input, HEADER_LEN);
                let Some(head) = self.partial.first_chunk::<HEADER_LEN>() else {
                    return Ok(None);
                };
                let header = Header::decode(head, self.limits)?;
                self.partial.clear();
                self.header = Some(header);
                header
            }
        };
        let length = header.length as usize;
        self.take(input, length);
        if self.partial.len() < length {
            return Ok(None);
        }
        self.header = None;
        // An idle lane should hold no buffer, so the collected frame's memory goes with it.
        let payload = std::mem::take(&mut self.partial);
        Ok(Some(on_frame(header, &payload)))
    }

    /// Moves bytes from `input` until `want` are collected.
    fn take(&mut self, input: &mut &[u8], want: usize) {
        let missing = want.saturating_sub(self.partial.len()).min(input.len());
        let (now, rest) = input.split_at(missing);
        self.partial.extend_from_slice(now);
        *input = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameType, put_frame};
    use proptest::prelude::*;

    const LIMITS: Limits = Limits::Authenticated { data_cap: 16384 };

    fn drain(decoder: &mut Decoder, mut input: &[u8]) -> Result<Vec<(Header, Vec<u8>)>, HeaderError> {
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next(&mut input, |h, p| (h, p.to_vec()))? {
            frames.push(frame);
        }
        assert!(input.is_empty());
        Ok(frames)
    }

    fn sample() -> Vec<u8> {
        let mut wire = Vec::new();
        put_frame(&mut wire, FrameType::Heartbeat, 0, 0, &[1; 8]);
        put_frame(&mut wire, FrameType::Data, 1, 2, &[7; 500]);
        put_frame(&mut wire, FrameType::Data, 0, 4, &[]);
        put_frame(&mut wire, FrameType::Close, 8, 2, &[0, 8]);
        wire
    }

    proptest! {
        #[test]
        fn any_chunking_decodes_alike(cuts in prop::collection::vec(0usize..600, 0..12)) {
            let wire = sample();
            let whole = drain(&mut Decoder::new(LIMITS), &wire).unwrap();
            let mut decoder = Decoder::new(LIMITS);
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut got = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([wire.len()]) {
                let cut = cut.clamp(from, wire.len());
                got.extend(drain(&mut decoder, &wire[from..cut]).unwrap());
                from = cut;
            }
            prop_assert_eq!(got, whole);
            prop_assert!(decoder.is_between_frames());
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = drain(&mut Decoder::new(LIMITS), &bytes);
        }
    }

    #[test]
    fn a_cut_frame_is_noticed() {
        let mut decoder = Decoder::new(LIMITS);
        let wire = sample();
        drain(&mut decoder, &wire[..wire.len() - 1]).unwrap();
        assert!(!decoder.is_between_frames());
    }

    #[test]
    fn an_empty_payload_right_after_a_split_header_is_delivered() {
        let mut wire = Vec::new();
        put_frame(&mut wire, FrameType::Data, 1, 2, &[]);
        let mut decoder = Decoder::new(LIMITS);
        assert!(drain(&mut decoder, &wire[..5]).unwrap().is_empty());
        assert_eq!(drain(&mut decoder, &wire[5..]).unwrap().len(), 1);
    }
}
