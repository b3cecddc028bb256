"""Reads embeddings of dinov2 from any of its formats: ids, vectors [n, D] and labels.

    python examples/python/read_vectors.py photos.parquet     # or .arrow, .npy, .safetensors
"""
import json
import pathlib
import sys

import numpy as np


def read_vectors(path):
    """ids, vectors as float32 [n, D], and the labels that rode along (None where a row has none)."""
    path = pathlib.Path(path)
    if path.suffix == ".npy":  # ids and fields stand beside it, one JSON object a line
        rows = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
        return [row["id"] for row in rows], np.load(path), [row.get("label") for row in rows]
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "numpy") as file:
            vectors = file.get_tensor("vectors")
            rows = [json.loads(line) for line in bytes(file.get_tensor("rows")).decode().splitlines()]
        return [row["id"] for row in rows], vectors, [row.get("label") for row in rows]
    if path.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
    else:
        import pyarrow

        with pyarrow.OSFile(str(path)) as file:
            table = pyarrow.ipc.open_stream(file).read_all()
    column = table["vector"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(column), -1)
    labels = table["label"].to_pylist() if "label" in table.column_names else [None] * len(column)
    return table["id"].to_pylist(), vectors, labels


if __name__ == "__main__":
    ids, vectors, labels = read_vectors(sys.argv[1])
    print(json.dumps({"rows": len(ids), "dim": vectors.shape[1], "first": ids[0], "sum": round(float(vectors.sum()), 3), "labels": sorted({str(one) for one in labels})}))
