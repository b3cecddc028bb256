"""Peer of `bench/processes`: a student, a teacher and a DINO head in PyTorch's DDP or FSDP2, on random pixels.

usage: processes.py none|ddp|fsdp BATCH WIDTH DEPTH STEPS OUT.json fp32|bf16
One process of those that RANK and WORLD_SIZE number (Gloo). Two global crops of 112 px and four local ones of 56 px an image, patches of 14 px, blocks of
nn.TransformerEncoderLayer (pre-norm, GELU), a head of 1,024 and 256 to 4,096 prototypes, cross-entropy against a softmax of the teacher, AdamW, the teacher's average.
No iBOT, KoLeo or Sinkhorn-Knopp: so less work a step than ours. Rank 0 writes seconds a step and the peak memory of its process in MiB.
"""
import json, os, resource, sys, time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

kind, B, width, depth, steps, out, precision = sys.argv[1], *map(int, sys.argv[2:6]), sys.argv[6], sys.argv[7]
torch.set_num_threads(1)
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
dist.init_process_group("gloo", rank=rank, world_size=size)
torch.manual_seed(0)
PATCH, K = 14, 4096


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, width, PATCH, PATCH)
        self.cls, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 65, width) * 0.02)
        block = lambda: nn.TransformerEncoderLayer(width, width // 64, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks, self.norm = nn.ModuleList(block() for _ in range(depth)), nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, 1024), nn.GELU(), nn.Linear(1024, 1024), nn.GELU(), nn.Linear(1024, 256), nn.Linear(256, K, bias=False))

    def forward(self, crops):
        rows = []
        for x in crops:
            x = self.embed(x).flatten(2).transpose(1, 2)
            x = torch.cat((self.cls.expand(len(x), -1, -1), x), 1) + self.positions[:, : x.shape[1] + 1]
            for block in self.blocks:
                x = block(x)
            rows.append(self.norm(x[:, 0]))
        return self.head(torch.cat(rows))


student, teacher = Network(), Network()
teacher.load_state_dict(student.state_dict())
teacher.requires_grad_(False)
if kind == "fsdp":
    for network in (student, teacher):
        for block in network.blocks:
            fully_shard(block)
        fully_shard(network)
model = DistributedDataParallel(student) if kind == "ddp" else student
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, foreach=True)
large, small = torch.randn(2 * B, 3, 112, 112), torch.randn(4 * B, 3, 56, 56)
seconds = []
for _ in range(steps):
    begun = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        with torch.no_grad():
            targets = F.softmax(teacher([large]).float() / 0.04, -1).view(2, B, K).mean(0)
        scores = model([large, small])
    loss = -(targets.repeat(6, 1) * F.log_softmax(scores.float() / 0.1, -1)).sum(-1).mean()
    loss.backward()
    optimizer.step()
    if kind == "fsdp":
        for network in (student, teacher):
            network.reshard()  # the outermost one keeps its parameters whole after the forward pass
    with torch.no_grad():
        for mine, its in zip(teacher.parameters(), student.parameters()):
            mine.mul_(0.99).add_(its, alpha=0.01)
    seconds.append(time.perf_counter() - begun)
if rank == 0:
    with open(out, "w") as file:
        json.dump({"seconds": seconds[2:], "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}, file)
dist.destroy_process_group()
