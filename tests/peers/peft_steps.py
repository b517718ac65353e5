"""LoRA steps in PEFT and torch, from an adapter and rows of tokens that somebody else gives.

    python tests/peers/peft_steps.py MODEL START FINAL ROWS OUT

Trains MODEL (a folder, in f32) with the adapter of folder START, one row of ROWS (JSON: a list of lists of token ids) a step, with
torch's AdamW at lr 1e-3 without decay and the gradient's norm clipped at 1. Then loads the adapter of folder FINAL. OUT
(JSON) gets `losses`, `grad_norms`, and `logits`: what FINAL gives for the last position of the first three rows.
"""

import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def base(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def main():
    path, start, final, rows, out = sys.argv[1:]
    rows = json.load(open(rows))
    model = PeftModel.from_pretrained(base(path), start, is_trainable=True)
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
    model = PeftModel.from_pretrained(base(path), final).eval()
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([row])).logits[0, -1].tolist() for row in rows[:3]]
    json.dump(dict(losses=losses, grad_norms=norms, logits=logits), open(out, "w"))


if __name__ == "__main__":
    main()
