//! Processes that come and go faster than anybody looks.

use std::net::TcpListener;
use std::time::Duration;

use monitor::decode::Record;
use monitor::names;
use monitor::source::Options;
use monitor::table::Table;

use super::child::Child;
use super::{ends, listen, open, pass};

/// The system gives the number after this one next, where it lets that be said.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";
/// Others start processes meanwhile.
const TRIES: usize = 100;

/// A process that connects once and is gone; its number.
fn comes_and_goes(listener: &TcpListener) -> u32 {
    let child = Child::clients(listener.local_addr().unwrap().port(), 1);
    let pid = child.pid();
    drop(listener.accept().unwrap());
    child.wait();
    pid
}

/// The ends of outgoing connections of a process with this number.
fn of(found: &[Record], pid: u32) -> Vec<&Record> {
    found.iter().filter(|one| !one.incoming && one.owner.is_some_and(|owner| owner.process.pid == pid)).collect()
}

#[test]
fn a_process_that_is_gone_before_anybody_looks_has_its_name_all_the_same() {
    let Some(mut source) = open(&Options::default()) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    let pid = comes_and_goes(&listener);
    assert!(names::process(pid).is_none(), "it is gone");
    let found = ends(&mut *source, port, 2);
    // It is this program once more.
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let names: Vec<String> = of(&found, pid).iter().map(|one| one.owner.unwrap().command.text()).collect();
    assert_eq!(names, [name.trim_end()], "{found:#?}");
}

#[test]
fn two_processes_that_have_the_same_number_one_after_the_other_are_told_apart() {
    let Some(mut source) = open(&Options::default()) else { return };
    let (listener, port) = listen("127.0.0.1:0");
    let pid = comes_and_goes(&listener);
    // The system counts in hundredths of a second when a process began.
    pass(Duration::from_millis(50));
    let mut count = 1;
    let is_again = (0..TRIES).any(|_| {
        if let Err(error) = std::fs::write(LAST_PID, (pid - 1).to_string()) {
            eprintln!("SKIPPED: the system does not let the next number be chosen: {error}");
            return false;
        }
        count += 1;
        comes_and_goes(&listener) == pid
    });
    if !is_again {
        assert!(count == 1 || count > TRIES, "it was tried or may not be");
        eprintln!("SKIPPED: the number was not given again");
        return;
    }
    let mut found = ends(&mut *source, port, 2 * count);
    // Each processor tells of its own.
    found.sort_by_key(|record| record.ended.unwrap().0);
    let mut starts: Vec<u64> = of(&found, pid).iter().map(|one| one.owner.unwrap().process.start).collect();
    starts.sort_unstable();
    assert!(starts.len() == 2 && starts[0] < starts[1], "{starts:?}");
    let mut table = Table::default();
    found.iter().for_each(|record| table.handle_record(record.ended.unwrap().0, record, None));
    let kept: Vec<_> =
        table.processes().filter(|one| one.id.pid == pid).map(|one| (one.id.start, one.sums.opened)).collect();
    assert_eq!(kept, [(starts[1], 1)], "the one that had it before is dead");
}
