"""Writes TYPE.blocks (stored bytes) and TYPE.f32 (what they mean) for every block type the reader supports.

Run in a Python with numpy and gguf 0.19: python make_dequant.py
The values are those of gguf.dequantize. It has no Q8_1 and Q8_K; those are decoded here from their struct in
ggml-common.h by numpy's own record types.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

SEED = 20240607
BLOCKS = 10
HERE = Path(__file__).parent

# Where each type keeps f16 numbers (scale first, then minimum): byte offsets in a block.
HALVES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q8_1": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
}

# +inf, -inf, a quiet NaN, -0, the smallest and the largest denormal, the largest finite number, its negative: as f16
SPECIAL = [0x7C00, 0xFC00, 0x7E00, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF]

# The types without blocks, and the same numbers in each.
PLAIN = {
    "F16": np.array(SPECIAL, "<u2"),
    "BF16": np.array([0x7F80, 0xFF80, 0x7FC0, 0x8000, 0x0001, 0x807F, 0x7F7F, 0xFF7F], "<u2"),
    "F32": np.array(
        [0x7F800000, 0xFF800000, 0x7FC00000, 0x80000000, 0x00000001, 0x807FFFFF, 0x7F7FFFFF, 0xFF7FFFFF], "<u4"
    ),
}

BY_STRUCT = {
    "Q8_1": np.dtype([("d", "<f2"), ("s", "<f2"), ("qs", "i1", 32)]),
    "Q8_K": np.dtype([("d", "<f4"), ("qs", "i1", 256), ("bsums", "<i2", 16)]),
}


def write(name: str, blocks: np.ndarray, values: np.ndarray) -> None:
    assert values.dtype == np.float32
    (HERE / f"{name}.blocks").write_bytes(blocks.tobytes())
    (HERE / f"{name}.f32").write_bytes(values.astype("<f4").tobytes())


def main() -> None:
    rng = np.random.default_rng(SEED)
    np.seterr(all="ignore")
    for name in [*HALVES, "Q8_K"]:
        code = GGMLQuantizationType[name]
        size = BY_STRUCT[name].itemsize if name in BY_STRUCT else GGML_QUANT_SIZES[code][1]
        blocks = rng.integers(0, 256, size=(BLOCKS + len(SPECIAL), size), dtype=np.uint8)
        for row, block in enumerate(blocks):
            for place in HALVES.get(name, []):
                # Ordinary scales, and each special one in turn.
                scale = rng.normal(0, 0.05, 1).astype("<f2")
                if row >= BLOCKS:
                    scale = np.array([SPECIAL[(row - BLOCKS + place) % len(SPECIAL)]], "<u2")
                block[place : place + 2] = scale.view(np.uint8)
            if name == "Q8_K":
                scale = rng.normal(0, 0.05, 1).astype("<f4")
                if row >= BLOCKS:
                    scale = np.array([SPECIAL[row - BLOCKS]], "<u2").view("<f2").astype("<f4")
                block[:4] = scale.view(np.uint8)
        if name in BY_STRUCT:
            record = blocks.view(BY_STRUCT[name]).reshape(-1)
            values = record["qs"].astype("<f4") * record["d"].astype("<f4")[:, None]
        else:
            values = dequantize(blocks, code)
        write(name, blocks, values)
    for name, special in PLAIN.items():
        random = rng.integers(0, 256, size=64 * special.itemsize, dtype=np.uint8)
        stored = np.concatenate([special.view(np.uint8), random])
        write(name, stored, dequantize(stored, GGMLQuantizationType[name]))


main()
