"""Folders of tokenizers of four kinds, with tokens beside tokenizer.json in every way that transformers reads them.

Writes them into the folder argv[1], and what transformers makes of some texts into its cases.json.
"""

import json
import os
import sys

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "<|im_start|>user hi <|im_end|> there",
    "x <tool>  y</tool>z <img> A<img>a",
    "12 a1 <|im_end|><|im_end|>  <pad></s><s>",
    "né 🙂 <TOOL> <|own|>",
]


def byte_level():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)} | {"hi": 256, "us": 257}
    t = Tokenizer(models.BPE(vocab=vocab, merges=[("h", "i"), ("u", "s")]))
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    t.add_special_tokens(["</s>"])
    return t


def sentence_piece():
    words = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["▁", "▁h"] + [chr(c) for c in range(97, 123)]
    vocab = {w: i for i, w in enumerate(words)}
    t = Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "h")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    t.add_special_tokens(["<unk>", "<s>"])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return t


def word_piece():
    words = ["[UNK]", "[CLS]", "[SEP]"] + list("hiuserx12yz<>|/_né") + ["##" + c for c in "hiuserx12yz<>|/_né"]
    t = Tokenizer(models.WordPiece(vocab={w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece(cleanup=False)
    t.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    t.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    return t


def unigram():
    pieces = [("<unk>", 0.0), ("</s>", 0.0)] + [(c, -5.0 - i / 10) for i, c in enumerate("▁hiuserxyz12<>|/_")] + [("▁hi", -3.0)]
    t = Tokenizer(models.Unigram(pieces, unk_id=0))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\n", " ")])
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    t.add_special_tokens(["<unk>"])
    t.post_processor = processors.Sequence(
        [processors.ByteLevel(), processors.TemplateProcessing(single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 1)])]
    )
    return t


def digits():
    """No letter in it, and other tokens on both sides of a text."""
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["?", "<s>", "</s>", "1", "2", "12"])}, unk_token="?"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    return t


def strict():
    """A vocabulary that cannot encode the letter a at all."""
    t = Tokenizer(models.BPE(vocab={"1": 0, "2": 1, "<s>": 2, " ": 3}, merges=[]))
    t.post_processor = processors.TemplateProcessing(single="<s>:0 $A:0 <s>:0", pair="$A $B", special_tokens=[("<s>", 2)])
    return t


def tag(content, **flags):
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True} | flags


def beside(vocab_size):
    """By name: tokenizer_config.json, special_tokens_map.json, added_tokens.json."""
    n = vocab_size
    return {
        "nothing": ({}, None, None),
        "decoder": (
            {
                "eos_token": "<|im_end|>",
                "added_tokens_decoder": {
                    str(n + 1): tag("<|im_end|>"),
                    str(n): tag("<|im_start|>"),
                    str(n + 2): tag("<tool>", special=False, normalized=True, lstrip=True, rstrip=True),
                    str(n + 3): tag("<img>", single_word=True, special=False),
                },
            },
            {"pad_token": "<not-read>"},
            {"<not-read>": 5},
        ),
        "legacy": (
            {"pad_token": "<pad>"},
            {"eos_token": tag("<|im_end|>", rstrip=True), "additional_special_tokens": ["<|im_start|>"]},
            {"<tool>": n, "<|im_end|>": n + 1, "<|im_start|>": n + 2},
        ),
        "additional": ({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "eos_token": "</s>"}, None, None),
        "extra": ({"extra_special_tokens": ["<|im_start|>", tag("<img>", lstrip=True, __type="AddedToken")]}, None, None),
        "named": ({"extra_special_tokens": {"own_token": "<|own|>"}, "bos_token": "<s>", "pad_token": "<pad>"}, None, None),
        "own role": ({"image_token": "<img>", "add_prefix_space": True}, None, None),
        "flags": ({"added_tokens_decoder": {str(n - 1): tag("</s>", lstrip=True)} if n in (259,) else {}}, None, None),
        "bos and eos": ({"add_bos_token": True, "add_eos_token": True, "bos_token": "<s>", "eos_token": "</s>"}, None, None),
        "split": ({"split_special_tokens": True, "additional_special_tokens": ["<|im_end|>"]}, None, None),
    }


def main():
    out, cases = sys.argv[1], []
    kinds = {f.__name__: f for f in (byte_level, sentence_piece, word_piece, unigram, digits, strict)}
    for kind, make in kinds.items():
        tokenizer = make()
        texts = ["1 2", "21"] if kind in ("digits", "strict") else TEXTS
        for name, files in beside(tokenizer.get_vocab_size()).items():
            if kind in ("digits", "strict") and name not in ("nothing", "bos and eos"):
                continue
            if kind == "strict" and name != "nothing":
                continue
            folder = f"{out}/{kind}-{name.replace(' ', '-')}"
            os.makedirs(folder)
            tokenizer.save(f"{folder}/tokenizer.json")
            for file, content in zip(("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"), files):
                if content is not None:
                    json.dump(content, open(f"{folder}/{file}", "w"))
            theirs = PreTrainedTokenizerFast.from_pretrained(folder)
            for text in texts:
                ids = theirs(text)["input_ids"]
                bare = theirs(text, add_special_tokens=False)["input_ids"]
                said = theirs.decode(ids, skip_special_tokens=True)
                cases.append({"folder": folder, "text": text, "ids": ids, "bare": bare, "decoded": said, "size": len(theirs)})
    json.dump(cases, open(f"{out}/cases.json", "w"))


main()
