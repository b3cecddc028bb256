"""Records F.interpolate(mode='bilinear') and its gradient for `test/tensor/resize.test.ts`. PyTorch 2.x; writes resize.json beside this file."""
import json
import pathlib

import torch
import torch.nn.functional as F

cases = []
generator = torch.Generator().manual_seed(0)
for source, size, align in [
    ((3, 5), (12, 20), False),
    ((7, 4), (3, 9), False),
    ((5, 6), (5, 6), False),
    ((1, 4), (6, 1), False),
    ((3, 5), (9, 13), True),
    ((4, 1), (1, 3), True),
]:
    x = torch.randn(2, 3, *source, generator=generator, requires_grad=True)
    y = F.interpolate(x, size=size, mode="bilinear", align_corners=align)
    dy = torch.randn(y.shape, generator=generator)
    y.backward(dy)
    last = lambda t: [round(v, 6) for v in t.detach().permute(0, 2, 3, 1).flatten().tolist()]  # channels last
    cases.append({"source": source, "size": size, "align": align, "x": last(x), "y": last(y), "dy": last(dy), "dx": last(x.grad)})
target = pathlib.Path(__file__).with_name("resize.json")
target.write_text(json.dumps({"torch": torch.__version__, "cases": cases}) + "\n")
