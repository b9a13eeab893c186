//! Where a process runs, as the path of its control group tells.

use std::fmt;

use adit_core::printable;

/// Characters of a container's number that are shown, as the tools do.
const SHOWN: usize = 12;
/// Letters of a unit's name that are shown. Whoever may make a control group chooses its name.
const UNIT_MAX: usize = 64;

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
    /// A container that a user has started without more rights, or what he has given the looks of one.
    OfUser(String),
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
        // In what belongs to a user anybody may call a directory what he likes: no pod is there.
        let mut may_be_pod = false;
        // A container with a namespace of its own for control groups sees those beside it from its own place upwards,
        // and where the kubelet makes the directories itself only the classes of quality are between there and a pod.
        let mut is_beside = path.starts_with("/..");
        let is_of_user = path.split('/').any(|part| part == "user.slice");
        for part in path.split('/') {
            may_be_pod |= part.contains("kubepods") && !is_of_user;
            pod = pod_of(part).filter(|_| may_be_pod || is_beside && !is_of_user).or(pod);
            is_beside &= matches!(part, "" | ".." | "burstable" | "besteffort");
            container = container_of(part).or(container);
            if part.ends_with(".service") {
                unit = Some(printable::part(part, UNIT_MAX));
            }
        }
        match (pod, container, unit) {
            (Some(uid), container, _) => Self::Pod { uid, container },
            (None, Some(container), _) if is_of_user => Self::OfUser(container),
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
            Self::OfUser(_) => 2,
            Self::Container(_) => 3,
            Self::Pod { .. } => 4,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { uid, container: Some(container) } => write!(f, "pod/{uid}/{container}"),
            Self::Pod { uid, container: None } => write!(f, "pod/{uid}"),
            Self::Container(container) => write!(f, "container/{container}"),
            Self::OfUser(container) => write!(f, "user-container/{container}"),
            Self::Unit(unit) => f.write_str(unit),
            Self::Host => f.write_str("host"),
        }
    }
}

/// `pod<UID>` or `kubepods-…-pod<UID with underscores>.slice`, also with something before it.
fn pod_of(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match part.strip_prefix("pod") {
        Some(uid) => uid,
        None if part.contains("kubepods") => part.rsplit_once("-pod")?.1,
        None => return None,
    };
    let uid = uid.replace('_', "-");
    let is_uid = (32..=36).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
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
            (
                format!(
                    "/docker/{HEX}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice/cri-containerd-{HEX}.scope"
                ),
                format!("pod/{uid}/0123456789ab"),
            ),
            (format!("/kubelet/kubepods/besteffort/pod{uid}/{HEX}"), format!("pod/{uid}/0123456789ab")),
            (format!("/../../../besteffort/pod{uid}/{HEX}"), format!("pod/{uid}/0123456789ab")),
            (format!("/../../../pod{uid}/{HEX}"), format!("pod/{uid}/0123456789ab")),
            (format!("/../../pod{uid}/{HEX}"), format!("pod/{uid}/0123456789ab")),
            (
                format!("/../../kubepods-besteffort-pod{slice}.slice/cri-containerd-{HEX}.scope"),
                format!("pod/{uid}/0123456789ab"),
            ),
            (format!("/../{HEX}"), "container/0123456789ab".into()),
            (format!("/docker/{HEX}"), "container/0123456789ab".into()),
            (format!("/system.slice/docker-{HEX}.scope"), "container/0123456789ab".into()),
            (format!("/machine.slice/libpod-{HEX}.scope/container"), "container/0123456789ab".into()),
            (
                format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{HEX}.scope/container"),
                "user-container/0123456789ab".into(),
            ),
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

    #[test]
    fn a_control_group_that_a_stranger_named_neither_commands_a_terminal_nor_passes_for_a_pod() {
        let place = Place::of("0::/user.slice/r6\x1b[31m\x1b]0;pwn\x07\u{202e}a.service").to_string();
        assert_eq!(place, "r6\u{fffd}[31m\u{fffd}]0;pwn\u{fffd}\u{fffd}a.service");
        let long = Place::of(&format!("0::/{}.service", "x".repeat(5_000))).to_string();
        assert_eq!(long.chars().count(), UNIT_MAX);
        let uid = "1b6f0c3e-9a55-4b1e-8f3a-0d2a3c4b5e6f";
        for path in [
            format!("/user.slice/kubepods/pod{uid}"),
            format!("/system.slice/pod{uid}"),
            format!("/../../../user.slice/pod{uid}"),
            format!("/../../../besteffort/user.slice/pod{uid}"),
            format!("/../../../system.slice/x.slice/pod{uid}"),
        ] {
            assert_eq!(Place::of(&format!("0::{path}")), Place::Host, "{path}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_on_any_text_and_what_comes_out_may_be_printed(text in "[^\n]{0,200}", end in "(\\.service)?") {
            let _ = Place::of(&text).to_string();
            let place = Place::of(&format!("0::/{text}{end}")).to_string();
            prop_assert!(place.chars().all(printable::is_printable), "{place:?}");
        }
    }
}
