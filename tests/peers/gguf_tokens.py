"""Writes how transformers encodes test texts with the tokenizer it rebuilds from a GGUF file.

    python gguf_tokens.py MODEL.gguf OUT.json [--digits]

With --digits, each digit is cut off first, as the file asks for with `tokenizer.ggml.pre = smollm` and transformers leaves
out; both encodings agree but where several spaces come before a digit.
"""

import json
import sys
from pathlib import Path

from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "The capital of France is",
    " leading and trailing ",
    "a  b   c    d",
    "tabs\tand\nnew\r\nlines\n\n\n  x",
    "0 1 12 123 1234567890 3.14159 1,000,000",
    "a  1   22    333\n4",
    "don't I'll WE'RE they've I'M it's o'clock 'tis",
    "café naïve Ångström ÀÉÎÕÜ ß ẞ ﬁ",
    "cafe\u0301 (decomposed) \u212b",
    "日本語のテキスト 中文 한국어 ไทย",
    "שלום العربية हिन्दी ελληνικά кириллица",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 😀\ufe0f",
    "x = [i**2 for i in range(10)]  # comment\n\tif x: return {'a': 1}",
    "https://example.org/path?q=1&r=%20#frag user@example.org",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|> in the middle <|im_end|><|im_end|>",
    "<repo_name> <file_sep> </s> <s> <unk> <bos> [INST]",
    "\u00a0nbsp\u2003em\u200bzero\u3000ideographic",
    "¹²³ ½ ⅷ ٣ ४ ０１",
    "▁already ▁▁ here",
    "$€£ @#%^&*()_+-=[]{}|;':\",./<>?`~",
    "AllCamelCaseAndALLCAPSTogether snake_case",
    "control \u0001\u0002\u007f chars",
    "ends with spaces   ",
    "\n\n   \n",
    "the " * 60,
]


def encodings(gguf, digits=False):
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # Releases before 5.23 pass over this key.
    flag = GGUFReader(gguf).get_field("tokenizer.ggml.add_bos_token")
    tokenizer.add_bos_token = flag is not None and flag.contents()
    if digits:
        backend = tokenizer.backend_tokenizer
        first = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([first, backend.pre_tokenizer])
    cases = []
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    roles = {role: str(token) for role, token in tokenizer.special_tokens_map.items()}
    return {"cases": cases, "roles": roles}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(encodings(Path(sys.argv[1]), "--digits" in sys.argv[3:])))
