//! The library's error codes as our errors.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::kafka::Error;

/// `why`: what the library said beside the code; `topic`: the one it was about.
pub(super) fn error(code: Code, why: Option<String>, topic: &str) -> Error {
    let text = || why.clone().unwrap_or_else(|| code.to_string());
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => Error::NoTopic(topic.to_owned()),
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Error::Fenced,
        Code::Fatal => Error::Spent(text()),
        code if is_passing(code) => Error::Down(text()),
        _ => Error::Refused(text()),
    }
}

/// The same, of an error that may hold no code.
pub(super) fn of(error_of_library: &KafkaError, why: Option<String>, topic: &str) -> Error {
    match error_of_library {
        // Its text names the value, which may be a secret.
        KafkaError::ClientConfig(_, _, key, _) => Error::Refused(format!("the value for {key} can not be used")),
        KafkaError::MessageConsumptionFatal(code) => Error::Spent(code.to_string()),
        KafkaError::Transaction(inner) => of_transaction(inner),
        other => match other.rdkafka_error_code() {
            Some(code) => error(code, why, topic),
            None => Error::Refused(other.to_string()),
        },
    }
}

fn of_transaction(inner: &rdkafka::error::RDKafkaError) -> Error {
    match error(inner.code(), Some(inner.string()), "") {
        Error::NoTopic(_) => Error::NoTopic(inner.string()),
        Error::Fenced => Error::Fenced,
        _ if inner.is_fatal() => Error::Spent(inner.string()),
        // Whatever it is: this transaction is over, the next may succeed.
        _ if inner.is_retriable() || inner.txn_requires_abort() => Error::Down(inner.string()),
        other => other,
    }
}

/// Whether the broker has something against a single record, whoever sends it.
pub(super) fn is_of_record(code: Code) -> bool {
    is_of_size(code) || matches!(code, Code::InvalidRecord | Code::InvalidTimestamp)
}

pub(super) fn is_of_size(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge)
}

/// What goes by without anybody's doing.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::AllBrokersDown
            | Code::BrokerDestroy
            | Code::BrokerNotAvailable
            | Code::BrokerTransportFailure
            | Code::ConcurrentTransactions
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::DestroyBroker
            | Code::FencedLeaderEpoch
            | Code::ISRInsufficient
            | Code::InProgress
            | Code::KafkaStorageError
            | Code::LeaderNotAvailable
            | Code::ListenerNotFound
            | Code::MessageTimedOut
            | Code::NetworkException
            | Code::NodeUpdate
            | Code::NotController
            | Code::NotCoordinator
            | Code::NotEnoughReplicas
            | Code::NotEnoughReplicasAfterAppend
            | Code::NotLeaderForPartition
            | Code::OffsetNotAvailable
            | Code::OperationTimedOut
            | Code::PreviousInProgress
            | Code::PurgeInflight
            | Code::PurgeQueue
            | Code::QueueFull
            | Code::RebalanceInProgress
            | Code::ReplicaNotAvailable
            | Code::RequestTimedOut
            | Code::Resolve
            | Code::Retry
            | Code::ThrottlingQuotaExceeded
            | Code::TimedOutQueue
            | Code::TransactionCoordinatorFenced
            | Code::UnknownBroker
            | Code::UnknownLeaderEpoch
            | Code::UnstableOffsetCommit
            | Code::WaitCache
            | Code::WaitingForCoordinator
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_can_be_done_about_them() {
        let of = |code| error(code, None, "t");
        assert!(of(Code::AllBrokersDown).is_retryable());
        assert_eq!(of(Code::UnknownTopicOrPartition), Error::NoTopic("t".to_owned()));
        assert!(of(Code::ProducerFenced).wants_new_client() && !of(Code::ProducerFenced).is_retryable());
        assert!(matches!(of(Code::TopicAuthorizationFailed), Error::Refused(_)));
        assert!(matches!(of(Code::SaslAuthenticationFailed), Error::Refused(_)));
    }

    #[test]
    fn a_refused_setting_is_told_without_its_value() {
        let mut config = rdkafka::ClientConfig::new();
        config.set("sasl.mechanism", "PLAIN").set("enable.idempotence", "hunter2");
        let refused = config.create_native_config().err().unwrap();
        assert_eq!(
            of(&refused, None, "").to_string(),
            "Kafka refuses: the value for enable.idempotence can not be used"
        );
    }
}
