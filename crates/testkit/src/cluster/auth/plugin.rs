//! The credential plugin: a shell script beside the certificates that prints an ExecCredential.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reads its token from the file beside it, so that a rotation shows at its next run.
const SCRIPT: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo run >> "$here/plugin-runs"
at=$(( $(date +%s) + LIFETIME ))
expires=$(date -u -d "@$at" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null || date -u -r "$at" +%Y-%m-%dT%H:%M:%SZ)
printf '{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","spec":{"interactive":false},'
printf '"status":{"token":"%s","expirationTimestamp":"%s"}}\n' "$(cat "$here/plugin-token")" "$expires"
"#;

/// The script and its files.
#[derive(Debug)]
pub(super) struct Plugin {
    dir: PathBuf,
}

impl Plugin {
    pub(super) fn new(dir: &Path, token: &str, lifetime: Duration) -> io::Result<Self> {
        let plugin = Self { dir: dir.to_owned() };
        std::fs::write(plugin.path(), SCRIPT.replace("LIFETIME", &lifetime.as_secs().to_string()))?;
        std::fs::set_permissions(plugin.path(), PermissionsExt::from_mode(0o755))?;
        std::fs::write(dir.join("plugin-token"), token)?;
        Ok(plugin)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.join("credential-plugin")
    }

    /// Prints this token from now on.
    pub(super) fn hand_out(&self, token: &str) {
        let new = self.dir.join("plugin-token.new");
        let replaced = std::fs::write(&new, token).and_then(|()| std::fs::rename(&new, self.dir.join("plugin-token")));
        assert!(replaced.is_ok(), "the plugin's directory can be written");
    }

    pub(super) fn runs(&self) -> usize {
        std::fs::read_to_string(self.dir.join("plugin-runs")).map_or(0, |runs| runs.lines().count())
    }
}
