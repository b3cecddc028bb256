"""Opens embedding files as a Python user would and prints what is in them as one JSON object.

    python open_embeddings.py ARROW PARQUET NPY LIST SAFETENSORS CSV JSONL
"""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.json
import pyarrow.parquet as pq
from safetensors.numpy import load_file
from safetensors import safe_open


def table(t):
    return {
        "ids": t.column("id").to_pylist(),
        "labels": t.column("label").to_pylist(),
        "depths": t.column("depth").to_pylist(),
        "good": t.column("good").to_pylist(),
        "columns": t.column_names,
        "type": str(t.schema.field("vector").type),
        "vectors": np.stack(t.column("vector").to_numpy()).astype(float).tolist(),
    }


arrow, parquet, npy, listing, safetensors, table_csv, table_jsonl = sys.argv[1:]
with pa.OSFile(arrow) as file:
    stream = pa.ipc.open_stream(file)
    arrow_meta = json.loads(stream.schema.metadata[b"dinov2"])
    arrow_batches = list(stream)
    for batch in arrow_batches:
        batch.validate(full=True)
parquet_file = pq.ParquetFile(parquet)
rows = [json.loads(line) for line in open(listing, encoding="utf-8")]
with safe_open(safetensors, "np") as opened:
    safetensors_meta = json.loads(opened.metadata()["dinov2"])
tensors = load_file(safetensors)
json.dump(
    {
        "arrow": table(pa.Table.from_batches(arrow_batches)),
        "arrow_meta": arrow_meta,
        "parquet": table(parquet_file.read()),
        "parquet_meta": json.loads(parquet_file.metadata.metadata[b"dinov2"]),
        "row_groups": parquet_file.num_row_groups,
        "npy": np.load(npy).astype(float).tolist(),
        "npy_type": str(np.load(npy, mmap_mode="r").dtype),
        "npy_ids": [row["id"] for row in rows],
        "npy_meta": json.load(open(listing.replace(".jsonl", ".meta.json"), encoding="utf-8"))["dinov2"],
        "safetensors": tensors["vectors"].astype(float).tolist(),
        "safetensors_ids": [json.loads(line)["id"] for line in tensors["rows"].tobytes().decode().splitlines()],
        "safetensors_meta": safetensors_meta,
        "csv_columns": pyarrow.csv.read_csv(table_csv).column_names,
        "jsonl_columns": pyarrow.json.read_json(table_jsonl).column_names,
        "npy_columns": pyarrow.json.read_json(listing).column_names,
        "list_columns": sorted({key for line in tensors["rows"].tobytes().decode().splitlines() for key in json.loads(line)}),
    },
    sys.stdout,
)
