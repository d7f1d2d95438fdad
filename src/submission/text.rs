//! How values look in JSON: times, fractions, sizes.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::domain::Timestamp;

/// Standard alphabet, padding demanded; unused bits of the last digit are ignored.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// RFC 3339 in UTC with milliseconds.
pub fn time(at: Timestamp) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000)
        .ok()
        .and_then(|moment| moment.format(&form).ok())
        .unwrap_or_else(|| "9999-12-31T23:59:59.999Z".to_owned())
}

/// Reads RFC 3339 with any offset. Moments before 1970 become 1970.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let ms = moment.unix_timestamp_nanos().div_euclid(1_000_000);
    Some(Timestamp(u64::try_from(ms.max(0)).ok()?))
}

pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

pub fn parse_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// Thousandths as a number from 0 to 1.
pub fn fraction(permille: u32) -> f64 {
    f64::from(permille) / 1_000.0
}

/// MiB as GiB.
#[expect(clippy::cast_precision_loss, reason = "sizes of machines are far below 2^52 MiB")]
pub fn gb(mb: u64) -> f64 {
    mb as f64 / 1_024.0
}

/// GiB as MiB, rounded.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the callers bound it")]
pub fn mb(gb: f64) -> u64 {
    (gb * 1_024.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(time(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(Timestamp(1_764_000_000_123)), "2025-11-24T16:00:00.123Z");
        assert_eq!(time(Timestamp(u64::MAX)), "9999-12-31T23:59:59.999Z");
        assert_eq!(parse_time("2025-11-24T18:00:00.123+02:00"), Some(Timestamp(1_764_000_000_123)));
        assert_eq!(parse_time("1900-01-01T00:00:00Z"), Some(Timestamp(0)));
        for bad in ["", "2025-11-24", "2025-11-24T18:00:00", "tomorrow", "2025-13-01T00:00:00Z"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn base64_demands_padding() {
        assert_eq!(parse_base64("aGk="), Some(b"hi".to_vec()));
        assert_eq!(parse_base64(""), Some(vec![]));
        for bad in ["aGk", "aGk==", "a", "%%%%", "aGk=\n"] {
            assert_eq!(parse_base64(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_survive_the_way_there_and_back() {
        for size in [0, 1, 512, 1_024, 1_536, 40_960, 1 << 30] {
            assert_eq!(mb(gb(size)), size);
        }
    }
}
