//! Why the chain did not do what it was asked.

/// Of a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No endpoint answered, or not in time, or not with what was asked for.
    #[error("reach the chain: {0}")]
    Down(String),
    /// Every endpoint asks to be left alone for so long.
    #[error("the chain's endpoints ask to wait {retry_in_ms} ms")]
    Busy { retry_in_ms: u64 },
    #[error("{found} is another chain than {expected}")]
    OtherChain { expected: String, found: String },
    /// The contract, or the account, is not what it was taken for.
    #[error("{0}")]
    Unfit(String),
    /// The contract refused a question; `word` is its reason in lower case.
    #[error("the contract refuses: {word}")]
    Reverted { word: String },
    /// More than is taken at once.
    #[error("{what} are more than {limit}")]
    TooMany { what: &'static str, limit: usize },
    /// The node said something else about it: see its text.
    #[error("the node refuses: {0}")]
    Refused(String),
    /// The key can not be used.
    #[error("{0}")]
    Key(String),
    #[error("the node stops")]
    Stopping,
}

impl Error {
    /// Whether the same may succeed later by itself.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Down(_) | Self::Busy { .. })
    }
}

/// Why a transaction was not taken, or is not known to have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The node said so itself. With [`Kind::NonceUsed`] and [`Kind::Duplicate`] it may be there all the same: ask
    /// by its hash. With the others it is not, unless an earlier send of it was unknown.
    #[error("the node refuses the transaction: {0}")]
    Refused(Refused),
    /// No answer, or none that the chain's node gave: it may be there. Ask by its hash.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// It was not sent: nothing was reached, or this node can not sign.
    #[error(transparent)]
    NotSent(Error),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    pub kind: Kind,
    /// In the node's words, cut.
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The nonce is used, or is not the next.
    NonceUsed,
    /// The node has this very transaction.
    Duplicate,
    /// The account has less than the bounds allow to be spent.
    InsufficientBalance,
    /// The bounds are below what validation needs, or below the block's prices.
    InsufficientBounds,
    /// Another one of the same nonce waits, and pays as much.
    Underpriced,
    /// A call reverts; the contract's word in lower case.
    Reverting(String),
    /// The account does not take the signature: a wrong key, chain id or address.
    BadSignature,
    Other,
}

impl Kind {
    /// Stable, for machines.
    pub fn as_str(&self) -> &str {
        match self {
            Self::NonceUsed => "nonce_used",
            Self::Duplicate => "duplicate",
            Self::InsufficientBalance => "insufficient_balance",
            Self::InsufficientBounds => "insufficient_bounds",
            Self::Underpriced => "underpriced",
            Self::Reverting(word) => word,
            Self::BadSignature => "bad_signature",
            Self::Other => "refused",
        }
    }
}

/// Why there is no estimate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EstimateError {
    /// A call reverts. `word` is the contract's in lower case, `reason` what the node tells of it, cut at its
    /// beginning.
    #[error("the calls revert: {word}")]
    Reverted { word: String, reason: String },
    /// The node refuses to try: see [`Kind`].
    #[error("the node refuses the estimate: {0}")]
    Refused(Refused),
    #[error(transparent)]
    Failed(#[from] Error),
}
