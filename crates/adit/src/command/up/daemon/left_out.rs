//! Ports that could not be had at the start of the daemon: the rest runs, and they are tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use adit_core::diagnose::Fault;
use gateway::entrances::EntranceError;
use runtime::scope::Scope;

use super::others;
use super::state::{Daemon, lock};
use crate::command::clock::ticks;
use crate::command::up::running::Running;
use crate::command::up::view::View;
use crate::report::{Failure, failure};

/// How often they are tried.
const AGAIN: Duration = Duration::from_secs(5);

/// Tells what was left out. When another daemon of this user has it, two would fight for everything: this one gives way.
pub(super) fn tell(running: &Running, view: &View) -> Result<(), Failure> {
    let mut held: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (_, address, error) in running.entrances().unopened() {
        if let Some(holder) = error.holder().filter(|holder| others::is_daemon(holder.pid)) {
            held.entry(holder.pid).or_default().push(address.to_string());
        }
    }
    if let Some((pid, addresses)) = held.pop_first() {
        let what = match addresses.len() {
            1 => addresses[0].clone(),
            count => format!("{} and {} more", addresses[0], count - 1),
        };
        let text = format!("another daemon of yours (pid {pid}) has ports of this file: {what}");
        return Err(Failure::new(Fault::Config, text, others::hint(pid)));
    }
    for (owner, _, error) in running.entrances().unopened() {
        view.left_out(owner, &failure(error));
    }
    Ok(())
}

/// Why an address is not open, in words.
pub(super) fn reason(error: &EntranceError) -> String {
    let failure = failure(error);
    let hint = failure.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{}{hint}; it is tried again every {} s", failure.message(), AGAIN.as_secs())
}

/// Tries them, until the end.
pub(super) fn try_again(scope: &Scope, daemon: &Arc<Daemon>) {
    let (task_scope, daemon) = (scope.clone(), Arc::downgrade(daemon));
    scope.spawn("left out", async move {
        let mut tick = ticks(AGAIN);
        loop {
            tokio::select! {
                biased;
                () = task_scope.drained() => return,
                _ = tick.tick() => {}
            }
            let Some(daemon) = daemon.upgrade() else { return };
            if daemon.has_all() {
                continue;
            }
            let running = Arc::clone(&daemon.running);
            // A reload may hold it and wait for a task: that must not be one of this thread.
            let handle = tokio::runtime::Handle::current();
            let tried = task_scope.spawn_blocking("left out", move || {
                let _inside = handle.enter();
                lock(&running).try_again();
            });
            // It fails only at the end of everything.
            if tried.await.is_ok() {
                daemon.reload_again().await;
            }
        }
    });
}
