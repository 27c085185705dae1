//! A real Apache Kafka: one KRaft node on this machine, for the integration suite and by hand.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::jars::Jars;

/// How long a broker may take until it accepts connections. A loaded two-core machine needs about ten seconds.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may take to flush and leave after SIGTERM, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// The port by hand, unless one is named; not 9092, where something real may listen.
const DEFAULT_PORT: u16 = 19092;

/// A broker that this process started, and stops when the value is dropped.
pub(crate) struct Broker {
    child: Child,
    pub(crate) port: u16,
    folder: PathBuf,
}

impl Broker {
    /// Starts a broker on a free port, with its data in a fresh folder.
    pub(crate) fn start(jars: &Jars) -> Result<Self, String> {
        let port = free_port()?;
        let folder = std::env::temp_dir().join(format!("apache-kafka-{}-{port}", std::process::id()));
        let mut broker = Self { child: spawn(jars, port, &folder, Lifetime::ThisProgram)?, port, folder };
        wait_until_open(port, &broker.folder, || broker.child.try_wait().is_ok_and(|exit| exit.is_none()))?;
        Ok(broker)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        let asked = terminate(self.child.id());
        while asked && Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `cargo xtask kafka …`
pub(crate) fn run(root: &Path, arguments: &[&str]) -> Result<(), String> {
    match arguments {
        ["jars"] => println!("{}", Jars::find_or_fetch(root)?.folder.display()),
        ["start", rest @ ..] => {
            let port = port(rest)?;
            if is_open(port) {
                return Err(format!("port {port} is taken"));
            }
            let folder = folder(port);
            let mut child = spawn(&Jars::find_or_fetch(root)?, port, &folder, Lifetime::UntilStopped)?;
            let pid = child.id();
            write(&folder.join("pid"), &pid.to_string())?;
            wait_until_open(port, &folder, || child.try_wait().is_ok_and(|exit| exit.is_none()))?;
            println!("Apache Kafka listens at 127.0.0.1:{port}, process {pid}, data in {}", folder.display());
        }
        ["stop", rest @ ..] => {
            let file = folder(port(rest)?).join("pid");
            let pid = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            let pid = pid.trim().parse().map_err(|error| format!("{}: {error}", file.display()))?;
            if !terminate(pid) {
                return Err(format!("no process {pid}"));
            }
            let _ = fs::remove_file(file);
        }
        ["run", class, rest @ ..] => {
            let mut java = java(&Jars::find_or_fetch(root)?, "error");
            let status = java.arg(class).args(rest).status().map_err(|error| format!("java: {error}"))?;
            if !status.success() {
                return Err(format!("{class}: {status}"));
            }
        }
        other => return Err(format!("kafka {}: want start, stop, run or jars", other.join(" "))),
    }
    Ok(())
}

/// `cargo xtask vectors`: the bytes that kafka-wire's tests compare with.
pub(crate) fn write_vectors(root: &Path) -> Result<(), String> {
    let jars = Jars::find_or_fetch(root)?;
    let folder = root.join("kafka-wire/tests/vectors");
    for (program, mode) in [("BatchVectors.java", Some("write")), ("RecordVectors.java", None)] {
        let mut java = java(&jars, "error");
        java.arg(folder.join(program)).args(mode).arg(&folder);
        let status = java.status().map_err(|error| format!("java: {error}"))?;
        if !status.success() {
            return Err(format!("{program}: {status}"));
        }
    }
    Ok(())
}

/// `java` with Kafka's jars and its logging set to `level`.
pub(crate) fn java(jars: &Jars, level: &str) -> Command {
    let mut java = Command::new("java");
    java.arg(format!("-Dorg.slf4j.simpleLogger.defaultLogLevel={level}")).arg("-cp").arg(jars.classpath());
    java
}

/// The major version of the `java` on the path.
pub(crate) fn java_version() -> Option<u32> {
    let output = Command::new("java").arg("-version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let version = text.split('"').nth(1)?;
    version.split(['.', '-', '+']).next()?.parse().ok()
}

fn port(arguments: &[&str]) -> Result<u16, String> {
    match arguments {
        [] => Ok(DEFAULT_PORT),
        [port] => port.parse().map_err(|_| format!("{port:?} is not a port")),
        _ => Err("want one port".into()),
    }
}

fn folder(port: u16) -> PathBuf {
    std::env::temp_dir().join(format!("apache-kafka-{port}"))
}

#[derive(Clone, Copy, PartialEq)]
enum Lifetime {
    ThisProgram,
    UntilStopped,
}

fn spawn(jars: &Jars, port: u16, folder: &Path, lifetime: Lifetime) -> Result<Child, String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let properties = folder.join("server.properties");
    write(&properties, &server_properties(port, free_port()?, folder))?;
    if !folder.join("data/meta.properties").exists() {
        let id = java(jars, "error").args(["kafka.tools.StorageTool", "random-uuid"]).output();
        let id = id.map_err(|error| format!("java: {error}"))?;
        let id = String::from_utf8_lossy(&id.stdout).trim().to_owned();
        let mut format = java(jars, "error");
        format.args(["kafka.tools.StorageTool", "format", "-t", &id, "-c"]).arg(&properties);
        let output = format.output().map_err(|error| format!("java: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "could not format Kafka's storage: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
    }
    let log = folder.join("broker.log");
    let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
    let mut broker = Command::new("java");
    broker.args(["-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &jars.classpath()]);
    broker.arg("kafka.Kafka").arg(&properties).stdin(Stdio::null()).stdout(file).stderr(errors);
    #[cfg(unix)]
    if lifetime == Lifetime::UntilStopped {
        // In a process group of its own it does not get the terminal's Ctrl-C.
        std::os::unix::process::CommandExt::process_group(&mut broker, 0);
    }
    broker.spawn().map_err(|error| format!("java: {error}"))
}

fn server_properties(port: u16, controller_port: u16, folder: &Path) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller_port}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         share.coordinator.state.topic.replication.factor=1\n\
         share.coordinator.state.topic.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n",
        folder.join("data").display()
    )
}

fn wait_until_open(port: u16, folder: &Path, mut alive: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if is_open(port) {
            return Ok(());
        }
        if !alive() {
            let log = fs::read_to_string(folder.join("broker.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            return Err(format!("Apache Kafka ended while starting:\n{}", tail.join("\n")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!(
        "Apache Kafka did not listen on {port} within {START_TIMEOUT:?}; see {}/broker.log",
        folder.display()
    ))
}

fn is_open(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

/// SIGTERM, which the standard library cannot send.
fn terminate(pid: u32) -> bool {
    Command::new("kill").arg(pid.to_string()).status().is_ok_and(|status| status.success())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
