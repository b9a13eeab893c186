//! Packets that are sent again.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use monitor::decode::{End, Step};
use monitor::source::Options;

use super::{has_port, open, take};

#[test]
fn first_packets_that_nobody_answers_are_counted_as_sent_again() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
    let Some(mut source) = open(&Options::default()) else { return };
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
    bind(&socket, &address).unwrap();
    listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let connect = |millis| TcpStream::connect_timeout(&address, Duration::from_millis(millis)).ok();
    let full: Vec<TcpStream> = (0..4).map_while(|_| connect(100)).collect();
    assert!(full.len() < 4, "there is room for one or two");
    // The kernel sends the first packet again after a second.
    assert!(connect(1_500).is_none());
    let again = take(&mut *source, 1, |record| {
        has_port(record, address.port()) && record.step == Step::Ended && record.retransmits > 0
    });
    assert!(matches!(again[0].ended, Some((_, End::Failed(_)))), "{:#?}", again[0]);
}
