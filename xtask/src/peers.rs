//! `cargo xtask peers`: builds the programs of other clients that the tests and `bench` run, where their libraries are.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A client that is tried on our broker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Names its program to the tests and to `bench`; one that is set is not built again.
    pub(crate) variable: &'static str,
    /// How its integration tests begin.
    pub(crate) tests: &'static str,
    build: fn(&Path, &Path) -> Result<(), String>,
}

pub(crate) const ALL: [Peer; 4] = [
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
    Peer { name: "kafkajs", variable: "KAFKAJS_MEMBER", tests: "foreign_groups::kafkajs", build: kafkajs },
    Peer {
        name: "kafka-python",
        variable: "KAFKA_PYTHON_MEMBER",
        tests: "foreign_groups::kafka_python",
        build: kafka_python,
    },
];

const KAFKAJS_VERSION: &str = "2.2.4";
const KAFKA_PYTHON_VERSION: &str = "3.0.12";

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

/// npm puts the library into a folder beside the program.
fn kafkajs(root: &Path, program: &Path) -> Result<(), String> {
    let missing = "node and npm are missing, or kafkajs could not be fetched";
    let library = program.with_extension("library");
    if !library.join("node_modules/kafkajs").is_dir() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&library);
        built(npm.arg(format!("kafkajs@{KAFKAJS_VERSION}")), missing)?;
    }
    let modules = library.join("node_modules");
    let member = root.join("integration-tests/peers/kafkajs.js");
    write_launcher(program, &format!("NODE_PATH={} exec node {}", quoted(&modules), quoted(&member)))?;
    built(Command::new("node").arg("--version"), missing)
}

/// pip puts the library into an environment beside the program.
fn kafka_python(root: &Path, program: &Path) -> Result<(), String> {
    let missing = "python3 with venv is missing, or kafka-python could not be fetched";
    let environment = program.with_extension("library");
    let python = environment.join("bin/python");
    if built(Command::new(&python).args(["-c", "import kafka"]), missing).is_err() {
        built(Command::new("python3").args(["-m", "venv"]).arg(&environment), missing)?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        built(pip.arg(format!("kafka-python=={KAFKA_PYTHON_VERSION}")), missing)?;
    }
    let member = root.join("integration-tests/peers/kafka_python.py");
    write_launcher(program, &format!("exec {} {}", quoted(&python), quoted(&member)))
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// A program that runs this command of the shell with its own arguments, as the same process, which signals reach.
fn write_launcher(program: &Path, command: &str) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", program.display());
    std::fs::write(program, format!("#!/bin/sh\n{command} \"$@\"\n")).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
    }
    Ok(())
}

fn built(compiler: &mut Command, missing: &str) -> Result<(), String> {
    let output = compiler.stdin(Stdio::null()).output().map_err(|error| format!("{missing}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{missing}: {}", said.lines().last().unwrap_or_default()))
}
