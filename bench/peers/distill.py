"""Peer of `distill`: one step of distillation with the reference's own modules, on random weights and pixels, as its paper describes it.

usage: distill.py PRECISION BATCH TEACHER STUDENT PROTOTYPES STEPS
REF names a checkout of facebookresearch/dinov2. Two global crops of 224 px and eight local ones of 98 px an image, separate heads, a frozen teacher, nothing masked, no stochastic depth, the
patch loss on all patches of both global crops, Sinkhorn-Knopp, KoLeo, clipping, AdamW (foreach) and an average of the student.
Prints one JSON line: seconds and CPU seconds of each step after one of warm-up, and the peak memory of the process in GiB.
"""
import json, os, resource, sys, time

precision, B, teacher_arch, student_arch, K, steps = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6])
os.environ["XFORMERS_DISABLED"] = "1"
sys.path.insert(0, os.environ["REF"])
import torch
import torch.distributed as dist
from torch import nn

torch.set_num_threads(int(os.environ.get("THREADS", os.cpu_count())))
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # the losses add up over processes
import dinov2.models.vision_transformer as vits
from dinov2.layers import DINOHead
from dinov2.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss

torch.manual_seed(0)
LOCALS, PATCHES = 8, 256
makers = {"s": vits.vit_small, "b": vits.vit_base, "l": vits.vit_large}


def network(arch):
    backbone = makers[arch](patch_size=14, img_size=224, init_values=1e-5, block_chunks=0)
    head = lambda: DINOHead(in_dim=backbone.embed_dim, out_dim=K, hidden_dim=2048, bottleneck_dim=256, nlayers=3)
    return nn.ModuleDict({"backbone": backbone, "dino_head": head(), "ibot_head": head()})


student, teacher = network(student_arch), network(teacher_arch)
average = network(student_arch)
average.load_state_dict(student.state_dict())
for frozen in (teacher, average):
    frozen.requires_grad_(False)
if precision == "bf16":
    teacher.to(torch.bfloat16)  # frozen: its weights need no float32
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, foreach=True)
dino, ibot, koleo = DINOLoss(K), iBOTPatchLoss(K), KoLeoLoss()
globals_, crops = torch.randn(2 * B, 3, 224, 224), torch.randn(LOCALS * B, 3, 98, 98)
n = 2 * B * PATCHES
masks = torch.ones(2 * B, PATCHES, dtype=torch.bool)
weights = torch.full((n,), 1 / PATCHES)


def step():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        with torch.no_grad():
            out = teacher["backbone"](globals_.to(next(teacher.parameters()).dtype), is_training=True)
            first, second = out["x_norm_clstoken"].chunk(2)
            of_cls = dino.sinkhorn_knopp_teacher(teacher["dino_head"](torch.cat((second, first))), 0.05).view(2, B, K)
            scores = teacher["ibot_head"](out["x_norm_patchtokens"].flatten(0, 1))
            of_patches = ibot.sinkhorn_knopp_teacher(scores, 0.05, n_masked_patches_tensor=torch.full((1,), n))
        big = student["backbone"](globals_, is_training=True)
        small = student["backbone"](crops, is_training=True)
        local, whole = student["dino_head"](torch.cat((small["x_norm_clstoken"], big["x_norm_clstoken"]))).split([LOCALS * B, 2 * B])
        patches = student["ibot_head"](big["x_norm_patchtokens"].flatten(0, 1))
        terms = 2 * LOCALS + 2
        loss = dino(local.float().chunk(LOCALS), of_cls) / terms + 2 * dino([whole.float()], [of_cls.flatten(0, 1)]) / terms
    loss = loss + 0.1 * sum(koleo(rows.float()) for rows in big["x_norm_clstoken"].chunk(2))
    loss = loss + ibot.forward_masked(patches.float(), of_patches, student_masks_flat=masks, n_masked_patches=n, masks_weight=weights)
    loss.backward()
    for module in student.values():
        nn.utils.clip_grad_norm_(module.parameters(), 3.0)
    optimizer.step()
    with torch.no_grad():
        torch._foreach_mul_(list(average.parameters()), 0.99)
        torch._foreach_add_(list(average.parameters()), list(student.parameters()), alpha=0.01)
    return float(loss.detach())


step()
seconds, cpu = [], []
for _ in range(steps):
    begun, spent = time.perf_counter(), time.process_time()
    loss = step()
    seconds.append(time.perf_counter() - begun)
    cpu.append(time.process_time() - spent)
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "loss": loss}))
