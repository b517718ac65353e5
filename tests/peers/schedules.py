"""Prints the learning rates of transformers' schedulers, base rate 1: [[name, warmup, total, [rate of each step]]].

Run by host/train/tests/inference.rs: .cache/venv/bin/python tests/peers/schedules.py linear cosine
"""

import json
import sys

import torch
from transformers import get_scheduler

found = []
for name in sys.argv[1:]:
    for warmup, total in [(0, 7), (3, 20), (20, 20), (5, 1)]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
        rates = []
        for _ in range(total + 3):
            rates.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        found.append([name, warmup, total, rates])
print(json.dumps(found))
