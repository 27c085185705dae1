//! ApiVersions (KIP-35, KIP-511) and the feature levels that come with it (KIP-584).

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_wire::{Request, StrBytes, VersionRange};

use super::text;
use crate::cluster::FEATURES;
use crate::dispatch::advertised;
use crate::state::BrokerState;

pub(crate) fn handle(
    state: &Arc<BrokerState>,
    request: &ApiVersionsRequest,
    version: i16,
) -> ApiVersionsResponse {
    let named = legal(&request.client_software_name) && legal(&request.client_software_version);
    if version >= 3 && !named {
        return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    let response = ApiVersionsResponse::default().with_api_keys(advertised());
    if version < 3 {
        return response;
    }
    let (finalized, epoch) = state.cluster.read(|image, offset| (image.features().clone(), offset));
    response
        .with_supported_features(
            FEATURES
                .iter()
                // Clients of before version 4 refuse a level of 0 (KAFKA-17011).
                .filter(|feature| version >= 4 || feature.min_level > 0)
                .map(|feature| {
                    SupportedFeatureKey::default()
                        .with_name(StrBytes::from_static_str(feature.name))
                        .with_min_version(feature.min_level)
                        .with_max_version(feature.max_level)
                })
                .collect(),
        )
        .with_finalized_features_epoch(epoch)
        .with_finalized_features(
            finalized
                .iter()
                .map(|(name, &level)| {
                    FinalizedFeatureKey::default()
                        .with_name(text(name))
                        .with_max_version_level(level)
                        .with_min_version_level(level)
                })
                .collect(),
        )
}

/// The answer to a version that is not served: what versions of ApiVersions are, and nothing else (KIP-511).
pub(crate) fn unsupported(range: VersionRange) -> ApiVersionsResponse {
    let own = ApiVersion::default()
        .with_api_key(ApiVersionsRequest::KEY)
        .with_min_version(range.min)
        .with_max_version(range.max);
    ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(vec![own])
}

/// Letters and digits with dots and dashes inside: what may become a metric's name (KIP-511).
fn legal(name: &str) -> bool {
    let bytes = name.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            first.is_ascii_alphanumeric()
                && last.is_ascii_alphanumeric()
                && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::legal;

    #[test]
    fn software_names_follow_kip_511() {
        for name in ["apache-kafka-java", "librdkafka", "4.3.1", "a"] {
            assert!(legal(name), "{name}");
        }
        for name in ["", "-a", "a-", "a b", "ä"] {
            assert!(!legal(name), "{name}");
        }
    }
}
