"""Records the linear segmentation head (batch norm, 1x1 convolution, bilinear stretching, cross-entropy with ignored pixels) and three AdamW steps of it under mmcv's
poly schedule, for `test/probe/segment.test.ts`. PyTorch only; writes segment_head.json beside this file."""
import json
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(3)
D, K, B, H, W = 6, 4, 2, 3, 4
SIZE = (10, 13)
head = torch.nn.ModuleDict({"bn": torch.nn.BatchNorm2d(D), "conv_seg": torch.nn.Conv2d(D, K, 1)})
with torch.no_grad():
    for p in head.parameters():
        p.copy_(torch.randn(p.shape) * 0.3 + (p.ndim == 1) * 0.5)
flat = lambda t: [round(float(v), 7) for v in t.detach().flatten()]
last = lambda t: flat(t.detach().permute(0, 2, 3, 1))
state = lambda: {k: flat(v) for k, v in head.state_dict().items() if "num_batches" not in k}
optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, betas=(0.9, 0.999), weight_decay=1e-4)
out = {"torch": torch.__version__, "sizes": [D, K, B, H, W], "size": SIZE, "before": state(), "steps": []}
for step in range(3):
    x = torch.randn(B, D, H, W) * 2 + 1
    labels = torch.randint(0, K, (B, *SIZE))
    labels[torch.rand(labels.shape) < 0.2] = 255
    head.train()
    y = head["conv_seg"](head["bn"](x))
    loss = F.cross_entropy(F.interpolate(y, size=SIZE, mode="bilinear", align_corners=False), labels, ignore_index=255, reduction="none").mean()
    optimizer.zero_grad()
    loss.backward()
    regular = 1e-2 * (1 - step / 5)  # poly, power 1, 5 steps in all, 2 of them warm-up from 1e-6
    lr = regular * (1 - (1 - step / 2) * (1 - 1e-6)) if step < 2 else regular
    for group in optimizer.param_groups:
        group["lr"] = lr
    grads = {k: flat(p.grad) for k, p in head.named_parameters()}
    optimizer.step()
    out["steps"].append({"x": last(x), "labels": labels.flatten().tolist(), "scores": last(y), "loss": loss.item(), "lr": lr, "grads": grads, "after": state()})
head.eval()
x = torch.randn(1, D, H, W)
out["eval"] = {"x": last(x), "scores": last(head["conv_seg"](head["bn"](x)))}
pathlib.Path(__file__).with_name("segment_head.json").write_text(json.dumps(out) + "\n")
