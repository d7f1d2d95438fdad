//! Authorities that an operator trusts beside the well-known ones: who signed a server's certificate.

use std::path::Path;

pub use reqwest::Certificate as Authority;

/// Bytes of a file of certificates. A longer one is none.
const FILE_MAX: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("can not be read")]
    Read(#[from] std::io::Error),
    #[error("is longer than {FILE_MAX} bytes")]
    Long,
    #[error("holds no certificate in PEM")]
    None,
    #[error("is not PEM")]
    Damaged(#[source] reqwest::Error),
}

/// Certificates in PEM, one after the other.
///
/// # Errors
///
/// There are none, or one is damaged.
pub fn read(path: &Path) -> Result<Vec<Authority>, Error> {
    if std::fs::metadata(path)?.len() > FILE_MAX {
        return Err(Error::Long);
    }
    let found = Authority::from_pem_bundle(&std::fs::read(path)?).map_err(Error::Damaged)?;
    if found.is_empty() { Err(Error::None) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::https::Https;

    #[tokio::test]
    async fn a_file_of_certificates_has_at_least_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let with = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path).map(|found| found.len()).map_err(|error| error.to_string())
        };
        let pem = Https::start(b"").await.authority.clone();
        assert_eq!((with(&pem), with(&pem.repeat(3))), (Ok(1), Ok(3)));
        assert_eq!(with("nothing of the kind"), Err("holds no certificate in PEM".to_owned()));
        assert_eq!(with("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"), Err("is not PEM".to_owned()));
        assert!(with(&"x".repeat(2 << 20)).unwrap_err().contains("longer than"));
        assert!(matches!(read(&dir.path().join("none")), Err(Error::Read(_))));
    }
}
