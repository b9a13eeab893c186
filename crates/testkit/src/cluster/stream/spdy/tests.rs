use bytes::BytesMut;
use flate2::{Compress, Compression, FlushCompress};

use super::{Control, Decoder, Frame, Replies, control, data_head, dictionary, head, inflate};

/// The client's side of the header compression.
pub(in crate::cluster::stream) struct ClientHeaders(Compress);

impl ClientHeaders {
    pub(in crate::cluster::stream) fn new() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        deflate.set_dictionary(&dictionary::bytes()).unwrap();
        Self(deflate)
    }

    /// A SYN_STREAM with these headers.
    pub(in crate::cluster::stream) fn syn(&mut self, id: u32, fin: bool, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 1024);
        self.0.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        let mut frame = Vec::new();
        head(&mut frame, super::SYN_STREAM, 10 + block.len());
        frame[4] = u8::from(fin);
        frame.extend_from_slice(&id.to_be_bytes());
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&block);
        frame
    }
}

fn decode(bytes: &[u8], step: usize) -> Vec<Frame> {
    let mut decoder = Decoder::new();
    let mut frames: Vec<Frame> = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.feed(BytesMut::from(piece));
        while let Some(frame) = decoder.next().unwrap() {
            match (frames.last_mut(), frame) {
                (Some(Frame::Data { id, bytes, fin }), Frame::Data { id: next, bytes: more, fin: end })
                    if *id == next && !*fin =>
                {
                    *bytes = [&bytes[..], &more[..]].concat().into();
                    *fin = end;
                }
                (_, frame) => frames.push(frame),
            }
        }
    }
    frames
}

#[test]
fn any_cut_of_the_bytes_gives_the_same_frames() {
    let mut client = ClientHeaders::new();
    let mut bytes = client.syn(1, false, &[("streamtype", "error"), ("port", "80")]);
    bytes.extend(client.syn(3, true, &[("streamtype", "data"), ("port", "80"), ("requestID", "0")]));
    bytes.extend_from_slice(&data_head(3, 5, true));
    bytes.extend_from_slice(b"hello");
    control(&mut bytes, Control::Ping, &[7]);
    control(&mut bytes, Control::Reset, &[3, 5]);
    control(&mut bytes, Control::GoAway, &[3, 0]);
    let whole = decode(&bytes, bytes.len());
    assert_eq!(whole.len(), 6);
    let Frame::Syn { id: 3, fin: true, headers } = &whole[1] else { panic!("{whole:?}") };
    assert_eq!(headers[2], ("requestid".to_owned(), "0".to_owned()));
    for step in 1..40 {
        assert_eq!(decode(&bytes, step), whole);
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let mut noise = crate::noise::Noise::new(3);
    for _ in 0..500 {
        let mut bytes = vec![0; 200];
        noise.fill(&mut bytes);
        bytes[..4].copy_from_slice(&[0x80, 3, 0, 1]);
        bytes[5..8].copy_from_slice(&[0, 0, 180]);
        let mut decoder = Decoder::new();
        decoder.feed(BytesMut::from(&bytes[..]));
        while let Ok(Some(_)) = decoder.next() {}
    }
}

#[test]
fn a_reply_has_an_empty_header_block() {
    let mut out = Vec::new();
    let mut replies = Replies::new();
    let mut client = flate2::Decompress::new(true);
    for id in [1u32, 3, 5] {
        out.clear();
        replies.write(&mut out, id).unwrap();
        assert_eq!(out[..4], [0x80, 3, 0, 2]);
        assert_eq!(out[8..12], id.to_be_bytes());
        assert_eq!(inflate(&mut client, &out[12..]).unwrap(), [0; 4]);
    }
}
