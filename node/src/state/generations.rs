//! Which file of a group's folder is the database: its generations, and the name of the one in use.
//!
//! A file is complete and synced before `CURRENT` names it, and `CURRENT` is replaced in one step; so a
//! crash leaves the old generation or the new one. What `CURRENT` does not name is removed at the next
//! start, unless the two contradict each other: that is a named error, never an empty database.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Makes names of files durable.
///
/// # Errors
/// What the disk says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The file of a generation.
pub fn generation_path(folder: &Path, generation: u64) -> PathBuf {
    folder.join(format!("gen-{generation}.db"))
}

/// SQLite's WAL of a database file.
pub fn wal_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// The generation in use; none in a folder that was never used.
///
/// # Errors
/// What the disk says, and when the file does not hold a number.
pub fn read_current(folder: &Path) -> io::Result<Option<u64>> {
    let path = folder.join("CURRENT");
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| damaged(format!("{} is damaged", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file that `CURRENT` names is there, since it was complete before. Without `CURRENT` there is at
/// most a first generation: a crash kept the file from being named.
///
/// # Errors
/// When it is otherwise.
pub fn check_generations(folder: &Path, current: Option<u64>) -> io::Result<()> {
    if let Some(generation) = current {
        let path = generation_path(folder, generation);
        return match path.exists() {
            true => Ok(()),
            false => Err(damaged(format!("{} is in use and missing", path.display()))),
        };
    }
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("gen-") && !name.starts_with("gen-1.db") {
            return Err(damaged(format!("{} holds {name}, but no CURRENT says what is in use", folder.display())));
        }
    }
    Ok(())
}

fn damaged(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Names the generation in use.
///
/// # Errors
/// What the disk says.
pub fn write_current(folder: &Path, generation: u64) -> io::Result<()> {
    let aside = folder.join("CURRENT.new");
    let mut file = File::create(&aside)?;
    writeln!(file, "{generation}")?;
    file.sync_all()?;
    fs::rename(&aside, folder.join("CURRENT"))?;
    sync_folder(folder)
}

/// Removes what is not in use, transfers that ended early included.
///
/// # Errors
/// What the disk says.
pub fn remove_other_generations(folder: &Path, current: u64) -> io::Result<()> {
    let keep = format!("gen-{current}.db");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let other = name.starts_with("gen-") && !name.starts_with(&keep);
        if other || name.starts_with("incoming-") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
