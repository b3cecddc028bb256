"""Peer of `pretrain`: one optimisation step with the reference's own modules, on random pixels, as its trainer takes it.

usage: pretrain.py PRECISION BATCH ARCH PROTOTYPES STEPS
REF names a checkout of facebookresearch/dinov2. Two global crops of 224 px and eight local ones of 98 px an image, one head for DINO and iBOT, half of the global
crops masked by 10 to 50 % in even steps, drop path 0.3, Sinkhorn-Knopp, KoLeo, clipping, AdamW (foreach) and the teacher's average.
Prints one JSON line: seconds and CPU seconds of each step after one of warm-up, and the peak memory of the process in GiB.
"""
import json, os, resource, sys, time

precision, B, arch, K, steps = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
os.environ["XFORMERS_DISABLED"] = "1"
sys.path.insert(0, os.environ["REF"])
import torch
import torch.distributed as dist
from torch import nn

threads = int(os.environ.get("THREADS", os.cpu_count()))
torch.set_num_threads(threads)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # the losses add up over processes
import dinov2.models.vision_transformer as vits
from dinov2.layers import DINOHead
from dinov2.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss

torch.manual_seed(0)
locals_ = 8
maker = {"s": vits.vit_small, "b": vits.vit_base, "l": vits.vit_large}[arch]
patch, side, local_side = (16, 224, 96) if arch == "l" else (14, 224, 98)
patches = (side // patch) ** 2


def network(drop):
    backbone = maker(patch_size=patch, img_size=side, init_values=1e-5, block_chunks=0, drop_path_rate=drop, drop_path_uniform=True)
    head = DINOHead(in_dim=backbone.embed_dim, out_dim=K, hidden_dim=2048, bottleneck_dim=256, nlayers=3)
    return nn.ModuleDict({"backbone": backbone, "head": head})


student, teacher = network(0.3), network(0.0)
teacher.load_state_dict(student.state_dict())
teacher.requires_grad_(False)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, foreach=True)
dino, ibot, koleo = DINOLoss(K), iBOTPatchLoss(K), KoLeoLoss()

globals_, crops = torch.randn(2 * B, 3, side, side), torch.randn(locals_ * B, 3, local_side, local_side)
masks = torch.zeros(2 * B, patches, dtype=torch.bool)
for i in range(B):
    masks[i, torch.randperm(patches)[: int(patches * (0.1 + 0.4 * i / max(B - 1, 1)))]] = True
hidden = masks.flatten().nonzero().flatten()
weights = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]
n = len(hidden)


def targets():
    out = teacher["backbone"](globals_, is_training=True)
    first, second = out["x_norm_clstoken"].chunk(2)
    rows = torch.cat((second, first, out["x_norm_patchtokens"].flatten(0, 1)[hidden]))
    scores = teacher["head"](rows)
    cls = dino.sinkhorn_knopp_teacher(scores[: 2 * B], 0.05).view(2, B, K)
    return cls, ibot.sinkhorn_knopp_teacher(scores[2 * B :], 0.05, n_masked_patches_tensor=torch.full((1,), n))


def step():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        with torch.no_grad():
            of_cls, of_patches = targets()
        big = student["backbone"](globals_, masks=masks, is_training=True)
        small = student["backbone"](crops, is_training=True)
        rows = torch.cat((small["x_norm_clstoken"], big["x_norm_clstoken"], big["x_norm_patchtokens"].flatten(0, 1)[hidden]))
        local, whole, masked = student["head"](rows).split([locals_ * B, 2 * B, n])
        terms = 2 * locals_ + 2
        loss = dino(local.float().chunk(locals_), of_cls) / terms + 2 * dino([whole.float()], [of_cls.flatten(0, 1)]) / terms
    loss = loss + 0.1 * sum(koleo(rows.float()) for rows in big["x_norm_clstoken"].chunk(2))
    loss = loss + ibot.forward_masked(masked.float(), of_patches, student_masks_flat=masks, n_masked_patches=n, masks_weight=weights)
    loss.backward()
    for module in student.values():
        nn.utils.clip_grad_norm_(module.parameters(), 3.0)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_mul_(list(teacher.parameters()), 0.99)
        torch._foreach_add_(list(teacher.parameters()), list(student.parameters()), alpha=0.01)
    return float(loss.detach())


step()
seconds, cpu = [], []
for _ in range(steps):
    begun, spent = time.perf_counter(), time.process_time()
    loss = step()
    seconds.append(time.perf_counter() - begun)
    cpu.append(time.process_time() - spent)
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "masked": n, "loss": loss}))
