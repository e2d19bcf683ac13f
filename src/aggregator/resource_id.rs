//! The ids of resources (DAP-18 section 3.2).
//!
//! # Decision: a resource id is a hash of its request
//!
//! In DAP-18 the server chooses the ids of jobs, shares and collections. The id is a hash of the request that creates
//! the resource, so that a repeated request finds the same resource without a lookup by content. Deleting a resource
//! raises its generation, which is part of the hash. A deleted id is never used again, and the same request creates a
//! new resource.

use sha2::{Digest, Sha256};

use dapbox_protocol::{
    model::{AggregateShareId, TaskId},
    wire::ResourceKind,
};
use dapbox_store::Tx;
use dapbox_support::Fault;

/// Separates these hashes from all others.
const LABEL: &[u8] = b"dapbox resource";

/// The source of a resource id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdSource {
    /// The requester chooses the id.
    Chosen([u8; 16]),
    /// The id is derived from the request.
    Derived,
}

/// The request that creates a resource of a task.
#[derive(Clone, Copy, Debug)]
pub struct ResourceKey {
    /// The task.
    pub task: TaskId,
    /// The kind of resource.
    pub kind: ResourceKind,
    /// SHA-256 of the body of the request.
    pub hash: [u8; 32],
}

impl ResourceKey {
    /// Creates the key of the request with the given body.
    pub fn new(task: TaskId, kind: ResourceKind, body: &[u8]) -> Self {
        Self { task, kind, hash: Sha256::digest(body).into() }
    }

    /// The id of the resource in a generation.
    fn id(&self, generation: u64) -> [u8; 16] {
        let mut hash = Sha256::new_with_prefix(LABEL);
        hash.update(self.task.as_bytes());
        hash.update([self.kind_number()]);
        hash.update(generation.to_be_bytes());
        hash.update(self.hash);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        id
    }

    /// The kind of resource as a number. It is stored and must never change.
    fn kind_number(&self) -> u8 {
        match self.kind {
            ResourceKind::AggregationJob => 0,
            ResourceKind::AggregateShare => 1,
            ResourceKind::CollectionJob => 2,
        }
    }

    /// The current id of the resource. The same write must create the resource.
    pub fn current_id(&self, tx: &Tx<'_>, source: IdSource) -> Result<[u8; 16], Fault> {
        match source {
            IdSource::Chosen(id) => Ok(id),
            IdSource::Derived => Ok(self.id(tx.generation(&self.task, self.kind_number(), &self.hash)?)),
        }
    }

    /// The id of the resource after the current one is invalidated.
    pub fn next_id(&self, tx: &Tx<'_>) -> Result<[u8; 16], Fault> {
        Ok(self.id(tx.generation(&self.task, self.kind_number(), &self.hash)?.saturating_add(1)))
    }

    /// A key that all requests for the same resource share, across generations.
    pub fn lock_key(&self, source: IdSource) -> [u8; 16] {
        match source {
            IdSource::Chosen(id) => id,
            IdSource::Derived => self.id(0),
        }
    }

    /// Invalidates the id of a deleted resource: the same request creates a new resource. Returns false if the id was
    /// chosen by the requester or belongs to an earlier generation.
    pub fn invalidate(&self, tx: &mut Tx<'_>, id: &[u8; 16]) -> Result<bool, Fault> {
        let is_found = self.current_id(tx, IdSource::Derived)? == *id;
        if is_found {
            tx.raise_generation(&self.task, self.kind_number(), &self.hash)?;
        }
        Ok(is_found)
    }

    /// The id of an aggregate share. It has one generation, because a collected batch stays collected.
    pub fn share_id(&self) -> AggregateShareId {
        AggregateShareId::new(self.id(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapbox_protocol::model::Revision;
    use dapbox_store::{Options, Store};
    use dapbox_support::Point;

    #[test]
    fn id_depends_on_every_input() {
        let content = ResourceKey::new(TaskId::new([1; 32]), ResourceKind::AggregationJob, b"request");
        let others = [
            ResourceKey { task: TaskId::new([2; 32]), ..content },
            ResourceKey { kind: ResourceKind::CollectionJob, ..content },
            ResourceKey { kind: ResourceKind::AggregateShare, ..content },
            ResourceKey::new(TaskId::new([1; 32]), ResourceKind::AggregationJob, b"request "),
        ];
        let mut ids = vec![content.id(0), content.id(1), content.id(u64::MAX)];
        ids.extend(others.map(|other| other.id(0)));
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 7);
    }

    #[test]
    fn ids_are_stable_across_releases() {
        // SHA-256 of "dapbox resource", 32 bytes 1, one byte 0, 8 bytes 0, and SHA-256 of "request".
        let content = ResourceKey::new(TaskId::new([1; 32]), ResourceKind::AggregationJob, b"request");
        assert_eq!(content.id(0), [28, 219, 20, 254, 255, 189, 201, 120, 9, 98, 64, 119, 117, 60, 175, 191]);
    }

    #[tokio::test]
    async fn invalidated_id_is_never_derived_again() {
        let dir = tempfile::tempdir().unwrap();
        let task = crate::testing::task(Revision::Dap18);
        let content = ResourceKey::new(task.public.id, ResourceKind::CollectionJob, b"next batch, please");
        let other = ResourceKey::new(task.public.id, ResourceKind::AggregationJob, b"next batch, please");
        let name = move |tx: &mut Tx<'_>| {
            Ok((content.current_id(tx, IdSource::Derived)?, other.current_id(tx, IdSource::Derived)?))
        };
        let store = Store::open(dir.path(), Options::default()).unwrap();
        let first = store.write(Point::Test, move |tx| tx.add_task(task).and_then(|()| name(tx))).await.unwrap();
        assert_eq!(first.0, store.write(Point::Test, name).await.unwrap().0);
        // Repeated invalidation and unknown ids have no effect.
        let invalidate = move |tx: &mut Tx<'_>| {
            content.invalidate(tx, &[7; 16])?;
            content.invalidate(tx, &first.0)?;
            content.invalidate(tx, &first.0)?;
            name(tx)
        };
        let second = store.write(Point::Test, invalidate).await.unwrap();
        assert_eq!(second, (content.id(1), other.id(0)));
        assert_eq!(content.lock_key(IdSource::Derived), first.0);
        store.close().await;
        let store = Store::open(dir.path(), Options::default()).unwrap();
        assert_eq!(store.write(Point::Test, name).await.unwrap(), second);
        let chosen = move |tx: &mut Tx<'_>| content.current_id(tx, IdSource::Chosen([9; 16]));
        assert_eq!(store.write(Point::Test, chosen).await.unwrap(), [9; 16]);
    }
}
