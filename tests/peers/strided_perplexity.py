"""The loss of a text in windows that overlap, each token counted once with the most context that it has.

As in transformers' guide on the perplexity of fixed-length models. Prints the mean loss and how many tokens it is of.
argv: model, file of text, tokens of a window, tokens that it has in common with the one before.
"""

import sys

import torch
from transformers import AutoModelForCausalLM

folder, path, window, overlap = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
# The tiny tokenizer has a token for each byte, and 0 ends a text.
ids = list(open(path, "rb").read()) + [0]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
losses, end = [], 0
for start in range(0, len(ids), window - overlap):
    x = torch.tensor([ids[start : start + window]])
    labels = x.clone()
    labels[:, : end - start] = -100
    with torch.no_grad():
        logits = model(input_ids=x).logits
    counted = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="none")
    losses += counted[labels[0, 1:] != -100].tolist()
    end = start + x.shape[1]
    if end == len(ids):
        break
print(sum(losses) / len(losses), len(losses))
