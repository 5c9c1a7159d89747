//! What a Kafka error means.

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode as Code};

use super::{Named, SinkError};

/// Judges an error of a message or of the producer; `complaint` is what the client last said,
/// and `named` who chose the topic.
pub(super) fn judge(error: &KafkaError, complaint: Option<String>, named: Named) -> SinkError {
    let code = error.rdkafka_error_code();
    let reason = match (code, complaint) {
        (Some(code), Some(complaint)) => format!("{code}: {complaint}"),
        (Some(code), None) => code.to_string(),
        (None, complaint) => complaint.unwrap_or_else(|| error.to_string()),
    };
    match code {
        Some(
            Code::MessageSizeTooLarge
            | Code::InvalidMessage
            | Code::InvalidMessageSize
            | Code::InvalidRecord,
        ) => SinkError::rejected(reason),
        Some(
            Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::InvalidTopic
            | Code::TopicAuthorizationFailed,
        ) => SinkError::nowhere(named, reason),
        Some(
            Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
            | Code::InvalidConfig
            | Code::InvalidRequiredAcks,
        ) => SinkError::misconfigured(reason),
        Some(Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve | Code::SSL) => {
            SinkError::unreachable(reason)
        }
        _ => SinkError::transient(reason),
    }
}

/// Whether the producer only asks for a moment.
pub(super) fn is_queue_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(Code::QueueFull)
}
