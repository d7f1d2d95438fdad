//! How a job is settled on chain, as clients say it, and what the door fills in.
//!
//! What was asked for is kept apart from what came of it: the defaults are
//! configured, and a retry of a submission must be the same one under another
//! configuration.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};

use super::{Fault, FieldError, invalid, unavailable};
use crate::domain::JobSpec;
use crate::domain::Price;
use crate::domain::chain::{Confirmation, Felt, Policy, Terms};

/// The word for a job that is not settled.
pub const NONE: &str = "none";

pub const POLICIES: [(Policy, &str); 2] =
    [(Policy::SettleLater, "settle_later"), (Policy::RegisterBeforeDistribution, "register_before_distribution")];

pub const CONFIRMATIONS: [(Confirmation, &str); 3] = [
    (Confirmation::Preconfirmed, "preconfirmed"),
    (Confirmation::AcceptedL2, "accepted_l2"),
    (Confirmation::AcceptedL1, "accepted_l1"),
];

/// What stands for a confirmation nobody spoke of, where only what was asked for counts.
const UNSPOKEN: Confirmation = Confirmation::AcceptedL2;

/// What a cluster with a chain settles jobs by, unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// `None`: jobs are not settled unless they ask for it.
    pub policy: Option<Policy>,
    pub confirmation: Confirmation,
    /// The `max_price` of a settled job that names none.
    pub max_price: Option<Price>,
    /// The most that is put into escrow for one job.
    pub max_escrow: Option<u128>,
    /// The account that pays, where it is the only one that may: jobs can not name another as their client.
    pub payer: Option<Felt>,
}

/// A policy by its name, or policy and confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettlementDto {
    Named(String),
    Terms(TermsDto),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermsDto {
    pub policy: Option<String>,
    pub confirmation: Option<String>,
}

impl<'de> Deserialize<'de> for SettlementDto {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DtoVisitor)
    }
}

struct DtoVisitor;

impl<'de> Visitor<'de> for DtoVisitor {
    type Value = SettlementDto;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string or an object")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SettlementDto, E> {
        Ok(SettlementDto::Named(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SettlementDto, A::Error> {
        TermsDto::deserialize(de::value::MapAccessDeserializer::new(map)).map(SettlementDto::Terms)
    }
}

/// From two fields of a flat form; `None`: neither is given.
pub(super) fn from_fields(policy: Option<String>, confirmation: Option<String>) -> Option<SettlementDto> {
    match (policy, confirmation) {
        (None, None) => None,
        (Some(policy), None) => Some(SettlementDto::Named(policy)),
        (policy, confirmation) => Some(SettlementDto::Terms(TermsDto { policy, confirmation })),
    }
}

/// What was asked for, and what it comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    pub asked: Option<Terms>,
    pub terms: Option<Terms>,
}

/// `defaults`: `None` without a chain.
pub(super) fn check(dto: Option<SettlementDto>, defaults: Option<&Defaults>) -> Result<Settled, FieldError> {
    let Some(defaults) = defaults else { return without_chain(dto.as_ref()) };
    let usual = |policy| Terms { policy, confirmation: defaults.confirmation };
    let Some(dto) = dto else { return Ok(Settled { asked: None, terms: defaults.policy.map(usual) }) };
    let (field, dto) = match dto {
        SettlementDto::Named(name) => ("settlement", TermsDto { policy: Some(name), confirmation: None }),
        SettlementDto::Terms(terms) => ("settlement.policy", terms),
    };
    let confirmation = dto.confirmation.as_deref().map(confirmation).transpose()?;
    let policy = match dto.policy.as_deref() {
        Some(NONE) if confirmation.is_some() => {
            return Err(invalid(
                "settlement.confirmation",
                "settlement.confirmation needs a policy that settles".into(),
            ));
        }
        Some(NONE) => return Ok(Settled::default()),
        Some(name) => policy(field, name)?,
        None => defaults.policy.ok_or_else(|| FieldError {
            fault: Fault::Missing,
            hint: Some("Here jobs are not settled unless they ask for it, so there is no policy to fall back on."),
            ..invalid("settlement.policy", "settlement.policy is required".to_owned())
        })?,
    };
    let with = |confirmation| Some(Terms { policy, confirmation });
    Ok(Settled {
        asked: with(confirmation.unwrap_or(UNSPOKEN)),
        terms: with(confirmation.unwrap_or(defaults.confirmation)),
    })
}

fn without_chain(dto: Option<&SettlementDto>) -> Result<Settled, FieldError> {
    match dto {
        None => Ok(Settled::default()),
        Some(SettlementDto::Named(name)) if name == NONE => Ok(Settled::default()),
        Some(SettlementDto::Terms(TermsDto { policy: Some(name), confirmation: None })) if name == NONE => {
            Ok(Settled::default())
        }
        Some(_) => Err(unavailable(
            "settlement",
            "settlement is not available: this node is not connected to a chain",
            "Leave it out, or say none; GET /blockchain/status tells of the connection.",
        )),
    }
}

fn policy(field: &'static str, name: &str) -> Result<Policy, FieldError> {
    let found = POLICIES.iter().find(|(_, known)| *known == name).map(|(policy, _)| *policy);
    found.ok_or_else(|| {
        let names: Vec<&str> = [NONE].into_iter().chain(POLICIES.map(|(_, name)| name)).collect();
        invalid(field, format!("{field} must be one of {}", names.join(", ")))
    })
}

fn confirmation(name: &str) -> Result<Confirmation, FieldError> {
    let found = CONFIRMATIONS.iter().find(|(_, known)| *known == name).map(|(confirmation, _)| *confirmation);
    found.ok_or_else(|| {
        let names = CONFIRMATIONS.map(|(_, name)| name).join(", ");
        invalid("settlement.confirmation", format!("settlement.confirmation must be one of {names}"))
    })
}

/// The price up to which the job is put on the market: what is settled pays it in advance.
pub(super) fn ceiling(
    asked: Option<Price>,
    terms: Option<Terms>,
    defaults: Option<&Defaults>,
) -> Result<Option<Price>, FieldError> {
    if terms.is_none() {
        return Ok(asked);
    }
    match asked.or(defaults.and_then(|defaults| defaults.max_price)) {
        Some(Price(0)) => Err(FieldError {
            hint: Some("A job that is settled pays in advance: name an amount, or say settlement none."),
            ..invalid("max_price", "max_price must not be 0 for a job that is settled on chain".to_owned())
        }),
        Some(price) => Ok(Some(price)),
        None => Err(FieldError {
            fault: Fault::Missing,
            hint: Some("It is paid in advance on chain. Name an amount, or say settlement none."),
            ..invalid("max_price", "max_price is required for a job that is settled on chain".to_owned())
        }),
    }
}

/// Whether a settled job may be paid for as it asks to be.
pub(super) fn affordable(spec: &JobSpec, defaults: Option<&Defaults>) -> Result<(), FieldError> {
    let Some(defaults) = defaults.filter(|_| spec.settlement.is_some()) else { return Ok(()) };
    let client = spec.client_address.as_deref().and_then(|address| address.parse::<Felt>().ok());
    if defaults.payer.is_some_and(|payer| client.is_some_and(|client| client != payer)) {
        return Err(unavailable(
            "client_address",
            "client_address is not available for a job that is settled on chain: clients are not charged here",
            "Leave it out, or say settlement none. Whoever runs the cluster may set blockchain.charge_clients.",
        ));
    }
    let escrow = spec.max_price.map_or(0, |price| price.0).saturating_mul(u128::from(spec.redundancy.max(1)));
    match defaults.max_escrow.filter(|most| escrow > *most) {
        Some(most) => Err(FieldError {
            hint: Some(
                "Name a lower max_price or redundancy, or say settlement none. The bound is blockchain.max_escrow.",
            ),
            ..invalid(
                "max_price",
                format!(
                    "max_price × redundancy must be at most {most} for a job that is settled on chain, not {escrow}"
                ),
            )
        }),
        None => Ok(()),
    }
}

/// Whether the contract takes a settled job for what goes into its escrow. `least`: what it takes no less than, as far
/// as that is known. It may change with every block, so a retry of what was taken must not be asked.
///
/// # Errors
///
/// On `max_price`: too little.
pub fn enough(spec: &JobSpec, least: Option<u128>) -> Result<(), FieldError> {
    let runs = u128::from(spec.redundancy.max(1));
    let escrow = spec.max_price.map_or(0, |price| price.0).saturating_mul(runs);
    match least.filter(|least| spec.settlement.is_some() && escrow < *least) {
        Some(least) => Err(FieldError {
            hint: Some(
                "Name a higher max_price, or say settlement none. GET /blockchain/status shows the contract's min_payment.",
            ),
            ..invalid(
                "max_price",
                format!(
                    "max_price × redundancy must be at least {least} for a job that is settled on chain, not {escrow}: \
                     the contract takes no less"
                ),
            )
        }),
        None => Ok(()),
    }
}

pub fn policy_name(terms: Option<Terms>) -> &'static str {
    let of = |terms: Terms| POLICIES.iter().find(|(policy, _)| *policy == terms.policy).map(|(_, name)| *name);
    terms.and_then(of).unwrap_or(NONE)
}

pub fn confirmation_name(confirmation: Confirmation) -> &'static str {
    CONFIRMATIONS.iter().find(|(known, _)| *known == confirmation).map_or("", |(_, name)| *name)
}

pub(super) fn schema() -> Schema {
    let names: Vec<&str> = [NONE].into_iter().chain(POLICIES.map(|(_, name)| name)).collect();
    let word = |words: Vec<&'static str>| ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words));
    let terms = ObjectBuilder::new()
        .schema_type(Type::Object)
        .property("policy", word(names.clone()))
        .property("confirmation", word(CONFIRMATIONS.map(|(_, name)| name).to_vec()))
        .additional_properties(Some(AdditionalProperties::FreeForm(false)));
    let choice = OneOfBuilder::new()
        .description(Some(
            "How the job is settled on chain: a policy, or policy and confirmation (what must be reached before a \
             stage counts). Left out: as the cluster is configured. A settled job needs a max_price, unless the \
             cluster has a default.",
        ))
        .item(word(names))
        .item(terms)
        .item(ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Null])));
    Schema::OneOf(choice.build())
}

#[cfg(test)]
mod tests {
    use super::super::{Checked, Door, Rejected, Submission, code, decode};
    use super::*;

    const CHAIN: Defaults = Defaults {
        policy: Some(Policy::SettleLater),
        confirmation: Confirmation::Preconfirmed,
        max_price: Some(Price(70)),
        max_escrow: None,
        payer: None,
    };

    fn checked(fields: &str, defaults: Option<Defaults>) -> Result<Checked, Rejected> {
        let comma = if fields.is_empty() { "" } else { "," };
        let body = format!(r#"{{"type":"sha256","payload":"aGk="{comma}{fields}}}"#);
        let door = Door { settlement: defaults, ..Door::from(16) };
        Ok(decode::json::<Submission>(body.as_bytes())?.check(door)?)
    }

    fn terms(policy: Policy, confirmation: Confirmation) -> Option<Terms> {
        Some(Terms { policy, confirmation })
    }

    #[test]
    fn the_door_fills_in_what_is_configured() {
        let of = |fields: &str| {
            let spec = checked(fields, Some(CHAIN)).unwrap().spec;
            (spec.settlement, spec.max_price.map(|price| price.0))
        };
        let later = Policy::SettleLater;
        assert_eq!(of(""), (terms(later, Confirmation::Preconfirmed), Some(70)));
        assert_eq!(of(r#""settlement":null,"max_price":"5""#), (terms(later, Confirmation::Preconfirmed), Some(5)));
        assert_eq!(of(r#""settlement":"none""#), (None, None), "what is not settled needs no price");
        let first = Policy::RegisterBeforeDistribution;
        let said = r#""settlement":"register_before_distribution""#;
        assert_eq!(of(said), (terms(first, Confirmation::Preconfirmed), Some(70)));
        let said = r#""settlement":{"confirmation":"accepted_l1"}"#;
        assert_eq!(of(said), (terms(later, Confirmation::AcceptedL1), Some(70)));
        let said = r#""settlement":{"policy":"register_before_distribution","confirmation":"accepted_l2"}"#;
        assert_eq!(of(said), (terms(first, Confirmation::AcceptedL2), Some(70)));
        assert_eq!(of(r#""settlement":{"policy":"none"}"#), (None, None));
    }

    #[test]
    fn without_a_chain_only_none_is_taken() {
        for good in ["", r#""settlement":"none""#, r#""settlement":{"policy":"none"}"#, r#""settlement":null"#] {
            assert_eq!(checked(good, None).unwrap().spec.settlement, None, "{good}");
        }
        for bad in [r#""settlement":"settle_later""#, r#""settlement":{}"#, r#""settlement":{"policy":"x"}"#] {
            let rejected = checked(bad, None).expect_err(bad);
            assert_eq!((rejected.code, rejected.field.as_deref()), (code::NOT_AVAILABLE, Some("settlement")), "{bad}");
        }
    }

    #[test]
    fn what_can_not_be_settled_is_refused_by_field() {
        let bare = Defaults { policy: None, max_price: None, ..CHAIN };
        let cases = [
            (CHAIN, r#""settlement":"chain""#, "settlement", code::INVALID_FIELD),
            (CHAIN, r#""settlement":5"#, "settlement", code::INVALID_FIELD),
            (CHAIN, r#""settlement":[]"#, "settlement", code::INVALID_FIELD),
            (CHAIN, r#""settlement":{"policy":7}"#, "settlement.policy", code::INVALID_FIELD),
            (CHAIN, r#""settlement":{"policy":"x"}"#, "settlement.policy", code::INVALID_FIELD),
            (CHAIN, r#""settlement":{"confirmation":"x"}"#, "settlement.confirmation", code::INVALID_FIELD),
            (CHAIN, r#""settlement":{"polcy":"none"}"#, "settlement.polcy", code::UNKNOWN_FIELD),
            (
                CHAIN,
                r#""settlement":{"policy":"none","confirmation":"accepted_l1"}"#,
                "settlement.confirmation",
                code::INVALID_FIELD,
            ),
            (CHAIN, r#""max_price":"0""#, "max_price", code::INVALID_FIELD),
            (bare, r#""settlement":"settle_later""#, "max_price", code::MISSING_FIELD),
            (bare, r#""settlement":{}"#, "settlement.policy", code::MISSING_FIELD),
        ];
        for (defaults, fields, field, code) in cases {
            let rejected = checked(fields, Some(defaults)).expect_err(fields);
            assert_eq!((rejected.field.as_deref(), rejected.code), (Some(field), code), "{fields}");
        }
        assert_eq!(checked("", Some(bare)).unwrap().spec.settlement, None, "unless it asks for it");
        let typed = checked(r#""settlement":5"#, Some(CHAIN)).unwrap_err().message;
        assert_eq!(typed, "settlement must be a string or an object, not integer 5");
    }

    #[test]
    fn what_goes_into_escrow_for_one_job_is_bounded() {
        let bounded = Defaults { max_escrow: Some(140), ..CHAIN };
        for good in ["", r#""redundancy":2"#, r#""max_price":"140""#, r#""max_price":"9999","settlement":"none""#] {
            assert!(checked(good, Some(bounded)).is_ok(), "{good}");
        }
        for bad in [r#""redundancy":3"#, r#""max_price":"141""#, r#""max_price":"71","redundancy":2"#] {
            let rejected = checked(bad, Some(bounded)).expect_err(bad);
            assert_eq!((rejected.field.as_deref(), rejected.code), (Some("max_price"), code::INVALID_FIELD), "{bad}");
            assert!(rejected.message.contains("at most 140"), "{rejected}");
        }
        let most = format!(r#""max_price":"{}","redundancy":5"#, "9".repeat(38));
        assert!(checked(&most, Some(bounded)).is_err() && checked(&most, Some(CHAIN)).is_ok());
    }

    #[test]
    fn what_the_contract_would_refuse_is_refused_once_that_is_known() {
        let asked = |fields: &str, least| {
            let checked = checked(fields, Some(CHAIN)).unwrap();
            checked.pays_enough(least).map_err(|error| (error.field, error.detail))
        };
        for good in
            [r#""max_price":"50""#, r#""max_price":"25","redundancy":2"#, r#""max_price":"1","settlement":"none""#]
        {
            assert_eq!(asked(good, Some(50)), Ok(()), "{good}");
        }
        assert_eq!(asked(r#""max_price":"1""#, None), Ok(()), "the contract has not said so yet");
        let (field, detail) = asked(r#""max_price":"16","redundancy":3"#, Some(49)).unwrap_err();
        assert_eq!(field, "max_price");
        assert!(detail.contains("at least 49") && detail.contains("not 48"), "{detail}");
        assert!(asked("", Some(71)).is_err(), "nor is the default enough");
    }

    #[test]
    fn no_other_client_is_charged_unless_that_is_configured() {
        let uncharged = Defaults { payer: Some(Felt::from(0xaau64)), ..CHAIN };
        let (ours, theirs) = (r#""client_address":"0x00aA""#, r#""client_address":"0xbb""#);
        for good in ["", ours, r#""client_address":"0xbb","settlement":"none""#] {
            assert!(checked(good, Some(uncharged)).is_ok(), "{good}");
        }
        let rejected = checked(theirs, Some(uncharged)).unwrap_err();
        assert_eq!((rejected.field.as_deref(), rejected.code), (Some("client_address"), code::NOT_AVAILABLE));
        assert!(checked(theirs, Some(CHAIN)).is_ok(), "charged");
        assert!(checked(theirs, None).is_ok(), "no chain");
    }

    #[test]
    fn a_retry_is_the_same_wish_under_another_configuration() {
        let other = Defaults {
            policy: Some(Policy::RegisterBeforeDistribution),
            confirmation: Confirmation::AcceptedL1,
            max_price: Some(Price(1)),
            ..CHAIN
        };
        for fields in ["", r#""max_price":"9""#, r#""settlement":"settle_later""#] {
            let [one, two] = [CHAIN, other].map(|chain| checked(fields, Some(chain)).unwrap());
            assert_ne!(one.spec, two.spec, "{fields}");
            assert_eq!(one.fingerprint(), two.fingerprint(), "{fields}");
        }
        assert_eq!(checked("", Some(CHAIN)).unwrap().fingerprint(), checked("", None).unwrap().fingerprint());
        let [later, first] = ["settle_later", "register_before_distribution"]
            .map(|policy| checked(&format!(r#""settlement":"{policy}""#), Some(CHAIN)).unwrap().fingerprint());
        assert_ne!(later, first);
    }

    #[test]
    fn every_name_is_the_one_of_the_log() {
        for (policy, name) in POLICIES {
            assert_eq!(serde_json::to_value(policy).unwrap(), name);
        }
        for (confirmation, name) in CONFIRMATIONS {
            assert_eq!(serde_json::to_value(confirmation).unwrap(), name);
        }
    }
}
