"""Writes vectors of any Python program as a file that dinov2 indexes, searches and scores.

    python examples/python/write_vectors.py OUT.parquet && dinov2 index OUT.parquet -o OUT.index
"""
import sys

import numpy as np
import pyarrow
import pyarrow.parquet


def write_vectors(path, ids, vectors, **fields):
    """Columns `id`, `vector` (lists of float32) and one for each field, such as `label`."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
    pyarrow.parquet.write_table(pyarrow.table({"id": ids, **fields, "vector": column}), path)


if __name__ == "__main__":
    points = np.random.default_rng(0).normal(size=(100, 16)) + 5 * np.repeat(np.eye(16)[:4], 25, axis=0)
    write_vectors(sys.argv[1], [f"point {i}" for i in range(100)], points, label=[f"class {i // 25}" for i in range(100)])
