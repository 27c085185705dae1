//! One file for each family of APIs. A handler reads and changes [`BrokerState`](crate::state::BrokerState) and
//! returns an answer; it knows no socket.

pub(crate) mod alter_configs;
pub(crate) mod api_versions;
pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod coordinators;
pub(crate) mod elections;
pub(crate) mod epochs;
pub(crate) mod fetch;
pub(crate) mod groups;
pub(crate) mod list_offsets;
pub(crate) mod log_dirs;
pub(crate) mod metadata;
pub(crate) mod offsets;
pub(crate) mod produce;
pub(crate) mod producer_ids;
pub(crate) mod reassignments;
pub(crate) mod records;
pub(crate) mod share_fetch;
pub(crate) mod share_groups;
pub(crate) mod share_offsets;
pub(crate) mod share_state;
pub(crate) mod topics;
pub(crate) mod transaction_views;
pub(crate) mod transactions;

use std::collections::BTreeSet;
use std::sync::Arc;

use kafka_wire::StrBytes;

use crate::cluster::image::{BrokerImage, Image};
use crate::state::BrokerState;

/// An owned string for an answer. Strings of a request are slices of its frame: fine to echo, wrong to keep.
pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// The nodes among `ids` that clients can connect to.
pub(crate) fn endpoints(state: &BrokerState, ids: &BTreeSet<i32>) -> Vec<(i32, BrokerImage)> {
    let live = |image: &Image| {
        let live = image.live_brokers().filter(|(node_id, _)| ids.contains(node_id));
        live.map(|(node_id, broker)| (node_id, broker.clone())).collect()
    };
    state.cluster.read(|image, _| live(image))
}

/// Runs work that creates or deletes files on a thread that serves no connections. In memory it is done at once.
///
/// Dropping the future does not stop the work: a topic is created or deleted whole.
pub(crate) async fn off_thread<R: Send + 'static>(
    state: &Arc<BrokerState>,
    work: impl FnOnce(&Arc<BrokerState>) -> R + Send + 'static,
) -> R {
    if !state.logs.may_block() {
        return work(state);
    }
    let state = Arc::clone(state);
    match tokio::task::spawn_blocking(move || work(&state)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down refuses work, and it drops this future next.
            Err(_) => std::future::pending().await,
        },
    }
}

/// What "not asked for" looks like in the authorized-operations fields.
pub(crate) const OPERATIONS_NOT_ASKED: i32 = i32::MIN;
/// Without an authorizer a client may do all that can be done to a topic: READ, WRITE, CREATE, DELETE, ALTER,
/// DESCRIBE, DESCRIBE_CONFIGS and ALTER_CONFIGS (`AclEntry.supportedOperations`), one bit for each.
pub(crate) const TOPIC_OPERATIONS: i32 = bits(&[3, 4, 5, 6, 7, 8, 10, 11]);
/// The same for the cluster: CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS and
/// IDEMPOTENT_WRITE.
pub(crate) const CLUSTER_OPERATIONS: i32 = bits(&[5, 7, 8, 9, 10, 11, 12]);

const fn bits(operations: &[i32]) -> i32 {
    let mut set = 0;
    let mut at = 0;
    while at < operations.len() {
        set |= 1 << operations[at];
        at += 1;
    }
    set
}
