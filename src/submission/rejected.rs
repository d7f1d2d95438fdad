//! Why a record is no submission, in words that outlive it.

use super::decode;
use super::{Fault, FieldError};

/// Codes of what is rejected. Stable: they are written into dead letters.
pub mod code {
    /// No value, or one without bytes.
    pub const EMPTY: &str = "empty";
    /// The bytes are not what their content type says.
    pub const UNDECODABLE: &str = "undecodable";
    pub const UNKNOWN_CONTENT_TYPE: &str = "unknown_content_type";
    /// Of the schema.
    pub const UNKNOWN_VERSION: &str = "unknown_version";
    pub const TOO_LARGE: &str = "too_large";
    /// The deadline has passed.
    pub const EXPIRED: &str = "expired";
    pub const INVALID_HEADER: &str = "invalid_header";
    pub const INVALID_FIELD: &str = "invalid_field";
    pub const MISSING_FIELD: &str = "missing_field";
    pub const UNKNOWN_FIELD: &str = "unknown_field";
    pub const NOT_AVAILABLE: &str = "not_available";

    pub const ALL: [&str; 11] = [
        EMPTY,
        UNDECODABLE,
        UNKNOWN_CONTENT_TYPE,
        UNKNOWN_VERSION,
        TOO_LARGE,
        EXPIRED,
        INVALID_HEADER,
        INVALID_FIELD,
        MISSING_FIELD,
        UNKNOWN_FIELD,
        NOT_AVAILABLE,
    ];
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejected {
    /// One of [`code`].
    pub code: &'static str,
    /// Path of the field, if it is one field's fault.
    pub field: Option<String>,
    /// For people, with the field's name.
    pub message: String,
}

impl Rejected {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, field: None, message: message.into() }
    }
}

impl From<decode::Error> for Rejected {
    fn from(error: decode::Error) -> Self {
        let code = match error.fault {
            decode::Fault::Syntax => code::UNDECODABLE,
            decode::Fault::Unknown => code::UNKNOWN_FIELD,
            decode::Fault::Missing => code::MISSING_FIELD,
            decode::Fault::Invalid => code::INVALID_FIELD,
        };
        Self { code, field: error.field, message: error.detail }
    }
}

impl From<FieldError> for Rejected {
    fn from(error: FieldError) -> Self {
        let code = match error.fault {
            Fault::Invalid => code::INVALID_FIELD,
            Fault::Missing => code::MISSING_FIELD,
            Fault::TooLarge => code::TOO_LARGE,
            Fault::NotAvailable => code::NOT_AVAILABLE,
        };
        Self { code, field: Some(error.field.to_owned()), message: error.detail }
    }
}
