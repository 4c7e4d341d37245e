//! The program under test, built once per test program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set to the path of a `flotilla` program to test that one instead of building it.
pub const BINARY_VARIABLE: &str = "FLOTILLA_BIN";

/// The `flotilla` program of the profile that this test was built with.
///
/// # Panics
/// When it cannot be built.
pub fn flotilla() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os(BINARY_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the repository")
}

fn build() -> PathBuf {
    // <target>/<profile>/deps/<test>-<hash>, or <target>/<profile>/<tool>
    let program = std::env::current_exe().expect("a process knows its program");
    let folder = program.parent().expect("programs lie in a folder");
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let target = profile.parent().expect("profiles lie in the target folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The whole workspace: one package alone would choose fewer features, and build every dependency anew.
    command.current_dir(repository()).args(["build", "--quiet", "--workspace", "--bin", "flotilla", "--target-dir"]);
    command.arg(target);
    match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => (),
        Some("release") => drop(command.arg("--release")),
        Some(other) => drop(command.args(["--profile", other])),
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the program under test does not build");
    profile.join("flotilla")
}
