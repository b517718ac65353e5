"""Lets the CUDA build of torch, the only one on the Python package index, be imported with 2 NVIDIA packages instead of 15.

    python3 scripts/torch_cpu.py SITE_PACKAGES

torch's Python half (libtorch_python.so) is linked to libtorch_cuda.so, cudnn and cufile, and they in turn to 2.5 GB of CUDA
libraries, none of which a CPU uses. The loader wants them present, that is all. So this makes three small libraries of
the same names that define exactly what libtorch_python.so asks of them, and lays them in the first folder of its
own search path (RPATH: nvidia/cudnn/lib), beside nothing else. No file of a package is changed.

A function of theirs that is called after all ends the process with its name: torch then has no CUDA, and says so itself
(`torch.cuda.is_available()` is False), because nothing registers CUDA's kernels. It must never be used where a GPU is to
be: fetch never does, and refuses where a real cudnn is installed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# Called while libtorch_python.so is loaded: it stores a callback through the pointer that this returns.
RETURNS_STORAGE = {"_ZN4c10d15get_gil_checkerEv"}

PRELUDE = """
#include <stdio.h>
#include <stdlib.h>
extern const void *class_type_info[] __asm__("_ZTVN10__cxxabiv117__class_type_infoE");
struct type_info { const void *vtable; const char *name; };
static __attribute__((noreturn)) void missing(const char *name) {
    fprintf(stderr, "torch: %s was called, and this torch has no CUDA half\\n", name);
    abort();
}
"""


class TorchCpuError(Exception):
    """Something the user must know, in one line."""


def symbols(library, which):
    """{name without version: size} of a library's dynamic symbols."""
    command = ["nm", "--dynamic", "--print-size", "--with-symbol-versions", f"--{which}-only", str(library)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {}
    for line in listing.splitlines():
        fields = line.split()
        found[fields[-1].split("@")[0]] = int(fields[1], 16) if len(fields) == 4 else 0
    return found


def stub_source(sizes):
    """C for a library that defines these symbols."""
    lines = [PRELUDE]
    for index, (name, size) in enumerate(sorted(sizes.items())):
        if name.startswith("_ZTI"):
            lines.append(f'struct type_info t{index} __asm__("{name}") = {{&class_type_info[2], "{name[4:]}"}};')
        elif name.startswith("_ZTV"):
            lines.append(f'char v{index}[{size}] __asm__("{name}") __attribute__((aligned(16)));')
        elif name in RETURNS_STORAGE:
            lines.append(f'static char s{index}[256] __attribute__((aligned(16))); void *f{index}(void) __asm__("{name}");')
            lines.append(f"void *f{index}(void) {{ return s{index}; }}")
        else:
            lines.append(f'void f{index}(void) __asm__("{name}"); void f{index}(void) {{ missing("{name}"); }}')
    return "\n".join(lines) + "\n"


def make_library(path, sizes):
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        raise TorchCpuError("no C++ compiler: c++ is not on the path; install one (g++) or set CXX")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "stub.c")
        source.write_text(stub_source(sizes))
        temporary = path.with_name(path.name + ".tmp")
        command = [compiler, "-x", "c", "-shared", "-fPIC", "-O1", f"-Wl,-soname,{path.name}", "-o", str(temporary)]
        built = subprocess.run([*command, str(source), "-x", "none", "-lstdc++"], capture_output=True, text=True)
        if built.returncode != 0:
            raise TorchCpuError(f"{compiler} cannot build {path.name}: {built.stderr.strip()}")
        temporary.replace(path)


def make_stubs(site_packages):
    """Makes the three libraries for the torch in SITE_PACKAGES."""
    torch, folder = site_packages / "torch" / "lib", site_packages / "nvidia" / "cudnn" / "lib"
    if any(folder.glob("libcudnn_*")):
        raise TorchCpuError(f"{folder}: a real cudnn is installed there; this torch needs no stand-in for it")
    wanted = symbols(torch / "libtorch_python.so", "undefined")
    elsewhere = set()
    for name in ("libtorch_cpu.so", "libc10.so", "libc10_cuda.so"):
        elsewhere |= symbols(torch / name, "defined").keys()
    cuda = symbols(torch / "libtorch_nvshmem.so", "defined") | symbols(torch / "libtorch_cuda.so", "defined")
    make_library(
        folder / "libtorch_cuda.so",
        {name: cuda[name] for name in wanted if name in cuda and name not in elsewhere},
    )
    make_library(folder / "libcudnn.so.9", {name: 0 for name in wanted if name.startswith("cudnn")})
    make_library(folder / "libcufile.so.0", {name: 0 for name in wanted if name.startswith("cuFile")})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        make_stubs(Path(sys.argv[1]))
    except TorchCpuError as error:
        sys.exit(f"torch_cpu: {error}")
