#!/usr/bin/env python3
"""Delhi's kernels beside eager PyTorch doing the same, and both beside a copy, in one run.

    .cache/venv/bin/python kernels/benches/compare.py [--threads 2]

Runs `cargo bench -p unswag-kernels --bench delhi`, then the same ops in PyTorch on arrays of the same size and type: the
activation, its code by `bucketize`, the packing by shifts, and back. Packing is checked by unpacking before it is timed.
Prints Markdown. Needs the environment of `make venv`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import torch
import torch.nn.functional as F

ROWS, COLS = 16384, 2048
ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
# Of this bench alone: others have figures of other kinds in the common folder.
FIGURES = TARGET.absolute() / "criterion-delhi"
# SiLU's optimal two-bit table, uniform on [-16, 16]: the figures do not depend on its values.
BORDERS = torch.tensor([-0.743275, 0.0, 0.743275])
LEVELS = torch.tensor([-0.002413, 0.322295, 0.677705, 1.002413])


def timed(run, repeats=9):
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def pack2(codes):
    """Four 2-bit codes to a byte."""
    codes = codes.view(-1, 4)
    return codes[:, 0] | (codes[:, 1] << 2) | (codes[:, 2] << 4) | (codes[:, 3] << 6)


def unpack2(packed):
    return torch.stack([packed & 3, (packed >> 2) & 3, (packed >> 4) & 3, packed >> 6], dim=1).view(-1)


def torch_rows(dtype):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS * COLS, generator=generator).to(dtype)
    dy = torch.randn(ROWS * COLS, generator=generator).to(dtype)
    borders, levels = BORDERS.to(dtype), LEVELS.to(dtype)

    def forward():
        y = F.silu(x)
        codes = torch.bucketize(x, borders, right=True, out_int32=True).to(torch.uint8)
        return y, pack2(codes)

    def backward(packed):
        return dy * levels[unpack2(packed).int()]

    _, packed = forward()
    codes = torch.bucketize(x, borders, right=True).to(torch.uint8)
    assert torch.equal(unpack2(packed), codes), "packing loses codes"
    return {
        "copy": timed(lambda: torch.empty_like(x).copy_(x)),
        "silu_forward 2bit": timed(forward, 3),
        "silu_backward 2bit": timed(lambda: backward(packed), 3),
        "silu, nothing packed": timed(lambda: F.silu(x)),
    }


def ours():
    """Median seconds and bytes of each benchmark, from criterion's own files."""
    rows = {}
    for file in sorted(FIGURES.glob("**/new/estimates.json")):
        benchmark = json.loads((file.parent / "benchmark.json").read_text())
        estimate = json.loads(file.read_text())["median"]
        interval = estimate["confidence_interval"]
        rows[benchmark["full_id"]] = (
            estimate["point_estimate"] * 1e-9, interval["lower_bound"] * 1e-9, interval["upper_bound"] * 1e-9,
            benchmark["throughput"]["Bytes"],
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), CRITERION_HOME=str(FIGURES))
    subprocess.run(["cargo", "bench", "-p", "unswag-kernels", "--bench", "delhi"], cwd=ROOT, env=environment,
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peer = {"bf16": torch_rows(torch.bfloat16), "f32": torch_rows(torch.float32)}

    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    print(f"{cpu}, {threads} threads, Linux {platform.release()}; torch {torch.__version__}; commit {commit}; "
          f"{time.strftime('%Y-%m-%d')}; {ROWS} x {COLS} elements, random\n")
    rows = ours()
    copies = {name.split("/")[1]: size / median for name, (median, _, _, size) in rows.items() if name.startswith("copy/")}
    print("| kernel | time, ms (95 % interval of the median) | GB/s | share of copy | eager PyTorch, ms | PyTorch / ours |")
    print("|---|---|---|---|---|---|")
    for name, (median, low, high, size) in rows.items():
        op, dtype, *mode = name.split("/")
        theirs = peer[dtype].get(" ".join([op, *mode]))
        beside = f"{theirs * 1e3:.0f} | {theirs / median:.1f}" if theirs else "|"
        print(f"| {name} | {median * 1e3:.1f} ({low * 1e3:.1f} to {high * 1e3:.1f}) | {size / median * 1e-9:.1f} "
              f"| {size / median / copies[dtype] * 100:.0f} % | {beside} |")
    for dtype, times in peer.items():
        print(f"\nPyTorch's plain `silu` on {dtype}, nothing packed: {times['silu, nothing packed'] * 1e3:.0f} ms.")


if __name__ == "__main__":
    main()
