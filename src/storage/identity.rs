//! Whose data this is, in which format, and which making of it.
//!
//! Written twice: as `store.toml`, which can be judged before sled touches
//! anything, and inside sled, which shows that the trees beside the file are
//! the ones it speaks of. The inside comes first: a file without it means that
//! `db/` was emptied or exchanged, and an amnesiac voter breaks Raft. The
//! inside without the file means that making the directory was cut short, and
//! is completed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use super::{Error, dirs};
use crate::domain::NodeId;

/// Version of the layout of the directory, of keys and values in sled, and of what log entries say.
pub(super) const FORMAT: i64 = 3;

const NAME: &str = "store.toml";
const DRAFT: &str = "store.toml.tmp";
const KEY: &[u8] = b"identity";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub owner: NodeId,
    pub incarnation: u128,
}

impl Identity {
    pub(super) fn new(owner: NodeId) -> Self {
        Self { owner, incarnation: rand::random() }
    }

    /// Reads the file. `None` if the directory has none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, Error> {
        match fs::read(dir.join(NAME)) {
            // A byte that is no text makes a text that is not ours.
            Ok(bytes) => Self::parse(&String::from_utf8_lossy(&bytes), dir).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read store.toml", dir, error)),
        }
    }

    /// Reads what is inside sled.
    pub(super) fn read_inside(db: &sled::Db, dir: &Path) -> Result<Option<Self>, Error> {
        let found = db.get(KEY).map_err(|e| Error::sled("read identity", dir, e))?;
        found.map(|bytes| Self::parse(&String::from_utf8_lossy(&bytes), dir)).transpose()
    }

    pub(super) fn write_inside(&self, db: &sled::Db, dir: &Path) -> Result<(), Error> {
        db.insert(KEY, self.text().into_bytes()).map_err(|e| Error::sled("write identity", dir, e))?;
        Ok(())
    }

    /// Writes the file: there whole and for good, or not at all.
    pub(super) fn write(&self, dir: &Path) -> Result<(), Error> {
        let draft = dir.join(DRAFT);
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(self.text().as_bytes())?;
            file.sync_all()
        });
        written.and_then(|()| fs::rename(&draft, dir.join(NAME))).map_err(|e| Error::io("write store.toml", dir, e))?;
        dirs::sync(dir)
    }

    pub(super) fn check_owner(&self, owner: NodeId, dir: &Path) -> Result<(), Error> {
        if self.owner == owner {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "the data in {dir} belongs to node {}, but this node's key is that of {owner}: \
             start with the key of that node, or with another data directory",
            self.owner,
            dir = dir.display(),
        )))
    }

    fn text(&self) -> String {
        format!(
            "# Written once by ciro-coordinator. It ties this directory to one node: do not edit or copy it.\n\
             format = {FORMAT}\nowner = \"{}\"\nincarnation = \"{:032x}\"\ncrc = \"{:08x}\"\n",
            self.owner,
            self.incarnation,
            self.crc()
        )
    }

    /// A flipped bit must not look like another node's directory.
    fn crc(&self) -> u32 {
        crc32fast::hash(format!("{FORMAT} {} {:032x}", self.owner, self.incarnation).as_bytes())
    }

    fn parse(text: &str, dir: &Path) -> Result<Self, Error> {
        let damaged = || Error::damaged(format!("store.toml in {} is not readable", dir.display()));
        let table: toml::Table = text.parse().map_err(|_| damaged())?;
        let format = table.get("format").and_then(toml::Value::as_integer).ok_or_else(damaged)?;
        check_format(format, dir)?;
        let field = |name| table.get(name).and_then(toml::Value::as_str).ok_or_else(damaged);
        let owner = field("owner")?.parse().map_err(|_| damaged())?;
        let incarnation = u128::from_str_radix(field("incarnation")?, 16).map_err(|_| damaged())?;
        let identity = Self { owner, incarnation };
        if field("crc")? != format!("{:08x}", identity.crc()) {
            return Err(damaged());
        }
        Ok(identity)
    }
}

fn check_format(format: i64, dir: &Path) -> Result<(), Error> {
    if format == FORMAT {
        return Ok(());
    }
    let advice = if format > FORMAT {
        "start a version at least as new as the one that wrote it"
    } else {
        "start the version that wrote it"
    };
    Err(Error::Refused(format!(
        "the data in {} has format {format}, this version reads format {FORMAT}: {advice}",
        dir.display()
    )))
}
