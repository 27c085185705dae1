use std::time::Duration;

use kafka_client::Client;
use kafka_wire::ErrorCode;
use kafka_wire::messages::DeleteGroupsRequest;

use crate::coordinator::{Coordinates, ask_each, group_id};
use crate::driver::{Effect, Refusal};
use crate::operation::operation;
use crate::{AdminError, ItemResults};

/// See [`Admin::delete_groups`](crate::Admin::delete_groups).
#[derive(Debug, Clone)]
#[must_use = "an operation is sent when it is awaited"]
pub struct DeleteGroups {
    client: Client,
    timeout: Duration,
    ids: Vec<String>,
}

operation!(DeleteGroups => ItemResults<String, ()>);

impl DeleteGroups {
    pub(crate) fn new(client: Client, timeout: Duration, ids: Vec<String>) -> Self {
        Self { client, timeout, ids }
    }

    async fn run(self) -> Result<ItemResults<String, ()>, AdminError> {
        ask_each(
            &self.client,
            Coordinates::Group,
            self.ids,
            Effect::Write,
            self.timeout,
            async |coordinator, id| {
                let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(&id)]);
                let results = coordinator.ask(request).await?.results;
                let result = results.into_iter().find(|result| result.group_id.as_str() == id);
                let code = result.map_or(ErrorCode::UnknownServerError.code(), |result| result.error_code);
                Ok(Refusal::check(code, None))
            },
        )
        .await
    }
}
