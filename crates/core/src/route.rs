//! Which route a host name and a path belong to.
//!
//! The most particular route wins: an exact host before a wildcard, a longer wildcard before a shorter one, and for the
//! same host a longer path before a shorter one. A host without a route for the path leaves it to the next wildcard.
//! Looking up costs by the labels of the host and the segments of the path, not by how many routes there are.

use std::collections::HashMap;
use std::fmt;

use crate::diagnose::{Diagnose, Fault};
use crate::name::Hostname;
use crate::near;

mod path;
mod pattern;

use path::Readings;

pub use path::{PathPrefix, PathPrefixError};
pub use pattern::{HostPattern, HostPatternError};

/// Routes by host and path.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    routes: Vec<Route<T>>,
    exact: HashMap<Hostname, Paths>,
    /// By what follows the star and its dot.
    wildcards: HashMap<Hostname, Paths>,
}

/// Two routes for the same host and path: nobody could say which is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the route `{host}{}` is there twice", DisplayPath(.path.as_ref()))]
pub struct RouteConflict {
    /// The host of both.
    pub host: HostPattern,
    /// The path of both.
    pub path: Option<PathPrefix>,
    /// Which of the routes, counted from zero, was there first.
    pub first: usize,
    /// Which came again.
    pub second: usize,
}

#[derive(Clone, Debug)]
struct Route<T> {
    host: HostPattern,
    path: Option<PathPrefix>,
    value: T,
}

/// The routes of one host, as places in the list of all.
#[derive(Clone, Debug, Default)]
struct Paths {
    whole: Option<usize>,
    prefixes: HashMap<Box<[u8]>, usize>,
    /// The longest prefix: what a path has beyond it is not looked at.
    longest: usize,
}

impl<T> RouteTable<T> {
    /// Makes the table. A route without a path is for every path of its host.
    ///
    /// # Errors
    /// When two routes have the same host and the same path.
    pub fn new(routes: Vec<(HostPattern, Option<PathPrefix>, T)>) -> Result<Self, RouteConflict> {
        let (mut exact, mut wildcards) = (HashMap::new(), HashMap::new());
        for (second, (host, path, _)) in routes.iter().enumerate() {
            let (map, name): (&mut HashMap<_, Paths>, _) = match host {
                HostPattern::Exact(name) => (&mut exact, name),
                HostPattern::Wildcard(name) => (&mut wildcards, name),
            };
            if let Some(first) = map.entry(name.clone()).or_default().add(path.as_ref(), second) {
                return Err(RouteConflict { host: host.clone(), path: path.clone(), first, second });
            }
        }
        let routes = routes.into_iter().map(|(host, path, value)| Route { host, path, value }).collect();
        Ok(Self { routes, exact, wildcards })
    }

    /// The route of a host, lower-case and without port and trailing dot, and of a request's path without its query.
    ///
    /// Without a path, as when TLS is passed through unread, only routes for every path of a host are found. A path that
    /// leads to another route when `..`, `//`, a backslash or an escaped slash in it is resolved, or the parameters of its
    /// segments (`;x=y`) are left out, leads to none: servers differ in what they resolve, and nobody shall walk around
    /// the rules of a route. Nor does one that is long and can be read in so many ways that they are not all tried.
    #[must_use]
    pub fn find(&self, host: &str, path: Option<&str>) -> Option<&T> {
        let index = match path {
            Some(path) if self.has_paths(host) => {
                let readings = Readings::new(path);
                let found = self.place(host, Some(&readings.written));
                (!self.differs(host, found, &readings)).then_some(found).flatten()
            }
            _ => self.place(host, None),
        };
        self.routes.get(index?).map(|route| &route.value)
    }

    /// Whether a path may be read in several ways that lead to different routes, so that it has none. It must not have
    /// another one instead, where such a path is not looked for.
    #[must_use]
    pub fn is_ambiguous(&self, host: &str, path: &str) -> bool {
        self.has_paths(host) && {
            let readings = Readings::new(path);
            self.differs(host, self.place(host, Some(&readings.written)), &readings)
        }
    }

    /// Every route, in the order in which they were given.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HostPattern, Option<&PathPrefix>, &T)> {
        self.routes.iter().map(|route| (&route.host, route.path.as_ref(), &route.value))
    }

    /// How many routes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Up to `most` hosts that could have been meant by one that has no route, nearest first; wildcards with their star.
    #[must_use]
    pub fn near(&self, host: &str, most: usize) -> Vec<String> {
        let patterns = self.exact.keys().map(Hostname::to_string);
        let patterns: Vec<String> = patterns.chain(self.wildcards.keys().map(|name| format!("*.{name}"))).collect();
        // What all names of a place have in common makes none of them alike.
        let alike: Vec<&str> = patterns.iter().map(String::as_str).filter(|name| differ_little(host, name)).collect();
        let mut found = near::near_matches(host, alike.iter().copied(), most);
        let mut rest: Vec<&str> = alike.into_iter().filter(|name| !found.contains(name)).collect();
        rest.sort_unstable();
        found.extend(rest);
        found.into_iter().take(most).map(str::to_owned).collect()
    }

    /// Whether another reading of a path leads to another place, as far as anyone knows.
    fn differs(&self, host: &str, found: Option<usize>, readings: &Readings<'_>) -> bool {
        readings.too_many || readings.resolved.iter().any(|path| self.place(host, Some(path)) != found)
    }

    /// Whether the path of a request may make a difference for a host.
    fn has_paths(&self, host: &str) -> bool {
        let above = std::iter::successors(parent(host), |name| parent(name));
        let mut all = self.exact.get(host).into_iter().chain(above.filter_map(|name| self.wildcards.get(name)));
        all.any(|paths| !paths.prefixes.is_empty())
    }

    fn place(&self, host: &str, path: Option<&[u8]>) -> Option<usize> {
        let above = std::iter::successors(parent(host), |name| parent(name));
        let exact = self.exact.get(host).and_then(|paths| paths.find(path));
        exact.or_else(|| above.filter_map(|name| self.wildcards.get(name)).find_map(|paths| paths.find(path)))
    }
}

impl Paths {
    /// Adds a route; the one that is already there, if there is one.
    fn add(&mut self, path: Option<&PathPrefix>, index: usize) -> Option<usize> {
        let Some(path) = path else {
            return self.whole.replace(index);
        };
        self.longest = self.longest.max(path.plain().len());
        self.prefixes.insert(path.plain().into(), index)
    }

    fn find(&self, path: Option<&[u8]>) -> Option<usize> {
        path.and_then(|path| self.find_prefix(path)).or(self.whole)
    }

    fn find_prefix(&self, path: &[u8]) -> Option<usize> {
        if self.prefixes.is_empty() {
            return None;
        }
        // The end of the path is the end of a segment; so is each slash, with what stands before it.
        let shown = path.get(..=self.longest).unwrap_or(path);
        let whole = (shown.len() == path.len()).then_some(path);
        let slashes = shown.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
        let segments = slashes.filter_map(|(at, _)| shown.get(..at));
        whole.into_iter().chain(segments).find_map(|prefix| self.prefixes.get(prefix)).copied()
    }
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { routes: Vec::new(), exact: HashMap::new(), wildcards: HashMap::new() }
    }
}

impl Diagnose for RouteConflict {
    fn fault(&self) -> Fault {
        Fault::Config
    }

    fn hint(&self) -> Option<String> {
        Some("remove one of them, or give one a path of its own, such as /api".to_owned())
    }
}

struct DisplayPath<'a>(Option<&'a PathPrefix>);

impl fmt::Display for DisplayPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |path| path.fmt(f))
    }
}

/// The name without its first label.
fn parent(host: &str) -> Option<&str> {
    host.split_once('.').map(|(_, parent)| parent)
}

/// Whether two hosts are alike in what is left of them without their common end.
fn differ_little(host: &str, pattern: &str) -> bool {
    let common = host.rsplit('.').zip(pattern.rsplit('.')).take_while(|(a, b)| a == b).count();
    let front = |name: &str| name.rsplit('.').skip(common).collect::<Vec<_>>().join(".");
    let (host, pattern) = (front(host), front(pattern));
    // One lies under the other; or the same word stands in front, whatever follows.
    let related = host.is_empty() || pattern.is_empty() || host.rsplit('.').next() == pattern.rsplit('.').next();
    related || !near::near_matches(&host, [pattern.as_str()], 1).is_empty()
}

#[cfg(test)]
mod servers;
#[cfg(test)]
mod tests;
