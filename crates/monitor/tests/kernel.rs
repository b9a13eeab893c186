//! The programs on this very kernel, with real connections. They need root or the two capabilities; without them each
//! test says loudly that it was skipped.

#![cfg(target_os = "linux")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use monitor::decode::{End, Record, Step};
use monitor::source::{self, Options, Source, Wanted};

/// One at a time: each counts what all do.
static ALONE: Mutex<()> = Mutex::new(());

/// The source, unless this process may not have it.
fn open(options: &Options) -> Option<Box<dyn Source>> {
    let options = Options { wanted: Wanted::Ebpf, ..options.clone() };
    match source::open(&options) {
        Ok(source) => Some(source),
        Err(error) => {
            let root = rustix::process::geteuid().is_root();
            assert!(!root || std::env::var_os("ADIT_NO_EBPF").is_some(), "root may load programs, but: {error}");
            eprintln!("SKIPPED, as this process may not load programs: {error}");
            None
        }
    }
}

/// Takes events until enough have come, under a deadline.
fn ends(source: &mut dyn Source, port: u16, enough: usize) -> Vec<Record> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut found = Vec::new();
    while found.len() < enough && Instant::now() < deadline {
        source
            .events(&mut |record| {
                let ours = record.local.port() == port || record.remote.port() == port;
                if ours && record.step == Step::Ended {
                    found.push(record);
                }
            })
            .expect("events");
        source.wait(Duration::from_millis(20));
    }
    found
}

/// A request of so many bytes, an answer of so many.
fn exchange(listener: &TcpListener, up: usize, down: usize) {
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    client.write_all(&vec![1; up]).unwrap();
    served.read_exact(&mut vec![0; up]).unwrap();
    served.write_all(&vec![2; down]).unwrap();
    client.read_exact(&mut vec![0; down]).unwrap();
    drop(client);
    // The end is read, so that closing is no reset.
    assert_eq!(served.read(&mut [0]).unwrap(), 0);
}

#[test]
fn five_loopback_connections_are_seen_at_both_ends_with_their_process_and_bytes() {
    let _alone = ALONE.lock();
    let Some(mut source) = open(&Options::default()) else { return };
    eprintln!("{:#?}", source.way());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (0..5).for_each(|_| exchange(&listener, 1000, 25_000));
    let found = ends(&mut *source, port, 10);
    assert_eq!(found.len(), 10, "{found:#?}");
    for record in &found {
        let owner = record.owner.expect("somebody owns it");
        assert_eq!(owner.process.pid, std::process::id());
        assert_eq!(record.incoming, record.local.port() == port);
        let (sent, received) = if record.incoming { (25_000, 1000) } else { (1000, 25_000) };
        assert_eq!((record.sent, record.received), (sent, received), "{record:#?}");
        assert_eq!(record.ended.unwrap().1, End::Closed);
        assert!(record.rtt.is_some() && record.established.is_some(), "{record:#?}");
        let (this, _) = monitor::names::process(std::process::id()).unwrap();
        assert!(owner.process.start.abs_diff(this.start) <= 1);
    }
    let counts = source.counts().unwrap();
    assert!(counts.opened >= 5 && counts.incoming >= 5 && counts.events_lost == 0, "{counts:?}");
}
