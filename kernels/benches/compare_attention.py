#!/usr/bin/env python3
"""The attention kernel beside libtorch's flash attention, on the same shapes and the same number of threads, in one run.

    .cache/venv/bin/python kernels/benches/compare_attention.py

Ours is `cargo bench -p unswag-kernels --bench attention`, which checks its answer first. The peer is scaled_dot_product_attention with its
own backward; causal, random data, the least of nine. Figures are products of what is seen only. Both are also held to AVX-512 without its
bf16 and to AVX2, as on machines that have no more. Prints Markdown.
"""

import json
import os
import re
import subprocess
import sys
import time

import torch

SHAPES = [("bf16", 2048, 9, 3, 64), ("bf16", 512, 9, 3, 64), ("bf16", 2048, 8, 2, 128), ("f32", 2048, 9, 3, 64),
          ("bf16_avx512", 2048, 9, 3, 64), ("bf16_avx2", 2048, 9, 3, 64), ("f32_avx2", 2048, 9, 3, 64)]
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
LINE = re.compile(r"(\w+), (\d+) x (\d+) x (\d+)\s+(\d+) threads\s+([\d.]+) ms forward.*?([\d.]+) ms backward")


def least(run):
    times = []
    for _ in range(9):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def peer(dtype, *sizes, threads):
    """In a process of its own, because libtorch chooses its instructions once."""
    dtype, _, isa = dtype.partition("_")
    held = {"ATEN_CPU_CAPABILITY": isa, "ONEDNN_MAX_CPU_ISA": {"avx2": "AVX2", "avx512": "AVX512_CORE"}[isa]} if isa else {}
    command = [sys.executable, __file__, "--peer", dtype, *map(str, sizes), str(threads)]
    return json.loads(subprocess.run(command, env={**os.environ, **held}, stdout=subprocess.PIPE, check=True).stdout)


def measured_peer(dtype, seq, heads, kv_heads, width, threads):
    torch.set_num_threads(threads)

    def of(count):
        return torch.randn(1, count, seq, width, dtype=DTYPES[dtype], requires_grad=True)

    q, k, v = of(heads), of(kv_heads), of(kv_heads)
    dy = torch.randn(1, heads, seq, width, dtype=DTYPES[dtype])
    attend = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    forward = least(attend)
    y = attend()
    backward = least(lambda: torch.autograd.grad(y, (q, k, v), dy, retain_graph=True))
    return forward, backward


def main():
    said = subprocess.run(
        ["cargo", "bench", "-p", "unswag-kernels", "--bench", "attention"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    ours = {}
    for dtype, seq, heads, width, threads, forward, backward in LINE.findall(said):
        ours[dtype, int(seq), int(heads), int(width), int(threads)] = float(forward) / 1e3, float(backward) / 1e3
    threads = max(key[4] for key in ours)
    print(f"| type | tokens x heads x width, {threads} threads | pass | ms | GFLOP/s | libtorch's ms | peer / ours |")
    print("|---|---|---|---|---|---|---|")
    for dtype, seq, heads, kv_heads, width in SHAPES:
        product = seq * (seq + 1) * heads * width
        theirs = peer(dtype, seq, heads, kv_heads, width, threads=threads)
        mine = ours[dtype, seq, heads, width, threads]
        for name, products, own, other in zip(["forward", "backward"], [2, 5], mine, theirs):
            rate = products * product / own / 1e9
            print(f"| {dtype} | {seq} x {heads} x {width} | {name} | {own * 1e3:.2f} | {rate:.0f} | {other * 1e3:.2f} | {other / own:.1f} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        print(json.dumps(measured_peer(sys.argv[2], *map(int, sys.argv[3:]))))
    else:
        main()
