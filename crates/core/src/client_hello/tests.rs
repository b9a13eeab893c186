//! Hellos whole, in pieces, hostile and none at all.

use proptest::prelude::*;

use super::*;

/// What OpenSSL 3 sends for `ArgoCD.localhost` with `h2` and `http/1.1`.
const OPENSSL: &str = "\
    1603010200010001fc0303f9866fe86925fd6b3ea5688e8aa7a87ae50da48717ebf17135de366db14bdc70201ce25436\
    acc6e3b7b38c96ef22f2d1104c1a4336dc77582d9e291a0def2bf8be0024130213031301c02cc030c02bc02fcca9cca8\
    c024c028c023c027009f009e006b006700ff0100018f0000001500130000104172676f43442e6c6f63616c686f737400\
    0b000403000102000a00160014001d0017001e0019001801000101010201030104002300000010000e000c0268320868\
    7474702f312e310016000000170000000d002a0028040305030603080708080809080a080b0804080508060401050106\
    01030303010302040205020602002b00050403040303002d00020101003300260024001d00200cf0b23877d1553a57d5\
    496f1863b01b3400fdc7287db807462d2adb039d0134001500cb00000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    00000000000000000000000000000000000000000000000000000000000000000000000000";

/// The parts of a hello, each as it stands on the wire.
struct Hello {
    session_id: Vec<u8>,
    extensions: Option<Vec<(u16, Vec<u8>)>>,
}

impl Hello {
    fn with(extensions: &[(u16, Vec<u8>)]) -> Self {
        Self { session_id: vec![7; 32], extensions: Some(extensions.to_vec()) }
    }

    fn for_name(name: &str) -> Self {
        Self::with(&[grease(), sni(&[(0, name.as_bytes())]), alpn(&[b"h2", b"http/1.1"]), (43, vec![2, 3, 4])])
    }

    fn body(&self) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([0x5a; 32]);
        body.extend(short(&self.session_id));
        body.extend(long(&[0x13, 0x01, 0x13, 0x02]));
        body.extend(short(&[0]));
        if let Some(extensions) = &self.extensions {
            let list: Vec<u8> =
                extensions.iter().flat_map(|(kind, data)| kind.to_be_bytes().into_iter().chain(long(data))).collect();
            body.extend(long(&list));
        }
        body
    }

    fn message(&self) -> Vec<u8> {
        message(&self.body())
    }

    fn wire(&self) -> Vec<u8> {
        records(&self.message(), RECORD_MAX)
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1], &length[1..], body].concat()
}

/// Behind a length of 8 bits.
fn short(data: &[u8]) -> Vec<u8> {
    [&[u8::try_from(data.len()).unwrap()], data].concat()
}

/// Behind a length of 16 bits.
fn long(data: &[u8]) -> Vec<u8> {
    [&u16::try_from(data.len()).unwrap().to_be_bytes(), data].concat()
}

fn sni(names: &[(u8, &[u8])]) -> (u16, Vec<u8>) {
    let list: Vec<u8> = names.iter().flat_map(|(kind, name)| [vec![*kind], long(name)].concat()).collect();
    (0, long(&list))
}

fn alpn(names: &[&[u8]]) -> (u16, Vec<u8>) {
    (16, long(&names.iter().flat_map(|name| short(name)).collect::<Vec<u8>>()))
}

fn grease() -> (u16, Vec<u8>) {
    (0x1a1a, Vec::new())
}

fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
    [&[kind, 3, 1], &*long(fragment)].concat()
}

fn records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(|fragment| record(HANDSHAKE, fragment)).collect()
}

/// Pushes pieces until it is over.
fn read_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Progress, ClientHelloError> {
    let mut reader = ClientHelloReader::new();
    for piece in pieces {
        let progress = reader.push(piece)?;
        if progress != Progress::More {
            return Ok(progress);
        }
    }
    Ok(Progress::More)
}

/// The outcome, which is the same in one piece and byte by byte.
fn read(wire: &[u8]) -> Result<Progress, ClientHelloError> {
    let whole = read_pieces([wire]);
    assert_eq!(whole, read_pieces(wire.chunks(1)), "byte by byte");
    whole
}

fn hello(wire: &[u8]) -> ClientHello {
    match read(wire) {
        Ok(Progress::Done(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

fn name(hello: &ClientHello) -> Option<&str> {
    hello.server_name.as_ref().map(Hostname::as_str)
}

fn malformed(wire: &[u8]) -> &'static str {
    match read(wire) {
        Err(ClientHelloError::Malformed { what }) => what,
        other => panic!("{other:?}"),
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

#[test]
fn a_hello_of_openssl_says_its_name_in_lower_case() {
    let hello = hello(&hex(OPENSSL));
    assert_eq!(name(&hello), Some("argocd.localhost"));
}

#[test]
fn a_hello_is_done_with_its_last_byte_and_not_before() {
    let wire = Hello::for_name("a.localhost").wire();
    for end in 0..wire.len() {
        assert_eq!(read(&wire[..end]), Ok(Progress::More), "{end} bytes");
    }
    assert_eq!(name(&hello(&wire)), Some("a.localhost"));
}

#[test]
fn a_hello_over_many_records_is_one_hello() {
    let message = Hello::for_name("split.localhost").message();
    for most in [1, 2, 3, 4, 5, 50, 100, message.len()] {
        assert_eq!(name(&hello(&records(&message, most))), Some("split.localhost"), "records of {most}");
    }
}

#[test]
fn a_hello_of_20_kib_with_a_post_quantum_key_share_is_read() {
    let share = (51, vec![0x4b; 20 * 1024]);
    let long = Hello::with(&[share, sni(&[(0, b"pq.localhost")])]);
    let wire = long.wire();
    assert!(wire.len() > RECORD_MAX + 4 * 1024, "more than a record");
    assert_eq!(name(&hello(&wire)), Some("pq.localhost"));
    assert_eq!(read_pieces(wire.chunks(1400)), read(&wire), "in segments");
}

#[test]
fn the_longest_hello_that_is_read_is_read_and_one_byte_more_is_not() {
    let around = Hello::with(&[sni(&[(0, b"a.b")]), (51, Vec::new())]).message().len();
    let records_needed = READ_MAX.div_ceil(RECORD_MAX + HEADER_LENGTH);
    let most = READ_MAX - records_needed * HEADER_LENGTH - around;
    // The name comes after the long part, so all of it has been read.
    let sized = |length: usize| Hello::with(&[(51, vec![0; length]), sni(&[(0, b"a.b")])]).wire();
    assert_eq!(sized(most).len(), READ_MAX);
    assert_eq!(name(&hello(&sized(most))), Some("a.b"));
    assert_eq!(read(&sized(most + 1)), Err(ClientHelloError::TooLong { most: READ_MAX }));
}

#[test]
fn a_hello_that_claims_to_be_too_long_is_refused_with_its_claim() {
    let mut wire = record(HANDSHAKE, &[1, 0, 0xff, 0xff, 3, 3]);
    assert_eq!(read(&wire), Err(ClientHelloError::TooLong { most: READ_MAX }));
    wire[6] = 0xff;
    assert_eq!(read(&wire[..9]), Err(ClientHelloError::TooLong { most: READ_MAX }), "16 MiB");
}

#[test]
fn many_small_records_count_with_their_headers() {
    let message = Hello::with(&[(51, vec![0; 20 * 1024])]).message();
    assert_eq!(read(&records(&message, 1)), Err(ClientHelloError::TooLong { most: READ_MAX }));
}

#[test]
fn empty_records_are_refused_with_the_first() {
    assert_eq!(malformed(&record(HANDSHAKE, &[])), "an empty record");
    let mut wire = record(HANDSHAKE, &Hello::for_name("a.b").message()[..10]);
    wire.extend(record(HANDSHAKE, &[]));
    assert_eq!(malformed(&wire), "an empty record");
}

#[test]
fn a_record_longer_than_a_record_may_be_is_refused_by_its_header() {
    assert_eq!(malformed(&[HANDSHAKE, 3, 1, 0x40, 0x01]), "a record is longer than 16384 bytes");
    assert_eq!(read(&[HANDSHAKE, 3, 1, 0x40, 0x00]), Ok(Progress::More));
}

#[test]
fn another_record_within_the_hello_is_refused() {
    let message = Hello::for_name("a.b").message();
    for kind in [CHANGE_CIPHER_SPEC, ALERT, APPLICATION_DATA, HEARTBEAT, 0, 99] {
        let wire = [record(HANDSHAKE, &message[..20]), record(kind, &message[20..])].concat();
        assert_eq!(malformed(&wire), "something else stands between its records", "{kind}");
    }
}

#[test]
fn another_record_in_front_is_tls_but_no_hello() {
    for (kind, found) in [
        (CHANGE_CIPHER_SPEC, "a change of ciphers"),
        (ALERT, "an alert"),
        (APPLICATION_DATA, "encrypted data"),
        (HEARTBEAT, "a heartbeat"),
    ] {
        assert_eq!(read(&record(kind, &[2, 40])), Err(ClientHelloError::NotAHello { found }));
    }
    let server_hello = record(HANDSHAKE, &[2, 0, 0, 4, 3, 3, 0, 0]);
    assert_eq!(read(&server_hello), Err(ClientHelloError::NotAHello { found: "another message of the handshake" }));
}

#[test]
fn what_is_no_tls_is_found_as_soon_as_it_shows() {
    for wire in
        [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0", b"\0", b"\x16\x02", b"\x15\x04", b"\x80\x2e\x02", b"\x80\x2e\x01\x09"]
    {
        assert_eq!(read(wire), Err(ClientHelloError::NotTls), "{wire:?}");
    }
    assert_eq!(read(b"G"), Err(ClientHelloError::NotTls), "with its first byte");
    assert_eq!(read(b"\x16"), Ok(Progress::More));
}

#[test]
fn the_hello_of_ssl_2_is_named() {
    for version in [[0, 2], [3, 0], [3, 1]] {
        let wire = [&[0x80, 0x2e, 1], &version[..], &[0, 0x15, 0, 0, 0, 0x10]].concat();
        assert_eq!(read(&wire), Err(ClientHelloError::Ssl2), "{version:?}");
        assert_eq!(read(&wire[..4]), Ok(Progress::More));
    }
}

#[test]
fn a_client_that_names_no_host_has_no_server_name() {
    assert_eq!(hello(&Hello::with(&[grease()]).wire()), ClientHello::default());
    assert_eq!(hello(&Hello::with(&[]).wire()), ClientHello::default(), "an empty list of extensions");
    let old = Hello { session_id: Vec::new(), extensions: None };
    assert_eq!(hello(&old.wire()), ClientHello::default(), "no list of extensions");
}

#[test]
fn a_name_is_lower_cased_and_loses_its_trailing_dot() {
    assert_eq!(name(&hello(&Hello::for_name("App.LocalHost.").wire())), Some("app.localhost"));
}

#[test]
fn a_server_name_that_is_no_host_name_is_refused_with_the_reason() {
    let refused = |text: &[u8]| match read(&Hello::with(&[sni(&[(0, text)])]).wire()) {
        Err(ClientHelloError::ServerName { name, error }) => (name, error),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(b"127.0.0.1"), ("127.0.0.1".to_owned(), NameError::Address));
    assert_eq!(refused(b"::1").1, NameError::Character { character: ':' });
    assert_eq!(refused(b"a_b.localhost").1, NameError::Character { character: '_' });
    assert_eq!(refused(b"a\0.localhost").1, NameError::Character { character: '\0' });
    assert_eq!(refused(b"\xff.localhost").1, NameError::Character { character: '\u{fffd}' });
    assert_eq!(refused(b"a..b").1, NameError::Empty);
    let (text, error) = refused(&[b'a'; 5000]);
    assert_eq!((text.len(), error), (253, NameError::TooLong { length: 5000, most: 253 }), "not kept whole");
}

#[test]
fn what_a_client_asks_for_is_shown_without_control_characters() {
    let error = read(&Hello::with(&[sni(&[(0, b"a\x1b[2J\n")])]).wire()).unwrap_err();
    assert!(!error.to_string().contains(char::is_control), "{error}");
}

#[test]
fn two_server_names_are_one_too_many() {
    assert_eq!(malformed(&Hello::with(&[sni(&[(0, b"a.b"), (0, b"c.d")])]).wire()), "it has two server names");
    assert_eq!(malformed(&Hello::with(&[sni(&[(0, b"a.b"), (0, b"a.b")])]).wire()), "it has two server names");
    let other_kind = Hello::with(&[sni(&[(9, b"?"), (0, b"a.b"), (7, b"")])]);
    assert_eq!(name(&hello(&other_kind.wire())), Some("a.b"), "a kind nobody knows is passed over");
}

#[test]
fn an_extension_is_there_once() {
    let names = [sni(&[(0, b"a.b")]), grease(), sni(&[(0, b"c.d")])];
    assert_eq!(malformed(&Hello::with(&names).wire()), "an extension is there twice");
    assert_eq!(malformed(&Hello::with(&[grease(), grease()]).wire()), "an extension is there twice");
}

#[test]
fn no_client_needs_hundreds_of_extensions() {
    let numbered = |count: u16| (100..100 + count).map(|kind| (kind, Vec::new())).collect::<Vec<_>>();
    assert!(matches!(read(&Hello::with(&numbered(256)).wire()), Ok(Progress::Done(_))));
    assert_eq!(malformed(&Hello::with(&numbered(257)).wire()), "it has more than 256 extensions");
}

#[test]
fn an_encrypted_hello_is_for_its_public_name() {
    let outer = Hello::with(&[(0xfe0d, vec![0, 0, 1, 0, 1, 9]), sni(&[(0, b"public.example")])]);
    let hello = hello(&outer.wire());
    assert_eq!(name(&hello), Some("public.example"));
}

#[test]
fn lying_lengths_of_the_server_name_are_refused() {
    let data = |data: &[u8]| malformed(&Hello::with(&[(0, data.to_vec()), grease()]).wire());
    let list = "its list of server names has a wrong length";
    assert_eq!(data(&[]), list);
    assert_eq!(data(&[0]), list);
    assert_eq!(data(&[0, 0]), list, "an empty one");
    assert_eq!(data(&[0, 7, 0, 0, 3, b'a', b'.', b'b']), list, "longer than the extension");
    assert_eq!(data(&[0, 5, 0, 0, 3, b'a', b'.', b'b']), list, "shorter than the extension");
    let name = "a server name is longer than their list";
    assert_eq!(data(&[0, 6, 0, 0, 4, b'a', b'.', b'b']), name);
    assert_eq!(data(&[0, 6, 0, 0xff, 0xff, b'a', b'.', b'b']), name);
    assert_eq!(data(&[0, 2, 0, 0]), name, "cut within its length");
    assert_eq!(data(&[0, 6, 0, 0, 2, b'a', b'.', b'b']), name, "what is behind it is no name");
    assert_eq!(data(&[0, 3, 0, 0, 0]), "its server name is empty");
}

#[test]
fn lying_lengths_of_the_message_and_its_parts_are_refused() {
    let body = Hello::with(&[grease(), sni(&[(0, b"a.b")])]).body();
    // Where each length stands in it: of the session id, the ciphers, the compressions, the extensions, one of them.
    let changed = |at: usize, value: u8| {
        let mut body = body.clone();
        body[at] = value;
        malformed(&records(&message(&body), RECORD_MAX))
    };
    assert_eq!(changed(34, 33), "its session id is too long");
    assert_eq!(changed(68, 3), "its list of ciphers has a wrong length");
    assert_eq!(changed(68, 0), "its list of ciphers has a wrong length");
    assert_eq!(changed(67, 0xff), "its list of ciphers is cut short");
    assert_eq!(changed(73, 0), "its list of compressions is empty");
    assert_eq!(changed(73, 200), "its list of compressions is cut short");
    let extensions = "its list of extensions does not end where the message does";
    assert_eq!(changed(76, body[76] + 1), extensions);
    assert_eq!(changed(76, body[76] - 1), extensions);
    assert_eq!(changed(75, 0xff), extensions);
    assert_eq!(changed(79, 0xff), "an extension is longer than their list");
    assert_eq!(changed(80, 10), "an extension is cut short");
    let random = records(&message(&body[..20]), RECORD_MAX);
    assert_eq!(malformed(&random), "it ends within its random bytes");
    assert_eq!(malformed(&records(&message(&[]), RECORD_MAX)), "it ends within its random bytes");
    assert_eq!(malformed(&records(&message(&body[..50]), RECORD_MAX)), "its session id is cut short");
}

#[test]
fn what_follows_the_hello_is_not_read() {
    let wire = [Hello::for_name("a.b").wire(), b"\xff\xff\xff".repeat(100_000)].concat();
    assert_eq!(name(&hello(&wire)), Some("a.b"), "however much came with it");
    let two = [Hello::for_name("a.b").message(), Hello::for_name("c.d").message()].concat();
    assert_eq!(name(&hello(&records(&two, RECORD_MAX))), Some("a.b"), "not even in the same record");
}

#[test]
fn an_outcome_stays() {
    let mut reader = ClientHelloReader::new();
    let done = reader.push(&Hello::for_name("a.b").wire());
    assert_eq!(reader.push(b"x"), done);
    let mut reader = ClientHelloReader::new();
    let failed = reader.push(b"GET");
    assert_eq!((reader.push(&Hello::for_name("a.b").wire()), failed.is_err()), (failed, true));
}

#[test]
fn a_stalled_hello_keeps_only_what_it_has_to() {
    let mut reader = ClientHelloReader::new();
    let wire = Hello::with(&[(51, vec![0; 50_000]), sni(&[(0, b"a.b")])]).wire();
    assert_eq!(reader.push(&wire[..40_000]), Ok(Progress::More));
    let kept = format!("{reader:?}");
    assert!(kept.len() < 1000, "{} characters", kept.len());
}

#[test]
fn each_error_is_the_clients_and_the_usual_ones_say_what_to_do() {
    let errors = [
        (ClientHelloError::NotTls, None, true),
        (ClientHelloError::Ssl2, Some(70), true),
        (ClientHelloError::NotAHello { found: "an alert" }, Some(10), false),
        (ClientHelloError::TooLong { most: 1 }, Some(50), false),
        (ClientHelloError::Malformed { what: "x" }, Some(50), false),
        (ClientHelloError::ServerName { name: "1.1.1.1".into(), error: NameError::Address }, Some(112), true),
    ];
    for (error, alert, hint) in errors {
        assert_eq!((error.fault(), error.alert(), error.hint().is_some()), (Fault::Downstream, alert, hint), "{error}");
    }
}

/// A hello with parts of any kind, and the records it is cut into.
fn any_hello() -> impl Strategy<Value = (Option<String>, Vec<u8>)> {
    let name = proptest::option::of("[a-z]{1,10}(\\.[a-z0-9]{1,10}){0,3}\\.[a-z]{2,6}");
    let protocols = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..12), 0..5);
    (name, protocols, 0usize..3000, 0usize..3, 1usize..800).prop_map(|(name, protocols, padding, place, most)| {
        let mut extensions = Vec::new();
        if let Some(name) = &name {
            extensions.push(sni(&[(0, name.as_bytes())]));
        }
        if !protocols.is_empty() {
            extensions.push(alpn(&protocols.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        }
        extensions.insert(place.min(extensions.len()), (51, vec![0x33; padding]));
        let wire = records(&Hello::with(&extensions).message(), most);
        (name, wire)
    })
}

proptest! {
    #[test]
    fn what_a_hello_says_is_read_from_it((host, wire) in any_hello()) {
        let hello = hello(&wire);
        prop_assert_eq!(name(&hello), host.as_deref());
    }

    #[test]
    fn any_chunking_reads_alike((_, wire) in any_hello(), cuts in proptest::collection::vec(0usize..4000, 0..8)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(wire.len())).collect();
        cuts.push(wire.len());
        cuts.sort_unstable();
        let mut start = 0;
        let pieces = cuts.iter().map(|cut| {
            let piece = &wire[start..*cut];
            start = *cut;
            piece
        });
        prop_assert_eq!(read_pieces(pieces), read(&wire));
    }

    #[test]
    fn a_flipped_byte_never_panics_and_reads_alike_in_any_chunking(
        (_, mut wire) in any_hello(), at in any::<prop::sample::Index>(), flip in 1u8..=255
    ) {
        let at = at.index(wire.len());
        wire[at] ^= flip;
        let _ = read(&wire);
    }

    #[test]
    fn a_truncated_hello_waits_for_more((_, wire) in any_hello(), at in any::<prop::sample::Index>()) {
        let end = at.index(wire.len());
        prop_assert_eq!(read(&wire[..end]), Ok(Progress::More));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn random_messages_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&records(&message(&bytes), 100));
        let mut body = Hello { session_id: Vec::new(), extensions: None }.body();
        body.extend(long(&bytes));
        let _ = read(&records(&message(&body), 100));
    }
}
