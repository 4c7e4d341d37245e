//! What replicas hold: content hashes over the internal port, and the files on disk.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_shared::ids::GroupId;
use flotilla_shared::rpc::Pool;
use flotilla_shared::wire::{Request, Response};

use super::cluster::Cluster;
use super::wait::{PATIENCE, eventually};

/// How long a node may take to hash a replica.
const HASHING: Duration = Duration::from_secs(20);

/// Groups and the hash of what each holds.
pub type Contents = BTreeMap<GroupId, u64>;

impl Cluster {
    /// Waits until all replicas of each group have applied as much, and returns their content.
    ///
    /// # Panics
    /// When replicas at the same index differ, or do not come to the same index.
    pub async fn contents(&mut self) -> Contents {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|n| self.nodes[*n].process.is_running()).collect();
        let pool = Pool::default();
        let names: Vec<String> = std::iter::once("meta".to_owned()).chain(self.shard_names()).collect();
        let mut contents = Contents::new();
        for name in names {
            let group: GroupId = name.parse().expect("a group's name");
            let hash = eventually(&format!("replicas of {name} are equal"), PATIENCE, async || {
                let mut found = BTreeMap::new();
                for node in &running {
                    if self.replica(*node, &name).await.is_none() {
                        continue;
                    }
                    let request = pool.request(&self.nodes[*node].raft, Request::ContentHash(group), HASHING);
                    match request.await {
                        Ok(Ok(Response::ContentHash(index, hash))) => drop(found.insert(*node, (index, hash))),
                        other => return Err(format!("{other:?}")),
                    }
                }
                let (index, hash) = *found.values().max().ok_or("no replica was found")?;
                for (node, (other, content)) in &found {
                    let same = *other != index || *content == hash;
                    assert!(same, "{name} at index {index} differs on node {}: {found:?}", node + 1);
                }
                match found.values().all(|(other, _)| *other == index) {
                    true => Ok(hash),
                    false => Err(format!("{found:?}")),
                }
            })
            .await;
            contents.insert(group, hash);
        }
        contents
    }

    /// The database files of a node with their inodes.
    ///
    /// # Panics
    /// When the folder cannot be read.
    pub fn databases(&self, node: usize) -> BTreeMap<PathBuf, u64> {
        let mut found = BTreeMap::new();
        for group in files(&self.nodes[node].data.join("groups")) {
            for file in files(&group).into_iter().filter(|file| file.extension().is_some_and(|e| e == "db")) {
                let inode = std::fs::metadata(&file).expect("the file is there").ino();
                found.insert(file, inode);
            }
        }
        found
    }

    /// The segments of a node's log, oldest first.
    pub fn segments(&self, node: usize) -> Vec<PathBuf> {
        let mut found = files(&self.nodes[node].data.join("wal"));
        found.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
        found.sort();
        found
    }

    /// Files of snapshots that a node is receiving of a group.
    pub fn incoming(&self, node: usize, group: &str) -> Vec<PathBuf> {
        let folders = files(&self.nodes[node].data.join("groups"));
        let of_group = |path: &PathBuf| name(path).starts_with(&format!("{group}-"));
        let mut found: Vec<PathBuf> =
            folders.iter().filter(|path| of_group(path)).flat_map(|path| files(path)).collect();
        found.retain(|file| name(file).starts_with("incoming-"));
        found
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Entries of a folder; none when it is not there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}
