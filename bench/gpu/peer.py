"""Peer of `bench/gpu/measure.js embed`: the same transformer in PyTorch, compiled, attention by scaled_dot_product_attention.

usage: peer.py WIDTH DEPTH HEADS PATCH SIZE BATCH ROUNDS DEVICE PRECISION
Prints one JSON line: images a second by the median round, and the peak memory of the device in bytes.
"""
import json, sys, time

import torch
import torch.nn.functional as F
from torch import nn

width, depth, heads, patch, size, batch, rounds = map(int, sys.argv[1:8])
device, precision = sys.argv[8:10]
dtype = torch.bfloat16 if precision == "bf16" else torch.float32


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma1, self.gamma2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, N, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
        x = x + self.gamma1 * self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, C))
        return x + self.gamma2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.blocks, self.norm = nn.Sequential(*(Block() for _ in range(depth))), nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels):
        x = (pixels.permute(0, 3, 1, 2).float() - 118.0) / 58.0
        x = self.embed(x.to(self.embed.weight.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        return self.norm(self.blocks(x))[:, 0].float()


model = Backbone().to(device, dtype).eval()
run = torch.compile(model, mode="max-autotune") if device.startswith("cuda") else model
pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
seconds = []
with torch.inference_mode():
    for i in range(-3, rounds):
        begun = time.perf_counter()
        run(pixels.to(device, non_blocking=True)).cpu()
        if i >= 0:
            seconds.append(time.perf_counter() - begun)
median = sorted(seconds)[len(seconds) // 2]
peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else None
print(json.dumps({"imagesPerSecond": batch / median, "seconds": median, "peakBytes": peak, "torch": torch.__version__}))
