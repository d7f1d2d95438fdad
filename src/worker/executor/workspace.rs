//! Where attempts run: one directory each, and beside it a note of the process
//! group, so that the next life of a killed worker can end what this one began.

use std::io;
use std::path::{Path, PathBuf};

use super::leftovers;
use crate::domain::JobId;
use crate::worker::desk::Key;

#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
}

/// The place of one attempt.
#[derive(Debug)]
pub(super) struct Place {
    pub directory: PathBuf,
    note: PathBuf,
}

impl Workspace {
    /// Opens the workspace; kills and removes what an earlier life left, and returns the attempts it was about.
    ///
    /// # Errors
    ///
    /// The directory cannot be made or listed.
    pub fn open(root: &Path) -> io::Result<(Self, Vec<Key>)> {
        std::fs::create_dir_all(root)?;
        // The commands' working directories are under it, and they change directory.
        let workspace = Self { root: root.canonicalize()? };
        leftovers::kill_all(&workspace.root);
        let mut left = Vec::new();
        for entry in std::fs::read_dir(&workspace.root)? {
            let path = entry?.path();
            if path.is_dir() {
                left.extend(path.file_name().and_then(|name| parse_name(name.to_str()?)));
                remove_directory(&path, std::fs::remove_dir_all(&path));
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        Ok((workspace, left))
    }

    pub(super) async fn enter(&self, (job, attempt): Key) -> io::Result<Place> {
        let directory = self.root.join(format!("{job}-{attempt}"));
        let note = directory.with_extension(leftovers::EXTENSION);
        tokio::fs::DirBuilder::new().mode(0o700).create(&directory).await?;
        Ok(Place { directory, note })
    }
}

impl Place {
    /// Notes which process group runs here.
    pub async fn note_group(&self, pid: i32) -> io::Result<()> {
        tokio::fs::write(&self.note, leftovers::note(pid)).await
    }

    pub fn scratch(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub async fn leave(self) {
        remove_directory(&self.directory, tokio::fs::remove_dir_all(&self.directory).await);
        if let Err(error) = tokio::fs::remove_file(&self.note).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.note.display(), %error, "cannot remove note of process group");
        }
    }
}

fn remove_directory(path: &Path, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(path = %path.display(), %error, "cannot remove working directory");
    }
}

/// `<job>-<attempt>`.
fn parse_name(name: &str) -> Option<Key> {
    let (job, attempt) = name.rsplit_once('-')?;
    Some((job.parse::<JobId>().ok()?, attempt.parse().ok()?))
}
