"""Records positions.json: position embeddings as PyTorch resamples them, for test/model/positions.test.ts.

Usage: python positions.py > positions.json    (needs torch; numpy is not used)

The grid holds sin(0.7 i + 1.3 j + 2 c) + 0.3 cos(1.9 i j). Both resamplers of the released models are recorded: by a scale that carries an
offset of 0.1, and by size with antialiasing. Of each result the first row, the last column and a slanted line are kept, channel by channel.
"""

import json
import math

import torch
import torch.nn.functional as F

GRID, CHANNELS = 37, 2
TARGETS = [(7, 7), (16, 16), (32, 32), (46, 46), (7, 46), (32, 16)]

stored = torch.tensor(
    [
        [[math.sin(0.7 * i + 1.3 * j + 2 * c) + 0.3 * math.cos(1.9 * i * j) for j in range(GRID)] for i in range(GRID)]
        for c in range(CHANNELS)
    ],
    dtype=torch.float64,
).float()[None]


def places(rows, columns):
    first = [(0, j) for j in range(columns)]
    last = [(i, columns - 1) for i in range(rows)]
    slanted = [(i, (3 * i + 1) % columns) for i in range(rows)]
    return first + last + slanted


def record(rows, columns, mode):
    if mode == "offset":
        scale = ((rows + 0.1) / GRID, (columns + 0.1) / GRID)
        out = F.interpolate(stored, scale_factor=scale, mode="bicubic", antialias=False)
    else:
        out = F.interpolate(stored, size=(rows, columns), mode="bicubic", antialias=True)
    assert tuple(out.shape) == (1, CHANNELS, rows, columns)
    values = [round(out[0, c, i, j].item(), 7) for i, j in places(rows, columns) for c in range(CHANNELS)]
    return {"mode": mode, "rows": rows, "columns": columns, "values": values}


cases = [record(*target, mode) for mode in ("offset", "size") for target in TARGETS]
head = {"torch": torch.__version__, "grid": GRID, "channels": CHANNELS}
lines = ",\n".join("    " + json.dumps(case, separators=(",", ":")) for case in cases)
print(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}")
