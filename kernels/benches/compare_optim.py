#!/usr/bin/env python3
"""Optimizer steps beside torch's fused AdamW and bitsandbytes' on the CPU, and all beside a copy, in one run.

    .cache/venv/bin/python kernels/benches/compare_optim.py [--threads 2]

Runs `cargo bench -p unswag-kernels --bench optim`, then the same steps by the peers on as many parameters of the same type.
bitsandbytes' 8-bit steps are taken as its optimizers take them (one tensor, blocks of 256); its 32-bit ones are plain torch
operations. Prints Markdown, nanoseconds per parameter. Needs the environment of `scripts/fetch venv`. That the answers agree
is tested by tests/e2e/optimizers.rs.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import bitsandbytes
import torch
from bitsandbytes import functional as F

ELEMENTS = 1 << 24
ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# Of this bench alone: others have figures of other kinds in the common folder.
FIGURES = TARGET.absolute() / "criterion-optim"
NAMES = ["copy", "adamw", "lion", "adamw_8bit", "lion_8bit", "quantize_8bit", "dequantize_8bit", "quantize_nf4", "dequantize_nf4",
         "dequantize_nf4_double"]


def timed(run, repeats):
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peers(dtype):
    """{our name: (peer, seconds)}"""
    generator = torch.Generator().manual_seed(1)
    p = torch.randn(ELEMENTS, generator=generator).to(dtype)
    g = torch.randn(ELEMENTS, generator=generator).to(dtype)
    rows = {}
    if dtype == torch.float32:
        to = torch.empty_like(p)
        rows["copy"] = ("torch", timed(lambda: to.copy_(p), 9))
        m, v, step = torch.zeros(ELEMENTS), torch.zeros(ELEMENTS), torch.tensor(10.0)

        def fused():
            torch._fused_adamw_([p], [g], [m], [v], [], [step], lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=0.01, eps=1e-8,
                                amsgrad=False, maximize=False)

        rows["adamw"] = ("torch, fused", timed(fused, 9))
        rows["lion"] = ("bitsandbytes", timed(lambda: F.optimizer_update_32bit(
            "lion", g, p, m, 0.9, 0.0, 10, 1e-3, None, 0.99, weight_decay=0.01), 3))
        del m, v
    maps = F.create_dynamic_map(signed=True), F.create_dynamic_map(signed=False)
    codes = [torch.zeros(ELEMENTS, dtype=torch.uint8) for _ in maps]
    absmax = [torch.zeros(ELEMENTS // 256) for _ in maps]
    rows["adamw_8bit"] = ("bitsandbytes", timed(lambda: F.optimizer_update_8bit_blockwise(
        "adam", g, p, codes[0], codes[1], 0.9, 0.999, 0.0, 0.0, 1e-8, 10, 1e-3, maps[0], maps[1], absmax[0], absmax[1], 0.01), 3))
    rows["lion_8bit"] = ("bitsandbytes", timed(lambda: F.optimizer_update_8bit_blockwise(
        "lion", g, p, codes[0], None, 0.9, 0.99, 0.0, 0.0, 0.0, 10, 1e-3, maps[0], None, absmax[0], None, 0.01), 3))
    quantised, state = F.quantize_blockwise(p, blocksize=256)
    rows["quantize_8bit"] = ("bitsandbytes", timed(lambda: F.quantize_blockwise(p, blocksize=256), 3))
    rows["dequantize_8bit"] = ("bitsandbytes", timed(lambda: F.dequantize_blockwise(quantised, state), 3))
    packed, state4 = F.quantize_4bit(p, blocksize=64, quant_type="nf4")
    rows["quantize_nf4"] = ("bitsandbytes", timed(lambda: F.quantize_4bit(p, blocksize=64, quant_type="nf4"), 3))
    rows["dequantize_nf4"] = ("bitsandbytes", timed(lambda: F.dequantize_4bit(packed, state4), 3))
    packed, double = F.quantize_4bit(p, blocksize=64, quant_type="nf4", compress_statistics=True)
    rows["dequantize_nf4_double"] = ("bitsandbytes", timed(lambda: F.dequantize_4bit(packed, double), 3))
    return rows


def ours():
    """Median, its 95 % interval (seconds) and bytes of each benchmark, from criterion's own files."""
    rows = {}
    for file in sorted(FIGURES.glob("**/new/estimates.json")):
        benchmark = json.loads((file.parent / "benchmark.json").read_text())
        if benchmark["group_id"] not in NAMES:
            continue
        estimate = json.loads(file.read_text())["median"]
        interval = estimate["confidence_interval"]
        rows[benchmark["group_id"], benchmark["function_id"]] = (
            estimate["point_estimate"] * 1e-9, interval["lower_bound"] * 1e-9, interval["upper_bound"] * 1e-9,
            benchmark["throughput"]["Bytes"],
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    # Another benchmark's figures may lie there under the same name ("copy").
    shutil.rmtree(FIGURES, ignore_errors=True)
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), CRITERION_HOME=str(FIGURES))
    subprocess.run(["cargo", "bench", "-p", "unswag-kernels", "--bench", "optim"], cwd=ROOT, env=environment,
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    theirs = {"f32": peers(torch.float32), "bf16": peers(torch.bfloat16)}

    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    print(f"{cpu}, {threads} threads, Linux {platform.release()}; torch {torch.__version__}, bitsandbytes "
          f"{bitsandbytes.__version__}; commit {commit}; {time.strftime('%Y-%m-%d')}; {ELEMENTS} parameters, random\n")
    rows = ours()
    median, _, _, size = rows["copy", "f32"]
    copied = size / median
    print("| step | type | ns per parameter (95 % interval of the median) | GB/s | share of copy | peer | its ns | peer / ours |")
    print("|---|---|---|---|---|---|---|---|")
    for name in NAMES:
        for dtype in ("f32", "bf16"):
            if (name, dtype) not in rows:
                continue
            median, low, high, size = rows[name, dtype]
            ns = [seconds / ELEMENTS * 1e9 for seconds in (median, low, high)]
            peer, seconds = theirs[dtype].get(name, ("", None))
            beside = f"{peer} | {seconds / ELEMENTS * 1e9:.2f} | {seconds / median:.1f}" if seconds else "| |"
            print(f"| {name} | {dtype} | {ns[0]:.2f} ({ns[1]:.2f} to {ns[2]:.2f}) | {size / median * 1e-9:.1f} "
                  f"| {size / median / copied * 100:.0f} % | {beside} |")


if __name__ == "__main__":
    main()
