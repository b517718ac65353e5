//! Memory: what the machine has, and what this process can still take of it.
//!
//! Three limits hold at once: the machine's free memory, the control group (versions 1 and 2), and the process's own address space
//! (`ulimit -v`). The page cache counts as free: the kernel gives it up when a process asks for memory.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Finding, Surroundings, show_bytes};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// 0 where the system does not say.
    pub total_bytes: u64,
    pub available_bytes: u64,
    pub swap_free_bytes: u64,
    /// What this process's control group allows, where that is less than the machine has.
    pub limit_bytes: Option<u64>,
    /// What that group has not used yet, its page cache aside.
    pub group_free_bytes: Option<u64>,
    /// What is left of the process's address space, where it is limited.
    pub address_space_free_bytes: Option<u64>,
}

impl Memory {
    pub(super) fn detect(around: &Surroundings) -> Self {
        let meminfo = around.read(&around.path("/proc/meminfo")).unwrap_or_default();
        let total_bytes = kib(&meminfo, "MemTotal").unwrap_or(0);
        let groups = Group::around_this_process(around);
        Self {
            total_bytes,
            available_bytes: kib(&meminfo, "MemAvailable").unwrap_or(0),
            swap_free_bytes: kib(&meminfo, "SwapFree").unwrap_or(0),
            limit_bytes: groups.iter().filter_map(|group| group.limit_bytes).min().filter(|&limit| limit < total_bytes),
            group_free_bytes: groups.iter().filter_map(Group::free_bytes).min(),
            address_space_free_bytes: address_space_free(around),
        }
    }

    /// The bytes that this process can still take; `None` where the system does not say.
    pub fn usable_bytes(&self) -> Option<u64> {
        let machine = self.available_bytes.saturating_add(self.swap_free_bytes);
        let machine = (self.available_bytes > 0).then_some(machine);
        [machine, self.group_free_bytes, self.address_space_free_bytes].into_iter().flatten().min()
    }

    pub(super) fn finding(&self) -> Finding {
        let mut found = format!("{}, {} available", show_bytes(self.total_bytes), show_bytes(self.available_bytes));
        if let Some(limit) = self.limit_bytes {
            found.push_str(&format!(", the control group allows {}", show_bytes(limit)));
        }
        if let Some(free) = self.address_space_free_bytes {
            found.push_str(&format!(", the address space has {} left", show_bytes(free)));
        }
        let left = self.usable_bytes().map_or("an unknown amount".to_owned(), show_bytes);
        Finding {
            item: "memory",
            present: self.total_bytes > 0,
            found,
            // Surgery maps the weights and holds one new tensor at a time; so the file's size does not count.
            means: format!("surgery takes under 100 MB whatever the checkpoint's size; training can take {left}"),
        }
    }
}

/// A number of kB in `/proc/meminfo` or `/proc/self/status`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `RLIMIT_AS` less what the process has mapped.
fn address_space_free(around: &Surroundings) -> Option<u64> {
    let limits = around.read(&around.path("/proc/self/limits"))?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = limit.split_whitespace().next()?.parse().ok()?;
    let status = around.read(&around.path("/proc/self/status")).unwrap_or_default();
    Some(limit.saturating_sub(kib(&status, "VmSize").unwrap_or(0)))
}

/// A control group that limits memory.
struct Group {
    limit_bytes: Option<u64>,
    used_bytes: Option<u64>,
    cache_bytes: u64,
}

impl Group {
    /// The group that this process is in and those around it, of both versions.
    fn around_this_process(around: &Surroundings) -> Vec<Self> {
        let groups = around.read(&around.path("/proc/self/cgroup")).unwrap_or_default();
        let mut found = Vec::new();
        for line in groups.lines() {
            // hierarchy:controllers:path
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            if controllers.is_empty() {
                let files = ["memory.max", "memory.current", ""];
                found.extend(Self::up_from(around, &around.path("/sys/fs/cgroup"), path, files));
            } else if controllers.split(',').any(|controller| controller == "memory") {
                let files = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_"];
                found.extend(Self::up_from(around, &around.path("/sys/fs/cgroup/memory"), path, files));
            }
        }
        found
    }

    /// Inside a container the path may be the host's, of which only the root is mounted: what is missing has no limit.
    fn up_from(around: &Surroundings, base: &Path, path: &str, [limit, used, prefix]: [&str; 3]) -> Vec<Self> {
        let number = |path: PathBuf| around.read(&path).and_then(|text| text.trim().parse().ok());
        let mut folder = base.join(path.trim_start_matches('/'));
        let mut groups = Vec::new();
        while folder.starts_with(base) {
            let stat = around.read(&folder.join("memory.stat")).unwrap_or_default();
            // Without shared memory, which is counted as cache and is not given up.
            let cache = ["inactive_file ", "active_file "].map(|name| format!("{prefix}{name}"));
            let bytes_of =
                |line: &str| cache.iter().find_map(|name| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            groups.push(Group {
                limit_bytes: number(folder.join(limit)),
                used_bytes: number(folder.join(used)),
                cache_bytes: stat.lines().filter_map(bytes_of).fold(0, u64::saturating_add),
            });
            if !folder.pop() {
                break;
            }
        }
        groups
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(self.limit_bytes?.saturating_sub(self.used_bytes?.saturating_sub(self.cache_bytes)))
    }
}
