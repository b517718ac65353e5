#!/usr/bin/env python3
"""Whether factorised key and value projections multiply back to the ones that they came from.

    python tests/peers/factorised.py BASE OUT

OUT is what the test plugin's protocol `composite` makes of BASE at full rank: per layer, k_proj and v_proj became two
up-projections of one shared down-projection. Exit code: 0 they do, 1 they do not.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def main():
    base, out = (load_file(Path(folder) / "model.safetensors") for folder in sys.argv[1:3])
    layers = sorted({name.split(".")[2] for name in base if ".layers." in name})
    worst = 0.0
    for layer in layers:
        at = f"model.layers.{layer}.self_attn"
        new = {name.removeprefix(at + "."): tensor.double() for name, tensor in out.items() if name.startswith(at)}
        for old in ("k_proj", "v_proj"):
            want = base[f"{at}.{old}.weight"].double()
            up = next(tensor for name, tensor in new.items() if "up" in name and name.startswith(old[0]))
            down = next(tensor for name, tensor in new.items() if "down" in name)
            assert f"{old}.weight" not in new, f"{at}.{old} is still there"
            worst = max(worst, float((up @ down - want).norm() / want.norm()))
    # Each factor is rounded once to bf16: 2^-9 relative, and the two add up.
    bound = 2 * 2.0**-8
    print(f"{len(layers)} layers, largest relative error {worst:.2e}, bound {bound:.2e}")
    return 0 if layers and 0 < worst < bound else 1


if __name__ == "__main__":
    sys.exit(main())
