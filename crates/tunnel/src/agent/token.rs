//! Reading the credential.

use std::io;
use std::path::{Path, PathBuf};

use adit_core::diagnose::{Diagnose, Fault};
use adit_core::secret::Secret;
use adit_core::token::CREATE_EXAMPLE;

use super::settings::TokenSource;

/// A token longer than this could not be sent before authentication.
const LONGEST: u64 = 7 * 1024;

impl TokenSource {
    /// Reads the token as it is now.
    ///
    /// # Errors
    /// [`TokenError`]; it never shows the token.
    pub fn read(&self) -> Result<Secret<String>, TokenError> {
        match self {
            Self::Fixed(token) => checked(token.expose(), None),
            Self::File(path) => {
                let text = read_file(path)?;
                checked(&text, Some(path))
            }
        }
    }

    /// Whether reading it again can give another token.
    pub(super) fn can_change(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Other users can read the file.
    #[error("the token file {} is open to other users (mode {mode:04o})", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is nothing, too much, or something that is no token.
    #[error("{} holds no token", .path.as_ref().map_or_else(|| "what was given".into(), |path| path.display().to_string()))]
    Unusable {
        /// The file; `None` for a token that was given in another way.
        path: Option<PathBuf>,
    },
}

impl Diagnose for TokenError {
    fn fault(&self) -> Fault {
        match self {
            Self::Read { .. } | Self::Exposed { .. } | Self::Unusable { .. } => Fault::Config,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { path, .. } => {
                format!("put the token into {}, readable by this user alone", path.display())
            }
            Self::Exposed { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Unusable { .. } => format!("a token is one line; make one on the server: {CREATE_EXAMPLE}"),
        })
    }
}

fn read_file(path: &Path) -> Result<String, TokenError> {
    let read = |source| TokenError::Read { path: path.to_owned(), source };
    let found = std::fs::metadata(path).map_err(read)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = found.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Exposed { path: path.to_owned(), mode });
        }
    }
    if found.len() > LONGEST {
        return Err(TokenError::Unusable { path: Some(path.to_owned()) });
    }
    runtime::regular_file::read_to_string(path).map_err(read)
}

/// A token, or a JWT, is one run of visible characters.
fn checked(text: &str, path: Option<&Path>) -> Result<Secret<String>, TokenError> {
    let token = text.trim();
    let usable = !token.is_empty() && token.len() as u64 <= LONGEST && token.bytes().all(|b| b.is_ascii_graphic());
    if !usable {
        return Err(TokenError::Unusable { path: path.map(Path::to_owned) });
    }
    Ok(Secret::new(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(content: &str, mode: u32) -> (tempfile::TempDir, TokenSource) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, TokenSource::File(path))
    }

    #[test]
    fn a_token_is_read_without_the_white_space_around_it() {
        let (_dir, source) = file("  adit_secret\n", 0o600);
        assert_eq!(source.read().unwrap().expose(), "adit_secret");
        assert!(source.can_change());
    }

    #[test]
    fn s6_a_token_file_open_to_others_is_refused() {
        let (_dir, source) = file("adit_secret", 0o640);
        let error = source.read().unwrap_err();
        assert!(matches!(error, TokenError::Exposed { mode: 0o640, .. }), "{error:?}");
        assert!(error.hint().unwrap().starts_with("chmod 600 "));
    }

    #[test]
    fn what_is_no_token_is_refused_without_showing_it() {
        for text in ["", " \n", "two words", "adit_s\u{e9}cret", &"x".repeat(8000)] {
            let error = TokenSource::Fixed(Secret::new(text.to_owned())).read().unwrap_err();
            assert_eq!(error.to_string(), "what was given holds no token");
            let (_dir, source) = file(text, 0o600);
            assert!(matches!(source.read(), Err(TokenError::Unusable { path: Some(_) })));
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let source = TokenSource::File("/nowhere/token".into());
        assert!(source.read().unwrap_err().to_string().contains("/nowhere/token"));
    }
}
