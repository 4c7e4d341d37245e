//! What the log needs from a disk, and the real one.
//!
//! Input: names, bytes and offsets from [`Writer`](super::Writer), recovery and readers. Output: one
//! folder of files. Refuses: a second process in the same folder ([`Disk::lock`]), a short read.
//!
//! The failure promise of every implementation:
//! - bytes are on the disk once [`DiskFile::sync_data`] returned `Ok` after their write; before that
//!   a power loss may keep any part of them;
//! - a created or removed name is so after a power loss once [`Disk::sync_dir`] returned `Ok`;
//! - after a failed sync nothing is promised about the bytes written before it, not even if a later
//!   sync succeeds (an operating system may have dropped them and marked its pages clean), so the
//!   caller must never retry one.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

/// One folder that holds the log's files. Names are plain file names.
pub trait Disk: Send + Sync + 'static {
    /// Takes the folder for this process, until the returned guard is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process has it.
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>>;

    /// Names of all files in the folder, in any order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new file of `len` zero bytes for which the space is already taken.
    ///
    /// # Errors
    /// When the name exists or there is no space; the name may exist afterwards.
    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// An existing file.
    ///
    /// # Errors
    /// When there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Removes a name; whoever has the file open may go on reading it.
    ///
    /// # Errors
    /// When there is no such file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes all creations and removals so far survive a power loss.
    ///
    /// # Errors
    /// When they may not survive.
    fn sync_dir(&self) -> io::Result<()>;
}

/// One open file of a [`Disk`].
pub trait DiskFile: Send + Sync + 'static {
    /// Writes all of `bytes` at byte `offset`.
    ///
    /// # Errors
    /// When any of it failed; any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills all of `buffer` from byte `offset`.
    ///
    /// # Errors
    /// When the file ends earlier or the disk fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Makes all bytes written so far survive a power loss (fdatasync).
    ///
    /// # Errors
    /// When they may not survive; never to be retried.
    fn sync_data(&self) -> io::Result<()>;

    /// Length of the file in bytes.
    ///
    /// # Errors
    /// When the disk fails.
    fn len(&self) -> io::Result<u64>;

    /// Is the file empty?
    ///
    /// # Errors
    /// When the disk fails.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Extends the file to at least `len` bytes, the new ones zero, their space taken.
    ///
    /// # Errors
    /// When there is no space.
    fn allocate(&self, len: u64) -> io::Result<()>;
}

/// A folder of the operating system's file system.
#[derive(Clone, Debug)]
pub struct RealDisk {
    folder: PathBuf,
}

/// Name of the file whose lock says that a process has the folder open. It is never removed:
/// removing it would let two processes lock two files of the same name.
const LOCK_FILE: &str = "LOCK";

impl RealDisk {
    /// The folder, created if missing, together with its name in its parent folder.
    ///
    /// # Errors
    /// When it cannot be created or made durable.
    pub fn new(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        std::fs::create_dir_all(&folder)?;
        if let Some(parent) = folder.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { folder })
    }
}

impl Disk for RealDisk {
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join(LOCK_FILE))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            // A name that is not text is not one of the log's.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str, len: u64) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(self.folder.join(name))?;
        let file = RealFile(file);
        file.allocate(len)?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.folder.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.folder.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.len()? >= len {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // Not every file system can take space ahead; there a full disk shows at a later write.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.0.set_len(len),
            Err(error) => Err(error.into()),
        }
    }
}
