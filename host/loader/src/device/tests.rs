//! Machines that are not here, as trees of files.

use std::fs;

use tempfile::{TempDir, tempdir};

use super::*;

struct Fake {
    _folder: TempDir,
    around: Surroundings,
}

fn fake() -> Fake {
    let folder = tempdir().unwrap();
    let surroundings = Surroundings { variables: BTreeMap::new(), root: folder.path().to_owned() };
    Fake { _folder: folder, around: surroundings }
}

impl Fake {
    fn file(self, path: &str, text: &str) -> Self {
        let path = self.around.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.around.variables.insert(name.to_owned(), value.into());
        self
    }

    fn under_root(self, name: &str, path: &str) -> Self {
        let path = self.around.path(path);
        self.variable(name, path)
    }

    fn detect(&self) -> Machine {
        Machine::detect_in(&self.around)
    }
}

#[test]
fn a_machine_with_nothing_is_described_all_the_same() {
    let machine = fake().detect();
    assert_eq!(machine.devices(), BTreeSet::from([Device::Cpu]));
    assert_eq!(machine.memory.total_bytes, 0);
    assert!(machine.nvidia.driver.is_none() && machine.libraries == Libraries::default());
    assert_eq!(machine.target(Device::Cuda), None);
    assert!(machine.findings().iter().all(|finding| !finding.found.is_empty() && !finding.means.is_empty()));
}

#[test]
fn memory_is_what_the_control_group_leaves_of_it() {
    let machine = fake()
        .file("/proc/meminfo", "MemTotal:       32000000 kB\nMemFree: 1 kB\nMemAvailable:   16000000 kB\n")
        .file("/proc/self/cgroup", "0::/a/b\n")
        .file("/sys/fs/cgroup/a/memory.max", "1048576000\n")
        .file("/sys/fs/cgroup/a/b/memory.max", "max\n")
        .detect();
    let memory = machine.memory;
    assert_eq!(memory.total_bytes, 32_000_000 * 1024);
    assert_eq!(memory.available_bytes, 16_000_000 * 1024);
    assert_eq!(memory.limit_bytes, Some(1_048_576_000));
}

#[test]
fn numbers_that_are_none_count_as_unknown() {
    let machine = fake()
        .file("/proc/meminfo", "MemTotal: 99999999999999999999 kB\nMemAvailable: many kB\n")
        .file("/proc/self/cgroup", "0::/../../..\n")
        .file("/proc/cpuinfo", "model name\t: \u{1b}[31mred\n")
        .detect();
    assert_eq!((machine.memory.total_bytes, machine.memory.limit_bytes), (0, None));
    assert!(!machine.cpu.model.unwrap().contains('\u{1b}'));
}

#[test]
fn libraries_are_found_in_the_active_environment_first() {
    let packages = "/venv/lib/python3.11/site-packages";
    let machine = fake()
        .file(&format!("{packages}/torch/lib/libtorch_cpu.so"), "")
        .file(&format!("{packages}/torch/version.py"), "__version__ = '2.11.0+cu130'\n")
        .file(&format!("{packages}/nvidia/cu13/lib/libnvrtc.so.13"), "")
        .file(&format!("{packages}/some_pjrt_cpu/deep/pjrt_c_api_cpu_plugin.so"), "")
        .file(&format!("{packages}/some_pjrt_cpu/__init__.py"), "")
        .file(&format!("{packages}/libtpu/libtpu.so"), "")
        .file(&format!("{packages}/libtpu-0.0.51.dist-info/METADATA"), "")
        .file("/usr/lib/libtorch_cpu.so", "")
        .under_root("VIRTUAL_ENV", "/venv")
        .detect();
    let libraries = &machine.libraries;
    assert_eq!(libraries.libtorch.len(), 2);
    assert_eq!(libraries.libtorch[0].version.as_deref(), Some("2.11.0+cu130"));
    assert_eq!(libraries.nvrtc[0].version.as_deref(), Some("13"));
    assert!(libraries.pjrt[0].path.ends_with("pjrt_c_api_cpu_plugin.so"));
    assert_eq!(libraries.libtpu[0].version.as_deref(), Some("0.0.51"));
    // libtpu alone is no TPU.
    assert_eq!(machine.devices(), BTreeSet::from([Device::Cpu]));
}

#[test]
fn a_tpu_needs_chip_and_library() {
    let with_chip = fake().file("/dev/accel0", "").file("/dev/accel1", "").file("/dev/accelerator", "");
    assert_eq!(with_chip.detect().tpu_chips, 2);
    assert!(!with_chip.detect().devices().contains(&Device::Tpu));
    let machine = with_chip.file("/lib/libtpu.so", "").detect();
    assert!(machine.devices().contains(&Device::Tpu));
    assert_eq!(machine.target(Device::Tpu).unwrap().device, Device::Tpu);
}

#[test]
fn the_working_directory_is_never_searched() {
    let machine = fake()
        .variable("LIBTORCH", "src")
        .variable("VIRTUAL_ENV", ".")
        .variable("LD_LIBRARY_PATH", "::.:src")
        .variable("PJRT_PLUGIN_PATH", "Cargo.toml")
        .variable("PJRT_NAMES_AND_LIBRARY_PATHS", "cpu:pjrt.so,nonsense")
        .detect();
    assert_eq!(machine.libraries, Libraries::default());
}

#[test]
fn this_machine_is_described() {
    let machine = Machine::detect();
    assert!(machine.cpu.threads >= 1 && machine.memory.total_bytes > 0);
    let json = serde_json::to_value(&machine).unwrap();
    assert_eq!(json["cpu"]["arch"], std::env::consts::ARCH);
    assert_eq!(machine.target(Device::Cpu).unwrap().features, machine.cpu.features);
    for finding in machine.findings() {
        println!("{:10} {} -> {}", finding.item, finding.found, finding.means);
    }
}
