"""Models for the engine's tests, and what PyTorch's autograd says of them.

    python tests/peers/engine.py DIRECTORY

For every case of families.py that is saved under the names of its parameters: DIRECTORY/<case>/ as `save_pretrained` writes it in f32,
with random weights, and DIRECTORY/<case>.safetensors with `input_ids`, `position_ids` (one row of each per sequence), `logits`,
`loss` (transformers' own, of the shifted tokens) and `grad.<parameter>` for each parameter.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file

import families


def expected(model):
    ids, positions = families.inputs()
    output = model(input_ids=ids, position_ids=positions, labels=ids, use_cache=False)
    output.loss.backward()
    found = dict(input_ids=ids, position_ids=positions, logits=output.logits.detach(), loss=output.loss.detach())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"grad.{name}"] = parameter.grad
    return {name: tensor.contiguous() for name, tensor in found.items()}


def main():
    directory = pathlib.Path(sys.argv[1])
    for case, (model_type, _, headless) in families.CASES.items():
        if headless or model_type == "gemma3":
            continue
        model = families.model_of(case).float()
        model.save_pretrained(directory / case)
        save_file(expected(model), directory / f"{case}.safetensors")


if __name__ == "__main__":
    main()
