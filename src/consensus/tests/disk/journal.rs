//! What a disk holds if the power fails: built from a record of what was
//! written and what was synced (recorder.c).
//!
//! A file's bytes are sure once a sync of it that began after they were written
//! has ended; a name once its directory was synced. What else was written may
//! be there or not, see [`Mood`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::Rng as _;
use rand::rngs::StdRng;

/// Pages that reach the disk one without the other.
const PAGE: usize = 4096;

#[derive(Debug)]
pub enum Event {
    Make { inode: u64, path: PathBuf, dir: bool },
    Rename { from: PathBuf, to: PathBuf },
    Unlink { path: PathBuf },
    Change { inode: u64, change: Change },
    SyncBegin { inode: u64, id: u64 },
    SyncEnd { id: u64 },
    Note(String),
}

#[derive(Clone, Debug)]
pub enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

/// What becomes of bytes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// All are gone.
    Drop,
    /// Of each file the first few are there, the last of them in part.
    Cut,
    /// Any page is there or is not, as from a cache that keeps no order.
    Scatter,
}

pub fn read(journal: &Path) -> Vec<Event> {
    let bytes = fs::read(journal).unwrap();
    let mut rest = bytes.as_slice();
    let mut events = Vec::new();
    while !rest.is_empty() {
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at(length);
            rest = left;
            taken
        };
        let mut number = || u64::from_ne_bytes(take(8).try_into().unwrap());
        let (kind, a, b, path, data) = (number(), number(), number(), number() as usize, number() as usize);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let path = PathBuf::from(text(take(path)));
        let data = take(data);
        events.push(match kind {
            1 | 2 => Event::Make { inode: a, path, dir: kind == 2 },
            3 => Event::Rename { from: path, to: text(data).into() },
            4 => Event::Unlink { path },
            5 => Event::Change { inode: a, change: Change::Write { at: b as usize, bytes: data.to_vec() } },
            6 => Event::Change { inode: a, change: Change::Length(b as usize) },
            7 => Event::SyncBegin { inode: a, id: b },
            8 => Event::SyncEnd { id: b },
            9 => Event::Note(text(data)),
            kind => panic!("an event of kind {kind}"),
        });
    }
    events
}

#[derive(Default)]
struct File {
    dir: bool,
    sure: Vec<u8>,
    /// How many changes are in `sure`; the others follow.
    settled: usize,
    changes: Vec<Change>,
}

#[derive(Clone)]
enum Naming {
    Is(PathBuf, usize),
    Moves(PathBuf, PathBuf),
    Goes(PathBuf),
}

impl Naming {
    fn dir(&self) -> &Path {
        match self {
            Self::Is(path, _) | Self::Moves(path, _) | Self::Goes(path) => path.parent().unwrap(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Is(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Goes(path) => drop(names.remove(path)),
            Self::Moves(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

/// A disk that has not lost power yet.
pub struct Disk {
    root: PathBuf,
    files: Vec<File>,
    inodes: BTreeMap<u64, usize>,
    names: BTreeMap<PathBuf, usize>,
    pending: Vec<Naming>,
    /// By the sync's number: what it will make sure when it ends.
    syncs: BTreeMap<u64, (usize, usize, Option<PathBuf>)>,
    now: BTreeMap<PathBuf, usize>,
}

impl Disk {
    /// `root` was there before, and is durable.
    pub fn new(root: &Path) -> Self {
        let (files, inodes, now) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let (names, pending, syncs) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        Self { root: root.to_owned(), files, inodes, names, pending, syncs, now }
    }

    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Make { inode, path, dir } => {
                if path == &self.root {
                    return;
                }
                self.files.push(File { dir: *dir, ..File::default() });
                let file = self.files.len() - 1;
                self.inodes.insert(*inode, file);
                self.name(Naming::Is(path.clone(), file));
            }
            Event::Rename { from, to } => self.name(Naming::Moves(from.clone(), to.clone())),
            Event::Unlink { path } => self.name(Naming::Goes(path.clone())),
            Event::Change { inode, change } => {
                let file = self.inodes[inode];
                self.files[file].changes.push(change.clone());
            }
            Event::SyncBegin { inode, id } => self.begin(*inode, *id),
            Event::SyncEnd { id } => self.end(*id),
            Event::Note(_) => {}
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.now);
        self.pending.push(naming);
    }

    /// A directory that was there before, such as the root, is known by what a sync of it does.
    fn begin(&mut self, inode: u64, id: u64) {
        let Some(file) = self.inodes.get(&inode).copied() else {
            self.syncs.insert(id, (usize::MAX, self.pending.len(), Some(self.root.clone())));
            return;
        };
        let dir = self.files[file].dir.then(|| self.path_of(file));
        let count = if dir.is_some() { self.pending.len() } else { self.files[file].changes.len() };
        self.syncs.insert(id, (file, count, dir));
    }

    fn end(&mut self, id: u64) {
        let (file, count, dir) = self.syncs.remove(&id).unwrap();
        let Some(dir) = dir else {
            let file = &mut self.files[file];
            for change in &file.changes[file.settled..count.max(file.settled)] {
                apply(change, &mut file.sure);
            }
            file.settled = file.settled.max(count);
            return;
        };
        let mut kept = Vec::new();
        for (number, naming) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            if number < count && naming.dir() == dir { naming.apply(&mut self.names) } else { kept.push(naming) }
        }
        self.pending = kept;
    }

    fn path_of(&self, file: usize) -> PathBuf {
        self.now.iter().find(|(_, it)| **it == file).unwrap().0.clone()
    }

    /// Makes in `target` what is there when the power comes back.
    pub fn lose_power(&self, target: &Path, mood: Mood, rng: &mut StdRng) {
        let mut names = self.names.clone();
        let kept = if mood == Mood::Drop { 0 } else { rng.random_range(0..=self.pending.len()) };
        self.pending[..kept].iter().for_each(|naming| naming.apply(&mut names));
        self.write(target, &names, |file| file.survive(mood, rng));
    }

    /// Makes in `target` what is there now.
    pub fn copy_to(&self, target: &Path) {
        self.write(target, &self.now, File::whole);
    }

    fn write(&self, target: &Path, names: &BTreeMap<PathBuf, usize>, mut bytes: impl FnMut(&File) -> Vec<u8>) {
        fs::create_dir_all(target).unwrap();
        for (path, file) in names {
            let path = target.join(path.strip_prefix(&self.root).unwrap());
            let file = &self.files[*file];
            // A directory without a name takes what is in it along.
            if path.parent().unwrap().is_dir() {
                if file.dir { fs::create_dir(path).unwrap() } else { fs::write(path, bytes(file)).unwrap() }
            }
        }
    }
}

impl File {
    fn whole(&self) -> Vec<u8> {
        let mut bytes = self.sure.clone();
        self.changes[self.settled..].iter().for_each(|change| apply(change, &mut bytes));
        bytes
    }

    fn survive(&self, mood: Mood, rng: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.sure.clone();
        let unsure = &self.changes[self.settled..];
        match mood {
            Mood::Drop => {}
            Mood::Cut => {
                let kept = rng.random_range(0..=unsure.len());
                unsure[..kept].iter().for_each(|change| apply(change, &mut bytes));
                if let Some(Change::Write { at, bytes: torn }) = unsure.get(kept) {
                    let torn = torn[..rng.random_range(0..=torn.len())].to_vec();
                    apply(&Change::Write { at: *at, bytes: torn }, &mut bytes);
                }
            }
            Mood::Scatter => {
                for change in unsure {
                    match change {
                        Change::Write { at, bytes: written } => {
                            for (page, n) in written.chunks(PAGE).zip(0..) {
                                if rng.random() {
                                    apply(&Change::Write { at: at + n * PAGE, bytes: page.to_vec() }, &mut bytes);
                                }
                            }
                        }
                        length => apply(length, &mut bytes),
                    }
                }
            }
        }
        bytes
    }
}

fn apply(change: &Change, bytes: &mut Vec<u8>) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Write { bytes: written, .. } if written.is_empty() => {}
        Change::Write { at, bytes: written } => {
            let end = at + written.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(written);
        }
    }
}
