//! Where a process runs, as the path of its control group tells.

use std::fmt;

/// Characters of a container's number that are shown, as the tools do.
const SHOWN: usize = 12;

/// A pod, a container, a unit of systemd, or the machine itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A container of a Kubernetes pod.
    Pod {
        /// The pod's UID.
        uid: String,
        /// The container's number.
        container: Option<String>,
    },
    /// A container.
    Container(String),
    /// A unit of systemd.
    Unit(String),
    /// Nothing that has a name.
    Host,
}

impl Place {
    /// From the contents of /proc/PID/cgroup. Any of the hierarchies may tell.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let mut found = Self::Host;
        for line in text.lines() {
            let Some(path) = line.splitn(3, ':').nth(2) else { continue };
            let here = Self::of_path(path);
            if here.rank() > found.rank() {
                found = here;
            }
        }
        found
    }

    fn of_path(path: &str) -> Self {
        let (mut pod, mut container, mut unit) = (None, None, None);
        for part in path.split('/') {
            pod = pod_of(part).or(pod);
            container = container_of(part).or(container);
            if part.ends_with(".service") {
                unit = Some(part.to_owned());
            }
        }
        match (pod, container, unit) {
            (Some(uid), container, _) => Self::Pod { uid, container },
            (None, Some(container), _) => Self::Container(container),
            (None, None, Some(unit)) => Self::Unit(unit),
            (None, None, None) => Self::Host,
        }
    }

    /// The more it tells the greater.
    const fn rank(&self) -> u8 {
        match self {
            Self::Host => 0,
            Self::Unit(_) => 1,
            Self::Container(_) => 2,
            Self::Pod { .. } => 3,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { uid, container: Some(container) } => write!(f, "pod/{uid}/{container}"),
            Self::Pod { uid, container: None } => write!(f, "pod/{uid}"),
            Self::Container(container) => write!(f, "container/{container}"),
            Self::Unit(unit) => f.write_str(unit),
            Self::Host => f.write_str("host"),
        }
    }
}

/// `pod<UID>` or `kubepods-…-pod<UID with underscores>.slice`.
fn pod_of(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match part.strip_prefix("pod") {
        Some(uid) => uid,
        None if part.starts_with("kubepods") => part.rsplit_once("-pod")?.1,
        None => return None,
    };
    let uid = uid.replace('_', "-");
    let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

/// 64 hexadecimal digits, alone or as `docker-….scope`, `cri-containerd-….scope`, `crio-….scope`, `libpod-….scope`.
fn container_of(part: &str) -> Option<String> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let part = part.rsplit([':', '-']).next().unwrap_or(part);
    let is_number = part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_number.then(|| part[..SHOWN].to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_paths_of_the_usual_runtimes_are_understood() {
        let uid = "1b6f0c3e-9a55-4b1e-8f3a-0d2a3c4b5e6f";
        let slice = uid.replace('-', "_");
        for (path, place) in [
            (format!("/kubepods/burstable/pod{uid}/{HEX}"), format!("pod/{uid}/0123456789ab")),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{HEX}.scope"
                ),
                format!("pod/{uid}/0123456789ab"),
            ),
            (format!("/kubepods.slice/kubepods-pod{slice}.slice/crio-{HEX}.scope"), format!("pod/{uid}/0123456789ab")),
            (format!("/kubelet/kubepods/besteffort/pod{uid}/{HEX}"), format!("pod/{uid}/0123456789ab")),
            (format!("/docker/{HEX}"), "container/0123456789ab".into()),
            (format!("/system.slice/docker-{HEX}.scope"), "container/0123456789ab".into()),
            (format!("/machine.slice/libpod-{HEX}.scope/container"), "container/0123456789ab".into()),
            ("/system.slice/nginx.service".into(), "nginx.service".into()),
            ("/user.slice/user-1000.slice/session-3.scope".into(), "host".into()),
            ("/".into(), "host".into()),
        ] {
            assert_eq!(Place::of(&format!("0::{path}\n")).to_string(), place, "{path}");
        }
    }

    #[test]
    fn of_several_hierarchies_the_one_that_tells_most_counts() {
        let text = format!("12:pids:/docker/{HEX}\n1:name=systemd:/system.slice/x.service\n0::/\n");
        assert_eq!(Place::of(&text), Place::Container("0123456789ab".into()));
    }

    proptest! {
        #[test]
        fn nothing_panics_on_any_text(text in "\\PC{0,200}") {
            let _ = Place::of(&text).to_string();
            let _ = Place::of(&format!("0::/{text}"));
        }
    }
}
