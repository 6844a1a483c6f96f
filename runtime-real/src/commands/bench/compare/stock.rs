//! Apache RocketMQ as a child process, with the settings its comparison names, and the facts of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::super::server::{Flush, Server, broker_config, free_port};

/// What Java 17 needs to be told for RocketMQ, as its `runbroker.sh` does for Java 8.
const JAVA_FLAGS: [&str; 7] = [
    "-server",
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "-XX:MaxDirectMemorySize=8g",
];

/// Where Apache RocketMQ is, and how it is run.
pub(super) struct Stock {
    home: PathBuf,
    heap_mebibytes: u32,
    pub(super) jar_version: String,
    pub(super) java_version: String,
}

impl Stock {
    /// Looks whether everything is there before anything is measured.
    pub(super) fn find(home: &Path, heap_mebibytes: u32) -> anyhow::Result<Stock> {
        let home = std::path::absolute(home)?;
        let jars = fs::read_dir(home.join("lib")).map(|entries| {
            let names = entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.collect::<Vec<String>>()
        });
        let version = jars.unwrap_or_default().iter().find_map(|name| jar_version(name));
        let Some(jar_version) = version else {
            bail!(
                "{} holds no lib/rocketmq-broker-*.jar: fetch it with `interop/stock/fetch {}`",
                home.display(),
                home.display()
            );
        };
        let java = Command::new("java").arg("-version").output();
        let java = java.context("java is missing; on Debian or Ubuntu: apt-get install -y openjdk-17-jdk-headless")?;
        let said = String::from_utf8_lossy(&java.stderr).into_owned();
        Ok(Stock {
            home,
            heap_mebibytes,
            jar_version,
            java_version: said.lines().next().unwrap_or("unknown").to_owned(),
        })
    }

    /// Flags of the heap and the collector.
    pub(super) fn heap_flags(&self) -> Vec<String> {
        let (heap, young) = (self.heap_mebibytes, self.heap_mebibytes / 2);
        vec![
            format!("-Xms{heap}m"),
            format!("-Xmx{heap}m"),
            format!("-Xmn{young}m"),
            "-XX:+UseG1GC".to_owned(),
            "-XX:+AlwaysPreTouch".to_owned(),
        ]
    }

    pub(super) fn start(&self, dir: &Path, flush: Flush) -> anyhow::Result<Server> {
        let port = free_port()?;
        let config = broker_config(dir, flush, port)?;
        let mut command = Command::new("java");
        command
            .env("ROCKETMQ_HOME", &self.home)
            .args(JAVA_FLAGS)
            .args(self.heap_flags())
            .arg(format!("-Duser.home={}", std::path::absolute(dir)?.display()))
            .arg("-cp")
            .arg(format!("{0}/conf:{0}/lib/*", self.home.display()))
            .args(["org.apache.rocketmq.broker.BrokerStartup", "-c"])
            .arg(config);
        Server::start(command, dir, port, "broker").with_context(|| {
            let heap = self.heap_mebibytes;
            format!("Apache RocketMQ (heap of {heap} MiB; --heap-mebibytes makes it smaller)")
        })
    }
}

fn jar_version(name: &str) -> Option<String> {
    let version = name.strip_prefix("rocketmq-broker-")?.strip_suffix(".jar")?;
    Some(version.to_owned())
}

/// One line: processors, memory, kernel.
pub(super) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let memory = read("/proc/meminfo");
    let kibibytes = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    format!(
        "{} x {model}, {:.1} GiB, Linux {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        kibibytes.unwrap_or(0) as f64 / 1_048_576.0,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_the_jars_is_refused_with_the_command_that_fetches_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lib")).unwrap();
        let error = Stock::find(dir.path(), 512).err().unwrap();
        assert!(error.to_string().contains("interop/stock/fetch"), "{error}");
        assert_eq!(jar_version("rocketmq-broker-5.5.0.jar").as_deref(), Some("5.5.0"));
        assert_eq!(jar_version("rocketmq-broker.jar"), None);
    }
}
