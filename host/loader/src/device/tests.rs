//! Machines that are not here, as trees of files.

use std::{fs, process::Command};

use tempfile::{TempDir, tempdir};

use super::*;

struct Fake {
    _folder: TempDir,
    around: Surroundings,
}

fn fake() -> Fake {
    let folder = tempdir().unwrap();
    let surroundings = Surroundings {
        variables: BTreeMap::new(),
        root: folder.path().to_owned(),
        cuda_driver: folder.path().join("libcuda.so.1"),
        driver_limit: Duration::from_secs(60),
    };
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
fn what_can_be_used_is_the_least_of_machine_groups_and_address_space() {
    let meminfo = "MemTotal: 32000 kB\nMemAvailable: 16000 kB\nSwapFree: 1000 kB\n";
    let usable = |fake: &Fake| fake.detect().memory.usable_bytes().map(|bytes| bytes / 1024);
    let machine = fake().file("/proc/meminfo", meminfo);
    assert_eq!(usable(&machine), Some(17_000));
    // Version 2: the page cache of a group is given up when memory is asked for.
    let group = machine
        .file("/proc/self/cgroup", "4:memory:/job/step\n0::/a/b\n")
        .file("/sys/fs/cgroup/a/memory.max", &format!("{}\n", 12_000 * 1024))
        .file("/sys/fs/cgroup/a/memory.current", &format!("{}\n", 5_000 * 1024))
        .file("/sys/fs/cgroup/a/memory.stat", "anon 7\nshmem 99\ninactive_file 1024000\nactive_file 1024000\n");
    assert_eq!(usable(&group), Some(9_000));
    // Version 1, whose groups without a limit say 2^63 less a page.
    let group = group
        .file("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", &format!("{}\n", 8_000 * 1024))
        .file("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1024000\n")
        .file("/sys/fs/cgroup/memory/job/step/memory.limit_in_bytes", "9223372036854771712\n")
        .file("/sys/fs/cgroup/memory/job/step/memory.usage_in_bytes", "1024000\n");
    assert_eq!(usable(&group), Some(7_000));
    let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                  Max address space         6144000              unlimited            bytes\n";
    let limited = group.file("/proc/self/limits", limits).file("/proc/self/status", "VmSize:    2000 kB\n");
    assert_eq!(usable(&limited), Some(4_000));
    assert_eq!(fake().detect().memory.usable_bytes(), None);
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

/// A driver that answers as `functions` say, and otherwise well: one H100.
fn with_driver(functions: &[&str]) -> Fake {
    let usual = [
        "int cuDriverGetVersion(int *v) { *v = 13020; return 0; }",
        "int cuInit(unsigned f) { return 0; }",
        "int cuDeviceGetCount(int *n) { *n = 1; return 0; }",
        "int cuDeviceGet(int *d, int i) { *d = i; return 0; }",
        "int cuDeviceGetName(char *s, int n, int d) { strncpy(s, \"NVIDIA H100\", n); return 0; }",
        "int cuDeviceTotalMem_v2(size_t *b, int d) { *b = (size_t)80 << 30; return 0; }",
        "int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 9 : 0; return 0; }",
    ];
    let name = |function: &str| function.split('(').next().unwrap_or_default().to_owned();
    let given: Vec<_> = functions.iter().map(|function| name(function)).collect();
    let mut source = "#include <stddef.h>\n#include <string.h>\n#include <unistd.h>\n".to_owned();
    for function in usual.iter().filter(|function| !given.contains(&name(function))).chain(functions) {
        source.push_str(function);
        source.push('\n');
    }
    let fake = fake()
        .file("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun\n")
        .file("/driver.c", &source);
    let compiled = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".to_owned()))
        .args(["-shared", "-fPIC", "-w", "-o"])
        .args([&fake.around.cuda_driver, &fake.around.path("/driver.c")])
        .status()
        .expect("the tests need a C compiler");
    assert!(compiled.success());
    fake
}

#[test]
fn a_gpu_is_described_by_its_driver() {
    let machine = with_driver(&[]).detect();
    assert_eq!((machine.nvidia.driver.as_deref(), machine.nvidia.cuda), (Some("580.65.06"), Some((13, 2))));
    let gpu = &machine.nvidia.gpus[0];
    assert_eq!((gpu.name.as_str(), gpu.memory_bytes, gpu.compute_capability), ("NVIDIA H100", 80 << 30, (9, 0)));
    assert!(machine.devices().contains(&Device::Cuda));
    assert_eq!(machine.target(Device::Cuda).unwrap().features, ["sm_90a"]);
}

#[test]
fn a_driver_that_does_not_work_is_told_and_not_waited_for() {
    for (function, said) in [
        ("int cuInit(unsigned f) { return 999; }", "cuInit failed with CUDA error 999"),
        ("int cuDeviceGetCount(int *n) { return 3; }", "cuDeviceGetCount failed with CUDA error 3"),
        ("int cuDeviceTotalMem_v2(size_t *b, int d) { return 2; }", "cuDeviceTotalMem failed"),
        ("int cuInit(unsigned f) { for (;;) sleep(1000); }", "it did not answer within 0.3 s"),
    ] {
        let mut fake = with_driver(&[function]);
        if said.contains("0.3 s") {
            fake.around.driver_limit = Duration::from_millis(300);
        }
        let machine = fake.detect();
        let problem = machine.nvidia.problem.as_deref().expect(function);
        assert!(problem.contains(said), "{problem}");
        assert_eq!(machine.devices(), BTreeSet::from([Device::Cpu]));
        assert!(machine.findings().iter().any(|finding| finding.found.contains(said)));
    }
}

#[test]
fn a_driver_without_gpu_or_library_is_no_gpu() {
    // CUDA_ERROR_NO_DEVICE is no defect.
    let machine = with_driver(&["int cuInit(unsigned f) { return 100; }"]).detect();
    assert_eq!((machine.nvidia.gpus.len(), machine.nvidia.problem), (0, None));
    let missing = with_driver(&[]);
    fs::remove_file(&missing.around.cuda_driver).unwrap();
    assert!(missing.detect().nvidia.problem.unwrap().contains("libcuda.so.1 is missing"));
}

#[test]
fn a_driver_is_not_believed_beyond_reason() {
    let machine = with_driver(&[
        "int cuDeviceGetCount(int *n) { *n = 2147483647; return 0; }",
        "int cuDeviceGetName(char *s, int n, int d) { memset(s, 27, n); return 0; }",
    ])
    .detect();
    assert_eq!(machine.nvidia.gpus.len(), 64);
    assert!(!machine.nvidia.gpus[0].name.contains('\u{1b}'));
    let machine = with_driver(&["int cuDeviceGetCount(int *n) { *n = -1; return 0; }"]).detect();
    assert!(machine.nvidia.gpus.is_empty());
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
