//! How far attempts say they are.
//!
//! A command may append lines to the file that `CIRO_PROGRESS_FILE` names, like
//! `42% epoch 3 of 7`. Once a second the last whole line is read; nothing else of
//! the file ever is, however long it grows. What is read goes out with the next
//! heartbeat, and is forgotten when the attempt ends.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nix::fcntl::OFlag;

use crate::mesh::Progress;
use crate::tasks::Tasks;
use crate::worker::desk::Key;

/// Names the file to a command.
pub(super) const VARIABLE: &str = "CIRO_PROGRESS_FILE";

/// Between two looks at a file, so also between two changes of what an attempt says.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Bytes read from the end of the file: longest line.
const TAIL: u64 = 1_024;

/// What the attempts that run said last. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<Key, Progress>>>);

impl Board {
    /// As many as attempts that run and say something.
    pub fn all(&self) -> Vec<(Key, Progress)> {
        self.lock().iter().map(|(key, progress)| (*key, progress.clone())).collect()
    }

    /// Follows a file for ever. Dropped when the attempt has ended; see [`Self::forget`].
    pub(super) async fn follow(&self, key: Key, file: PathBuf) -> ! {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let path = file.clone();
            let line = Tasks::new().spawn_blocking(move || last_line(&path)).await;
            if let Some(progress) = line.ok().flatten().as_deref().and_then(parse) {
                self.lock().insert(key, progress);
            }
        }
    }

    pub(super) fn forget(&self, key: Key) {
        self.lock().remove(&key);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Progress>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The last line that has an end. A job must not choose what is read: no link, no pipe.
fn last_line(path: &Path) -> Option<String> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.seek(SeekFrom::Start(metadata.len().saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n')?;
    let start = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    Some(String::from_utf8_lossy(&bytes[start..end]).into_owned())
}

/// A number, of percent or with ‰, then what there is to say; either may be missing.
fn parse(line: &str) -> Option<Progress> {
    let line = line.trim();
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (digits, scale) = match (first.strip_suffix('%'), first.strip_suffix('‰')) {
        (Some(percent), _) => (percent, 10.0),
        (_, Some(permille)) => (permille, 1.0),
        _ => (first, 10.0),
    };
    let number = digits.parse::<f64>().ok().filter(|number| number.is_finite());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000")]
    let permille = number.map(|number| (number * scale).clamp(0.0, 1_000.0) as u32);
    let message = if permille.is_some() { rest } else { line };
    Progress::new(permille, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_number_a_message_or_both() {
        let said = |line| parse(line).map(|progress| (progress.permille, progress.message));
        let some = |permille, message: &str| Some((permille, message.to_owned()));
        assert_eq!(said("42% epoch 3 of 7"), some(Some(420), "epoch 3 of 7"));
        assert_eq!(said("  42.57  "), some(Some(425), ""));
        assert_eq!(said("425‰\tdone soon"), some(Some(425), "done soon"));
        assert_eq!(said("loading the model"), some(None, "loading the model"));
        assert_eq!((said("-3"), said("1e9 x")), (some(Some(0), ""), some(Some(1_000), "x")));
        assert_eq!(said("NaN"), some(None, "NaN"));
        assert_eq!((said(""), said("   ")), (None, None));
        assert_eq!(said("5% a\u{1b}[2Jb\u{7}"), some(Some(50), "a [2Jb"), "nothing that moves a cursor");
        assert!(parse(&"ü".repeat(1_000)).unwrap().message.len() <= 128);
    }

    #[test]
    fn only_the_last_whole_line_of_a_plain_file_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("progress");
        assert_eq!(last_line(&path), None);
        for (text, expected) in [("", None), ("10%", None), ("10%\n2", Some("10%")), ("10%\n20%\n", Some("20%"))] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(last_line(&path).as_deref(), expected, "{text:?}");
        }
        std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(last_line(&path), None, "a line without end");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert_eq!(last_line(&link), None);
        nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(last_line(&directory.path().join("pipe")), None, "and it does not wait");
        assert_eq!(last_line(directory.path()), None);
    }
}
