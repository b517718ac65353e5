//! Libraries that later stages use, found by name in the places where people put them. None is opened.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Finding, Surroundings};
use crate::plain;

/// A library on this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Library {
    pub path: PathBuf,
    /// Where its package says it.
    pub version: Option<String>,
}

/// Each in the order in which they would be taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Libraries {
    pub libtorch: Vec<Library>,
    pub nvrtc: Vec<Library>,
    pub pjrt: Vec<Library>,
    pub libtpu: Vec<Library>,
}

/// No folder is read further than this.
const MAX_ENTRIES: usize = 4096;

impl Libraries {
    pub(super) fn detect(around: &Surroundings) -> Self {
        let packages = site_packages(around);
        let mut folders: Vec<PathBuf> = around
            .variable("LD_LIBRARY_PATH")
            .map(|paths| std::env::split_paths(paths).filter(|path| path.is_absolute()).collect())
            .unwrap_or_default();
        folders.extend(
            ["/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
                .map(|path| around.path(path)),
        );
        Self {
            libtorch: libtorch(around, &packages, &folders),
            nvrtc: nvrtc(around, &packages, &folders),
            pjrt: pjrt(around, &packages),
            libtpu: libtpu(around, &packages),
        }
    }

    pub(super) fn findings(&self, has_gpu: bool) -> Vec<Finding> {
        let finding = |item, libraries: &[Library], with: &str, without: &str| Finding {
            item,
            present: !libraries.is_empty(),
            found: show(libraries),
            means: if libraries.is_empty() { without } else { with }.to_owned(),
        };
        vec![
            finding(
                "libtorch",
                &self.libtorch,
                "surgery does not need it; whether commands that compute use it, the program that is linked to it says",
                "surgery does not need it; commands that compute do: `pip install torch`, or set LIBTORCH to its folder",
            ),
            finding(
                "NVRTC",
                &self.nvrtc,
                if has_gpu {
                    "CUDA kernels of plugins compile here"
                } else {
                    "CUDA kernels compile here, but there is no GPU to run them"
                },
                if has_gpu {
                    "CUDA kernels of plugins, such as delhi's, need it: `pip install nvidia-cuda-nvrtc`"
                } else {
                    "not needed without an NVIDIA GPU"
                },
            ),
            finding(
                "PJRT",
                &self.pjrt,
                "StableHLO of plugins, such as alpha's, can run through XLA",
                "not needed but for XLA; set PJRT_PLUGIN_PATH to a plugin, or install one into the virtual environment",
            ),
            finding(
                "libtpu",
                &self.libtpu,
                "programs for a TPU compile here, such as alpha's",
                "not needed without a TPU",
            ),
        ]
    }
}

fn show(libraries: &[Library]) -> String {
    let Some(first) = libraries.first() else {
        return "not found".to_owned();
    };
    let mut text = match &first.version {
        Some(version) => format!("{version} at {}", first.path.display()),
        None => first.path.display().to_string(),
    };
    if libraries.len() > 1 {
        text.push_str(&format!(" (and {} more)", libraries.len() - 1));
    }
    plain::one_line(&text, 300)
}

/// Python's package folders: the active environment's first, then the user's, then the system's.
fn site_packages(around: &Surroundings) -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| around.variable_path(name)).collect();
    prefixes.extend(around.variable_path("HOME").map(|home| home.join(".local")));
    prefixes.extend(["/usr/local", "/usr"].map(|path| around.path(path)));
    let mut packages = Vec::new();
    for prefix in prefixes {
        for python in entries(&prefix.join("lib"), |name| name.starts_with("python3")) {
            packages.extend(["site-packages", "dist-packages"].map(|name| python.join(name)));
        }
    }
    packages.retain(|path| path.is_dir());
    packages
}

fn libtorch(around: &Surroundings, packages: &[PathBuf], folders: &[PathBuf]) -> Vec<Library> {
    let given = around.variable_path("LIBTORCH");
    let torch = packages.iter().map(|packages| packages.join("torch"));
    let mut libraries: Vec<Library> = given
        .into_iter()
        .chain(torch)
        .map(|home| (home.join("lib/libtorch_cpu.so"), home))
        .filter(|(path, _)| path.is_file())
        .map(|(path, home)| Library { version: torch_version(around, &home), path })
        .collect();
    libraries.extend(
        folders
            .iter()
            .map(|folder| folder.join("libtorch_cpu.so"))
            .filter(|path| path.is_file())
            .map(|path| Library { path, version: None }),
    );
    unique(libraries)
}

/// From the wheel's `version.py`, or the archive's `build-version`.
fn torch_version(around: &Surroundings, home: &Path) -> Option<String> {
    let from_wheel = around.read(&home.join("version.py")).and_then(|text| {
        let (_, rest) = text.lines().find(|line| line.starts_with("__version__"))?.split_once('=')?;
        Some(rest.trim().trim_matches(['\'', '"']).to_owned())
    });
    from_wheel
        .or_else(|| around.read(&home.join("build-version")))
        .map(|version| plain::one_line(&version, 40))
        .filter(|version| !version.is_empty())
}

fn nvrtc(around: &Surroundings, packages: &[PathBuf], folders: &[PathBuf]) -> Vec<Library> {
    let is_nvrtc = |name: &str| name.starts_with("libnvrtc.so");
    let wheels =
        packages.iter().flat_map(|packages| entries(&packages.join("nvidia"), |_| true)).map(|wheel| wheel.join("lib"));
    let toolkits =
        entries(&around.path("/usr/local"), |name| name.starts_with("cuda")).into_iter().map(|cuda| cuda.join("lib64"));
    let all = folders.iter().cloned().chain(wheels).chain(toolkits);
    unique(
        all.flat_map(|folder| entries(&folder, is_nvrtc))
            .map(|path| Library {
                version: path
                    .to_str()
                    .and_then(|path| path.rsplit_once(".so."))
                    .map(|(_, version)| plain::one_line(version, 40)),
                path,
            })
            .collect(),
    )
}

fn pjrt(around: &Surroundings, packages: &[PathBuf]) -> Vec<Library> {
    let given = ["PJRT_PLUGIN_PATH", "PJRT_PLUGIN_LIBRARY_PATH"].iter().filter_map(|name| around.variable_path(name));
    // jax's own variable: `name:path,name:path`.
    let named: Vec<PathBuf> = around
        .variable("PJRT_NAMES_AND_LIBRARY_PATHS")
        .and_then(|value| value.to_str())
        .map(|value| value.split(',').filter_map(|pair| Some(PathBuf::from(pair.split_once(':')?.1))).collect())
        .unwrap_or_default();
    let from_packages = packages
        .iter()
        .flat_map(|packages| {
            entries(packages, |name| name.contains("pjrt") || name.starts_with("jax_plugins") || name.contains("xla"))
        })
        .flat_map(|package| files(&package, 3));
    let found = given
        .flat_map(|path| if path.is_dir() { files(&path, 1) } else { vec![path] })
        .chain(named.into_iter().filter(|path| path.is_absolute()))
        .chain(from_packages)
        .filter(|path| path.is_file() && is_pjrt(path));
    unique(found.map(|path| Library { path, version: None }).collect())
}

/// As the plugins that exist are called: `pjrt_c_api_cpu_plugin.so`, `xla_cuda_plugin.so`.
fn is_pjrt(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".so") && (name.contains("pjrt") || name.contains("xla")) && !name.contains("python")
}

fn libtpu(around: &Surroundings, packages: &[PathBuf]) -> Vec<Library> {
    let given = around.variable_path("TPU_LIBRARY_PATH");
    let installed = packages.iter().map(|packages| packages.join("libtpu/libtpu.so"));
    let found = given
        .into_iter()
        .chain(installed)
        .chain(["/lib/libtpu.so", "/usr/lib/libtpu.so"].map(|path| around.path(path)))
        .filter(|path| path.is_file());
    unique(found.map(|path| Library { version: wheel_version(&path, "libtpu"), path }).collect())
}

/// From the name of the `NAME-VERSION.dist-info` folder beside a package.
fn wheel_version(library: &Path, name: &str) -> Option<String> {
    let packages = library.parent()?.parent()?;
    let prefix = format!("{name}-");
    entries(packages, |entry| entry.starts_with(&prefix) && entry.ends_with(".dist-info")).into_iter().find_map(
        |path| {
            let entry = path.file_name()?.to_str()?;
            Some(plain::one_line(entry.strip_prefix(&prefix)?.strip_suffix(".dist-info")?, 40))
        },
    )
}

/// What lies in a folder under a name that `wanted` accepts, in the order of names.
fn entries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .take(MAX_ENTRIES)
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// The files in a folder and the folders in it, `depth` levels down. Links to folders are not followed: they may form a ring.
fn files(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(folder, |_| true) {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() && depth > 1 => found.extend(files(&path, depth - 1)),
            Ok(metadata) if !metadata.is_dir() => found.push(path),
            _ => {}
        }
    }
    found
}

/// One entry per file, under the first path that led to it.
fn unique(libraries: Vec<Library>) -> Vec<Library> {
    let mut seen = Vec::new();
    libraries
        .into_iter()
        .filter(|library| {
            let real = fs::canonicalize(&library.path).unwrap_or_else(|_| library.path.clone());
            let new = !seen.contains(&real);
            seen.push(real);
            new
        })
        .collect()
}
