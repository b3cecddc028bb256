"""Opens a folder of event files with TensorBoard's own reader and prints what it would draw, as one JSON object on stdout.

    python open_events.py FOLDER    {tag: [[step, value], …]}
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(folder):
    events = EventAccumulator(folder, size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


if __name__ == "__main__":
    print(json.dumps(scalars(sys.argv[1])))
