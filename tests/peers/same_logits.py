#!/usr/bin/env python3
"""Opens two checkpoint folders in transformers and says whether they are the same model, bit for bit.

    python tests/peers/same_logits.py BASE OUT
    python tests/peers/same_logits.py --self-test BASE     must find BASE equal to itself, and different after one bit flips

Compared are the tokens of every prompt, the parameters, and the logits at every position, all as bits: a NaN equals the
same NaN, and -0 differs from 0. Exit code: 0 equal, 1 different, 2 could not compare. Nothing is fetched from anywhere.
"""

import argparse
import json
import os
import shutil
import struct
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from transformers.utils import logging  # noqa: E402

logging.disable_progress_bar()

PROMPTS = [
    "The capital of France is",
    "fn main() { println!(\"{}\", 6 * 7); }",
    "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer",
    "a",
    "日本語とemoji 🙂 and  double  spaces",
]
TOKENIZER_FILES = ["tokenizer.json", "tokenizer.model", "vocab.json"]


def bits(tensor):
    """The tensor's bytes, for a comparison to which NaN is a number like any other."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def read(folder):
    """(tokens per prompt, parameters by name, logits per prompt, element type, names that the model has no use for)"""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    for problem in ("missing_keys", "mismatched_keys"):
        if info[problem]:
            # transformers fills such weights at random and only warns.
            raise ValueError(f"{folder}: {problem}: {sorted(map(str, info[problem]))[:5]}")
    model.eval()
    if any((Path(folder) / name).exists() for name in TOKENIZER_FILES):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    else:
        size = model.config.vocab_size
        tokens = [[(7 * i * i + 3 * i + 1) % size for i in range(length)] for length in (1, 5, 17)]
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits for ids in tokens]
    return tokens, dict(model.state_dict()), logits, model.dtype, sorted(map(str, info["unexpected_keys"]))


def differences(base, out):
    """What differs, one line each; empty where nothing does."""
    found = []
    base_tokens, base_params, base_logits, base_dtype, base_unused = read(base)
    out_tokens, out_params, out_logits, out_dtype, out_unused = read(out)
    if base_unused != out_unused:
        found.append(f"tensors that transformers has no use for: {base_unused[:5]} and {out_unused[:5]}")
    if base_dtype != out_dtype:
        found.append(f"element type: {base_dtype} and {out_dtype}")
    if base_tokens != out_tokens:
        found.append("the tokenizers give different tokens")
    for name in sorted(base_params.keys() ^ out_params.keys()):
        found.append(f"{name}: in {'the first' if name in base_params else 'the second'} only")
    for name in base_params.keys() & out_params.keys():
        a, b = base_params[name], out_params[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            found.append(f"{name}: {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)}")
        elif not torch.equal(bits(a), bits(b)):
            count = int((bits(a) != bits(b)).sum())
            found.append(f"{name}: {count} of {bits(a).numel()} bytes differ")
    positions = 0
    for index, (a, b) in enumerate(zip(base_logits, out_logits)):
        positions += a.shape[1]
        if a.shape != b.shape or not torch.equal(bits(a), bits(b)):
            gap = float((a.float() - b.float()).abs().max()) if a.shape == b.shape else float("nan")
            found.append(f"logits of prompt {index}: differ, by at most {gap:g}")
    if not found:
        print(f"same: {len(base_params)} tensors, {len(base_logits)} prompts, {positions} positions of logits ({base_dtype})")
    return found


def flip_one_bit(folder):
    """Flips the lowest mantissa bit in the middle of the largest tensor of the first weight file."""
    path = sorted(Path(folder).glob("*.safetensors"))[0]
    with open(path, "r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        name = max(header, key=lambda key: header[key]["data_offsets"][1] - header[key]["data_offsets"][0])
        begin, end = header[name]["data_offsets"]
        # Element types here are 2 or 4 bytes wide and little-endian, so a multiple of 4 is an element's lowest byte.
        at = 8 + length + begin + (end - begin) // 2 // 4 * 4
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    return name


def self_test(base):
    if differences(base, base):
        print("self-test: a folder differs from itself")
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        copy = shutil.copytree(base, Path(temporary, "copy"))
        for path in copy.rglob("*"):
            path.chmod(path.stat().st_mode | 0o200)
        name = flip_one_bit(copy)
        found = differences(base, copy)
    if not any(line.startswith(f"{name}: 1 of ") for line in found):
        print(f"self-test: one flipped bit in {name} was not found; found: {found}")
        return 1
    print(f"self-test: one flipped bit in {name} was found: {found}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("base", metavar="BASE")
    parser.add_argument("out", metavar="OUT", nargs="?")
    args = parser.parse_args()
    if (args.out is None) != args.self_test:
        parser.error("give BASE and OUT, or --self-test and BASE")
    torch.manual_seed(0)
    try:
        if args.self_test:
            return self_test(args.base)
        found = differences(args.base, args.out)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"same_logits: {error}", file=sys.stderr)
        return 2
    for line in found:
        print(f"different: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
