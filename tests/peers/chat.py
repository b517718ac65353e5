"""Renders conversations as transformers does, for a comparison.

    python chat.py MODEL_FOLDER CASES.json OUT.json

A case has `messages` and may have `template` (else the model's own), `variables` for it, `tools`, `prompt` (add_generation_prompt)
and `now` (the date that strftime_now tells). The answer has `text` and `ids`, and `generated` (one 0 or 1 per token) where the
template marks generated parts; or `error` where the template refuses.
"""

import json
import sys
from datetime import datetime as real_datetime
from pathlib import Path

from transformers import AutoTokenizer
from transformers.utils import chat_template_utils


class Clock:
    """Stands for the module's `datetime`, and says that it is always one time."""

    time = None

    @classmethod
    def now(cls):
        return cls.time


def answer(tokenizer, case):
    Clock.time = real_datetime.fromisoformat(case.get("now", "2026-11-21T08:05:09"))
    options = dict(
        tools=case.get("tools"),
        chat_template=case.get("template"),
        add_generation_prompt=case.get("prompt", False),
        **case.get("variables", {}),
    )
    try:
        text = tokenizer.apply_chat_template(case["messages"], tokenize=False, **options)
    except Exception as error:  # whatever the template raises
        return {"error": f"{type(error).__name__}: {error}"}
    found = {"text": text}
    marks = "generation %}" in (case.get("template") or "")
    encoded = tokenizer.apply_chat_template(
        case["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=marks, **options
    )
    found["ids"] = encoded["input_ids"]
    if marks:
        found["generated"] = encoded["assistant_masks"]
    return found


def main():
    folder, cases, out = (Path(argument) for argument in sys.argv[1:])
    assert chat_template_utils.datetime is real_datetime, "transformers tells the date in another way now"
    chat_template_utils.datetime = Clock
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = [answer(tokenizer, case) for case in json.loads(cases.read_text())]
    out.write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
