"""Steps on all of a model in transformers and torch, from rows of tokens that somebody else gives.

    python tests/peers/full_steps.py MODEL FINAL ROWS OUT

Trains every weight of MODEL (a folder, in f32), one row of ROWS (JSON: a list of lists of token ids) a step, with torch's AdamW at
lr 1e-4, decay 0.1 in the groups of transformers' Trainer, and the gradient's norm clipped at 1. Then loads the model of folder
FINAL. OUT (JSON) gets `losses`, `grad_norms`, and `logits`: what FINAL gives for the last position of the first three rows.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, Trainer


def main():
    path, final, rows, out = sys.argv[1:]
    rows = json.load(open(rows))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.train()
    decays = set(Trainer.get_decay_parameter_names(None, model))
    named = list(model.named_parameters())
    groups = [
        dict(params=[parameter for name, parameter in named if name in decays], weight_decay=0.1),
        dict(params=[parameter for name, parameter in named if name not in decays], weight_decay=0.0),
    ]
    assert all(group["params"] for group in groups)
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    losses, norms = [], []
    for row in rows:
        ids = torch.tensor([row])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([row])).logits[0, -1].tolist() for row in rows[:3]]
    json.dump(dict(losses=losses, grad_norms=norms, logits=logits), open(out, "w"))


if __name__ == "__main__":
    main()
