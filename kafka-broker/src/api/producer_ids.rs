//! InitProducerId: ids for idempotent producers (KIP-98), and new epochs for them (KIP-360).

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::dispatch::RequestContext;
use crate::state::BrokerState;

pub(crate) async fn init_producer_id(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: InitProducerIdRequest,
    version: i16,
) -> InitProducerIdResponse {
    let answer = match &request.transactional_id {
        // A transactional producer must not believe that it is one. UNSUPPORTED_VERSION is fatal to Java's producer
        // and librdkafka's, and says what is true: this broker's version does not do it.
        Some(id) if !id.is_empty() => Err(ErrorCode::UnsupportedVersion),
        Some(_) => Err(ErrorCode::InvalidRequest),
        None => next(state, &request, version),
    };
    match answer {
        Ok((id, epoch)) => {
            InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(epoch)
        }
        Err(code) => InitProducerIdResponse::default()
            .with_error_code(code.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    }
}

/// An idempotent producer without a transactional id always gets a fresh id with epoch 0. One that sends its old id
/// and epoch does so after an error; Kafka's coordinator ignores both then
/// (`TransactionCoordinator.handleInitProducerId`), the client bumps its epoch itself.
fn next(
    state: &Arc<BrokerState>,
    request: &InitProducerIdRequest,
    version: i16,
) -> Result<(i64, i16), ErrorCode> {
    let given = (request.producer_id.0, request.producer_epoch);
    if version >= 3 && (given.0 < 0) != (given.1 < 0) {
        return Err(ErrorCode::InvalidRequest);
    }
    state.next_producer_id().map(|id| (id, 0)).map_err(|refusal| refusal.code)
}
