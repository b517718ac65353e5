#!/usr/bin/env python3
"""What Delhi's modes for un-gated activations do to the gradients and to a training run, on a model that has learned something.

    .cache/venv/bin/python tests/bench/ungated.py target/release/unswag SMOLLM2_DIR LEARNED_TEXT TEXT HELD_OUT_TEXT
        [--block-size 128] [--steps 100] [--learning-steps 300]

No un-gated checkpoint is to be had without a model hub, so one is made here: GPT-2 with GELU's tanh form, 6 layers of 256 and 4
heads, in f32, with SmolLM2's tokenizer, trained whole by transformers on LEARNED_TEXT. It is small and knows one text; its
activations are those of training all the same, which random weights' are not. Histograms of them are counted on LEARNED_TEXT,
for Delhi's calibrated codes. Then, as `delhi.py` does, the gradients of LoRA
adapters on TEXT, LoRA steps on it, and the loss on HELD_OUT_TEXT. Prints Markdown. Needs torch and transformers.
"""

import ctypes
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from delhi import arguments, compare, machine

SEED = 1
BATCH = 4
LEARNING_RATE = 1e-3
WARMUP_STEPS = 20
# glibc's `mallopt`: the C library gives large blocks back to the system, and a step faults them in again for longer than it computes.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
# What a histogram counts: Delhi's codes end at the same places.
LEAST, MOST, BINS = -16.0, 16.0, 4096
CALIBRATION_ROWS = 32


def main():
    parser = arguments(__doc__, ["unswag", "smollm2", "learned", "text", "held_out"])
    parser.add_argument("--learning-steps", type=int, default=300)
    parser.set_defaults(block_size=128)
    options = parser.parse_args()
    print(machine(f"torch {torch.__version__}; blocks of {options.block_size} tokens"))
    with tempfile.TemporaryDirectory() as scratch:
        folder, histograms = Path(scratch) / "model", Path(scratch) / "histograms.json"
        learn(options, folder, histograms)
        codes = {"uniform": "weighting=uniform", "normal": "weighting=normal", "calibrated": f"calibration={histograms}"}
        modes = {
            f"{mode} {name}": f"delhi:mode={mode},{code}"
            for mode in ["4bit", "3bit", "2bit", "1bit"]
            for name, code in codes.items()
        }
        compare(options, folder, modes)


def learn(options, folder, histograms):
    """Trains the model from random weights, saves it and its tokenizer, and counts what its activations are given."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(options.smollm2)
    ids = tokenizer(options.learned.read_text(), return_tensors="pt").input_ids[0]
    ends = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=options.block_size, n_embd=256, n_layer=6, n_head=4,
        activation_function="gelu_new", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ends,
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, options.learning_steps))
    start, losses = time.monotonic(), []
    for _ in range(options.learning_steps):
        starts = torch.randint(len(ids) - options.block_size, (BATCH,)).tolist()
        rows = torch.stack([ids[at : at + options.block_size] for at in starts])
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0:
            print(f"{len(losses)} steps in {time.monotonic() - start:.0f} s: loss {losses[-1]:.3f}", file=sys.stderr)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    last = sum(losses[-10:]) / len(losses[-10:])
    print(f"GPT-2 of {parameters / 1e6:.1f} million parameters: {options.learning_steps} steps of {BATCH} x {options.block_size} "
          f"tokens on {options.learned.name} ({len(ids)} tokens), loss {losses[0]:.3f} at first, {last:.3f} over the last ten\n")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    histograms.write_text(json.dumps(count_inputs(model, ids[: CALIBRATION_ROWS * options.block_size].view(-1, options.block_size))))


def count_inputs(model, rows):
    """A histogram of each activation's input, by the node's path."""
    counts = {}

    def count(path):
        return lambda module, inputs: counts.update({path: torch.histc(inputs[0].float(), BINS, LEAST, MOST)})

    for index, block in enumerate(model.transformer.h):
        block.mlp.act.register_forward_pre_hook(count(f"transformer.h.{index}.mlp.act"))
    with torch.no_grad():
        model(input_ids=rows)
    return {path: {"min": LEAST, "max": MOST, "counts": found.long().tolist()} for path, found in counts.items()}


def rate(step, steps):
    """Of the learning rate: up over the first steps, then down to nothing as a cosine."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / max(steps - WARMUP_STEPS, 1)))


if __name__ == "__main__":
    main()
