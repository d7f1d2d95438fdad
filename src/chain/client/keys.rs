//! Keys in encrypted files (Web3 secret storage, version 3), as other tools of Starknet have them.
//!
//! A keystore that others can read is refused, and one is never written so that
//! they could. Its key is stretched with scrypt of moderate strength: the
//! password should be long and random.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use starknet::core::utils::get_contract_address;
use starknet::signers::SigningKey;

pub use super::account::Key;
use super::felts::{ours, theirs};
use crate::chain::{Error, Password, Signer};
use crate::domain::chain::Felt;

/// Bytes of a keystore. A longer file is none.
const KEYSTORE_MAX: u64 = 64 << 10;

/// Bytes of a password file.
const PASSWORD_MAX: u64 = 4 << 10;

/// The account contract that new accounts are: OpenZeppelin's, declared on public networks and on devnets.
pub const ACCOUNT_CLASS: &str = "0x5b4b537eaa2399e3aa99c4e2e0208ebd6c71bc1467938cd52c798c601e43564";

/// STRK, the same on all public networks and on devnets: fees are paid in it.
pub fn fee_token() -> Felt {
    const STRK: &str = "0x4718f5a0fc34cc1af16a1cdee98ffb20c31f5cd61d6ab07201858f4287c938d";
    STRK.parse().unwrap_or_default()
}

/// The key that a node is told to sign with.
pub(super) fn load(signer: &Signer) -> Result<Option<Key>, Error> {
    match signer {
        Signer::None => Ok(None),
        Signer::Plain(secret) => {
            let unfit = || Error::Key("blockchain.insecure_dev_key is no key: expected 0x and hex digits".to_owned());
            Key::new(secret.expose().parse().map_err(|_| unfit())?).map(Some)
        }
        Signer::Keystore { file, password } => {
            let missing =
                "the keystore has no password: set blockchain.keystore_password_file, or CIRO_KEYSTORE_PASSWORD";
            let password = password.as_ref().ok_or_else(|| Error::Key(missing.to_owned()))?;
            match password {
                Password::Given(text) => open(file, text.expose()).map(Some),
                Password::File(path) => open(file, &read_password(path)?).map(Some),
            }
        }
    }
}

/// The first line of a file that nobody else can read.
///
/// # Errors
///
/// [`Error::Key`]
pub fn read_password(path: &Path) -> Result<String, Error> {
    read_secret(path, "password file")
}

/// The same of any other secret; `what` it is called where it can not be read.
///
/// # Errors
///
/// [`Error::Key`]
pub fn read_secret(path: &Path, what: &str) -> Result<String, Error> {
    // A group may: secrets that a supervisor hands over belong to one.
    let text = read_private(path, 0o007, PASSWORD_MAX, what)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Error::Key(format!("{what} {} is empty", path.display())));
    }
    Ok(line.to_owned())
}

/// Opens a keystore. Takes a moment.
///
/// # Errors
///
/// [`Error::Key`]: it can not be read, others can read it, or the password is wrong.
pub fn open(path: &Path, password: &str) -> Result<Key, Error> {
    let text = read_private(path, 0o077, KEYSTORE_MAX, "keystore")?;
    let shown = path.display();
    let sound = serde_json::from_str::<Stored>(&text).is_ok_and(|stored| stored.crypto.is_sound());
    if !sound {
        return Err(Error::Key(format!("keystore {shown} is none, or damaged")));
    }
    let key = SigningKey::from_keystore(path, password).map_err(|error| match error.to_string() {
        text if text.contains("Mac Mismatch") => Error::Key(format!("wrong password for keystore {shown}")),
        text => Error::Key(format!("open keystore {shown}: {text}")),
    })?;
    Key::new(ours(key.secret_scalar()))
}

/// Of a keystore what the library takes for granted: with other lengths it panics, with other work it never ends.
#[derive(Deserialize)]
struct Stored {
    crypto: Crypto,
}

#[derive(Deserialize)]
struct Crypto {
    cipherparams: Cipher,
    ciphertext: String,
    kdfparams: Work,
}

#[derive(Deserialize)]
struct Cipher {
    iv: String,
}

#[derive(Deserialize)]
struct Work {
    dklen: u64,
    /// Of scrypt.
    n: Option<u64>,
    r: Option<u64>,
    p: Option<u64>,
    /// Of PBKDF2.
    c: Option<u64>,
}

impl Crypto {
    fn is_sound(&self) -> bool {
        let Work { dklen, n, r, p, c } = self.kdfparams;
        let within = |number: Option<u64>, most: u64| number.is_none_or(|number| (1..=most).contains(&number));
        let work = within(n, 1 << 20) && within(r, 32) && within(p, 16) && within(c, 10_000_000);
        self.cipherparams.iv.len() == 32 && self.ciphertext.len() == 64 && dklen == 32 && work
    }
}

/// A new key in a new keystore.
///
/// # Errors
///
/// [`Error::Key`]: there is a file already, or none can be written.
pub fn create(path: &Path, password: &str) -> Result<Key, Error> {
    import(path, password, ours(SigningKey::from_random().secret_scalar()))
}

/// A known key in a new keystore.
///
/// # Errors
///
/// Like [`create`], and [`Error::Key`] for what is no key.
pub fn import(path: &Path, password: &str, secret: Felt) -> Result<Key, Error> {
    let key = Key::new(secret)?;
    if password.is_empty() {
        return Err(Error::Key("the password is empty".to_owned()));
    }
    write(path, password, &key).map_err(|why| Error::Key(format!("write keystore {}: {why}", path.display())))?;
    Ok(key)
}

/// Where the account of a key is, once it is deployed from this class with this salt.
pub fn account_address(public: Felt, class_hash: Felt, salt: Felt) -> Felt {
    ours(get_contract_address(theirs(salt), theirs(class_hash), &[theirs(public)], theirs(Felt::ZERO)))
}

/// The library writes with whatever mode is usual, so it writes into a folder of nobody else's.
fn write(path: &Path, password: &str, key: &Key) -> Result<(), String> {
    let name = path.file_name().ok_or("it names no file")?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let text = |error: std::io::Error| error.to_string();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(text)?;
    let aside = Aside::new(parent)?;
    let draft = aside.0.join(name);
    key.signing().save_as_keystore(&draft, password).map_err(|error| error.to_string())?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).map_err(text)?;
    OpenOptions::new().read(true).open(&draft).and_then(|file| file.sync_all()).map_err(text)?;
    // Unlike a rename, a link does not take the place of a file that is there.
    fs::hard_link(&draft, path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => "it is there already".to_owned(),
        _ => error.to_string(),
    })
}

/// A folder that goes with what is in it.
struct Aside(PathBuf);

impl Aside {
    fn new(parent: &Path) -> Result<Self, String> {
        let path = parent.join(format!(".keystore-{:016x}", rand::random::<u64>()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| error.to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Only a draft is in it, and nobody else can read that.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A file's text, unless others have one of the rights in `others`.
fn read_private(path: &Path, others: u32, most: u64, what: &str) -> Result<String, Error> {
    let shown = path.display();
    let failed = |error: std::io::Error| Error::Key(format!("read {what} {shown}: {error}"));
    let file = fs::File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    let mode = about.permissions().mode() & 0o777;
    if mode & others != 0 {
        return Err(Error::Key(format!("{what} {shown} can be read by others (mode {mode:o}); chmod 600 it")));
    }
    if !about.is_file() || about.len() > most {
        return Err(Error::Key(format!("{what} {shown} is no file of at most {most} bytes")));
    }
    let mut text = String::new();
    file.take(most).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Hidden;

    const SECRET: &str = "0x139fe4d6f02e666e86a6f58e65060f115cd3c185bd9e98bd829636931458f79";
    const PUBLIC: &str = "0x2c5dbad71c92a45cc4b40573ae661f8147869a91d57b8d9b8f48c8af7f83159";

    fn secret() -> Felt {
        SECRET.parse().unwrap()
    }

    fn refused<T>(answer: Result<T, Error>) -> String {
        match answer {
            Err(Error::Key(text)) => text,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it was taken"),
        }
    }

    #[test]
    fn a_key_comes_back_from_its_keystore_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/key.json");
        assert_eq!(import(&path, "hunter2", secret()).unwrap().public().to_string(), PUBLIC);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("keys")).unwrap().count(), 1, "no draft is left");
        assert_eq!(open(&path, "hunter2").unwrap().public().to_string(), PUBLIC);
        let text = refused(open(&path, "hunter3"));
        assert!(text.contains("wrong password") && !text.contains("hunter"), "{text}");
        assert!(refused(import(&path, "x", secret())).contains("it is there already"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(refused(open(&path, "hunter2")).contains("can be read by others (mode 640); chmod 600 it"));
    }

    #[test]
    fn a_new_key_is_another_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let keys = ["a", "b"].map(|name| create(&dir.path().join(name), "p").unwrap().public());
        assert_ne!(keys[0], keys[1]);
        assert!(refused(create(&dir.path().join("c"), "")).contains("the password is empty"));
    }

    #[test]
    fn what_is_no_keystore_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.json");
        assert!(refused(open(&path, "p")).starts_with("read keystore "));
        for text in ["", "{}", "not json", &"x".repeat(70 << 10)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            refused(open(&path, "p"));
        }
    }

    #[test]
    fn the_password_is_given_or_the_first_line_of_a_private_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("key.json"), dir.path().join("password"));
        import(&path, "hunter2", secret()).unwrap();
        fs::write(&file, "hunter2\nignored\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let signer = |password| Signer::Keystore { file: path.clone(), password };
        for password in [Password::File(file.clone()), Password::Given(Hidden::new("hunter2"))] {
            let key = load(&signer(Some(password))).unwrap().unwrap();
            assert_eq!(key.public().to_string(), PUBLIC);
        }
        assert!(refused(load(&signer(None))).contains("CIRO_KEYSTORE_PASSWORD"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let open_to_all = refused(load(&signer(Some(Password::File(file.clone())))));
        assert!(open_to_all.starts_with("password file ") && open_to_all.contains("can be read by others"));
        assert!(refused(read_secret(&file, "key file")).starts_with("key file "), "it is called what it is");
    }

    #[test]
    fn plain_keys_are_checked_and_never_repeated() {
        assert!(load(&Signer::None).unwrap().is_none());
        let plain = |text: &str| load(&Signer::Plain(Hidden::new(text)));
        assert_eq!(plain(SECRET).unwrap().unwrap().public().to_string(), PUBLIC);
        let beyond = "0x800000000000010ffffffffffffffffb781126dcae7b2321e66a241adc64d2f";
        for text in ["0x0", "hunter2", "", beyond] {
            let said = refused(plain(text));
            assert!(!said.contains("hunter") && !said.contains("cae7b2321"), "{said}");
        }
        assert_eq!(format!("{:?}", Signer::Plain(Hidden::new("hunter2"))), "Plain((hidden))");
    }
}
