//! Which versions a peer serves: the first exchange on a connection.

use std::time::Duration;

use kafka_wire::frame::decode_response;
use kafka_wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_wire::versions::ApiVersions;
use kafka_wire::{ErrorCode, StrBytes};
use tokio::sync::oneshot;

use super::super::{ConnectionError, RequestError};
use super::{Call, Connection};

impl Connection {
    pub(super) async fn handshake(&self, timeout: Duration) -> Result<ApiVersions, ConnectionError> {
        let mut version = <ApiVersionsRequest as kafka_wire::Message>::VERSIONS.max;
        loop {
            let request = ApiVersionsRequest::default()
                .with_client_software_name(StrBytes::from_static_str("kafka-client-rust"))
                .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
            let response = self.ask_versions(&request, version, timeout).await?;
            let versions = ApiVersions::from_response(&response);
            match ErrorCode::from(response.error_code) {
                ErrorCode::None => return Ok(versions),
                // The peer is older: it answers in version 0, and says which it knows (KIP-511).
                ErrorCode::UnsupportedVersion if version > 0 => {
                    let known = versions.negotiate_up_to::<ApiVersionsRequest>(version - 1);
                    version = known.unwrap_or(0);
                }
                code => return Err(ConnectionError::Handshake { address: self.0.address.clone(), code }),
            }
        }
    }

    async fn ask_versions(
        &self,
        request: &ApiVersionsRequest,
        version: i16,
        timeout: Duration,
    ) -> Result<ApiVersionsResponse, ConnectionError> {
        let address = &self.0.address;
        let invalid = |source| ConnectionError::InvalidFrame { address: address.clone(), source };
        let (sender, reply) = oneshot::channel();
        self.enqueue(request, version, Call::within(timeout), Some(sender)).await.map_err(
            |error| match error {
                RequestError::NotSent(cause) | RequestError::Unanswered(cause) => cause,
                RequestError::Encode(source) => invalid(source),
                _ => ConnectionError::Closed { address: address.clone() },
            },
        )?;
        let frame = match reply.await {
            Ok(Ok(frame)) => frame,
            Ok(Err(RequestError::NotSent(cause) | RequestError::Unanswered(cause))) => return Err(cause),
            _ => return Err(self.0.end()),
        };
        // The error code stands before everything else, in every version; with it the answer is in version 0.
        let code = frame.get(4..6).and_then(|code| Some(i16::from_be_bytes(*code.first_chunk()?)));
        let answered_in = if code == Some(ErrorCode::UnsupportedVersion.code()) { 0 } else { version };
        decode_response::<ApiVersionsRequest>(frame, answered_in).map_err(invalid)
    }
}
