//! Finds the call that makes a transaction revert.
//!
//! Calls of a transaction are run in order and the first that fails reverts all,
//! so what fails with some of the items fails with more of them, too: the first
//! items that fail together are found by halving. Estimates cost nothing.

use crate::chain::{Estimate, EstimateError};
use crate::domain::chain::Item;

/// What estimates say of items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// They all go together.
    Fine(Estimate),
    Culprit(Culprit),
}

/// The first item that does not go along, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Culprit {
    /// How many before it are fine, and at what cost; `None`: what goes before all items fails already.
    pub fine: Option<(usize, Estimate)>,
    /// The contract's, in lower case.
    pub word: String,
    pub reason: String,
}

/// Says what items cost together, or that they revert.
pub(super) trait Estimator {
    fn estimate(&mut self, items: &[Item]) -> impl Future<Output = Result<Estimate, EstimateError>> + Send;
}

/// Estimates `items`, and if they revert, looks for the first that makes them. Asks about the first so many of them,
/// at most 2 + log2 times.
///
/// # Errors
///
/// An estimate could not be had.
pub(super) async fn find(items: &[Item], estimator: &mut impl Estimator) -> Result<Found, EstimateError> {
    let (mut word, mut reason) = match estimator.estimate(items).await {
        Ok(found) => return Ok(Found::Fine(found)),
        Err(EstimateError::Reverted { word, reason }) => (word, reason),
        Err(error) => return Err(error),
    };
    let mut fine = match estimator.estimate(&[]).await {
        Ok(found) => (0, found),
        Err(EstimateError::Reverted { word, reason }) => {
            return Ok(Found::Culprit(Culprit { fine: None, word, reason }));
        }
        Err(error) => return Err(error),
    };
    let mut failing = items.len();
    while failing > fine.0 + 1 {
        let middle = fine.0 + (failing - fine.0) / 2;
        match estimator.estimate(items.get(..middle).unwrap_or(items)).await {
            Ok(found) => fine = (middle, found),
            Err(EstimateError::Reverted { word: said, reason: told }) => (failing, word, reason) = (middle, said, told),
            Err(error) => return Err(error),
        }
    }
    Ok(Found::Culprit(Culprit { fine: Some(fine), word, reason }))
}

#[cfg(test)]
#[path = "tests/bisect.rs"]
mod tests;
