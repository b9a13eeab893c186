//! The objects, their versions, and the changes that watches replay.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::kinds::{self, KINDS};
use super::{clock, locked};

/// Objects by kind, namespace and name, as listing orders them.
type Objects = BTreeMap<(usize, String, String), Arc<Value>>;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Added,
    Modified,
    Deleted,
}

/// One change; `object` is the new state, or the last one of an object that is gone.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) kind: usize,
    pub(super) action: Action,
    pub(super) object: Arc<Value>,
    pub(super) before: Option<Arc<Value>>,
}

/// All objects of a cluster.
#[derive(Debug)]
pub(super) struct Store {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    version: u64,
    /// Versions before this one are forgotten.
    compacted: u64,
    keep: usize,
    made: u64,
    objects: Objects,
    history: VecDeque<Change>,
}

impl Store {
    pub(super) fn new(keep: usize) -> Self {
        let inner = Inner {
            version: 1000,
            compacted: 1000,
            keep: keep.max(1),
            made: 0,
            objects: Objects::new(),
            history: VecDeque::new(),
        };
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(0) }
    }

    /// Creates or replaces an object. What the server fills in is filled in.
    pub(super) fn put(&self, object: Value) -> Arc<Value> {
        let mut inner = locked(&self.inner);
        let kind = kind_of(&object);
        let key = key(kind, &object);
        let stored = inner.store(kind, key, object);
        drop(inner);
        self.wake();
        stored
    }

    /// Creates an object; `None` when there is one of that name.
    pub(super) fn create(&self, kind: usize, mut object: Value) -> Option<Arc<Value>> {
        let mut inner = locked(&self.inner);
        inner.name(&mut object);
        let key = key(kind, &object);
        if inner.objects.contains_key(&key) {
            return None;
        }
        let stored = inner.store(kind, key, object);
        drop(inner);
        self.wake();
        Some(stored)
    }

    /// Changes an object in place; `None` when there is none. A change of nothing is no change.
    pub(super) fn update(
        &self,
        kind: usize,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Option<Arc<Value>> {
        let mut inner = locked(&self.inner);
        let key = (kind, scope(kind, namespace), name.to_owned());
        let before = inner.objects.get(&key)?;
        let mut object = (**before).clone();
        change(&mut object);
        if object == **before {
            return Some(Arc::clone(before));
        }
        let stored = inner.store(kind, key, object);
        drop(inner);
        self.wake();
        Some(stored)
    }

    /// Removes an object; its last state.
    pub(super) fn delete(&self, kind: usize, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let mut inner = locked(&self.inner);
        let before = inner.objects.remove(&(kind, scope(kind, namespace), name.to_owned()))?;
        let version = inner.next();
        let mut last = (*before).clone();
        last["metadata"]["resourceVersion"] = json!(version.to_string());
        let last = Arc::new(last);
        inner.remember(Change {
            version,
            kind,
            action: Action::Deleted,
            object: Arc::clone(&last),
            before: Some(before),
        });
        drop(inner);
        self.wake();
        Some(last)
    }

    pub(super) fn get(&self, kind: usize, namespace: &str, name: &str) -> Option<Arc<Value>> {
        locked(&self.inner).objects.get(&(kind, scope(kind, namespace), name.to_owned())).cloned()
    }

    /// The version now and all objects of a kind, in one namespace or in all.
    pub(super) fn list(&self, kind: usize, namespace: Option<&str>) -> (u64, Vec<Arc<Value>>) {
        let inner = locked(&self.inner);
        let first = (kind, namespace.unwrap_or("").to_owned(), String::new());
        let here = inner
            .objects
            .range(first..)
            .take_while(|((of, within, _), _)| *of == kind && namespace.is_none_or(|namespace| within == namespace));
        (inner.version, here.map(|(_, object)| Arc::clone(object)).collect())
    }

    /// The changes of a kind after a version, and the version they lead to; an error when they are forgotten.
    pub(super) fn since(&self, kind: usize, version: u64) -> Result<(u64, Vec<Change>), Compacted> {
        let inner = locked(&self.inner);
        if version < inner.compacted {
            return Err(Compacted { asked: version, oldest: inner.compacted });
        }
        let first = inner.history.partition_point(|change| change.version <= version);
        let changes = inner.history.range(first..).filter(|change| change.kind == kind).cloned().collect();
        Ok((inner.version, changes))
    }

    pub(super) fn version(&self) -> u64 {
        locked(&self.inner).version
    }

    /// The oldest version from which changes are known.
    pub(super) fn oldest(&self) -> u64 {
        locked(&self.inner).compacted
    }

    /// Forgets all changes; every version handed out so far is too old from now on.
    pub(super) fn compact(&self) {
        let mut inner = locked(&self.inner);
        inner.compacted = inner.next();
        inner.history.clear();
        drop(inner);
        self.wake();
    }

    /// Changes with every change of any object, and with every wake.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Makes everybody who waits for changes look again.
    pub(super) fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// A watch or a list asked for a version that is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compacted {
    pub(super) asked: u64,
    pub(super) oldest: u64,
}

impl Inner {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn store(&mut self, kind: usize, key: (usize, String, String), mut object: Value) -> Arc<Value> {
        let version = self.next();
        let before = self.objects.get(&key).cloned();
        self.complete(kind, &key, &mut object, version, before.as_deref());
        let object = Arc::new(object);
        self.objects.insert(key, Arc::clone(&object));
        let action = if before.is_some() { Action::Modified } else { Action::Added };
        self.remember(Change { version, kind, action, object: Arc::clone(&object), before });
        object
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        while self.history.len() > self.keep {
            if let Some(forgotten) = self.history.pop_front() {
                self.compacted = forgotten.version;
            }
        }
    }

    /// Gives a `generateName` its name.
    fn name(&mut self, object: &mut Value) {
        let unnamed = object["metadata"]["name"].as_str().is_none_or(str::is_empty);
        if let (true, Some(prefix)) = (unnamed, object["metadata"]["generateName"].as_str()) {
            let name = format!("{prefix}{}", suffix(self.version + 1));
            object["metadata"]["name"] = json!(name);
        }
    }

    /// What the server fills in.
    fn complete(
        &mut self,
        kind: usize,
        key: &(usize, String, String),
        object: &mut Value,
        version: u64,
        before: Option<&Value>,
    ) {
        let spec_changed = before.is_some_and(|before| before["spec"] != object["spec"]);
        object["apiVersion"] = json!(KINDS[kind].api_version());
        object["kind"] = json!(KINDS[kind].kind);
        let Some(metadata) = object["metadata"].as_object_mut() else { return };
        metadata.insert("name".into(), json!(key.2));
        if KINDS[kind].namespaced {
            metadata.insert("namespace".into(), json!(key.1));
        }
        let old = before.map_or(&Value::Null, |before| &before["metadata"]);
        inherit(metadata, old, "uid", || {
            self.made += 1;
            json!(uid(self.made))
        });
        inherit(metadata, old, "creationTimestamp", || json!(clock::timestamp()));
        metadata.insert("resourceVersion".into(), json!(version.to_string()));
        let generation = old["generation"].as_u64().unwrap_or(0);
        let generation = if spec_changed || generation == 0 { generation + 1 } else { generation };
        metadata.insert("generation".into(), json!(generation));
    }
}

fn inherit(metadata: &mut Map<String, Value>, old: &Value, field: &str, make: impl FnOnce() -> Value) {
    match old.get(field) {
        Some(value) => {
            metadata.insert(field.to_owned(), value.clone());
        }
        None if metadata.get(field).is_none_or(Value::is_null) => {
            metadata.insert(field.to_owned(), make());
        }
        None => {}
    }
}

/// The place of an object's kind.
///
/// # Panics
/// When it names no kind of this cluster: the mistake of a test.
fn kind_of(object: &Value) -> usize {
    let name = object["kind"].as_str().unwrap_or("");
    kinds::named(name).unwrap_or_else(|| panic!("an object of the unknown kind {name:?}"))
}

fn key(kind: usize, object: &Value) -> (usize, String, String) {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or("");
    (kind, scope(kind, metadata["namespace"].as_str().unwrap_or("default")), name.to_owned())
}

/// The namespace part of a key.
fn scope(kind: usize, namespace: &str) -> String {
    if KINDS[kind].namespaced { namespace.to_owned() } else { String::new() }
}

/// An identity that looks like a UUID and never comes twice.
fn uid(made: u64) -> String {
    format!("{made:08x}-0000-4000-8000-{:012x}", made.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16)
}

/// Five characters as names get them.
pub(super) fn suffix(seed: u64) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let letter = |_| {
        let index = usize::try_from(mixed % 27).unwrap_or(0);
        mixed /= 27;
        char::from(ALPHABET[index])
    };
    (0..5).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Action, Store};
    use crate::cluster::kinds::{NODE, POD};

    fn pod(name: &str) -> serde_json::Value {
        json!({ "kind": "Pod", "metadata": { "name": name } })
    }

    #[test]
    fn every_change_has_a_version_and_is_replayed_in_order() {
        let store = Store::new(100);
        let start = store.version();
        store.put(pod("a"));
        store.put(json!({ "kind": "Node", "metadata": { "name": "n" } }));
        store.update(POD, "default", "a", |pod| pod["spec"] = json!({ "nodeName": "n" }));
        store.delete(POD, "default", "a");
        let (now, changes) = store.since(POD, start).unwrap();
        let actions: Vec<_> = changes.iter().map(|change| change.action).collect();
        assert_eq!(actions, [Action::Added, Action::Modified, Action::Deleted]);
        assert_eq!(now, start + 4);
        for change in &changes {
            assert_eq!(change.object["metadata"]["resourceVersion"], json!(change.version.to_string()));
        }
        assert_eq!(changes[1].object["metadata"]["generation"], 2);
        assert!(store.since(POD, now).unwrap().1.is_empty());
    }

    #[test]
    fn a_replaced_object_keeps_its_identity_and_a_new_one_of_that_name_has_another() {
        let store = Store::new(100);
        let first = store.put(pod("a"))["metadata"]["uid"].clone();
        assert_eq!(store.put(pod("a"))["metadata"]["uid"], first);
        store.delete(POD, "default", "a");
        assert_ne!(store.put(pod("a"))["metadata"]["uid"], first);
    }

    #[test]
    fn a_change_of_nothing_is_no_change() {
        let store = Store::new(100);
        store.put(pod("a"));
        let version = store.version();
        store.update(POD, "default", "a", |_| {}).unwrap();
        assert_eq!(store.version(), version);
        assert!(store.update(POD, "default", "b", |_| {}).is_none());
    }

    #[test]
    fn a_list_has_its_kind_and_namespace_alone() {
        let store = Store::new(100);
        store.put(json!({ "kind": "Pod", "metadata": { "name": "a", "namespace": "x" } }));
        store.put(json!({ "kind": "Pod", "metadata": { "name": "a", "namespace": "xy" } }));
        store.put(json!({ "kind": "Node", "metadata": { "name": "n" } }));
        assert_eq!(store.list(POD, Some("x")).1.len(), 1);
        assert_eq!(store.list(POD, None).1.len(), 2);
        assert_eq!(store.list(NODE, None).1.len(), 1);
        assert!(store.get(NODE, "", "n").is_some());
    }

    #[test]
    fn forgotten_versions_are_refused() {
        let store = Store::new(2);
        let start = store.version();
        for name in ["a", "b", "c"] {
            store.put(pod(name));
        }
        assert!(store.since(POD, start).is_err());
        assert_eq!(store.since(POD, start + 1).unwrap().1.len(), 2);
        let now = store.version();
        store.compact();
        assert_eq!(store.since(POD, now).unwrap_err().asked, now);
        assert!(store.since(POD, store.version()).unwrap().1.is_empty());
    }

    #[test]
    fn a_name_is_taken_once_and_made_when_asked() {
        let store = Store::new(100);
        assert!(store.create(POD, pod("a")).is_some());
        assert!(store.create(POD, pod("a")).is_none());
        let made = store.create(POD, json!({ "metadata": { "generateName": "job-" } })).unwrap();
        let name = made["metadata"]["name"].as_str().unwrap();
        assert!(name.starts_with("job-") && name.len() == 9, "{name}");
    }
}
