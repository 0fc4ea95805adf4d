//! Reads every file that an operator names: the configuration, users, tokens, lists of networks.
//!
//! Accepts a regular file or a character device such as `/dev/null`, because a pipe could block a
//! reload for ever. At most [`BYTES_MAX`], in UTF-8; a byte order mark is removed. A secret must
//! not be readable by others, see [`Secrecy`]. The text is zeroised when it is dropped. Never shows
//! the contents of a file.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::users::CREDENTIALS;
use crate::sys::files;

/// The contents of a file.
pub struct Content {
    /// The text without a byte order mark.
    pub text: Zeroizing<String>,
    /// The modification time.
    pub modified: SystemTime,
}

/// Who else may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// Anybody.
    Public,
    /// Its owner and its group. Others may read it only on a read-only mount: containers get
    /// secrets that way, with mode 0444; nobody inside can change the file, and the container keeps
    /// outsiders away. A file that its group or others can write is always rejected, because a
    /// writer could grant himself access.
    Secret,
}

impl Secrecy {
    /// Secret, except on a machine that the configuration is not for.
    pub(super) fn unless(offline: bool) -> Self {
        if offline { Self::Public } else { Self::Secret }
    }
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file does not exist.
    #[error("cannot be read: {0}")]
    Missing(#[source] io::Error),
    /// Another error of the system.
    #[error("cannot be read: {0}")]
    System(#[from] io::Error),
    /// A folder, pipe, socket or block device.
    #[error("is not a regular file, so it cannot be read")]
    NotRegular,
    /// Others can read a secret, or it is writable by the group or others.
    #[error(
        "its mode is {0:04o}: others can read it or the group can write it; chmod 0640 or 0600 (others may read it on a read-only mount only, as a container's secret)"
    )]
    Exposed(u32),
    /// Longer than [`BYTES_MAX`].
    #[error("is larger than {BYTES_MAX} bytes")]
    TooLarge,
    /// UTF-16, which some editors call "Unicode".
    #[error("is text in UTF-16: save it as UTF-8")]
    Utf16,
    /// Not UTF-8.
    #[error("is not text in UTF-8, from byte {0} on: save it as UTF-8")]
    Encoding(usize),
}

impl ReadError {
    /// The error of the system, if the file cannot be read at the moment.
    ///
    /// # Errors
    /// The same error, if the file can be read and is wrong.
    pub(super) fn into_system(self) -> Result<io::Error, Self> {
        match self {
            Self::Missing(error) | Self::System(error) => Ok(error),
            wrong => Err(wrong),
        }
    }

    pub(super) fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing(error),
            _ => Self::System(error),
        }
    }

    /// The kind of the system's error.
    #[must_use]
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Missing(error) | Self::System(error) => Some(error.kind()),
            _ => None,
        }
    }
}

/// The path as shown in messages. A path that does not exist and does not look like one may be a
/// misplaced secret.
#[must_use]
pub fn shown_path(path: &Path) -> PathBuf {
    let has_name = path
        .extension()
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
    let text = path.to_string_lossy();
    let below = CREDENTIALS
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .or(text.strip_prefix('/'));
    let is_plain = below.is_some_and(|text| {
        text.bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'/' | b'-' | b'_'))
    });
    if has_name || is_plain || path.exists() {
        path.to_owned()
    } else {
        PathBuf::from(UNSHOWN)
    }
}

/// Reads a file.
///
/// # Errors
/// Why it cannot be used.
pub fn read(path: &Path, secrecy: Secrecy) -> Result<Content, ReadError> {
    let file = files::open_to_read(path).map_err(ReadError::of)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() && !metadata.file_type().is_char_device() {
        return Err(ReadError::NotRegular);
    }
    if secrecy == Secrecy::Secret && is_exposed(&file, &metadata)? {
        return Err(ReadError::Exposed(metadata.permissions().mode() & 0o777));
    }
    let expected = usize::try_from(metadata.len().min(BYTES_MAX)).unwrap_or_default();
    // One byte more, so that reading finds the end without growing the buffer; growing would leave
    // an unwiped copy.
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected + 1));
    if file.take(BYTES_MAX + 1).read_to_end(&mut bytes)? as u64 > BYTES_MAX {
        return Err(ReadError::TooLarge);
    }
    Ok(Content {
        text: text(&bytes)?,
        modified: metadata.modified()?,
    })
}

/// Whether the file can be opened and its first byte read. Looks at nothing else.
#[must_use]
pub fn is_readable(path: &Path) -> bool {
    let first = files::open_to_read(path).and_then(|mut file| file.read(&mut [0]));
    first.is_ok()
}

fn is_exposed(file: &File, metadata: &Metadata) -> io::Result<bool> {
    let mode = metadata.permissions().mode();
    Ok(
        mode & WRITABLE != 0
            || (mode & OPEN_TO_OTHERS != 0 && !files::is_on_read_only_mount(file)?),
    )
}

/// Decodes the text and removes its byte order mark.
fn text(bytes: &[u8]) -> Result<Zeroizing<String>, ReadError> {
    if bytes.starts_with(&[0xfe, 0xff]) || bytes.starts_with(&[0xff, 0xfe]) {
        return Err(ReadError::Utf16);
    }
    let text =
        std::str::from_utf8(bytes).map_err(|error| ReadError::Encoding(error.valid_up_to() + 1))?;
    Ok(Zeroizing::new(
        text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
    ))
}

/// The extensions of files that a configuration names.
const EXTENSIONS: [&str; 7] = ["toml", "json", "jsonl", "txt", "conf", "list", "token"];
const UNSHOWN: &str = "(a path that leads to no file)";
/// By the group or others.
const WRITABLE: u32 = 0o022;
/// Readable or executable by others.
const OPEN_TO_OTHERS: u32 = 0o005;
/// Enough for a hundred thousand users; Google's lists of networks have 10 to 100 KiB.
pub const BYTES_MAX: u64 = 16 * 1024 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_utf_8_mark_is_skipped_and_utf_16_is_refused_by_name() {
        assert_eq!(*text(b"\xef\xbb\xbfabc").unwrap(), "abc");
        assert_eq!(*text(b"\xef\xbb\xbf").unwrap(), "");
        assert_eq!(
            *text("a\u{feff}b".as_bytes()).unwrap(),
            "a\u{feff}b",
            "at the start only"
        );
        for utf_16 in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a"] {
            assert!(matches!(text(utf_16), Err(ReadError::Utf16)));
        }
        assert!(matches!(text(b"caf\xe9"), Err(ReadError::Encoding(4))));
    }

    #[test]
    fn a_secret_readable_by_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "x").unwrap();
        for (mode, taken) in [
            (0o400, true),
            (0o440, true),
            (0o600, true),
            (0o640, true),
            (0o644, false),
            (0o444, false),
            (0o404, false),
            (0o620, false),
            (0o602, false),
            (0o641, false),
        ] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&file, Secrecy::Secret).is_ok(), taken, "{mode:o}");
            assert!(read(&file, Secrecy::Public).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn anything_but_a_regular_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        for path in [folder.path(), &pipe] {
            assert!(
                matches!(read(path, Secrecy::Public), Err(ReadError::NotRegular)),
                "{path:?}"
            );
        }
        assert!(matches!(
            read(&folder.path().join("none"), Secrecy::Public),
            Err(ReadError::Missing(_))
        ));
        assert_eq!(
            *read(Path::new("/dev/null"), Secrecy::Public).unwrap().text,
            ""
        );
        assert!(matches!(
            read(Path::new("/dev/zero"), Secrecy::Public),
            Err(ReadError::TooLarge)
        ));
    }
}
