//! The payload of Open: what the acceptor must know of a new stream.
//!
//! ```text
//! kind: u8 | scheme: u8 | hops: u8 | reserved: u8 = 0
//! tunnel: u32 | credit: u32 | trace: 16 bytes
//! visitor address | entrance address      (family: u8 = 0, 4 or 6, then address, port: u16)
//! method: u8 length + bytes | target: u16 length + bytes | header block to the end
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use crate::headers::{BlockError, BlockReader, BlockWriter, take, take_u16, take_u32};

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// One HTTP request and its answer.
    Http,
    /// An HTTP request that asks for an upgrade; after a 101 a byte pipe.
    Upgrade,
    /// A byte pipe.
    Tcp,
}

impl StreamKind {
    fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Http),
            2 => Some(Self::Upgrade),
            3 => Some(Self::Tcp),
            _ => None,
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Http => 1,
            Self::Upgrade => 2,
            Self::Tcp => 3,
        }
    }
}

/// How the visitor came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Without TLS.
    Plain,
    /// With TLS, ended at the server.
    Tls,
}

/// Why an Open payload cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Cut short, or the header block is at fault.
    #[error("the open payload cannot be read")]
    Block(#[from] BlockError),
    /// A kind, scheme, address family, method or target that is not defined.
    #[error("the open payload has an illegal field")]
    Field,
}

/// A decoded Open payload.
#[derive(Debug, Clone)]
pub struct Open {
    /// What the stream carries.
    pub kind: StreamKind,
    /// How the visitor came in.
    pub scheme: Scheme,
    /// How many servers have passed the stream on.
    pub hops: u8,
    /// The tunnel's number, as the agent gave it in Register.
    pub tunnel: u32,
    /// Bytes the acceptor may send before it needs a Window.
    pub credit: u32,
    /// Names the request in logs on both ends; zero when there is none.
    pub trace: [u8; 16],
    /// Where the visitor connects from.
    pub visitor: Option<SocketAddr>,
    /// The address the visitor connected to.
    pub entrance: Option<SocketAddr>,
    /// Request method; empty for tcp.
    pub method: Bytes,
    /// Request target in origin form; empty for tcp.
    pub target: Bytes,
    /// The header block, not yet read through.
    pub headers: Bytes,
}

impl Open {
    /// An Open for a byte pipe.
    #[must_use]
    pub fn tcp(tunnel: u32, visitor: Option<SocketAddr>, entrance: Option<SocketAddr>) -> Self {
        Self {
            kind: StreamKind::Tcp,
            scheme: Scheme::Plain,
            hops: 0,
            tunnel,
            credit: 0,
            trace: [0; 16],
            visitor,
            entrance,
            method: Bytes::new(),
            target: Bytes::new(),
            headers: Bytes::from_static(&[0, 0]),
        }
    }

    /// Encodes the payload.
    ///
    /// Returns `None` when a part is too long for its length field.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let method_len = u8::try_from(self.method.len()).ok()?;
        let target_len = u16::try_from(self.target.len()).ok()?;
        let mut out = Vec::with_capacity(96 + self.target.len() + self.headers.len());
        out.extend_from_slice(&[self.kind.to_wire(), u8::from(self.scheme == Scheme::Tls), self.hops, 0]);
        out.extend_from_slice(&self.tunnel.to_be_bytes());
        out.extend_from_slice(&self.credit.to_be_bytes());
        out.extend_from_slice(&self.trace);
        put_addr(&mut out, self.visitor);
        put_addr(&mut out, self.entrance);
        out.push(method_len);
        out.extend_from_slice(&self.method);
        out.extend_from_slice(&target_len.to_be_bytes());
        out.extend_from_slice(&self.target);
        out.extend_from_slice(&self.headers);
        Some(out)
    }

    /// Decodes a payload; the parts share its memory.
    ///
    /// # Errors
    /// [`OpenError`] for a payload that is cut short or has an illegal field. The pairs of the header
    /// block are checked when they are read.
    pub fn decode(mut payload: Bytes) -> Result<Self, OpenError> {
        let fixed = take(&mut payload, 4)?;
        let kind = StreamKind::from_wire(fixed[0]).ok_or(OpenError::Field)?;
        let scheme = match fixed[1] {
            0 => Scheme::Plain,
            1 => Scheme::Tls,
            _ => return Err(OpenError::Field),
        };
        let tunnel = take_u32(&mut payload)?;
        let credit = take_u32(&mut payload)?;
        let trace_bytes = take(&mut payload, 16)?;
        let mut trace = [0; 16];
        trace.copy_from_slice(&trace_bytes);
        let visitor = take_addr(&mut payload)?;
        let entrance = take_addr(&mut payload)?;
        let method_len = take(&mut payload, 1)?[0];
        let method = take(&mut payload, usize::from(method_len))?;
        let target_len = take_u16(&mut payload)?;
        let target = take(&mut payload, usize::from(target_len))?;
        let visible = |b: &u8| matches!(b, 0x21..=0x7e | 0x80..=0xff);
        if !method.iter().all(u8::is_ascii_graphic) || !target.iter().all(visible) {
            return Err(OpenError::Field);
        }
        if kind != StreamKind::Tcp && (method.is_empty() || target.is_empty()) {
            return Err(OpenError::Field);
        }
        Ok(Self {
            kind,
            scheme,
            hops: fixed[2],
            tunnel,
            credit,
            trace,
            visitor,
            entrance,
            method,
            target,
            headers: payload,
        })
    }

    /// Reads the header block.
    ///
    /// # Errors
    /// [`BlockError`] when it has no count.
    pub fn read_headers(&self) -> Result<BlockReader, BlockError> {
        BlockReader::new(self.headers.clone())
    }

    /// Starts a header block for [`Open::headers`].
    #[must_use]
    pub fn header_writer() -> BlockWriter {
        BlockWriter::new(Vec::with_capacity(512))
    }
}

fn put_addr(out: &mut Vec<u8>, addr: Option<SocketAddr>) {
    let Some(addr) = addr else {
        out.push(0);
        return;
    };
    match addr.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&addr.port().to_be_bytes());
}

fn take_addr(payload: &mut Bytes) -> Result<Option<SocketAddr>, OpenError> {
    let ip: IpAddr = match take(payload, 1)?[0] {
        0 => return Ok(None),
        4 => {
            let octets = take(payload, 4)?;
            Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into()
        }
        6 => {
            let octets = take(payload, 16)?;
            let mut sixteen = [0; 16];
            sixteen.copy_from_slice(&octets);
            Ipv6Addr::from(sixteen).into()
        }
        _ => return Err(OpenError::Field),
    };
    Ok(Some(SocketAddr::new(ip, take_u16(payload)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Open {
        let mut block = Open::header_writer();
        block.pair("host", b"app1.example.com");
        Open {
            kind: StreamKind::Http,
            scheme: Scheme::Tls,
            hops: 1,
            tunnel: 7,
            credit: 65536,
            trace: [9; 16],
            visitor: Some("[2001:db8::1]:4711".parse().unwrap()),
            entrance: Some("192.0.2.1:443".parse().unwrap()),
            method: Bytes::from_static(b"GET"),
            target: Bytes::from_static(b"/a?b=c"),
            headers: block.finish().into(),
        }
    }

    #[test]
    fn an_open_survives_the_wire() {
        let open = sample();
        let back = Open::decode(open.encode().unwrap().into()).unwrap();
        assert_eq!(format!("{open:?}"), format!("{back:?}"));
    }

    #[test]
    fn every_cut_is_an_error() {
        let wire = sample().encode().unwrap();
        let block = sample().headers.len();
        for cut in 0..wire.len() - block {
            assert!(Open::decode(wire[..cut].to_vec().into()).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_target_with_a_blank_is_refused() {
        let mut open = sample();
        open.target = Bytes::from_static(b"/a b");
        assert!(Open::decode(open.encode().unwrap().into()).is_err());
        open.target = Bytes::new();
        assert!(Open::decode(open.encode().unwrap().into()).is_err());
    }

    #[test]
    fn a_target_too_long_for_its_length_field_is_not_encoded() {
        let mut open = sample();
        open.target = vec![b'a'; 70_000].into();
        assert!(open.encode().is_none());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Open::decode(bytes.into());
        }
    }
}
