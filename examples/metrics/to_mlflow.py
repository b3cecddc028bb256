"""Sends the metrics of a dinov2 run to MLflow while it trains.

    python examples/metrics/to_mlflow.py RUN            # follows until Ctrl-C
    python examples/metrics/to_mlflow.py RUN --once     # what is there, then ends
"""
import json
import pathlib
import sys
import time

import mlflow


def rows(path, once):
    """The lines of a file that grows; one that is cut back by --resume is gone on with where it ends then."""
    start, rest = 0, b""
    while True:
        if path.exists():
            if path.stat().st_size < start:
                start, rest = path.stat().st_size, b""
            with path.open("rb") as file:
                file.seek(start)
                new = file.read()
            start += len(new)
            *lines, rest = (rest + new).split(b"\n")
            yield from (json.loads(line) for line in lines if line.strip())
        if once:
            return
        time.sleep(5)


run = pathlib.Path(sys.argv[1])
mlflow.start_run(run_name=run.name)
for row in rows(run / "metrics.jsonl", "--once" in sys.argv):
    numbers = {name: value for name, value in row.items() if name != "step" and isinstance(value, (int, float))}
    mlflow.log_metrics(numbers, step=row["step"])
mlflow.end_run()
