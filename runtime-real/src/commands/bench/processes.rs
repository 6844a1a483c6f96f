//! Processor time and memory of processes, from `/proc`.

use std::fs;
use std::time::Duration;

/// Processor time used so far by the threads of all `pids`; those that are gone count nothing.
pub(super) fn processor_time(pids: &[u32]) -> Duration {
    let tick = Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
    let ticks: u64 = pids
        .iter()
        .filter_map(|pid| ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .sum();
    tick * u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// Anonymous resident memory of all `pids`, in bytes: what a process holds itself, without mapped files.
pub(super) fn anonymous_bytes(pids: &[u32]) -> u64 {
    status_bytes(pids, "RssAnon:")
}

/// Resident pages of mapped files of all `pids`, in bytes.
pub(super) fn file_bytes(pids: &[u32]) -> u64 {
    status_bytes(pids, "RssFile:")
}

fn status_bytes(pids: &[u32], field: &str) -> u64 {
    let kibibytes = pids.iter().filter_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    });
    kibibytes.sum::<u64>() * 1024
}

/// Bytes that all `pids` have caused to be sent to a disk; `None` if one may not be asked or is gone.
pub(super) fn stored_bytes(pids: &[u32]) -> Option<u64> {
    if pids.is_empty() {
        return None;
    }
    let bytes = pids.iter().map(|pid| {
        let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
        io.lines()
            .find_map(|line| line.strip_prefix("write_bytes:"))?
            .trim()
            .parse::<u64>()
            .ok()
    });
    bytes.sum()
}

pub(super) fn exists(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}/stat")).unwrap_or(false)
}

/// User and system ticks of a `/proc/PID/stat` line. The name in parentheses may hold anything, even parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 10 0 0 0 30 12 0 0 20 0 9 0 100 1 1";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn this_process_has_memory_and_gone_ones_have_nothing() {
        assert!(anonymous_bytes(&[std::process::id()]) > 0);
        assert!(file_bytes(&[std::process::id()]) > 0);
        assert_eq!(processor_time(&[u32::MAX]), Duration::ZERO);
        assert_eq!((stored_bytes(&[]), stored_bytes(&[u32::MAX])), (None, None));
    }
}
