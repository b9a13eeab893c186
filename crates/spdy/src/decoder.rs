//! Bytes in any chunking → pieces of frames.
//!
//! A control frame comes whole: as a slice of the caller's chunk where it can, collected where it straddles
//! chunks. A data frame comes in as many pieces as its bytes arrive in, and is never collected.

use crate::frame::{ControlType, FIN, HEAD_LEN, Head, HeadKind};
use crate::stream_id::StreamId;
use crate::violation::Violation;

/// What is kept of the memory of collected frames.
const KEEP: usize = 4 * 1024;

/// What was decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Control { kind: ControlType, flags: u8, payload: &'a [u8] },
    Data(DataPiece<'a>),
}

/// A run of bytes of one data frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataPiece<'a> {
    pub(crate) stream: StreamId,
    pub(crate) bytes: &'a [u8],
    /// The frame begins with it.
    pub(crate) is_first: bool,
    /// The frame, and with it the sender's half of the stream, ends with it.
    pub(crate) fin: bool,
}

/// Takes pieces of frames out of a byte stream.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    head: [u8; HEAD_LEN],
    head_len: usize,
    state: State,
    collected: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Between,
    Control {
        kind: ControlType,
        flags: u8,
        length: usize,
    },
    Data {
        stream: StreamId,
        fin: bool,
        left: usize,
        is_first: bool,
    },
}

impl Decoder {
    /// Takes the next piece off the front of `input`; `None` when `input` is used up. What it held is kept.
    pub(crate) fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<Piece<'s>>, Violation> {
        if matches!(self.state, State::Between) && !self.take_head(input)? {
            return Ok(None);
        }
        match self.state {
            State::Between => Ok(None),
            State::Control { kind, flags, length } => {
                let payload = self.take_control(input, length);
                Ok(payload.map(|payload| Piece::Control { kind, flags, payload }))
            }
            State::Data { stream, fin, left, is_first } => {
                if input.is_empty() && left > 0 {
                    return Ok(None);
                }
                let (bytes, rest) = input.split_at(left.min(input.len()));
                *input = rest;
                let left = left - bytes.len();
                self.state = match left {
                    0 => State::Between,
                    left => State::Data { stream, fin, left, is_first: false },
                };
                Ok(Some(Piece::Data(DataPiece { stream, bytes, is_first, fin: fin && left == 0 })))
            }
        }
    }

    /// Whether a head is complete; then the state is that of its payload.
    fn take_head(&mut self, input: &mut &[u8]) -> Result<bool, Violation> {
        let missing = (HEAD_LEN - self.head_len).min(input.len());
        let (now, rest) = input.split_at(missing);
        self.head[self.head_len..self.head_len + missing].copy_from_slice(now);
        self.head_len += missing;
        *input = rest;
        if self.head_len < HEAD_LEN {
            return Ok(false);
        }
        self.head_len = 0;
        self.forget_collected();
        let Head { kind, flags, length } = Head::decode(self.head)?;
        self.state = match kind {
            HeadKind::Control(kind) => State::Control { kind, flags, length },
            HeadKind::Data(stream) => State::Data { stream, fin: flags & FIN != 0, left: length, is_first: true },
        };
        Ok(true)
    }

    /// Drops the frame that was handed out before; an idle session holds no large buffer.
    fn forget_collected(&mut self) {
        self.collected.clear();
        if self.collected.capacity() > KEEP {
            self.collected = Vec::new();
        }
    }

    fn take_control<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8], length: usize) -> Option<&'s [u8]> {
        if self.collected.is_empty()
            && let Some((payload, rest)) = input.split_at_checked(length)
        {
            *input = rest;
            self.state = State::Between;
            return Some(payload);
        }
        let missing = (length - self.collected.len()).min(input.len());
        let (now, rest) = input.split_at(missing);
        self.collected.extend_from_slice(now);
        *input = rest;
        if self.collected.len() < length {
            return None;
        }
        self.state = State::Between;
        Some(&self.collected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{CONTROL_MAX, control_head, data_head, ping};
    use proptest::prelude::*;

    /// Pieces with the pieces of one data frame joined.
    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Whole {
        Control(ControlType, u8, Vec<u8>),
        Data(u32, Vec<u8>, bool),
    }

    fn drain(decoder: &mut Decoder, mut input: &[u8], got: &mut Vec<Whole>) -> Result<(), Violation> {
        while let Some(piece) = decoder.next(&mut input)? {
            match piece {
                Piece::Control { kind, flags, payload } => got.push(Whole::Control(kind, flags, payload.to_vec())),
                Piece::Data(piece) if piece.is_first => {
                    got.push(Whole::Data(piece.stream.get(), piece.bytes.to_vec(), piece.fin));
                }
                Piece::Data(piece) => {
                    let Some(Whole::Data(id, bytes, fin)) = got.last_mut() else { panic!("no frame to go on with") };
                    assert_eq!(*id, piece.stream.get());
                    bytes.extend_from_slice(piece.bytes);
                    *fin = piece.fin;
                }
            }
        }
        assert!(input.is_empty());
        Ok(())
    }

    fn sample() -> Vec<u8> {
        let mut wire = Vec::new();
        for (kind, length) in
            [(ControlType::Settings, 20usize), (ControlType::Headers, 300), (ControlType::Unknown(5), 0)]
        {
            wire.extend(control_head(kind, 1, length));
            wire.extend((0..length).map(|at| u8::try_from(at % 256).unwrap()));
        }
        wire.extend(data_head(StreamId::new(3), false, 500));
        wire.extend([7; 500]);
        wire.extend(ping(1));
        wire.extend(data_head(StreamId::new(3), true, 0));
        wire.extend(data_head(StreamId::new(5), true, 9));
        wire.extend([9; 9]);
        wire.extend(ping(3));
        wire
    }

    #[test]
    fn frames_come_out_in_their_order_and_data_with_its_end() {
        let mut got = Vec::new();
        drain(&mut Decoder::default(), &sample(), &mut got).unwrap();
        assert_eq!(got.len(), 8);
        assert_eq!(got[3], Whole::Data(3, vec![7; 500], false));
        assert_eq!(got[4], Whole::Control(ControlType::Ping, 0, vec![0, 0, 0, 1]));
        assert_eq!(got[5], Whole::Data(3, vec![], true));
        assert_eq!(got[6], Whole::Data(5, vec![9; 9], true));
    }

    #[test]
    fn a_large_data_frame_is_handed_on_as_it_comes_and_never_collected() {
        let mut decoder = Decoder::default();
        let mut wire = data_head(StreamId::new(1), true, 3000).to_vec();
        wire.extend([1; 1000]);
        let mut got = Vec::new();
        drain(&mut decoder, &wire, &mut got).unwrap();
        assert_eq!(got, [Whole::Data(1, vec![1; 1000], false)]);
        assert_eq!(decoder.collected.capacity(), 0);
        drain(&mut decoder, &[2; 2000], &mut got).unwrap();
        let Whole::Data(1, bytes, true) = &got[0] else { panic!("{got:?}") };
        assert_eq!(bytes.len(), 3000);
    }

    #[test]
    fn the_memory_of_a_large_control_frame_is_given_back() {
        let mut decoder = Decoder::default();
        let mut wire = control_head(ControlType::Headers, 0, CONTROL_MAX).to_vec();
        wire.extend([0; CONTROL_MAX]);
        let mut got = Vec::new();
        drain(&mut decoder, &wire[..20], &mut got).unwrap();
        drain(&mut decoder, &wire[20..], &mut got).unwrap();
        drain(&mut decoder, &ping(1), &mut got).unwrap();
        assert_eq!(got.len(), 2);
        assert!(decoder.collected.capacity() <= KEEP);
    }

    proptest! {
        #[test]
        fn any_chunking_decodes_alike(cuts in prop::collection::vec(0usize..1000, 0..12)) {
            let wire = sample();
            let (mut whole, mut got) = (Vec::new(), Vec::new());
            drain(&mut Decoder::default(), &wire, &mut whole).unwrap();
            let mut decoder = Decoder::default();
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut from = 0;
            for cut in cuts.into_iter().chain([wire.len()]) {
                let cut = cut.clamp(from, wire.len());
                drain(&mut decoder, &wire[from..cut], &mut got).unwrap();
                from = cut;
            }
            prop_assert_eq!(got, whole);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(0x80), 0u8..8, any::<u8>()], 0..400)) {
            let _ = drain(&mut Decoder::default(), &bytes, &mut Vec::new());
        }
    }
}
