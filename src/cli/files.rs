//! What a submission reads: files, directories, standard input, or the command line itself.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::failure::{Failure, Kind};

/// Files of one submission.
const FILES_MAX: usize = 10_000;

/// Largest input read; a node's own limit is lower and named in its answer.
const INPUT_MAX: u64 = 16 << 20;

/// One job's input and what to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    Given { name: String, bytes: Vec<u8> },
}

impl Source {
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Given { name, .. } => name.clone(),
        }
    }

    /// Reads the bytes, when it is their turn.
    pub fn read(&self) -> Result<Vec<u8>, Failure> {
        match self {
            Self::File(path) => {
                let file = fs::File::open(path).map_err(|error| cannot_read(path, &error))?;
                limited(file).map_err(|error| cannot_read(path, &error))
            }
            Self::Given { bytes, .. } => Ok(bytes.clone()),
        }
    }
}

/// The inputs that were named: `-` is standard input, a directory every regular file below it.
pub fn sources(named: &[PathBuf], payload: Option<&str>) -> Result<Vec<Source>, Failure> {
    let mut sources = vec![];
    if let Some(text) = payload {
        sources.push(Source::Given { name: "payload".to_owned(), bytes: text.as_bytes().to_vec() });
    }
    for path in named {
        if path == Path::new("-") {
            let bytes = limited(std::io::stdin().lock()).map_err(|error| cannot_read(path, &error))?;
            sources.push(Source::Given { name: "-".to_owned(), bytes });
        } else {
            walk(path, &mut sources)?;
        }
    }
    match sources.len() {
        0 => Err(Failure::usage("nothing to submit")
            .hint("name files or directories, or - for standard input, or --payload TEXT")),
        1..=FILES_MAX => Ok(sources),
        many => Err(Failure::usage(format!("{many} files are too many at once, the limit is {FILES_MAX}"))),
    }
}

/// Adds the file, or every regular file below the directory, in the order of their names. Links are not followed.
fn walk(path: &Path, sources: &mut Vec<Source>) -> Result<(), Failure> {
    let mut waiting = vec![path.to_owned()];
    let mut first = true;
    while let Some(path) = waiting.pop() {
        // What was named may be a link; what is found below it is not followed.
        let named = std::mem::take(&mut first);
        let about = if named { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
        let about = about.map_err(|error| cannot_read(&path, &error))?;
        if about.is_dir() {
            let entries = fs::read_dir(&path).map_err(|error| cannot_read(&path, &error))?;
            let mut below = entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>();
            if let Ok(below) = &mut below {
                below.sort_by(|a, b| b.cmp(a));
            }
            waiting.extend(below.map_err(|error| cannot_read(&path, &error))?);
        } else if about.is_file() {
            sources.push(Source::File(path));
        } else if named {
            return Err(Failure::usage(format!("{} is neither a file nor a directory", path.display())));
        }
        if sources.len() + waiting.len() > FILES_MAX * 2 {
            return Err(Failure::usage(format!("more than {FILES_MAX} files at once")));
        }
    }
    Ok(())
}

fn limited(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![];
    from.take(INPUT_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > INPUT_MAX {
        return Err(std::io::Error::other(format!("more than {INPUT_MAX} bytes")));
    }
    Ok(bytes)
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Kind::Usage, format!("read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_every_file_below_it_in_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/c")).unwrap();
        for (name, text) in [("z", "1"), ("b/x", "2"), ("b/c/y", "3"), ("a", "4")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).unwrap();
        let found = sources(&[dir.path().to_owned()], None).unwrap();
        let names: Vec<String> =
            found.iter().map(|s| s.name().replace(&format!("{}/", dir.path().display()), "")).collect();
        assert_eq!(names, ["a", "b/c/y", "b/x", "z"]);
        assert_eq!(found[1].read().unwrap(), b"3");
    }

    #[test]
    fn every_link_that_is_named_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "x").unwrap();
        for name in ["one", "two"] {
            std::os::unix::fs::symlink(path("file"), path(name)).unwrap();
        }
        std::os::unix::fs::symlink("/nowhere", path("dangling")).unwrap();
        assert_eq!(sources(&[path("one"), path("two")], Some("text")).unwrap().len(), 3);
        assert_eq!(sources(&[path("one"), path("dangling")], None).unwrap_err().code(), 2);
    }

    #[test]
    fn nothing_and_nowhere_are_usage_errors() {
        assert_eq!(sources(&[], None).unwrap_err().code(), 2);
        assert_eq!(sources(&["/nowhere/at/all".into()], None).unwrap_err().code(), 2);
        assert_eq!(sources(&[], Some("x")).unwrap()[0].read().unwrap(), b"x");
    }
}
