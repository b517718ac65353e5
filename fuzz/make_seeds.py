#!/usr/bin/env python3
"""Writes the seeds of the targets in src/documents.rs: `fuzz/make_seeds.py`. Sound files of each kind, small, and no random number in any.

`record/` and `lock/` are written by the program itself: a surgery on a tiny Llama, and `unswag plugin add`.
"""

import gzip
import json
import struct
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
CORPUS = FUZZ / "corpus"
HIDDEN, LAYERS = 64, 2  # of the sample of llama that adapters are held against


def w(name, content):
    path = CORPUS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# templates
w(
    "chat_template/chatml.jinja",
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
)
w(
    "chat_template/headers.jinja",
    "{{- bos_token }}{%- set ns = namespace(first=true) %}{%- for m in messages %}{%- if m.role == 'system' and not ns.first %}{{ raise_exception('system first') }}{%- endif %}{{- '<|start|>' ~ m.role ~ '<|end|>\\n\\n' ~ (m.content | trim) ~ '<|eot|>' }}{%- set ns.first = false %}{%- endfor %}{{ strftime_now('%d %b %Y') }}",
)
w(
    "chat_template/tools.jinja",
    "{% if tools is not none and tools is iterable %}{{ tools | tojson(indent=4) }}{% endif %}{% for m in messages %}{% if m.tool_calls is defined and m.tool_calls %}{% for call in m.tool_calls %}{% set f = call.function %}<call>{{ {'name': f.name, 'arguments': f.arguments} | tojson }}</call>{% endfor %}{% elif m.role in ['user', 'tool'] %}[{{ loop.index0 }}]{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{% generation %}{{ m['content'] }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}",
)
w(
    "chat_template/macros.jinja",
    "{% macro block(role, text='') -%}\n<{{ role|upper }}>{{ caller() if caller else text }}</{{ role }}>\n{%- endmacro %}{% for m in messages|selectattr('role', 'ne', 'tool')|list %}{% call block(m.role) %}{{ m.content|default('none', true)|replace('a','b') }}{% endcall %}{% endfor %}{{ '%s-%05.1f' % ('x', 2.5) }}{{ 'a,b'.split(',')|join('; ') }}{{ [1,2,3][::-1] }}{{ (1, 2) }}{% filter upper %}x{% endfilter %}",
)
w(
    "chat_template/nested.jinja",
    "{% set ns = namespace(a=[]) %}{% for i in range(20) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}{{ ((((1 + 2) * 3) - -4) // 5) ** 2 }}{{ {'a': {'b': [1, {'c': none}]}} }}{% if not (true and false or not true) %}y{% endif %}",
)


# tokenizers
def byte_chars():
    bs = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    cs = bs[:]
    n = 0
    for b in range(256):
        if b not in bs:
            bs.append(b)
            cs.append(256 + n)
            n += 1
    return [chr(c) for _, c in sorted(zip(bs, cs))]


bl = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
vocab = {c: i for i, c in enumerate(byte_chars())}
vocab.update({"he": 256, "ll": 257, "hell": 258, "<s>": 259, "</s>": 260})
added = [
    {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for t, i in [("<s>", 259), ("</s>", 260), ("<|im_end|>", 261)]
]
post = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [259], "tokens": ["<s>"]}},
}


def tok(model, **k):
    d = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": model,
    }
    d.update(k)
    return json.dumps(d)


bpe = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "vocab": vocab,
    "merges": [["h", "e"], ["l", "l"], ["he", "ll"]],
}
w("tokenizer/byte_level.json", tok(bpe, added_tokens=added, pre_tokenizer=bl, post_processor=post, decoder=bl))
sp = {f"<0x{i:02X}>": i + 3 for i in range(256)}
sp.update({"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581": 259, "H": 260, "e": 261, "l": 262, "o": 263, "\u2581H": 264, "ll": 265})
w(
    "tokenizer/byte_fallback.json",
    tok(
        {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": sp,
            "merges": ["\u2581 H", "l l"],
        },
        added_tokens=[
            {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for t, i in [("<unk>", 0), ("<s>", 1), ("</s>", 2)]
        ],
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}],
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    ),
)
w(
    "tokenizer/word_piece.json",
    tok(
        {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "hello": 4, "world": 5, "##s": 6, "a": 7, "##a": 8, "!": 9},
        },
        normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor={"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    ),
)
w(
    "tokenizer/unigram.json",
    tok(
        {
            "type": "Unigram",
            "unk_id": 0,
            "vocab": [["<unk>", 0.0], ["\u2581", -2.0], ["\u2581Hello", -3.5], ["a", -4.0], ["aa", -5.0], ["l", -6.0]],
            "byte_fallback": False,
        },
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}],
        },
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|[^\\s\\p{N}]+"}, "behavior": "Isolated", "invert": False},
                {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
            ],
        },
        decoder={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    ),
)


# adapters
def st(ts):
    h = {"__metadata__": {"format": "pt"}}
    off = 0
    data = b""
    for n, shape in ts:
        size = 4 * shape[0] * shape[1]
        h[n] = {"dtype": "F32", "shape": shape, "data_offsets": [off, off + size]}
        off += size
        data += struct.pack("<%df" % (shape[0] * shape[1]), *[0.5] * (shape[0] * shape[1]))
    j = json.dumps(h).encode()
    j += b" " * (-len(j) % 8)
    return struct.pack("<Q", len(j)) + j + data


def adapter(cfg, ts):
    base = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "base",
        "r": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
    }
    base.update(cfg)
    c = json.dumps(base).encode()
    return struct.pack("<I", len(c)) + c + st(ts)


P = "base_model.model.model.layers.%d.self_attn.q_proj."
lora = lambda l, r: [(P % l + "lora_A.weight", [r, HIDDEN]), (P % l + "lora_B.weight", [HIDDEN, r])]
w("adapter/plain", adapter({}, sum([lora(l, 2) for l in range(LAYERS)], [])))
w(
    "adapter/patterns",
    adapter(
        {"rank_pattern": {"layers.0.self_attn.q_proj": 1}, "alpha_pattern": {"q_proj": 3}, "layers_to_transform": [0], "use_rslora": True},
        lora(0, 1),
    ),
)
w(
    "adapter/dora_one_layer",
    adapter({"use_dora": True, "target_modules": "model.layers.0.self_attn.q_proj", "layers_to_transform": None}, lora(0, 2)),
)
# recipes
w(
    "recipe/full.yaml",
    "model: model\nsurgery:\n  - plugin: delhi\n    options: {mode: 4bit, group: 32}\ntrain:\n  data: [text.txt, 'more/*.txt']\n  block_size: 48\n  max_steps: 4\n  learning_rate: 1e-2\n  lora_r: 4\n  lora_target_modules: [q_proj, down_proj]\n  memory_budget: 1.5GiB\noutput: out\n",
)
w(
    "recipe/chat.yaml",
    'model: m\ntrain: &t\n  data: chat.jsonl\n  chat: true\n  packing: true\n  num_epochs: 0.5\n  report_to: [jsonl, tensorboard]\n  use_rslora: yes\noutput: "o\\u0075t"\n',
)
w("recipe/anchors.yaml", "model: &m model\ntrain: {data: *m, max_steps: 3, load_in_4bit: true, lr: 0.001}\noutput: *m\n")
# rows: 0 lines,1 list,2 csv,3 parquet, +4 gzip
lines = b'{"text": "a"}\n{"instruction": "x", "input": null, "output": "y"}\n\n{"messages": [{"role": "user", "content": "h\\u00e9"}]}\n'
w("rows/lines", b"\0" + lines)
w("rows/list", b"\1" + b'[\n {"text": "a", "n": [1, 2.5e3, -0]},\n {"text": "b\\"]"}\n]\n')
w("rows/csv", b"\2" + b'\xef\xbb\xbfask;reply\r\n"a ""b""\r\nc";d\r\n1;\r\n')
w("rows/lines_gzip", b"\4" + gzip.compress(lines, mtime=0) + gzip.compress(b'{"text":"z"}\n', mtime=0))
w("rows/parquet", b"\3" + (FUZZ.parent / "examples/data/questions.parquet").read_bytes())
w("rows/parquet_brotli", b"\3" + (FUZZ.parent / "host/data/tests/parquet/brotli.parquet").read_bytes())
# conversations
w(
    "conversation/plain",
    '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u", "name": null}, {"role": "assistant", "content": "a", "weight": 0}, {"role": "user", "content": "v"}, {"role": "assistant", "content": "b"}]}',
)
w(
    "conversation/tools",
    '{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}]}, {"role": "tool", "content": "1"}, {"role": "assistant", "content": "b", "thinking": "t", "train": false}, {"role": "assistant", "content": "c"}], "tools": "[{\\"type\\": \\"function\\", \\"function\\": {\\"name\\": \\"f\\"}}]"}',
)
w(
    "conversation/sharegpt",
    '{"system": "s", "conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a <|im_end|> b"}, {"from": "function_call", "value": "{\\"name\\": \\"f\\", \\"arguments\\": {}}"}, {"from": "observation", "value": "1"}, {"from": "gpt", "value": "z"}], "documents": [{"title": "t"}]}',
)
