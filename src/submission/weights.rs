//! How offers are weighed, as clients say it.

use serde::Deserialize;
use utoipa::ToSchema;

use super::decode::Int;
use super::{FieldError, integer, invalid, small};
use crate::domain::score::{Policy, WEIGHT_MAX, Weights};

/// How much each thing counts, in place of the policy's weights; what is left out counts nothing, and not all may.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WeightsIn)]
pub struct WeightsDto {
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 100)]
    pub price: Option<Int>,
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 100)]
    pub time: Option<Int>,
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 100)]
    pub reputation: Option<Int>,
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 100)]
    pub load: Option<Int>,
    #[schema(value_type = Option<u8>, minimum = 0, maximum = 100)]
    pub distance: Option<Int>,
}

pub fn policy(name: Option<&str>) -> Result<Policy, FieldError> {
    let Some(name) = name else { return Ok(Policy::default()) };
    Policy::ALL.into_iter().find(|policy| policy.as_str() == name).ok_or_else(|| {
        let names: Vec<&str> = Policy::ALL.into_iter().map(Policy::as_str).collect();
        invalid("policy", format!("policy must be one of {}", names.join(", ")))
    })
}

pub fn weights(dto: Option<WeightsDto>) -> Result<Option<Weights>, FieldError> {
    let Some(dto) = dto else { return Ok(None) };
    let one = |field, value| Ok::<u8, FieldError>(small(integer(field, value, 0..=WEIGHT_MAX.into(), 0)?));
    let weights = Weights {
        price: one("weights.price", dto.price)?,
        time: one("weights.time", dto.time)?,
        reputation: one("weights.reputation", dto.reputation)?,
        load: one("weights.load", dto.load)?,
        distance: one("weights.distance", dto.distance)?,
    };
    if weights.sum() == 0 {
        return Err(invalid("weights", "weights must not all be 0".to_owned()));
    }
    Ok(Some(weights))
}
