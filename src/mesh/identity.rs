//! Who we are: an ed25519 key in a file, and the way between our peer ids and
//! libp2p's.
//!
//! The file holds the libp2p protobuf encoding of the key, or its 32 secret
//! bytes as hex. It is made whole or not at all (written aside, synced,
//! renamed) and belongs to its owner alone: a key that others can read is
//! refused, not repaired, because it may already have been copied.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use libp2p::identity::{Keypair, PublicKey, ed25519};

use super::Error;
use crate::domain::PeerId;

/// Longest key file we read, in bytes. The protobuf encoding has 68.
const KEY_FILE_MAX: u64 = 4_096;

/// libp2p writes an ed25519 key into its peer id unhashed, behind this header.
const PEER_ID_HEADER: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// An ed25519 key pair. `Debug` shows the public half only.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    id: PeerId,
}

impl Identity {
    /// Reads the key file, or makes one (mode 0600) if there is none. Refuses a file others can read.
    ///
    /// # Errors
    ///
    /// [`Error::Setup`] naming the file and what to do about it.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        match Self::load(path) {
            Err(LoadError::Missing) => Self::create(path).map_err(|source| setup("create", path, &source)),
            Err(LoadError::Io(source)) => Err(setup("read", path, &source)),
            Err(LoadError::Open(mode)) => Err(Error::Setup(format!(
                "key file {} can be read by others (mode {mode:03o}): run `chmod 600 {}`, or remove it to get a new identity",
                path.display(),
                path.display()
            ))),
            Err(LoadError::Malformed) => Err(Error::Setup(format!(
                "key file {} holds no ed25519 key: expected libp2p's protobuf encoding or 64 hex digits",
                path.display()
            ))),
            Ok(identity) => Ok(identity),
        }
    }

    /// A key from 32 secret bytes, for tests and simulated workers.
    pub fn from_secret(secret: [u8; 32]) -> Self {
        // Any 32 bytes are an ed25519 secret, so this has no way to fail.
        match ed25519::SecretKey::try_from_bytes(secret) {
            Ok(secret) => Self::of(&ed25519::Keypair::from(secret)),
            Err(error) => unreachable!("32 bytes are a key: {error}"),
        }
    }

    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The ed25519 signature over `message`, 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        // Only RSA keys can fail to sign. An empty signature verifies nowhere.
        self.keypair.sign(message).unwrap_or_default()
    }

    pub(super) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    fn of(pair: &ed25519::Keypair) -> Self {
        Self { id: PeerId(pair.public().to_bytes()), keypair: Keypair::from(pair.clone()) }
    }

    fn load(path: &Path) -> Result<Self, LoadError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LoadError::Missing),
            Err(error) => return Err(LoadError::Io(error)),
        };
        let mode = file.metadata().map_err(LoadError::Io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(LoadError::Open(mode));
        }
        let mut bytes = Vec::new();
        file.take(KEY_FILE_MAX).read_to_end(&mut bytes).map_err(LoadError::Io)?;
        Self::decode(&bytes).ok_or(LoadError::Malformed)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if let Ok(keypair) = Keypair::from_protobuf_encoding(bytes) {
            return Some(Self::of(&keypair.try_into_ed25519().ok()?));
        }
        let mut secret = [0u8; 32];
        hex::decode_to_slice(std::str::from_utf8(bytes).ok()?.trim(), &mut secret).ok()?;
        Some(Self::from_secret(secret))
    }

    fn create(path: &Path) -> io::Result<Self> {
        let identity = Self::of(&ed25519::Keypair::generate());
        let encoded = identity.keypair.to_protobuf_encoding().map_err(io::Error::other)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(directory)?;
        let aside = aside(path);
        write_private(&aside, &encoded)?;
        fs::rename(&aside, path)?;
        File::open(directory)?.sync_all()?;
        Ok(identity)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

enum LoadError {
    Missing,
    Open(u32),
    Malformed,
    Io(io::Error),
}

fn setup(verb: &str, path: &Path, source: &io::Error) -> Error {
    Error::Setup(format!("{verb} key file {}: {source}", path.display()))
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    PathBuf::from(name)
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Whether `signature` is by `signer` over `message`.
pub fn verify(signer: PeerId, message: &[u8], signature: &[u8]) -> bool {
    ed25519::PublicKey::try_from_bytes(&signer.0).is_ok_and(|key| PublicKey::from(key).verify(message, signature))
}

/// libp2p's name for a peer of ours.
pub(super) fn to_libp2p(id: PeerId) -> libp2p::PeerId {
    let mut bytes = [0u8; 38];
    bytes[..6].copy_from_slice(&PEER_ID_HEADER);
    bytes[6..].copy_from_slice(&id.0);
    match libp2p::PeerId::from_bytes(&bytes) {
        Ok(peer) => peer,
        Err(error) => unreachable!("an inlined key is a peer id: {error}"),
    }
}

/// Our name for a libp2p peer; `None` unless it is an ed25519 key.
pub(super) fn from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    let bytes = peer.to_bytes();
    let key: [u8; 32] = bytes.strip_prefix(&PEER_ID_HEADER)?.try_into().ok()?;
    Some(PeerId(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_ids_convert_both_ways_and_print_alike() {
        let identity = Identity::from_secret([7; 32]);
        let theirs = to_libp2p(identity.id());
        assert_eq!(theirs, identity.keypair().public().to_peer_id());
        assert_eq!(theirs.to_string(), identity.id().to_string());
        assert_eq!(from_libp2p(&theirs), Some(identity.id()));
    }

    #[test]
    fn a_peer_id_that_is_a_hash_is_not_ours() {
        assert_eq!(from_libp2p(&libp2p::PeerId::random()), None);
    }

    #[test]
    fn signatures_verify_for_their_signer_and_message_only() {
        let (alice, bob) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        let signature = alice.sign(b"result");
        assert!(verify(alice.id(), b"result", &signature));
        assert!(!verify(alice.id(), b"other", &signature));
        assert!(!verify(bob.id(), b"result", &signature));
        assert!(!verify(alice.id(), b"result", &signature[1..]));
        assert!(!verify(PeerId([0xff; 32]), b"result", &signature), "not a point on the curve");
    }

    #[test]
    fn a_key_file_is_made_once_private_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/node.key");
        let made = Identity::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Identity::load_or_create(&path).unwrap().id(), made.id());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing left aside");
    }

    #[test]
    fn a_hex_secret_is_a_key_file_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        write_private(&path, format!("{}\n", hex::encode([9u8; 32])).as_bytes()).unwrap();
        assert_eq!(Identity::load_or_create(&path).unwrap().id(), Identity::from_secret([9; 32]).id());
    }

    #[test]
    fn a_key_file_others_can_read_or_that_holds_no_key_is_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        Identity::load_or_create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Identity::load_or_create(&path).unwrap_err().to_string();
        assert!(refused.contains("chmod 600") && refused.contains("node.key"), "{refused}");
        fs::remove_file(&path).unwrap();
        write_private(&path, b"not a key").unwrap();
        let refused = Identity::load_or_create(&path).unwrap_err().to_string();
        assert!(refused.contains("no ed25519 key"), "{refused}");
    }
}
