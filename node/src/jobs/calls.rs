//! What the steps of a schema statement, a registration and a reference write go through. Handed in, so that a test
//! can let calls be late, or be the last ones of their driver.

use std::sync::Arc;

use flotilla_shared::client::Cluster;
use flotilla_shared::error::Error;
use flotilla_shared::ids::GroupId;
use flotilla_shared::registry::{MetaCommand, MetaReply, Registry};
use flotilla_shared::wire::{Request, Response};
use futures::future::BoxFuture;
use tokio::time::Instant;

pub(super) trait Calls: Sync {
    /// The registry, with everything acknowledged before.
    fn fresh_registry(&self, deadline: Instant) -> BoxFuture<'_, Result<Arc<Registry>, Error>>;
    /// Changes the registry.
    fn change_registry(&self, command: MetaCommand, deadline: Instant) -> BoxFuture<'_, Result<MetaReply, Error>>;
    /// Asks the leader of a group.
    fn ask_group(&self, group: GroupId, request: Request, deadline: Instant) -> BoxFuture<'_, Result<Response, Error>>;
}

impl Calls for Arc<Cluster> {
    fn fresh_registry(&self, deadline: Instant) -> BoxFuture<'_, Result<Arc<Registry>, Error>> {
        Box::pin(self.refresh(deadline))
    }

    fn change_registry(&self, command: MetaCommand, deadline: Instant) -> BoxFuture<'_, Result<MetaReply, Error>> {
        Box::pin(Cluster::meta(self, command, deadline))
    }

    fn ask_group(&self, group: GroupId, request: Request, deadline: Instant) -> BoxFuture<'_, Result<Response, Error>> {
        Box::pin(self.call(group, request, deadline))
    }
}
