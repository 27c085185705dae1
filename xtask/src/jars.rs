//! Apache Kafka's jars: fetched once from Maven Central by the project's own `pom.xml`, then read from a cache folder.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The release of Apache Kafka that is generated from and tested against; `integration-tests/apache/pom.xml` names it too.
pub(crate) const KAFKA_VERSION: &str = "4.3.1";

/// A folder that holds all the jars.
pub(crate) struct Jars {
    pub(crate) folder: PathBuf,
}

impl Jars {
    /// The folder that `KAFKA_JARS` names, else one in the user's cache folder, filled by `mvn` when it is not yet.
    pub(crate) fn find_or_fetch(root: &Path) -> Result<Self, String> {
        let named = std::env::var_os("KAFKA_JARS").map(PathBuf::from);
        let is_named = named.is_some();
        let folder = match named {
            Some(folder) => folder,
            None => cache_folder()?.join(format!("apache-kafka-{KAFKA_VERSION}")),
        };
        let jars = Self { folder };
        // The newest of the pom's artifacts among them: a folder that was filled before it is filled again.
        let missing = ["kafka-clients", "kafka-streams-test-utils"].map(|artifact| jars.jar(artifact));
        match missing.iter().find(|jar| !jar.is_file()) {
            None => {}
            Some(jar) if is_named => return Err(format!("KAFKA_JARS: there is no {}", jar.display())),
            Some(_) => jars.fetch(root)?,
        }
        Ok(jars)
    }

    fn fetch(&self, root: &Path) -> Result<(), String> {
        println!("fetching Apache Kafka {KAFKA_VERSION} into {}", self.folder.display());
        // Renamed when complete, so that an interrupted download is not taken for a whole one.
        let partial = self.folder.with_file_name(format!("partial-{}", std::process::id()));
        std::fs::create_dir_all(&partial).map_err(|error| format!("{}: {error}", partial.display()))?;
        let mut mvn = Command::new("mvn");
        mvn.args(["-q", "-B", "-f"]).arg(root.join("integration-tests/apache/pom.xml"));
        mvn.args(["dependency:copy-dependencies", &format!("-DoutputDirectory={}", partial.display())]);
        let status = mvn.status().map_err(|error| format!("mvn (needed to fetch Apache Kafka): {error}"))?;
        if !status.success() {
            return Err(format!("mvn could not fetch Apache Kafka: {status}"));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
        std::fs::rename(&partial, &self.folder).map_err(|error| format!("{}: {error}", self.folder.display()))
    }

    pub(crate) fn jar(&self, artifact: &str) -> PathBuf {
        self.folder.join(format!("{artifact}-{KAFKA_VERSION}.jar"))
    }

    /// What `java -cp` takes.
    pub(crate) fn classpath(&self) -> String {
        self.folder.join("*").display().to_string()
    }

    /// The JSON files of one jar's folder: name and text.
    pub(crate) fn read_json(&self, artifact: &str, folder: &str) -> Result<Vec<(String, String)>, String> {
        let jar = self.jar(artifact);
        let list = unzip(&["-Z1"], &jar, &[&format!("{folder}*.json")])?;
        let names = list.lines().map(str::to_owned);
        names.map(|name| Ok((name.clone(), unzip(&["-p"], &jar, &[&name])?))).collect()
    }
}

/// `$XDG_CACHE_HOME/kafka-rs`, or `~/.cache/kafka-rs`.
pub(crate) fn cache_folder() -> Result<PathBuf, String> {
    let cache = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => return Err("neither XDG_CACHE_HOME nor HOME is set".into()),
    };
    Ok(cache.join("kafka-rs"))
}

fn unzip(options: &[&str], jar: &Path, members: &[&str]) -> Result<String, String> {
    let output = Command::new("unzip").args(options).arg(jar).args(members).output();
    let output = output.map_err(|error| format!("unzip (needed to read {}): {error}", jar.display()))?;
    if !output.status.success() {
        return Err(format!("unzip {}: {}", jar.display(), String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{}: {error}", jar.display()))
}
