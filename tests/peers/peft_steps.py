"""LoRA steps in PEFT and torch, from an adapter and rows of tokens that somebody else gives.

    python tests/peers/peft_steps.py MODEL START FINAL ROWS OUT [--load-in-4bit [--double-quant]]

Trains MODEL (a folder, in f32) with the adapter of folder START, one row of ROWS (JSON: a list of lists of token ids) a step, with
torch's AdamW at lr 1e-3 without decay and the gradient's norm clipped at 1. Then loads the adapter of folder FINAL. OUT
(JSON) gets `losses`, `grad_norms`, and `logits`: what FINAL gives for the last position of the first three rows. With
--load-in-4bit MODEL's linear layers are bitsandbytes' NF4, computed in f32, and the file OUT.safetensors gets the codes (`packed`),
scales (`absmax`, or with --double-quant their codes) and elements (`elements`) of the first decoder layer's weights.
"""

import argparse
import json

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def base(arguments):
    settings = dict(dtype=torch.float32)
    if arguments.load_in_4bit:
        from transformers import BitsAndBytesConfig

        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=arguments.double_quant,
            bnb_4bit_compute_dtype=torch.float32,
        )
        settings |= dict(quantization_config=quantization, device_map="cpu")
    return AutoModelForCausalLM.from_pretrained(arguments.model, **settings)


def save_quantised(model, out):
    from bitsandbytes import functional
    from safetensors.torch import save_file

    tensors = {}
    for name, module in model.model.layers[0].named_modules():
        if type(module).__name__ == "Linear4bit":
            weight, name = module.weight, f"model.layers.0.{name}.weight"
            tensors[f"{name}.packed"] = weight.data.ravel().contiguous()
            tensors[f"{name}.absmax"] = weight.quant_state.absmax.contiguous()
            tensors[f"{name}.elements"] = functional.dequantize_4bit(weight.data, weight.quant_state).ravel().contiguous()
    save_file(tensors, out)


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "start", "final", "rows", "out"):
        parser.add_argument(name)
    parser.add_argument("--load-in-4bit", action="store_true")
    parser.add_argument("--double-quant", action="store_true")
    arguments = parser.parse_args()
    out, rows = arguments.out, json.load(open(arguments.rows))
    model = base(arguments)
    if arguments.load_in_4bit:
        save_quantised(model, f"{out}.safetensors")
    model = PeftModel.from_pretrained(model, arguments.start, is_trainable=True)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    losses, norms = [], []
    for row in rows:
        ids = torch.tensor([row])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model = PeftModel.from_pretrained(base(arguments), arguments.final)
    # In evaluation bitsandbytes' layers compute in bf16 where the CPU can, whatever they are told; nothing here drops.
    model.train(arguments.load_in_4bit)
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([row])).logits[0, -1].tolist() for row in rows[:3]]
    json.dump(dict(losses=losses, grad_norms=norms, logits=logits), open(out, "w"))


if __name__ == "__main__":
    main()
