"""Reads the event files of a training run with TensorBoard's own reader.

    python tests/peers/event_files.py RUN/runs

Prints JSON: for each folder in it, `files` (how many) and `scalars`, {tag: [[step, value], ...]}.
"""

import json
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main():
    found = {}
    for folder in sorted(Path(sys.argv[1]).iterdir()):
        # 0: every value instead of a sample.
        accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        tags = accumulator.Tags()["scalars"]
        scalars = {tag: [[event.step, event.value] for event in accumulator.Scalars(tag)] for tag in tags}
        found[folder.name] = {"files": len(list(folder.iterdir())), "scalars": scalars}
    print(json.dumps(found))


main()
