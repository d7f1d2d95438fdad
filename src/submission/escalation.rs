//! A rising offer, as clients say it and as it is shown to them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::decode::Int;
use super::{Fault, FieldError, integer, invalid, price, small};
use crate::domain::Price;
use crate::domain::ceiling::{EVERY_MAX_SECS, Escalation};

/// Offers less than `max_price` at first, and more the longer the job waits. Needs a `max_price`.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PriceEscalationIn)]
pub struct EscalationDto {
    /// Offered at first; not above `max_price`.
    #[schema(required, nullable = false, pattern = "^[0-9]{1,38}$", example = "400000000000000000")]
    pub start: Option<String>,
    /// Added each time; not 0.
    #[schema(required, nullable = false, pattern = "^[0-9]{1,38}$", example = "100000000000000000")]
    pub step: Option<String>,
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 86400, default = 60)]
    pub every_secs: Option<Int>,
}

pub fn check(dto: Option<EscalationDto>, max_price: Option<Price>) -> Result<Option<Escalation>, FieldError> {
    let Some(dto) = dto else { return Ok(None) };
    let Some(most) = max_price else {
        let hint = Some("Say with max_price where it ends, or leave price_escalation out.");
        return Err(FieldError {
            hint,
            ..invalid("price_escalation", "price_escalation needs a max_price".to_owned())
        });
    };
    let amount = |field, text: Option<String>| match text {
        Some(text) => price(field, &text),
        None => Err(FieldError { fault: Fault::Missing, ..invalid(field, format!("{field} is required")) }),
    };
    let escalation = Escalation {
        start: amount("price_escalation.start", dto.start)?,
        step: amount("price_escalation.step", dto.step)?,
        every_secs: small(integer("price_escalation.every_secs", dto.every_secs, 1..=EVERY_MAX_SECS.into(), 60)?),
    };
    if escalation.start > most {
        let detail = format!("price_escalation.start is {}, above max_price {most}", escalation.start);
        let hint = Some("The offer rises from start to max_price.");
        return Err(FieldError { hint, ..invalid("price_escalation.start", detail) });
    }
    if escalation.step.0 == 0 {
        let detail = "price_escalation.step must not be 0".to_owned();
        let hint = Some("Leave price_escalation out to offer max_price from the start.");
        return Err(FieldError { hint, ..invalid("price_escalation.step", detail) });
    }
    Ok(Some(escalation))
}

#[derive(Serialize, ToSchema)]
#[schema(as = PriceEscalation)]
pub struct EscalationBody {
    start: String,
    step: String,
    every_secs: u32,
}

impl EscalationBody {
    pub fn of(escalation: Escalation) -> Self {
        let Escalation { start, step, every_secs } = escalation;
        Self { start: start.to_string(), step: step.to_string(), every_secs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(
        start: Option<&str>,
        step: Option<&str>,
        every: Option<i64>,
        most: Option<u128>,
    ) -> Result<bool, String> {
        let dto = EscalationDto {
            start: start.map(str::to_owned),
            step: step.map(str::to_owned),
            every_secs: every.map(|every| Int(every.into())),
        };
        check(Some(dto), most.map(Price)).map(|escalation| escalation.is_some()).map_err(|error| error.field.to_owned())
    }

    #[test]
    fn nonsense_is_refused_by_its_field() {
        assert_eq!(checked(Some("4"), Some("1"), None, Some(9)), Ok(true));
        assert_eq!(checked(Some("9"), Some("1"), Some(86_400), Some(9)), Ok(true));
        for (start, step, every, most, field) in [
            (Some("4"), Some("1"), None, None, "price_escalation"),
            (None, Some("1"), None, Some(9), "price_escalation.start"),
            (Some("4"), None, None, Some(9), "price_escalation.step"),
            (Some("10"), Some("1"), None, Some(9), "price_escalation.start"),
            (Some("-1"), Some("1"), None, Some(9), "price_escalation.start"),
            (Some("4"), Some("0"), None, Some(9), "price_escalation.step"),
            (Some("4"), Some("1"), Some(0), Some(9), "price_escalation.every_secs"),
            (Some("4"), Some("1"), Some(86_401), Some(9), "price_escalation.every_secs"),
        ] {
            assert_eq!(checked(start, step, every, most), Err(field.to_owned()), "{start:?} {step:?} {every:?}");
        }
        assert!(matches!(check(None, None), Ok(None)));
    }
}
