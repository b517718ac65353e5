#!/usr/bin/env python3
"""Times `unswag inspect` and `unswag surgery` as whole processes, against `cp` of the same file, in one run.

    tests/bench/surgery.py target/release/unswag SMOLLM2_DIR SCRATCH_DIR [--runs 7]

SMOLLM2_DIR is the folder that `make demo` imports. SCRATCH_DIR takes a synthetic 4 GB checkpoint (random weights of a
Llama shape, kept for the next run) and the outputs (removed). Every pair is run in turn, so drift of the machine's speed
hits both; what is quoted is the median, with minimum and maximum, and the median of the ratios pair by pair. Before
anything is timed, the output is checked: the weights are the base's, byte for byte.

Prints Markdown. Needs nothing but Python 3.9 and `cp`.
"""

import argparse
import hashlib
import json
import math
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

# A Llama shape of 4.0 GB in bf16: 32 layers of 60.8 M parameters and an embedding of 65.5 M.
SYNTHETIC = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=2048, intermediate_size=8192,
    num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=64, vocab_size=32000,
    hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=4096,
    tie_word_embeddings=True, torch_dtype="bfloat16",
)


# A process starts with its parent's resident memory on its account, so this one must stay small.
BLOCK_BYTES = 1 << 20


def llama_tensors(config):
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"] * config["head_dim"]
    kv_heads = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", [hidden]
        yield f"{at}.self_attn.q_proj.weight", [heads, hidden]
        yield f"{at}.self_attn.k_proj.weight", [kv_heads, hidden]
        yield f"{at}.self_attn.v_proj.weight", [kv_heads, hidden]
        yield f"{at}.self_attn.o_proj.weight", [hidden, heads]
        yield f"{at}.post_attention_layernorm.weight", [hidden]
        yield f"{at}.mlp.gate_proj.weight", [inner, hidden]
        yield f"{at}.mlp.up_proj.weight", [inner, hidden]
        yield f"{at}.mlp.down_proj.weight", [hidden, inner]
    yield "model.norm.weight", [hidden]


def make_synthetic(folder):
    """Writes the checkpoint once; a marker says that it is whole."""
    marker = folder / "complete"
    if marker.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    header, offset = {}, 0
    for name, shape in llama_tensors(SYNTHETIC):
        size = 2 * math.prod(shape)
        header[name] = dict(dtype="BF16", shape=shape, data_offsets=[offset, offset + size])
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        left = offset
        while left:
            left -= file.write(os.urandom(min(left, BLOCK_BYTES)))
    (folder / "config.json").write_text(json.dumps(SYNTHETIC, indent=2))
    os.sync()
    marker.touch()


def run(command):
    """Wall time in seconds and peak resident bytes of one process, as the operating system accounts for it."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    message = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {process.returncode}: {message.decode()}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def fresh(path):
    """Removes an output and waits until nothing of it is still being written."""
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    os.sync()


def spread(values, unit, scale, digits=1):
    values = [value * scale for value in values]
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f}) {unit}".strip()


def against_cp(unswag, model, scratch, runs, extra):
    """Surgery and `cp` of the weight file in turn."""
    weights, out, copy = model / "model.safetensors", scratch / "out", scratch / "cp.safetensors"
    surgery = [unswag, "--quiet", "surgery", "--plugin", "delhi", *extra, model, "-o", out]
    fresh(out)
    run(surgery)
    if sha256(out / "model.safetensors") != sha256(weights):
        sys.exit(f"{out}: the weights are not the base's; nothing was timed")
    ours, theirs, resident = [], [], []
    for _ in range(runs):
        fresh(out)
        seconds, peak = run(surgery)
        ours.append(seconds)
        resident.append(peak)
        fresh(copy)
        theirs.append(run(["cp", weights, copy])[0])
    fresh(out)
    fresh(copy)
    return ours, theirs, resident


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unswag", type=Path)
    parser.add_argument("smollm2", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    unswag = options.unswag.resolve()
    options.scratch.mkdir(parents=True, exist_ok=True)
    synthetic = options.scratch / "synthetic-4gb"
    make_synthetic(synthetic)

    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}; commit {commit}; {time.strftime('%Y-%m-%d')}; "
          f"{options.runs} runs, median (minimum to maximum)\n")

    print("| command | wall time | peak resident | target |\n|---|---|---|---|")
    for label, model in [("SmolLM2-135M", options.smollm2), ("synthetic, 4.0 GB", synthetic)]:
        timed = [run([unswag, "inspect", model]) for _ in range(options.runs + 1)][1:]
        print(f"| `inspect`, {label} | {spread([t for t, _ in timed], 'ms', 1e3)} | "
              f"{spread([m for _, m in timed], 'MB', 1e-6)} | 50 ms, 64 MB |")
    link, _, resident = against_cp(unswag, options.smollm2, options.scratch, options.runs, ["--link"])
    print(f"| `surgery --link`, SmolLM2-135M | {spread(link, 'ms', 1e3)} | {spread(resident, 'MB', 1e-6)} | 100 ms |")

    print("\n| surgery with a copy | unswag | `cp` | unswag / cp, pair by pair | peak resident | target |\n|---|---|---|---|---|---|")
    for label, model in [("SmolLM2-135M", options.smollm2), ("synthetic, 4.0 GB", synthetic)]:
        ours, theirs, resident = against_cp(unswag, model, options.scratch, options.runs, [])
        ratios = [a / b for a, b in zip(ours, theirs)]
        print(f"| {label} | {spread(ours, 'ms', 1e3)} | {spread(theirs, 'ms', 1e3)} | {spread(ratios, '', 1, 2)} | "
              f"{spread(resident, 'MB', 1e-6)} | 1.15, 100 MB |")


if __name__ == "__main__":
    main()
