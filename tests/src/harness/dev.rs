//! `flotilla dev`: a whole cluster in one process, with its data in a folder that ends with it.

use std::process::{Command, Output, Stdio};

use super::binary::flotilla;
use super::cluster::process_ready;
use super::ports::free_ports;
use super::process::Process;
use super::wait::{PATIENCE, eventually};

/// A running `flotilla dev`.
pub struct Dev {
    /// Its process.
    pub process: Process,
    /// Where its proxy is.
    pub address: String,
    /// A folder for files of the test; behind the process, so that it is removed after that has ended.
    pub folder: tempfile::TempDir,
}

impl Dev {
    /// Starts one and waits until it says that it is up.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(nodes: u32, shards: u32) -> Self {
        // The proxy, and two ports for each node.
        let port = free_ports(2 * nodes + 1);
        let folder = tempfile::tempdir().expect("a folder for the cluster");
        let numbers = [("--port", u32::from(port)), ("--nodes", nodes), ("--shards", shards)];
        let mut args = vec!["dev".to_owned(), "--ephemeral".to_owned()];
        args.extend(numbers.iter().flat_map(|(flag, number)| [(*flag).to_owned(), number.to_string()]));
        let mut process = Process::new(format!("dev with {shards} shards"), args, folder.path().join("dev.log"));
        process.start();
        let address = format!("127.0.0.1:{port}");
        process_ready(&mut process, &address).await;
        eventually("the banner is printed", PATIENCE, async || match process.output() {
            output if output.contains("flotilla sql --url") => Ok(()),
            output => Err(output),
        })
        .await;
        Self { process, address, folder }
    }

    /// Runs a `flotilla` command against it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn command(&self, args: &[&str], input: Option<&str>) -> Output {
        let mut command = Command::new(flotilla());
        command.args(args).env("FLOTILLA_URL", format!("http://{}", self.address)).current_dir(self.folder.path());
        command.stdin(match input {
            Some(text) => {
                let path = self.folder.path().join("input");
                std::fs::write(&path, text).expect("the folder can be written");
                Stdio::from(std::fs::File::open(path).expect("it was just written"))
            }
            None => Stdio::null(),
        });
        command.output().expect("the program starts")
    }

    /// Runs a command and gives what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn succeeds(&self, args: &[&str], input: Option<&str>) -> String {
        let output = self.command(args, input);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}");
        out.into_owned()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.process.show_log();
        }
    }
}
