#!/usr/bin/env python3
"""What Delhi's modes do to the gradients and to a training run, on a real model and text.

    tests/bench/delhi.py target/release/unswag SMOLLM2_DIR TEXT HELD_OUT_TEXT [--block-size 256] [--steps 100]

First `unswag fidelity` for every mode: the gradients of LoRA adapters against the exact ones. Then surgery in every mode, so many
LoRA steps (r = 16, lr 1e-3, AdamW) on the same rows in the same order, and the loss on a text that none was trained on. Prints
Markdown. Needs nothing but Python 3.9.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODES = {mode: f"delhi:mode={mode}" for mode in ["exact", "8bit", "4bit", "2bit"]}
MODES.update({f"{mode} stochastic": f"delhi:mode={mode},rounding=stochastic" for mode in ["8bit", "4bit", "2bit"]})


def main():
    parser = arguments(__doc__, ["unswag", "model", "text", "held_out"])
    options = parser.parse_args()
    print(machine(f"blocks of {options.block_size} tokens"))
    compare(options, options.model, MODES)


def arguments(doc, paths):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in paths:
        parser.add_argument(name, type=lambda path: Path(os.path.abspath(path)))
    parser.add_argument("--block-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    return parser


def machine(what):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return f"{cpu}, {os.cpu_count()} cores, Linux {platform.release()}; commit {commit}; {time.strftime('%Y-%m-%d')}; {what}\n"


def unswag(options, *arguments):
    done = subprocess.run([options.unswag, *map(str, arguments), "--json", "--quiet"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"unswag {' '.join(map(str, arguments))}: exit {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def compare(options, model, modes):
    """Prints what each of these `--plugin` specs, by their names, does to this model's gradients and to a training run."""
    plugins = [part for spec in modes.values() for part in ["--plugin", spec]]
    found = unswag(options, "fidelity", model, *plugins, "--data", options.text, "--block-size", options.block_size)
    variants = dict(zip(modes, found["variants"]))
    with tempfile.TemporaryDirectory() as scratch:
        results = {"none": train(options, Path(scratch), "none", model)}
        for mode, spec in modes.items():
            patched = Path(scratch) / f"model-{mode}"
            unswag(options, "surgery", "--plugin", spec, model, "-o", patched)
            results[mode] = train(options, Path(scratch), mode, patched)
    base = results["none"]
    print("| mode | cosine, all adapters | relative error | worst layer's cosine | tensors and optimizer of a step | last ten losses | held-out loss | gap |")
    print("|---|---|---|---|---|---|---|---|")
    for mode, (losses, held_out, peak) in results.items():
        last = sum(losses[-10:]) / len(losses[-10:])
        figures = ["", "", ""]
        if variant := variants.get(mode):
            worst = min(layer["cosine"] for layer in variant["layers"])
            figures = [f"{variant['all']['cosine']:.6f}", f"{variant['all']['relative_error']:.4f}", f"{worst:.4f}"]
        print(f"| {mode} | {' | '.join(figures)} | {peak / 2**20:.1f} MiB | {last:.4f} | {held_out:.4f} | {held_out - base[1]:+.4f} |")


def train(options, scratch, name, model):
    out = scratch / f"run-{name}"
    unswag(
        options, "train", model, "--data", options.text, "--block-size", options.block_size, "--max-steps", options.steps,
        "--lora-r", 16, "--lora-alpha", 32, "--learning-rate", "1e-3", "--lr-scheduler-type", "cosine", "--save-steps", 0, "-o", out,
    )
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    held_out = unswag(options, "eval", model, "--adapter", out / "adapter", "--data", options.held_out, "--block-size", options.block_size)
    return [step["loss"] for step in steps], held_out["loss"], max(step["peak_bytes"] for step in steps)


if __name__ == "__main__":
    main()
