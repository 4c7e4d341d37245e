//! The manifest of a data folder, `node.json`.
//!
//! It holds who this node is (a random instance id made with the folder, the cluster and node id once it has them) and
//! the replicas it hosts. It is written aside, synced and renamed. A folder without it is a new node: a wiped one comes
//! back under another instance and other raft ids. Refused: folders that a later program has written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use flotilla_shared::ids::{GroupId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};

/// Its name in the data folder.
const FILE: &str = "node.json";

/// What a data folder looks like: raised whenever something is written that the program before cannot read.
pub const DATA_FORMAT: u32 = 1;

/// The build that writes; for people.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");

/// Which program wrote the folder. Read before all else; a later program may have written the rest in another way.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    format: u32,
    build: String,
}

/// Who this node is and what it hosts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// What the folder looks like.
    #[serde(default)]
    pub format: u32,
    /// Which program wrote it last.
    #[serde(default)]
    pub build: String,
    /// Made with the folder.
    pub instance: u128,
    /// 0 before it has one.
    pub cluster: u128,
    /// 0 before it has one.
    pub node: NodeId,
    /// Replicas that it hosts.
    pub replicas: Vec<(GroupId, ReplicaId)>,
}

impl Manifest {
    /// Reads it; the default in a folder without one.
    ///
    /// # Errors
    /// What the disk says; that a later program wrote the folder, or that the file is damaged.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let damaged = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()));
        match fs::read(&path) {
            Ok(bytes) => {
                let written: Written = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
                if written.format > DATA_FORMAT {
                    return Err(damaged(format!(
                        "flotilla {} has written this folder in format {}; this is flotilla {BUILD}, which reads formats up \
                     to {DATA_FORMAT}: start the newer program again",
                        written.build, written.format
                    )));
                }
                serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Puts it in the place of the one before.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        write_synced(folder, FILE, &serde_json::to_vec_pretty(self)?)
    }
}

/// Replaces a file so that a crash leaves the old or the new one.
///
/// # Errors
/// What the disk says.
pub fn write_synced(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let aside = folder.join(format!("{name}.new"));
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, folder.join(name))?;
    File::open(folder)?.sync_all()
}
