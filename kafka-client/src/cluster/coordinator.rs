//! Which broker coordinates a group or a transaction, remembered until somebody says it is wrong.

use std::collections::HashMap;

use kafka_wire::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_wire::{ErrorCode, StrBytes};
use parking_lot::Mutex;

use super::Broker;
use crate::net::{Node, RequestError};

/// Kafka's `CoordinatorType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CoordinatorKind {
    Group = 0,
    Transaction = 1,
}

#[derive(Debug, Default)]
pub(crate) struct Coordinators {
    known: Mutex<HashMap<(CoordinatorKind, String), Node>>,
}

impl Coordinators {
    pub(crate) fn get(&self, kind: CoordinatorKind, key: &str) -> Option<Node> {
        self.known.lock().get(&(kind, key.to_owned())).cloned()
    }

    pub(crate) fn remember(&self, kind: CoordinatorKind, key: &str, node: Node) {
        self.known.lock().insert((kind, key.to_owned()), node);
    }

    /// Forgets every answer: they were another cluster's, perhaps.
    pub(crate) fn forget_all(&self) {
        self.known.lock().clear();
    }

    /// Forgets an answer that turned out wrong (`NOT_COORDINATOR`, or the broker is gone).
    pub(crate) fn forget(&self, kind: CoordinatorKind, key: &str) {
        self.known.lock().remove(&(kind, key.to_owned()));
    }
}

/// The question in the given version; from version 4 on it can ask for many keys (KIP-699).
pub(crate) fn question(kind: CoordinatorKind, key: &str, version: i16) -> FindCoordinatorRequest {
    let key = StrBytes::from_string(key.to_owned());
    let request = FindCoordinatorRequest::default();
    let request = if version >= 4 { request.with_coordinator_keys(vec![key]) } else { request.with_key(key) };
    // Version 0 knows groups only and has no such field.
    if version >= 1 { request.with_key_type(kind as i8) } else { request }
}

/// The coordinator in the answer.
pub(crate) fn answer(key: &str, response: FindCoordinatorResponse) -> Result<Node, RequestError> {
    let (code, id, host, port) = match response.coordinators.into_iter().next() {
        Some(found) => (found.error_code, found.node_id.0, found.host, found.port),
        None => (response.error_code, response.node_id.0, response.host, response.port),
    };
    let refused = |code| RequestError::NoCoordinator { key: key.to_owned(), code };
    ErrorCode::from(code).into_result().map_err(refused)?;
    let broker = Broker::described(id, &host, port, None).filter(|_| id >= 0);
    let broker = broker.ok_or_else(|| refused(ErrorCode::CoordinatorNotAvailable))?;
    Ok(Node { id, address: broker.address })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_wire::messages::BrokerId;
    use kafka_wire::messages::find_coordinator_response::Coordinator;

    #[test]
    fn answers_of_old_and_new_versions_name_the_same_broker() {
        let host = StrBytes::from_static_str("b1");
        let old = FindCoordinatorResponse::default()
            .with_node_id(BrokerId(1))
            .with_host(host.clone())
            .with_port(9092);
        let new = FindCoordinatorResponse::default().with_coordinators(vec![
            Coordinator::default().with_node_id(BrokerId(1)).with_host(host).with_port(9092),
        ]);
        assert_eq!(answer("g", old).unwrap(), answer("g", new).unwrap());
    }

    #[test]
    fn a_coordinator_that_is_not_there_yet_is_worth_another_try() {
        let busy = FindCoordinatorResponse::default().with_coordinators(vec![
            Coordinator::default().with_error_code(ErrorCode::CoordinatorNotAvailable.code()),
        ]);
        assert!(answer("g", busy).unwrap_err().is_retriable());
        let senseless = FindCoordinatorResponse::default().with_node_id(BrokerId(1)).with_port(-4);
        assert!(answer("g", senseless).is_err());
    }
}
