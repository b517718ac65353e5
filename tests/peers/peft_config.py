"""PEFT's own settings of LoRA, as it saves them.

    python peft_config.py OUT.json

Writes {"saved": what `LoraConfig.save_pretrained` writes for a plain adapter, "fields": the names of all of its settings}.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

from peft import LoraConfig


def main():
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        saved = json.loads((Path(folder) / "adapter_config.json").read_text())
    fields = [field.name for field in dataclasses.fields(LoraConfig)]
    Path(sys.argv[1]).write_text(json.dumps(dict(saved=saved, fields=fields)))


if __name__ == "__main__":
    main()
