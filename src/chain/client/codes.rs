//! What the crate and the node say, in our errors.

use starknet::core::types::{ContractExecutionError, StarknetError};
use starknet::providers::ProviderError;
use starknet::providers::jsonrpc::JsonRpcClientError;

use super::transport::Fault;
use crate::chain::{Error, EstimateError, Kind, Refused, SendError};
use crate::domain::chain::REASON_MAX;

/// Bytes of a word, so that it can be a code.
const WORD_MAX: usize = 40;

/// What accounts, the deployer and the system say around the contract's own word.
const FRAMES: [&str; 6] =
    ["ENTRYPOINT_FAILED", "argent/multicall-failed", "braavos/multicall-failed", "ENTRYPOINT_NOT_FOUND", "0x0", ""];

/// Why a question was not answered.
pub(super) fn asking(error: ProviderError) -> Error {
    match error {
        ProviderError::StarknetError(StarknetError::ContractError(data)) => {
            Error::Reverted { word: word(&flat(&data.revert_error)) }
        }
        ProviderError::StarknetError(said) => Error::Refused(cut(&told(&said))),
        other => transport(other),
    }
}

/// An error that is not the node's answer to the question.
fn transport(error: ProviderError) -> Error {
    match fault(&error) {
        Some(Fault::Busy(wait)) => Error::Busy { retry_in_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) },
        Some(Fault::OtherChain { expected, found }) => {
            Error::OtherChain { expected: expected.clone(), found: found.clone() }
        }
        Some(Fault::Stopping) => Error::Stopping,
        Some(Fault::NotSent(text) | Fault::Lost(text)) => Error::Down(text.clone()),
        None => match error {
            ProviderError::RateLimited => Error::Busy { retry_in_ms: 1_000 },
            error => Error::Down(cut(&error.to_string())),
        },
    }
}

/// What became of a send.
pub(super) fn sending(error: ProviderError) -> SendError {
    match error {
        ProviderError::StarknetError(said) => SendError::Refused(refused(&said)),
        other => match fault(&other) {
            Some(Fault::NotSent(_) | Fault::Busy(_) | Fault::OtherChain { .. }) => SendError::NotSent(transport(other)),
            Some(Fault::Stopping) | None | Some(Fault::Lost(_)) => SendError::Unknown(cut(&other.to_string())),
        },
    }
}

pub(super) fn estimating(error: ProviderError) -> EstimateError {
    match error {
        ProviderError::StarknetError(said) => {
            let refused = refused(&said);
            match refused.kind {
                Kind::Reverting(word) => EstimateError::Reverted { reason: ending(&refused.detail, &word), word },
                _ => EstimateError::Refused(refused),
            }
        }
        other => EstimateError::Failed(transport(other)),
    }
}

fn fault(error: &ProviderError) -> Option<&Fault> {
    let ProviderError::Other(inner) = error else { return None };
    match inner.as_any().downcast_ref::<JsonRpcClientError<Fault>>()? {
        JsonRpcClientError::TransportError(fault) => Some(fault),
        JsonRpcClientError::JsonError(_) | JsonRpcClientError::JsonRpcError(_) => None,
    }
}

/// What the node said of a transaction.
pub(super) fn refused(said: &StarknetError) -> Refused {
    let text = told(said);
    let kind = match said {
        StarknetError::InvalidTransactionNonce(_) => Kind::NonceUsed,
        StarknetError::DuplicateTx => Kind::Duplicate,
        StarknetError::InsufficientAccountBalance => Kind::InsufficientBalance,
        StarknetError::InsufficientResourcesForValidate | StarknetError::FeeBelowMinimum => Kind::InsufficientBounds,
        StarknetError::ReplacementTransactionUnderpriced => Kind::Underpriced,
        // Some nodes say it only here.
        StarknetError::ValidationFailure(text) if is_about_nonce(text) => Kind::NonceUsed,
        StarknetError::ValidationFailure(_) => Kind::BadSignature,
        StarknetError::TransactionExecutionError(_) if is_about_nonce(&text) => Kind::NonceUsed,
        StarknetError::TransactionExecutionError(_) if is_about_signature(&text) => Kind::BadSignature,
        StarknetError::TransactionExecutionError(_) | StarknetError::ContractError(_) => Kind::Reverting(word(&text)),
        _ => Kind::Other,
    };
    Refused { kind, detail: cut(&text) }
}

fn told(said: &StarknetError) -> String {
    match said {
        StarknetError::ContractError(data) => flat(&data.revert_error),
        StarknetError::TransactionExecutionError(data) => flat(&data.execution_error),
        StarknetError::InvalidTransactionNonce(text) => format!("invalid transaction nonce: {text}"),
        StarknetError::ValidationFailure(text) => format!("validation failed: {text}"),
        StarknetError::InsufficientAccountBalance => "the account has less STRK than this may cost".to_owned(),
        StarknetError::UnexpectedError(text) | StarknetError::CompilationFailed(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The innermost frame's message.
fn flat(error: &ContractExecutionError) -> String {
    let mut frame = error;
    loop {
        match frame {
            ContractExecutionError::Nested(nested) => frame = &nested.error,
            ContractExecutionError::Message(text) => return text.clone(),
        }
    }
}

fn is_about_nonce(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("transaction nonce") || text.contains("invalidnonce")
}

fn is_about_signature(text: &str) -> bool {
    text.contains("invalid signature") || text.contains("__validate__") && text.contains("signature")
}

/// The contract's reason in what a node tells, in lower case: the last in quotes that is no frame around it.
pub(super) fn word(text: &str) -> String {
    let quoted = |text: &str| -> Option<String> {
        let words = text.split("('").skip(1).filter_map(|rest| rest.split_once("')").map(|(word, _)| word));
        words.filter(|word| !FRAMES.contains(word)).last().map(str::to_owned)
    };
    let known = [
        ("Insufficient max L", "out_of_gas"),
        ("Out of gas", "out_of_gas"),
        ("out of gas", "out_of_gas"),
        ("has no remaining steps", "out_of_gas"),
        ("nsufficient fee token balance", "insufficient_balance"),
        ("exceeds balance", "insufficient_balance"),
        ("ENTRYPOINT_NOT_FOUND", "entrypoint_not_found"),
        ("EntryPointNotFound", "entrypoint_not_found"),
        ("is not deployed", "contract_not_found"),
    ];
    let known = || known.iter().find(|(part, _)| text.contains(part)).map(|(_, word)| (*word).to_owned());
    let word = quoted(text).or_else(known).unwrap_or_else(|| "reverted".to_owned());
    let sane = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    word.chars().take(WORD_MAX).map(sane).collect()
}

/// A reason whose last word in capitals is the contract's.
pub(super) fn ending(reason: &str, word: &str) -> String {
    let end = format!(": '{}'", word.to_ascii_uppercase());
    cut_to(reason, REASON_MAX - end.len()) + &end
}

fn cut(text: &str) -> String {
    cut_to(text, REASON_MAX)
}

/// The last bytes of a text: what matters stands at its end.
fn cut_to(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut begin = text.len() - most + '…'.len_utf8();
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    format!("…{}", text.get(begin..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_word_is_found_among_the_frames_around_it() {
        let cases = [
            ("Execution failed. Failure reason: 0x484153485f4d49534d41544348 ('HASH_MISMATCH').\n", "hash_mismatch"),
            (
                "Failure reason: (0x1 ('argent/multicall-failed'), 0x2 ('NO_SUCH_JOB'), 0x3 ('ENTRYPOINT_FAILED')).",
                "no_such_job",
            ),
            ("0x1 ('u256_sub Overflow'), 0x3 ('ENTRYPOINT_FAILED')", "u256_sub_overflow"),
            ("0x1 ('ERC20: insufficient balance')", "erc20__insufficient_balance"),
            ("Insufficient max L2Gas: max amount: 1874880, actual used: 2240800.", "out_of_gas"),
            ("Could not reach the end of the program. RunResources has no remaining steps.", "out_of_gas"),
            ("0x3 ('ENTRYPOINT_NOT_FOUND'), 0x3 ('ENTRYPOINT_FAILED')", "entrypoint_not_found"),
            ("", "reverted"),
            ("('", "reverted"),
        ];
        for (text, expected) in cases {
            assert_eq!(word(text), expected, "{text}");
        }
    }

    #[test]
    fn a_long_reason_keeps_its_end() {
        let reason = format!("{}€ ('STALE_EPOCH')", "é".repeat(REASON_MAX));
        let kept = ending(&reason, "stale_epoch");
        assert!(kept.len() <= REASON_MAX && kept.ends_with("('STALE_EPOCH'): 'STALE_EPOCH'"), "{kept}");
        assert_eq!(cut("short"), "short");
    }
}
