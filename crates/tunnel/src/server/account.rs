//! What an account uses, held against what it may use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_core::bucket::TokenBucket;
use adit_core::config::server::Quotas;
use mux::Pool;

use crate::throttle::Throttle;

/// A quota that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Quota {
    /// Agents connected at once.
    Agents,
    /// Tunnels published at once.
    Tunnels,
    /// Requests and connections in flight.
    Streams,
    /// Requests a second.
    Requests,
}

impl Quota {
    /// The word in metrics, logs and answers.
    #[must_use]
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Agents => "agents",
            Self::Tunnels => "tunnels",
            Self::Streams => "streams",
            Self::Requests => "requests_per_second",
        }
    }
}

/// A quota is used up, and when trying again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exceeded {
    /// Which one.
    pub quota: Quota,
    /// Its size.
    pub limit: u64,
    /// When there may be room again.
    pub retry_after: Duration,
}

/// One account's use and quotas.
pub(crate) struct Account {
    name: String,
    quotas: Mutex<Quotas>,
    requests: Mutex<TokenBucket>,
    agents: AtomicU32,
    tunnels: AtomicU32,
    streams: AtomicU32,
    /// Visitor → service.
    pub(crate) upload: Arc<Throttle>,
    /// Service → visitor.
    pub(crate) download: Arc<Throttle>,
    /// Memory of its sessions' receive windows.
    pub(crate) pool: Arc<Pool>,
}

/// One counted use; dropping it gives it back.
pub(crate) struct Use {
    account: Arc<Account>,
    quota: Quota,
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(counter) = self.account.counter(self.quota) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn bucket(quotas: &Quotas) -> TokenBucket {
    match u64::from(quotas.requests_per_second) {
        0 => TokenBucket::unlimited(),
        rate => TokenBucket::new(rate, quotas.burst.map_or(rate, u64::from).max(1)),
    }
}

impl Account {
    fn new(name: &str, quotas: &Quotas, process: &Arc<Pool>, window_pool: u64) -> Self {
        Self {
            name: name.to_owned(),
            requests: Mutex::new(bucket(quotas)),
            agents: AtomicU32::new(0),
            tunnels: AtomicU32::new(0),
            streams: AtomicU32::new(0),
            upload: Arc::new(Throttle::new(quotas.upload)),
            download: Arc::new(Throttle::new(quotas.download)),
            // One account may use half of the process's memory, so that two can always work.
            pool: Pool::new(window_pool / 2, Some(Arc::clone(process))),
            quotas: Mutex::new(quotas.clone()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// In use now: agents, tunnels, streams.
    pub(crate) fn in_use(&self) -> [u32; 3] {
        [&self.agents, &self.tunnels, &self.streams].map(|counter| counter.load(Ordering::Relaxed))
    }

    fn counter(&self, quota: Quota) -> Option<&AtomicU32> {
        match quota {
            Quota::Agents => Some(&self.agents),
            Quota::Tunnels => Some(&self.tunnels),
            Quota::Streams => Some(&self.streams),
            Quota::Requests => None,
        }
    }

    fn limit(&self, quota: Quota) -> u32 {
        let quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        match quota {
            Quota::Agents => quotas.agents,
            Quota::Tunnels => quotas.tunnels,
            Quota::Streams => quotas.streams,
            Quota::Requests => quotas.requests_per_second,
        }
    }

    /// Takes one of a counted quota.
    pub(crate) fn take(self: &Arc<Self>, quota: Quota) -> Result<Use, Exceeded> {
        self.take_besides(quota, 0)
    }

    /// The same, where so many of those in use are about to be given back.
    pub(crate) fn take_besides(self: &Arc<Self>, quota: Quota, leaving: u32) -> Result<Use, Exceeded> {
        let limit = self.limit(quota);
        if let Some(counter) = self.counter(quota) {
            let taken = counter
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                    n.checked_add(1).filter(|sum| sum.saturating_sub(leaving) <= limit)
                })
                .is_ok();
            if !taken {
                return Err(Exceeded { quota, limit: u64::from(limit), retry_after: Duration::from_secs(1) });
            }
        }
        Ok(Use { account: Arc::clone(self), quota })
    }

    /// Takes one of a counted quota even if none is left; for a successor of one about to go.
    pub(crate) fn take_beyond(self: &Arc<Self>, quota: Quota) -> Use {
        if let Some(counter) = self.counter(quota) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Use { account: Arc::clone(self), quota }
    }

    /// Counts a request against the rate.
    pub(crate) fn take_request(&self, now: Instant) -> Result<(), Exceeded> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.take(now, 1).map_err(|retry_after| Exceeded {
            quota: Quota::Requests,
            limit: u64::from(self.limit(Quota::Requests)),
            retry_after,
        })
    }

    fn set_quotas(&self, quotas: &Quotas) {
        let mut current = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == *quotas {
            return;
        }
        if (current.requests_per_second, current.burst) != (quotas.requests_per_second, quotas.burst) {
            *self.requests.lock().unwrap_or_else(PoisonError::into_inner) = bucket(quotas);
        }
        if current.upload != quotas.upload {
            self.upload.set_limit(quotas.upload);
        }
        if current.download != quotas.download {
            self.download.set_limit(quotas.download);
        }
        *current = quotas.clone();
    }
}

/// All accounts seen since the start.
pub(crate) struct Accounts {
    by_name: Mutex<HashMap<String, Arc<Account>>>,
    process: Arc<Pool>,
    memory: u64,
}

impl Accounts {
    /// `memory` bounds the receive windows of all accounts together, in bytes.
    pub(crate) fn new(memory: u64) -> Self {
        Self { by_name: Mutex::default(), process: Pool::new(memory, None), memory }
    }

    /// The account, made when it is seen first.
    pub(crate) fn get(&self, name: &str, quotas: &Quotas) -> Arc<Account> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Account::new(name, quotas, &self.process, self.memory));
        Arc::clone(by_name.entry(name.to_owned()).or_insert_with(make))
    }

    /// Applies quotas of a new configuration.
    pub(crate) fn reload(&self, quotas: impl Fn(&str) -> Quotas) {
        for (name, account) in &*self.by_name.lock().unwrap_or_else(PoisonError::into_inner) {
            account.set_quotas(&quotas(name));
        }
    }

    /// All accounts, for metrics.
    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Memory of receive windows above their floors, in bytes.
    pub(crate) fn window_memory(&self) -> u64 {
        self.process.used()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts::new(1 << 20)
    }

    #[test]
    fn a_counted_quota_is_given_back_when_its_use_ends() {
        let quotas = Quotas { agents: 1, ..Quotas::default() };
        let account = accounts().get("a", &quotas);
        let first = account.take(Quota::Agents).ok().unwrap();
        assert_eq!(account.take(Quota::Agents).err().unwrap().quota, Quota::Agents);
        drop(first);
        assert!(account.take(Quota::Agents).is_ok());
    }

    #[test]
    fn what_is_about_to_be_given_back_may_be_taken_before() {
        let account = accounts().get("a", &Quotas { tunnels: 2, ..Quotas::default() });
        let _old = [(); 2].map(|()| account.take(Quota::Tunnels).ok().unwrap());
        let _new = [(); 2].map(|()| account.take_besides(Quota::Tunnels, 2).ok().unwrap());
        assert!(account.take_besides(Quota::Tunnels, 2).is_err(), "no more than the quota in the end");
    }

    #[test]
    fn the_request_rate_says_when_to_come_back() {
        let quotas = Quotas { requests_per_second: 2, burst: Some(1), ..Quotas::default() };
        let account = accounts().get("a", &quotas);
        let now = Instant::now();
        account.take_request(now).unwrap();
        let exceeded = account.take_request(now).unwrap_err();
        assert!(
            exceeded.retry_after <= Duration::from_millis(501) && exceeded.retry_after > Duration::from_millis(400)
        );
        assert!(account.take_request(now + exceeded.retry_after).is_ok());
    }

    #[test]
    fn new_quotas_hold_for_what_comes_and_leave_what_runs() {
        let accounts = accounts();
        let account = accounts.get("a", &Quotas { streams: 2, ..Quotas::default() });
        let _one = account.take(Quota::Streams).ok().unwrap();
        let _two = account.take(Quota::Streams).ok().unwrap();
        accounts.reload(|_| Quotas { streams: 1, ..Quotas::default() });
        assert!(account.take(Quota::Streams).is_err());
        assert_eq!(account.in_use(), [0, 0, 2]);
    }
}
