#!/usr/bin/env python3
"""Compares this build with that of another commit: training, `inspect` and `surgery`, in pairs, in one run.

    tests/bench/compare_commits.py target/release/unswag BASE_COMMIT SMOLLM2_DIR TEXT CACHE [--pairs 7] [--only TEXT] [--dtype float32]

`make bench-compare BASE=COMMIT` runs it. BASE_COMMIT is checked out and built under CACHE/bench-compare, once. Then the two
programs take turns (A B, B A, A B, ...), so that drift of the machine's speed reaches both, and each pair gives one ratio: the base's
time divided by ours, so that 1.05 is 5 % faster and 0.97 is 3 % slower. Quoted is the median ratio with a distribution-free
interval that holds the true median with a probability of 87.5 %: for seven pairs, the second smallest to the second largest ratio.

A row passes where the interval lies at or above 0.97 as a whole, fails where the median is below, and is `open` in between: run it
on a quieter machine, or with more pairs. Memory is compared without a tolerance: the tensors of a training step must be exactly
what this build planned, and no more than what the base's took; the first step's loss must be the base's, to 1e-3.

Exit status: 0 every row passes; 1 one does not; 2 something could not be run. Needs Python 3.9, git, cargo and a built LIBTORCH.
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LEAST_RATIO = 0.97
# tokens of a row -> optimizer steps of a run, the first of which is not timed. A CPU without instructions for bf16 is several times
# slower: it trains in float32, which it computes in either way, and fewer steps.
TRAINING = {"bfloat16": {512: 7, 2048: 3}, "float32": {512: 4, 2048: 2}}
# Short commands are run this often for one side of a pair; their median counts.
REPEATS = {"inspect": 21, "surgery --link": 5}


class Failure(Exception):
    """What could not be run, in one line."""


def run(command, **options):
    process = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if process.returncode:
        said = (process.stderr or process.stdout).strip()[-2000:]
        raise Failure(f"{' '.join(map(str, command))}: exit {process.returncode}: {said}")
    return process.stdout


def build_base(commit, cache):
    """The base's programs: its sources under their commit, its build in a folder that the next comparison uses too."""
    root = Path(run(["git", "rev-parse", "--show-toplevel"]).strip())
    folder = cache / "bench-compare"
    sources, target = folder / f"sources-{commit}", folder / "target"
    if not sources.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("sources-*"):
            shutil.rmtree(old)
        unfinished = Path(tempfile.mkdtemp(dir=folder, prefix="unfinished-"))
        run(["git", "clone", "--quiet", "--shared", "--no-checkout", root, unfinished])
        run(["git", "checkout", "--quiet", "--detach", commit], cwd=unfinished)
        unfinished.rename(sources)
    programs = ["--package", "unswag", "--package", "unswag-delhi", "--package", "unswag-torch-cli"]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target), "LIBTORCH": os.environ.get("LIBTORCH", str(cache / "libtorch"))}
    run(["cargo", "build", "--quiet", "--locked", "--release", *programs], cwd=sources, env=environment)
    unswag = target / "release" / "unswag"
    run([unswag, "plugin", "add", "--bundled", target / "release" / "libunswag_delhi.so"])
    return unswag


def train(unswag, options, seq, steps):
    """Seconds of a step (the median), and what must be equal whatever the machine's speed."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        out = Path(scratch) / "run"
        said = json.loads(run([
            unswag, "train", options.model, "--data", options.text, "--no-shuffle", "--block-size", seq, "--max-steps", steps,
            "--lora-r", 16, "--lora-alpha", 32, "--learning-rate", "2e-4", "--lr-scheduler-type", "constant", "--dtype", options.dtype,
            "--save-steps", 0, "--json", "-o", out,
        ]))
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    # Without the optimizer: builds before 384edf0 do not count it.
    optimizer = said.get("optimizer_bytes", 0)
    return dict(
        seconds=statistics.median(seq / step["tokens_per_s"] for step in metrics[1:]), loss=metrics[0]["loss"],
        taken=said["peak_bytes"] - optimizer, planned=said["planned_peak_bytes"] - optimizer,
    )


def timed(command, repeats, between=lambda: None):
    seconds = []
    for _ in range(repeats):
        between()
        start = time.perf_counter()
        run(command)
        seconds.append(time.perf_counter() - start)
    return dict(seconds=statistics.median(seconds))


def inspect(unswag, options):
    return timed([unswag, "inspect", options.model], REPEATS["inspect"])


def surgery(unswag, options):
    out = options.scratch / "operated"
    remove = lambda: shutil.rmtree(out, ignore_errors=True)
    command = [unswag, "surgery", "--plugin", "delhi", options.model, "-o", out, "--link", "--quiet"]
    return timed(command, REPEATS["surgery --link"], remove)


def pairs(base, ours, count, measure):
    """Both sides' measurements, pair by pair; who goes first alternates."""
    found = []
    for index in range(count):
        first = measure(base if index % 2 == 0 else ours)
        second = measure(ours if index % 2 == 0 else base)
        found.append((first, second) if index % 2 == 0 else (second, first))
    return found


def interval(ratios):
    """The narrowest pair of order statistics that holds the true median with a probability of 87.5 %, or the whole range."""
    count, outside, rank = len(ratios), 0.0, 0
    while rank < (count - 1) // 2:
        outside += 2 * math.comb(count, rank) / 2**count
        if outside > 0.125:
            break
        rank += 1
    rank = max(rank - 1, 0)
    return ratios[rank], ratios[-1 - rank]


def judge(ratios):
    ratios = sorted(ratios)
    least, most = interval(ratios)
    median = statistics.median(ratios)
    verdict = "passes" if least >= LEAST_RATIO else "open" if median >= LEAST_RATIO else "FAILS"
    return median, least, most, verdict


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unswag", type=Path)
    parser.add_argument("base")
    for name in ["model", "text", "cache"]:
        parser.add_argument(name, type=Path)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", metavar="TEXT", default="", help="measure the rows whose name contains TEXT")
    parser.add_argument("--dtype", choices=TRAINING, help="what training computes in (default: bfloat16 where the CPU multiplies it)")
    options = parser.parse_args()
    for name in ["unswag", "model", "text", "cache"]:
        setattr(options, name, Path(os.path.abspath(getattr(options, name))))

    cpu_flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "")
    options.dtype = options.dtype or ("bfloat16" if "avx512_bf16" in cpu_flags else "float32")

    start = time.monotonic()
    commit = run(["git", "rev-parse", "--verify", f"{options.base}^{{commit}}"]).strip()
    dirty = " with changes" if run(["git", "status", "--porcelain"]).strip() else ""
    head = run(["git", "rev-parse", "--short", "HEAD"]).strip() + dirty
    base = build_base(commit, options.cache)
    built = time.monotonic() - start
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    print(f"{cpu}, {os.cpu_count()} threads, Linux {platform.release()}; {time.strftime('%Y-%m-%d')}; load {os.getloadavg()[0]:.1f} at the "
          f"start; base {commit[:7]}, ours {head}; {options.pairs} pairs; the base was built in {built:.0f} s\n")
    print("| what | base | ours | base / ours: median (interval) | tensors: planned, taken, base | |\n|---|---|---|---|---|---|")

    passed = True
    options.scratch = options.cache / "bench-compare" / "scratch"
    shutil.rmtree(options.scratch, ignore_errors=True)
    options.scratch.mkdir(parents=True)
    work = {f"train, {seq:,} tokens, {options.dtype}": (lambda unswag, seq=seq, steps=steps: train(unswag, options, seq, steps)) for seq, steps in TRAINING[options.dtype].items()}
    work["inspect"] = lambda unswag: inspect(unswag, options)
    work["surgery --link"] = lambda unswag: surgery(unswag, options)
    for what, measure in work.items():
        if options.only not in what:
            continue
        found = pairs(base, options.unswag, options.pairs, measure)
        median, least, most, verdict = judge([theirs["seconds"] / ours["seconds"] for theirs, ours in found])
        memory = ""
        if "taken" in found[0][0]:
            taken = {(theirs["taken"], ours["planned"], ours["taken"]) for theirs, ours in found}
            memory = "; ".join(f"{planned:,}, {mine:,}, {other:,} B" for other, planned, mine in sorted(taken))
            if any(mine != planned or mine > other for other, planned, mine in taken):
                verdict = "FAILS (memory)"
            if any(abs(theirs["loss"] - ours["loss"]) > 1e-3 for theirs, ours in found):
                verdict = "FAILS (loss)"
        passed &= verdict == "passes"
        sides = [statistics.median(side["seconds"] for side in sides) * 1e3 for sides in zip(*found)]
        print(f"| {what} | {sides[0]:,.1f} ms | {sides[1]:,.1f} ms | {median:.3f} ({least:.3f} to {most:.3f}) | {memory} | {verdict} |", flush=True)
    shutil.rmtree(options.scratch, ignore_errors=True)
    print(f"\n{time.monotonic() - start:.0f} s in all")
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"compare_commits: {failure}", file=sys.stderr)
        sys.exit(2)
