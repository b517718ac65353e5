#!/usr/bin/env python3
"""`unswag train` against transformers and PEFT: tokens per second and resident memory of whole processes, in one run.

    tests/bench/train.py target/release/unswag SMOLLM2_DIR TEXT PYTHON [--seq 512 2048 8192] [--dtype bfloat16 float32] [--steps 4]

LoRA with r = 16 on all seven projections, batch 1, AdamW, the same rows of the same text. The peer (tests/peers/peft_train.py) is run with
and without gradient checkpointing, each with the C library as it is and told to keep the memory that it has; what counts is
its fastest. Ours is run as it is and with gradient checkpointing. Each process is timed from its second step on; the
median is quoted. Before a ratio is quoted, the answer is checked: the first steps' losses agree.

The floor is what the step's arithmetic alone takes: its matrix products at the rate that the peer's process measured for
libtorch's own, and attention's at the same. A second table has what each of our runs planned and took. Prints Markdown. Needs
nothing but Python 3.9 and the peer's environment.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEER = Path(__file__).resolve().parent.parent / "peers" / "peft_train.py"
# glibc gives large blocks back to the system at once; with these it keeps them for the next step.
KEEPS_MEMORY = dict(MALLOC_MMAP_THRESHOLD_="4294967296", MALLOC_TRIM_THRESHOLD_="4294967296", MALLOC_TOP_PAD_="67108864")


def run(command, **environment):
    """Standard output and peak resident bytes of one process, as the operating system accounts for it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            print(f"{' '.join(map(str, command))}: exit {process.returncode}: {err.read().decode()[-2000:]}", file=sys.stderr)
            return None
        return out.read().decode(), usage.ru_maxrss * 1024


def peer(options, seq, dtype, checkpointing, keeps_memory):
    command = [options.python, PEER, options.model, options.text, "--seq", seq, "--dtype", dtype, "--steps", options.steps]
    result = run(command + ["--checkpointing"] * checkpointing, **(KEEPS_MEMORY if keeps_memory else {}))
    if result is None:
        return None
    said = json.loads(result[0].splitlines()[-1])
    return dict(
        losses=said["losses"], tokens_per_s=seq / statistics.median(said["seconds"][1:]), peak=said["peak_bytes"],
        gemm=said["gemm_flops_per_s"],
    )


def ours(options, seq, dtype, *flags, model=None):
    if options.scratch:
        os.makedirs(options.scratch, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        out = Path(scratch) / "run"
        command = [
            options.unswag, "train", model or options.model, "--data", options.text, "--no-shuffle", "--block-size", seq, "--max-steps",
            options.steps, "--lora-r", 16, "--lora-alpha", 32, "--learning-rate", "2e-4", "--lr-scheduler-type", "constant",
            "--dtype", dtype, "--save-steps", 0, "--json", "-o", out, *flags,
        ]
        result = run(command)
        if result is None:
            return None
        steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return dict(
        losses=[step["loss"] for step in steps], peak=result[1], tensors=max(step["peak_bytes"] for step in steps),
        tokens_per_s=statistics.median(step["tokens_per_s"] for step in steps[1:]), said=json.loads(result[0]),
    )


def step_flops(model, seq):
    """Of a step that computes nothing twice, by the model's sizes: a product in the forward and the one for dx in the backward
    for every frozen weight, the head's included; two products in attention's forward and five in its backward, half of
    each causal. LoRA's own are left out."""
    config = json.loads((model / "config.json").read_text())
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    kv = config.get("num_key_value_heads", heads) * head
    weights = layers * (2 * hidden * heads * head + 2 * hidden * kv + 3 * hidden * inner) + config["vocab_size"] * hidden
    attention = layers * heads * head * 7 * 2 * seq * seq / 2
    return 4 * weights * seq, attention


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ["unswag", "model", "text", "python"]:
        parser.add_argument(name, type=lambda path: Path(os.path.abspath(path)))
    parser.add_argument("--seq", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--plain-peer-up-to", type=int, default=4096, metavar="TOKENS")
    parser.add_argument("--scratch", type=Path, default=None)
    options = parser.parse_args()

    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}; commit {commit}; {time.strftime('%Y-%m-%d')}; "
          f"load {os.getloadavg()[0]:.1f} at the start; {options.steps} steps, median of all but the first\n")
    print("| dtype | tokens | who | tok/s | peak resident | tensors and optimizer | against the best peer | of its memory | of the floor |")
    print("|---|---|---|---|---|---|---|---|---|")
    grown = {}
    for dtype in options.dtype:
        for seq in options.seq:
            for name, found in row(options, dtype, seq).items():
                grown[dtype, seq, name] = found["said"]
    # For memory alone: what is small, where all that does not depend on the plan counts the most.
    nf4 = ["--gradient-checkpointing", "--load-in-4bit", "--bnb-4bit-use-double-quant"]
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        operated = Path(scratch) / "delhi"
        run([options.unswag, "surgery", "--plugin", "delhi", options.model, "-o", operated])
        for name, seq, flags, model in [
            ("unswag, checkpointing, NF4 with double quantisation", min(options.seq), nf4, None),
            ("unswag", 64, [], None),
            ("unswag, Delhi's kernels", 256, [], operated),
        ]:
            if found := ours(options, seq, options.dtype[0], *flags, model=model):
                grown[options.dtype[0], seq, name] = found["said"]
    print("\n| dtype | tokens | who | peak_bytes, planned | taken | growth, planned | taken | over |")
    print("|---|---|---|---|---|---|---|---|")
    for (dtype, seq, name), said in grown.items():
        bytes_of = ["planned_peak_bytes", "peak_bytes", "planned_growth_bytes", "resident_growth_bytes"]
        tensors, took, growth, grew = [said[field] for field in bytes_of]
        sizes = " | ".join(f"{size / 2**20:,.1f} MiB" for size in [tensors, took, growth, grew])
        print(f"| {dtype} | {seq} | {name} | {sizes} | {grew / growth - 1:+.1%} |")


def row(options, dtype, seq):
    peers = {}
    # Without checkpointing the peer takes 3.4 MB a token in bf16: more than most machines have, beyond this.
    fits = seq <= options.plain_peer_up_to
    for checkpointing in [False, True] if fits else [True]:
        for keeps_memory in [False, True]:
            name = "PEFT" + ", checkpointing" * checkpointing + ", glibc tuned" * keeps_memory
            if found := peer(options, seq, dtype, checkpointing, keeps_memory):
                peers[name] = found
    mine = {}
    for checkpointing in [False, True]:
        if found := ours(options, seq, dtype, *["--gradient-checkpointing"] * checkpointing):
            mine["unswag" + ", checkpointing" * checkpointing] = found
    plain = [peer for name, peer in peers.items() if "tuned" not in name]
    best = max(plain, key=lambda peer: peer["tokens_per_s"], default=None)
    matmul, attention = step_flops(options.model, seq)
    for name, found in {**peers, **mine}.items():
        against = memory = floor = ""
        if best:
            for found_loss, wanted in zip(found["losses"][:2], best["losses"][:2]):
                if abs(found_loss - wanted) > 0.02 * wanted:
                    sys.exit(f"{dtype}, {seq} tokens, {name}: losses {found['losses']}, the peer's are {best['losses']}")
            against = f"{found['tokens_per_s'] / best['tokens_per_s']:.2f}"
            memory = f"{found['peak'] / best['peak']:.2f}"
            floor = f"{(matmul + attention) / best['gemm'] * found['tokens_per_s'] / seq:.0%}"
        tensors = f"{found['tensors'] / 1e9:.2f} GB" if "tensors" in found else ""
        print(f"| {dtype} | {seq} | {name} | {found['tokens_per_s']:.0f} | {found['peak'] / 1e9:.2f} GB | {tensors} | "
              f"{against} | {memory} | {floor} |", flush=True)
    return mine


if __name__ == "__main__":
    main()
