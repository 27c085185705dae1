//! InitProducerId: ids for idempotent and transactional producers (KIP-98), and new epochs for them (KIP-360).

use std::sync::Arc;

use kafka_wire::error_code::ErrorCode;
use kafka_wire::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use crate::dispatch::RequestContext;
use crate::state::BrokerState;
use crate::transactions::service::change;

pub(crate) async fn init_producer_id(
    state: &Arc<BrokerState>,
    _context: &RequestContext,
    request: InitProducerIdRequest,
    version: i16,
) -> InitProducerIdResponse {
    let answer = match &request.transactional_id {
        Some(id) if !id.is_empty() => transactional(state, id, &request, version).await,
        Some(_) => Err(ErrorCode::InvalidRequest),
        None => next(state, &request, version),
    };
    match answer {
        Ok((id, epoch)) => {
            InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(epoch)
        }
        Err(code) => InitProducerIdResponse::default()
            // Clients of before version 4 know no PRODUCER_FENCED (KIP-588).
            .with_error_code(match code {
                ErrorCode::ProducerFenced if version < 4 => ErrorCode::InvalidProducerEpoch.code(),
                code => code.code(),
            })
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    }
}

/// Fences whoever held the transactional id before, and aborts what it left open.
async fn transactional(
    state: &Arc<BrokerState>,
    id: &str,
    request: &InitProducerIdRequest,
    version: i16,
) -> Result<(i64, i16), ErrorCode> {
    let expected = believed(request, version)?;
    let timeout_ms = request.transaction_timeout_ms;
    if timeout_ms <= 0 || timeout_ms > state.transactions.max_timeout_ms {
        return Err(ErrorCode::InvalidTransactionTimeout);
    }
    let new_producer_id = || state.next_producer_id().map_err(|refusal| refusal.code);
    // Abort of an open transaction first, for which the client comes back.
    change(state, id, |coordinator, now_ms| {
        coordinator.init(id, timeout_ms, expected, new_producer_id, now_ms)
    })
    .await?
}

/// Who the producer believes to be, if it says so (KIP-360).
fn believed(request: &InitProducerIdRequest, version: i16) -> Result<Option<(i64, i16)>, ErrorCode> {
    let given = (request.producer_id.0, request.producer_epoch);
    match version >= 3 {
        true if (given.0 < 0) != (given.1 < 0) => Err(ErrorCode::InvalidRequest),
        true if given.0 >= 0 => Ok(Some(given)),
        _ => Ok(None),
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
    believed(request, version)?;
    state.next_producer_id().map(|id| (id, 0)).map_err(|refusal| refusal.code)
}
