//! Java's side: one JVM that runs spec after spec.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value as Json;

use crate::Error;

const SOURCE: &str = include_str!("../java/Parity.java");

/// A running JVM; it ends with this.
pub(crate) struct Java {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    // Holds the class files for as long as the JVM may load them.
    _classes: tempfile::TempDir,
}

impl Java {
    /// Compiles the interpreter against the jars in a folder and starts it.
    pub(crate) fn start(jars: &Path) -> Result<Self, Error> {
        let classes = tempfile::tempdir().map_err(|error| Error::Java(error.to_string()))?;
        let source = classes.path().join("Parity.java");
        std::fs::write(&source, SOURCE).map_err(|error| Error::Java(error.to_string()))?;
        let jars = jars.join("*").display().to_string();
        let mut javac = Command::new("javac");
        javac.args(["-nowarn", "-cp", &jars, "-d"]).arg(classes.path()).arg(&source);
        let output = javac.output().map_err(|error| Error::Java(format!("javac: {error}")))?;
        if !output.status.success() {
            return Err(Error::Java(format!("javac: {}", String::from_utf8_lossy(&output.stderr))));
        }
        let mut java = Command::new("java");
        java.args(["-Xmx1g", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off", "-cp"]);
        java.arg(format!("{}:{jars}", classes.path().display())).arg("Parity");
        java.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = java.spawn().map_err(|error| Error::Java(format!("java: {error}")))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| Error::Java("no output".to_owned()))?;
        Ok(Self { child, stdin, stdout: BufReader::new(stdout), _classes: classes })
    }

    /// Runs a spec.
    pub(crate) fn run(&mut self, spec: &Json) -> Result<Json, Error> {
        let stdin = self.stdin.as_mut().ok_or_else(|| Error::Java("has ended".to_owned()))?;
        writeln!(stdin, "{spec}")
            .and_then(|()| stdin.flush())
            .map_err(|error| Error::Java(error.to_string()))?;
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(|error| Error::Java(error.to_string()))?;
        serde_json::from_str(&line).map_err(|error| Error::Java(format!("{error} in {line:?} for {spec}")))
    }
}

impl Drop for Java {
    fn drop(&mut self) {
        // It ends when its input does.
        self.stdin = None;
        let _ = self.child.wait();
    }
}
