//! `job submit --wasm`: a module, or the digest of one, in front of each input.

use std::path::PathBuf;

use bytes::Bytes;

use super::failure::Failure;
use crate::domain::Digest;
use crate::wire::wasm::{Call, Module};

/// What every module in binary form begins with.
const MAGIC: &[u8] = b"\0asm";

#[derive(Debug, Default, clap::Args)]
#[group(id = "wasm_module")]
pub struct Args {
    /// A WebAssembly module (WASI) to run; the files are its input, and the type is wasm unless --type says otherwise
    #[arg(long = "wasm", value_name = "PATH", conflicts_with_all = ["digest", "input_uri"])]
    module: Option<PathBuf>,
    /// The SHA-256 of a module that workers have run before, instead of the module
    #[arg(long = "wasm-sha256", value_name = "HEX", id = "digest", conflicts_with = "input_uri")]
    digest: Option<String>,
}

impl Args {
    pub fn is_given(&self) -> bool {
        self.module.is_some() || self.digest.is_some()
    }

    /// The module that was named, if one was.
    pub fn read(&self) -> Result<Option<Module>, Failure> {
        if let Some(digest) = &self.digest {
            let digits = digest.strip_prefix("0x").unwrap_or(digest);
            let bytes = hex::decode(digits).ok().and_then(|bytes| bytes.try_into().ok());
            let wrong = || Failure::usage(format!("{digest:?} is no SHA-256: expected 64 hexadecimal digits"));
            return bytes.map(|bytes| Some(Module::Known(Digest(bytes)))).ok_or_else(wrong);
        }
        let Some(path) = &self.module else { return Ok(None) };
        let shown = path.display();
        let bytes = std::fs::read(path).map_err(|error| Failure::usage(format!("read {shown}: {error}")))?;
        if !bytes.starts_with(MAGIC) {
            let hint = "compile it, e.g. cargo build --release --target wasm32-wasip1";
            return Err(Failure::usage(format!("{shown} is no WebAssembly module in binary form")).hint(hint));
        }
        Ok(Some(Module::Inline(Bytes::from(bytes))))
    }
}

/// The payload that has `module` read `input`.
pub fn payload(module: &Module, input: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let call = Call { module: module.clone(), input: Bytes::from(input) };
    call.encode().map(|payload| payload.to_vec()).ok_or_else(|| Failure::usage("the module is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_read_and_put_in_front_of_the_input() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.wasm");
        std::fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
        let args = Args { module: Some(path.clone()), digest: None };
        let module = args.read().unwrap().unwrap();
        let call = Call::decode(&Bytes::from(payload(&module, b"input".to_vec()).unwrap())).unwrap();
        assert_eq!((call.module, call.input.as_ref()), (module, b"input".as_slice()));
        std::fs::write(&path, "(module)").unwrap();
        assert!(args.read().is_err(), "text is no module");
        let known = |digest: &str| Args { module: None, digest: Some(digest.to_owned()) }.read();
        assert_eq!(known(&"0a".repeat(32)).unwrap(), Some(Module::Known(Digest([10; 32]))));
        assert_eq!(
            known(&format!("0x{}", "0a".repeat(32))).unwrap(),
            Some(Module::Known(Digest([10; 32]))),
            "as nodes write it"
        );
        assert!(known("0a").is_err());
        assert!(!Args::default().is_given());
    }
}
