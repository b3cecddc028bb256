"""Peer of `pretrain`: one optimization step in PyTorch on random pixels, as the reference's trainer takes it.

usage: pretrain.py PRECISION BATCH ARCH PROTOTYPES STEPS [DEVICE [SHAPE]]
REF names a checkout of facebookresearch/dinov2, whose modules are then taken, with attention by scaled_dot_product_attention on a GPU;
without it the same modules from modules.py beside this file. ARCH is s, b or l: two global crops of 224 px and eight local ones of 98 px an
image. SHAPE, a JSON object, says otherwise: {"width", "depth", "heads", "patch", "side", "locals", "local_side", "hidden",
"bottleneck", "drop_path"}.
One head for DINO and iBOT, half of the global crops masked by 10 to 50 % in even steps, drop path 0.3 where not said, Sinkhorn-Knopp, KoLeo, clipping,
AdamW (foreach on a CPU, fused on a GPU) and the teacher's average.
Prints one JSON line: seconds and CPU seconds of each step after the warm-up, images a second by the median, the peak memory of the process
in GiB, and that of the device in bytes.
"""
import json, os, resource, sys, time

precision, B, arch, K, steps = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
device = sys.argv[6] if len(sys.argv) > 6 else "cpu"
shape = {"patch": 16 if arch == "l" else 14, "side": 224, "locals": 8, "local_side": 96 if arch == "l" else 98, "hidden": 2048, "bottleneck": 256, "drop_path": 0.3}
shape |= dict(zip(("width", "depth", "heads"), {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}.get(arch, (0, 0, 0))))
shape |= json.loads(sys.argv[7]) if len(sys.argv) > 7 else {}
import torch
import torch.nn.functional as F
from torch import nn

on_gpu = device.startswith("cuda")
if on_gpu:
    torch.cuda.set_device(torch.device(device))
threads = int(os.environ.get("THREADS", os.cpu_count()))
torch.set_num_threads(threads)
if os.environ.get("REF"):
    import torch.distributed as dist

    os.environ["XFORMERS_DISABLED"] = "1"
    sys.path.insert(0, os.environ["REF"])
    dist.init_process_group("nccl" if on_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)  # the losses add up over processes
    from dinov2.layers import DINOHead
    from dinov2.layers.attention import Attention
    from dinov2.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss
    from dinov2.models.vision_transformer import DinoVisionTransformer

    def flash(self, x, **_):
        rows, length, width = x.shape
        q, k, v = self.qkv(x).reshape(rows, length, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, length, width))

    if on_gpu:
        Attention.forward = flash
else:
    from modules import DINOHead, DINOLoss, DinoVisionTransformer, KoLeoLoss, iBOTPatchLoss

torch.manual_seed(0)
locals_, patch, side, local_side = (shape[name] for name in ("locals", "patch", "side", "local_side"))
patches = (side // patch) ** 2


def network(drop):
    sizes = {"patch_size": patch, "img_size": side, "embed_dim": shape["width"], "depth": shape["depth"], "num_heads": shape["heads"]}
    backbone = DinoVisionTransformer(**sizes, init_values=1e-5, block_chunks=0, drop_path_rate=drop, drop_path_uniform=True)
    head = DINOHead(in_dim=backbone.embed_dim, out_dim=K, hidden_dim=shape["hidden"], bottleneck_dim=shape["bottleneck"], nlayers=3)
    return nn.ModuleDict({"backbone": backbone, "head": head}).to(device)


student, teacher = network(shape["drop_path"]), network(0.0)
teacher.load_state_dict(student.state_dict())
teacher.requires_grad_(False)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, **({"fused": True} if on_gpu else {"foreach": True}))
dino, ibot, koleo = DINOLoss(K).to(device), iBOTPatchLoss(K).to(device), KoLeoLoss().to(device)

pixels = [torch.randn(2 * B, 3, side, side), torch.randn(locals_ * B, 3, local_side, local_side)]
if on_gpu:
    pixels = [x.pin_memory() for x in pixels]
masks = torch.zeros(2 * B, patches, dtype=torch.bool)
for i in range(B):
    masks[i, torch.randperm(patches)[: int(patches * (0.1 + 0.4 * i / max(B - 1, 1)))]] = True
hidden = masks.flatten().nonzero().flatten().to(device)
masks = masks.to(device)
weights = (1 / masks.sum(-1).clamp(min=1.0)).unsqueeze(-1).expand_as(masks)[masks]
n = len(hidden)


def targets(globals_):
    out = teacher["backbone"](globals_, is_training=True)
    first, second = out["x_norm_clstoken"].chunk(2)
    rows = torch.cat((second, first, out["x_norm_patchtokens"].flatten(0, 1)[hidden]))
    scores = teacher["head"](rows)
    cls = dino.sinkhorn_knopp_teacher(scores[: 2 * B], 0.05).view(2, B, K)
    return cls, ibot.sinkhorn_knopp_teacher(scores[2 * B :], 0.05, n_masked_patches_tensor=torch.full((1,), n, device=device))


def step():
    optimizer.zero_grad(set_to_none=True)
    globals_, crops = (x.to(device, non_blocking=True) for x in pixels)
    with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
        with torch.no_grad():
            of_cls, of_patches = targets(globals_)
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
    return loss.detach()


def wait():
    if on_gpu:
        torch.cuda.synchronize()


for _ in range(3 if on_gpu else 1):
    step()
seconds, cpu = [], []
for _ in range(steps):
    wait()
    begun, spent = time.perf_counter(), time.process_time()
    loss = step()
    wait()
    seconds.append(time.perf_counter() - begun)
    cpu.append(time.process_time() - spent)
print(
    json.dumps(
        {
            "seconds": seconds,
            "cpu": cpu,
            "imagesPerSecond": B / sorted(seconds)[len(seconds) // 2],
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "peakBytes": torch.cuda.max_memory_allocated() if on_gpu else None,
            "masked": n,
            "loss": float(loss),
            "modules": "reference" if os.environ.get("REF") else "own",
        }
    )
)
