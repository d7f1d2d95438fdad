//! Checking a backup, and reading the state from it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::file::{self, Section, Written};
use super::header::Header;
use super::{ARCHIVE, Error, HEADER, STATE};
use crate::domain::archive::Segment;
use crate::domain::{Digest, State, snapshot};

/// Longest header that is read: a cluster has few members.
const HEADER_MAX: u64 = 4 << 20;

/// What this build restores.
const KNOWN: [&str; 3] = [HEADER, STATE, ARCHIVE];

/// A backup that was checked.
#[derive(Debug)]
pub struct Backup {
    pub header: Header,
    pub written: Written,
    pub state: State,
}

/// Checks a whole file and reads it. Blocking.
///
/// # Errors
///
/// See [`Error`]; each says what is wrong with the file.
pub fn read(path: &Path) -> Result<Backup, Error> {
    let mut input = File::open(path)?;
    let written = file::check(&mut input)?;
    let header = header(&input, &written)?;
    if header.state_format != snapshot::FORMAT {
        return Err(Error::StateFormat { found: header.state_format, known: snapshot::FORMAT });
    }
    // Every section is compared, known or not.
    for section in written.sections.iter().filter(|section| !KNOWN.contains(&section.name.as_str())) {
        let mut raw = file::open(&input, section)?;
        io::copy(&mut raw, &mut io::sink()).map_err(packed)?;
        raw.end()?;
    }
    let mut raw = BufReader::with_capacity(64 << 10, file::open(&input, section(&written, STATE)?)?);
    let state = State::read_from(&mut raw).map_err(|error| match error {
        snapshot::Error::Version { found, known } => Error::StateFormat { found, known },
        snapshot::Error::Io(error) => packed(error),
        snapshot::Error::Damaged(what) => Error::Damaged(format!("the state in it is not whole: {what}")),
    })?;
    if !raw.buffer().is_empty() {
        return Err(Error::Damaged("there is more behind the state".to_owned()));
    }
    raw.into_inner().end()?;
    if !header.fits(&state) {
        return Err(Error::Damaged("what it says of itself is not what is in it".to_owned()));
    }
    segments(&input, &written, &state, |_, _| Ok(()))?;
    Ok(Backup { header, written, state })
}

/// Reads every segment that the state names, checked.
fn segments(
    input: &File,
    written: &Written,
    state: &State,
    mut take: impl FnMut(&Segment, &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    if state.archive().segment_count() == 0 {
        return match written.sections.iter().any(|section| section.name == ARCHIVE) {
            true => Err(Error::Damaged("it has an archive of which its state does not know".to_owned())),
            false => Ok(()),
        };
    }
    let mut raw = file::open(input, section(written, ARCHIVE)?)?;
    for segment in state.archive().segments() {
        let mut bytes = Vec::new();
        (&mut raw).take(segment.bytes).read_to_end(&mut bytes).map_err(packed)?;
        if Digest::of(&bytes) != segment.sha256 {
            return Err(Error::Damaged(format!("segment {} of the archive is not what was written", segment.name())));
        }
        take(segment, &bytes)?;
    }
    raw.end()
}

impl Backup {
    /// Reads the segments of the archive once more, from the file that was checked. Blocking.
    ///
    /// # Errors
    ///
    /// Those of `take`; the file is another one meanwhile.
    pub fn segments(&self, path: &Path, take: impl FnMut(&Segment, &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        segments(&File::open(path)?, &self.written, &self.state, take)
    }

    /// Whether this build can restore all of it.
    ///
    /// # Errors
    ///
    /// [`Error::Section`], naming what it can not.
    pub fn restorable(&self) -> Result<(), Error> {
        let strange = |section: &&Section| !KNOWN.contains(&section.name.as_str());
        match self.written.sections.iter().find(strange) {
            Some(section) => Err(Error::Section(section.name.clone())),
            None => Ok(()),
        }
    }
}

fn header(input: &File, written: &Written) -> Result<Header, Error> {
    let section = section(written, HEADER)?;
    if section.raw > HEADER_MAX {
        return Err(Error::Damaged(format!("a header of {} bytes", section.raw)));
    }
    let mut raw = file::open(input, section)?;
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes).map_err(packed)?;
    raw.end()?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Damaged(format!("its header can not be understood: {error}")))
}

/// There must be exactly one of that name.
fn section<'a>(written: &'a Written, name: &str) -> Result<&'a Section, Error> {
    let mut found = written.sections.iter().filter(|section| section.name == name);
    match (found.next(), found.next()) {
        (Some(section), None) => Ok(section),
        (None, _) => Err(Error::Damaged(format!("it has no section {name}"))),
        _ => Err(Error::Damaged(format!("it has more than one section {name}"))),
    }
}

/// What is whole and can not be unpacked was not packed by us.
fn packed(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Error::Damaged(format!("a section can not be unpacked: {error}"))
        }
        _ => Error::Io(error),
    }
}
