"""One distillation step, with and without the teacher's heads, from the formulas and the reference's modules, on CPU in float32.

usage: python make_distill.py REF_CHECKOUT OUT_DIR [SEED=5]
Writes distill_heads.safetensors, distill_features.safetensors and distill.json (settings, losses, gradient norms).

With heads (paper section 5; maintainers' description): teacher frozen and never masked, student never masked and without stochastic depth, patch loss on the tokens of
all patches of both global crops, otherwise the losses of pre-training; an average of the student is kept beside it.
Without heads: student tokens through one linear layer, against the teacher's normed tokens brought to mean 0 and variance 1 row by row:
(1 - cos) + beta * mean Huber (corner at 1), on cls and on all patch tokens of both global crops.
"""
import json, math, os, sys
os.environ["XFORMERS_DISABLED"] = "1"
ref, out, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 5
sys.path.insert(0, ref)
import torch, torch.nn as nn, torch.nn.functional as F, torch.distributed as dist
from functools import partial
from safetensors.torch import save_file
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29557", rank=0, world_size=1)
torch.manual_seed(seed); torch.set_num_threads(1)
from dinov2.models.vision_transformer import DinoVisionTransformer
from dinov2.layers import MemEffAttention, NestedTensorBlock as Block, DINOHead
from dinov2.loss import DINOLoss, iBOTPatchLoss, KoLeoLoss

B, NL, G, L, P, K = 3, 2, 28, 14, 7, 48
N = (G // P) ** 2
LR, WD, MOM, TT, BETAS, CLIP, KOLEO, HUBER = 1e-3, 0.05, 0.9, 0.05, (0.9, 0.999), 3.0, 0.1, 0.5

def random(m):
    for n, p in m.named_parameters():
        with torch.no_grad():
            if "norm" in n and n.endswith("weight"): p.copy_(1 + 0.1 * torch.randn_like(p))
            elif n.endswith("gamma"): p.copy_(0.5 + 0.2 * torch.randn_like(p))
            elif n.endswith("bias"): p.copy_(0.05 * torch.randn_like(p))
            elif n.endswith("weight_g") or n.endswith("original0"): p.copy_(torch.ones_like(p))
            elif p.ndim >= 2: p.copy_(torch.randn_like(p) * (0.6 / math.sqrt(p[0].numel()) if "token" not in n and "pos_embed" not in n else 0.2))
    return m

def vit(width, depth, heads):
    return random(DinoVisionTransformer(img_size=G, patch_size=P, embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=4, init_values=1e-5, block_chunks=0, block_fn=partial(Block, attn_class=MemEffAttention)))

head = lambda width: random(DINOHead(in_dim=width, out_dim=K, hidden_dim=32, bottleneck_dim=12, nlayers=3))
crops = lambda: (torch.randn(2 * B, 3, G, G), torch.randn(NL * B, 3, L, L))
plain = lambda d: {k: v.detach().clone().contiguous().float() for k, v in d.items()}
under = lambda name, d: {f"{name}.{k}": v for k, v in d.items()}
meta = {"seed": seed, "batch": B, "locals": NL, "global": G, "local": L, "patch": P, "prototypes": K, "lr": LR, "wd": WD, "momentum": MOM, "teacher_temp": TT, "betas": BETAS, "eps": 1e-8, "clip_grad": CLIP, "koleo_weight": KOLEO, "huber": HUBER, "student": {"width": 24, "depth": 2, "heads": 2}, "teacher": {"width": 32, "depth": 2, "heads": 2}}

def finish(case, student, tensors, losses, loss):
    loss.backward()
    grads = {n: p.grad for n, p in student.named_parameters() if p.grad is not None}
    tensors.update(plain(under("grad", grads)))
    meta[case] = {"losses": {k: float(v) for k, v in losses.items()}, "total": float(loss), "grad_norms": {n: float(torch.nn.utils.clip_grad_norm_(m.parameters(), CLIP)) for n, m in student.items()}}
    # No decay on biases, norms and gammas, as in the reference's groups; no layer-wise decay here.
    flat = lambda n, p: n.endswith("bias") or "norm" in n or "gamma" in n
    opt = torch.optim.AdamW([{"params": [p], "weight_decay": 0.0 if flat(n, p) else WD} for n, p in student.named_parameters()], lr=LR, betas=BETAS)

    opt.step()
    tensors.update(plain(under("final.student", dict(student.named_parameters()))))

    save_file(tensors, f"{out}/distill_{case}.safetensors")

# --- with heads
student = nn.ModuleDict({"backbone": vit(24, 2, 2), "dino_head": head(24), "ibot_head": head(24)})
teacher = nn.ModuleDict({"backbone": vit(32, 2, 2), "dino_head": head(32), "ibot_head": head(32)})
g, l = crops()
tensors = {"globals": g, "locals": l, **plain(under("student", student.state_dict())), **plain(under("teacher", teacher.state_dict()))}
dino, ibot, koleo = DINOLoss(K), iBOTPatchLoss(K), KoLeoLoss()
with torch.no_grad():
    o = teacher["backbone"](g, is_training=True)
    c = o["x_norm_clstoken"].chunk(2); c = torch.cat((c[1], c[0]))
    tc = dino.sinkhorn_knopp_teacher(teacher["dino_head"](c), TT).view(2, -1, K)
    yt = teacher["ibot_head"](o["x_norm_patchtokens"].flatten(0, 1))
    ti = ibot.sinkhorn_knopp_teacher(yt, TT, n_masked_patches_tensor=torch.full((1,), len(yt), dtype=torch.long))
og, ol = student["backbone"](g, is_training=True), student["backbone"](l, is_training=True)
yl, yg = student["dino_head"](ol["x_norm_clstoken"]), student["dino_head"](og["x_norm_clstoken"])
yp = student["ibot_head"](og["x_norm_patchtokens"].flatten(0, 1))
terms = 2 * NL + 2
losses = {
    "dino_local": dino(yl.chunk(NL), tc) / terms,
    "dino_global": dino([yg], [tc.flatten(0, 1)]) * 2 / terms,
    "koleo": KOLEO * sum(koleo(p) for p in og["x_norm_clstoken"].chunk(2)),
    "ibot": -(ti * F.log_softmax(yp / 0.1, dim=-1)).sum(-1).div(N).sum() / (2 * B),
}
finish("heads", student, tensors, losses, sum(losses.values()))

# --- without heads
student = nn.ModuleDict({"backbone": vit(24, 2, 2), "cls_projector": random(nn.Linear(24, 32)), "patch_projector": random(nn.Linear(24, 32))})
teacher = vit(32, 2, 2)
g, _ = crops()
tensors = {"globals": g, **plain(under("student", student.state_dict())), **plain(under("teacher.backbone", teacher.state_dict()))}
def row_loss(p, t):
    t = (t - t.mean(-1, keepdim=True)) / torch.sqrt(t.var(-1, unbiased=False, keepdim=True) + 1e-6)
    return (1 - F.cosine_similarity(p, t, dim=-1)) + HUBER * F.smooth_l1_loss(p, t, reduction="none").mean(-1)
with torch.no_grad(): o = teacher(g, is_training=True)
og = student["backbone"](g, is_training=True)
losses = {
    "cls": row_loss(student["cls_projector"](og["x_norm_clstoken"]), o["x_norm_clstoken"]).mean(),
    "patch": row_loss(student["patch_projector"](og["x_norm_patchtokens"]).flatten(0, 1), o["x_norm_patchtokens"].flatten(0, 1)).mean(),
    "koleo": KOLEO * sum(koleo(p) for p in og["x_norm_clstoken"].chunk(2)),
}
finish("features", student, tensors, losses, sum(losses.values()))
json.dump(meta, open(f"{out}/distill.json", "w"), indent=1)
print(json.dumps({k: meta[k] for k in ("heads", "features")}, indent=1))
