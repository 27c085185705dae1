//! `cargo xtask peers`: builds the programs of other clients that the tests and `bench` run, where their libraries are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A client whose transactions are tried on our broker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Names its program to the tests and to `bench`; one that is set is not built again.
    pub(crate) variable: &'static str,
    /// How its integration tests begin.
    pub(crate) tests: &'static str,
    build: fn(&Path, &Path) -> Result<(), String>,
}

pub(crate) const ALL: [Peer; 2] = [
    Peer {
        name: "librdkafka",
        variable: "RDKAFKA_TRANSACTIONS",
        tests: "transactions_foreign::librdkafka",
        build: librdkafka,
    },
    Peer {
        name: "franz-go",
        variable: "FRANZ_GO_TRANSACTIONS",
        tests: "transactions_foreign::franz_go",
        build: franz_go,
    },
];

impl Peer {
    /// Its program, or what is missing.
    pub(crate) fn find_or_build(self, root: &Path) -> Result<PathBuf, String> {
        if let Some(program) = std::env::var_os(self.variable).map(PathBuf::from) {
            return if program.is_file() {
                Ok(program)
            } else {
                Err(format!("{} names no file", self.variable))
            };
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let folder = target.join("peers");
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let program = folder.join(self.name);
        (self.build)(root, &program)?;
        Ok(program)
    }
}

/// Builds what can be built and prints how a shell names it to the tests and to `bench`.
#[expect(clippy::print_stderr, reason = "stdout is for the shell")]
pub(crate) fn run(root: &Path) -> Result<(), String> {
    for peer in ALL {
        match peer.find_or_build(root) {
            Ok(program) => println!("export {}={}", peer.variable, program.display()),
            Err(missing) => eprintln!("{} was not built: {missing}", peer.name),
        }
    }
    Ok(())
}

/// The library comes from the system, or from the folder of its source, built, that `LIBRDKAFKA` names.
fn librdkafka(root: &Path, program: &Path) -> Result<(), String> {
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o"]).arg(program).arg(root.join("bench/c/transactions.c"));
    if let Some(source) = std::env::var_os("LIBRDKAFKA").map(|folder| Path::new(&folder).join("src")) {
        let mut rpath = OsStr::new("-Wl,-rpath,").to_owned();
        rpath.push(&source);
        cc.arg("-I").arg(&source).arg("-L").arg(&source).arg(rpath);
    }
    built(
        cc.arg("-lrdkafka"),
        "librdkafka is missing (apt-get install librdkafka-dev, or LIBRDKAFKA names its source, built)",
    )
}

fn franz_go(root: &Path, program: &Path) -> Result<(), String> {
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(program).arg(".").current_dir(root.join("bench/go"));
    built(&mut go, "go is missing (1.25 or later), or its module could not be fetched")
}

fn built(compiler: &mut Command, missing: &str) -> Result<(), String> {
    let output = compiler.stdin(Stdio::null()).output().map_err(|error| format!("{missing}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{missing}: {}", said.lines().last().unwrap_or_default()))
}
