"""Records what the depth heads and losses must give, from PyTorch operations written out here (spec section 5.4), at toy width.

    python test/golden/make_depth.py

writes, beside itself, depth.safetensors (inputs, outputs, gradients), depth.json (metrics by numpy) and two checkpoints as mmcv writes them, with what such files
hold beside their state_dict: configuration, numpy scalars, an optimiser, objects of classes that no reader should build. Needs torch, numpy and safetensors.
"""
import datetime
import json
import pathlib
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
torch.manual_seed(5)
C, h, w, B, bins = 8, 3, 4, 2, 16
out = {}


def rand(*shape, scale=1.0):
    return torch.randn(*shape) * scale


patches = [rand(B, C, h, w) for _ in range(4)]
tokens = [rand(B, C) for _ in range(4)]
for i in range(4):
    out[f"patches.{i}"], out[f"cls.{i}"] = patches[i], tokens[i]


def joined(i):
    return torch.cat((patches[i], tokens[i][:, :, None, None].expand_as(patches[i])), 1)


# ---- linear heads: cls joined to patches, x4 bilinear, 1x1 convolution to bins, weights relu + 0.1, mean of the bins
def linear(maps, weight, bias, low, high):
    size = [4 * h, 4 * w]
    x = torch.cat([F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps], 1)
    p = torch.relu(F.conv2d(x, weight, bias)) + 0.1
    p = p / p.sum(dim=1, keepdim=True)
    return (p * torch.linspace(low, high, bins)[None, :, None, None]).sum(1, keepdim=True)


heads = {}
for name, blocks in (("lin1", [3]), ("lin4", [0, 1, 2, 3])):
    weight = rand(bins, 2 * C * len(blocks), 1, 1, scale=0.3).requires_grad_()
    bias = rand(bins, scale=0.3).requires_grad_()
    depth = linear([joined(i) for i in blocks], weight, bias, 0.001, 10.0)
    dy = rand(*depth.shape)
    (depth * dy).sum().backward()
    shown = F.interpolate(depth.detach().clamp(0.5, 5.5), size=[37, 50], mode="bilinear", align_corners=False)
    heads[name] = {"conv_depth.weight": weight.detach(), "conv_depth.bias": bias.detach()}
    out |= {f"{name}.weight": weight.detach(), f"{name}.bias": bias.detach(), f"{name}.depth": depth.detach(), f"{name}.dy": dy}
    out |= {f"{name}.grad.weight": weight.grad, f"{name}.grad.bias": bias.grad, f"{name}.shown": shown}


# ---- DPT
fusion = 8
widths = [C // 8, C // 4, C // 2, C]
dpt = OrderedDict()


def layer(name, *shape, bias=0):
    dpt[f"{name}.weight"] = rand(*shape, scale=0.5)
    if bias:
        dpt[f"{name}.bias"] = rand(bias, scale=0.3)


for i, width in enumerate(widths):
    layer(f"reassemble_blocks.projects.{i}.conv", width, C, 1, 1, bias=width)
    layer(f"reassemble_blocks.readout_projects.{i}.0", C, 2 * C, bias=C)
    layer(f"convs.{i}.conv", fusion, width, 3, 3)
    layer(f"fusion_blocks.{i}.project.conv", fusion, fusion, 1, 1, bias=fusion)
    for unit in (2,) if i == 0 else (1, 2):
        for conv in (1, 2):
            layer(f"fusion_blocks.{i}.res_conv_unit{unit}.conv{conv}.conv", fusion, fusion, 3, 3)
layer("reassemble_blocks.resize_layers.0", widths[0], widths[0], 4, 4, bias=widths[0])
layer("reassemble_blocks.resize_layers.1", widths[1], widths[1], 2, 2, bias=widths[1])
layer("reassemble_blocks.resize_layers.3", widths[3], widths[3], 3, 3, bias=widths[3])
layer("project.conv", fusion, fusion, 3, 3, bias=fusion)
layer("conv_depth.head.0", fusion // 2, fusion, 3, 3, bias=fusion // 2)
layer("conv_depth.head.2", 32, fusion // 2, 3, 3, bias=32)
layer("conv_depth.head.4", 1, 32, 1, 1, bias=1)


def conv(x, name, **how):
    return F.conv2d(x, dpt[f"{name}.weight"], dpt.get(f"{name}.bias"), **how)


def unit(x, name):
    y = conv(torch.relu(x), f"{name}.conv1.conv", padding=1)
    return conv(torch.relu(y), f"{name}.conv2.conv", padding=1) + x


def fuse(i, x, finer=None):
    if finer is not None:
        if finer.shape != x.shape:
            finer = F.interpolate(finer, size=x.shape[2:], mode="bilinear", align_corners=False)
        x = x + unit(finer, f"fusion_blocks.{i}.res_conv_unit1")
    x = unit(x, f"fusion_blocks.{i}.res_conv_unit2")
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    return conv(x, f"fusion_blocks.{i}.project.conv")


scales = []
for i in range(4):
    both = torch.cat((patches[i], tokens[i][:, :, None, None].expand_as(patches[i])), 1).flatten(2).transpose(1, 2)
    name = f"reassemble_blocks.readout_projects.{i}.0"
    x = F.gelu(F.linear(both, dpt[f"{name}.weight"], dpt[f"{name}.bias"])).transpose(1, 2).reshape(B, C, h, w)
    x = conv(x, f"reassemble_blocks.projects.{i}.conv")
    name = f"reassemble_blocks.resize_layers.{i}"
    if i < 2:
        x = F.conv_transpose2d(x, dpt[f"{name}.weight"], dpt[f"{name}.bias"], stride=4 >> i)
    elif i == 3:
        x = conv(x, name, stride=2, padding=1)
    scales.append(conv(x, f"convs.{i}.conv", padding=1))
x = fuse(0, scales[3])
for i in range(1, 4):
    x = fuse(i, x, scales[3 - i])
x = torch.relu(conv(x, "project.conv", padding=1))
x = conv(x, "conv_depth.head.0", padding=1)
x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
x = conv(torch.relu(conv(x, "conv_depth.head.2", padding=1)), "conv_depth.head.4")
out["dpt.depth"] = torch.relu(x) + 0.001
assert (x > 0).float().mean() > 0.2 and (x < 0).any(), "the recording should see both sides of the last relu"


# ---- losses: predictions [B, 1, H, W], unknown depth 0
pred = (torch.rand(B, 1, 19, 23) * 6 + 0.2).requires_grad_()
truth = torch.rand(B, 1, 19, 23) * 12 + 0.2
truth[torch.rand(truth.shape) < 0.3] = 0
out |= {"loss.pred": pred.detach(), "loss.truth": truth}


def sig(pred, truth, most, warm):
    valid = (truth > 0) & (truth <= most)
    g = torch.log(pred[valid] + 0.001) - torch.log(truth[valid] + 0.001)
    return torch.sqrt((0 if warm else torch.var(g)) + 0.15 * torch.mean(g) ** 2)


def slopes(pred, truth, most):
    total = 0
    for step in (1, 2, 4, 6):
        p, t = pred[..., ::step, ::step], truth[..., ::step, ::step]
        valid = (t > 0) & (t <= most)
        d = (torch.log(p + 0.001) - torch.log(t + 0.001)) * valid
        v = (d[..., :-2, :] - d[..., 2:, :]).abs() * (valid[..., :-2, :] & valid[..., 2:, :])
        u = (d[..., :-2] - d[..., 2:]).abs() * (valid[..., :-2] & valid[..., 2:])
        total = total + (v.sum() + u.sum()) / valid.sum()
    return total


for name, make in (("sig", lambda: sig(pred, truth, 10, False)), ("warm", lambda: sig(pred, truth, 10, True)), ("slopes", lambda: slopes(pred, truth, 10))):
    pred.grad = None
    value = make()
    value.backward()
    out |= {f"loss.{name}": value.detach().reshape(1), f"loss.{name}.grad": pred.grad.clone()}

save_file({name: value.contiguous() for name, value in out.items()}, here / "depth.safetensors")


# ---- metrics in double precision
rng = np.random.default_rng(5)
d, t = rng.uniform(0.3, 9, 200), rng.uniform(0.3, 9, 200)
d[:100] = t[:100] * rng.uniform(0.8, 1.3, 100)


def errors(d, t):
    ratio = np.maximum(d / t, t / d)
    log = np.log(d) - np.log(t)
    return {
        **{f"a{n}": float((ratio < 1.25**n).mean()) for n in (1, 2, 3)},
        "abs_rel": float(np.mean(np.abs(d - t) / t)),
        "rmse": float(np.sqrt(np.mean((d - t) ** 2))),
        "log10": float(np.mean(np.abs(np.log10(d) - np.log10(t)))),
        "rmse_log": float(np.sqrt(np.mean(log**2))),
        "silog": float(np.sqrt(np.mean(log**2) - np.mean(log) ** 2) * 100),
        "sq_rel": float(np.mean((d - t) ** 2 / t)),
    }


low, high = 0.5, 8.0
clamped = np.clip(d, low, high)
fit = lambda x, y: np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)[0]
scale, shift = fit(clamped, t)
s, o = fit(1 / clamped, 1 / t)
inverse = s / clamped + o
aligned = {
    "none": clamped,
    "median": np.clip(clamped * np.median(t) / np.median(clamped), low, high),
    "depth": np.clip(scale * clamped + shift, low, high),
    "disparity": np.where(inverse > 0, np.clip(1 / np.where(inverse > 0, inverse, 1), low, high), high),
}
record = {"predicted": d.tolist(), "truth": t.tolist(), "min": low, "max": high, "errors": {name: errors(x, t) for name, x in aligned.items()}}
(here / "depth.json").write_text(json.dumps(record))


# ---- checkpoints as mmcv saves them
class Hook:
    """An object of a class that a reader neither knows nor needs."""

    def __init__(self):
        self.loss = np.float64(0.25)


def checkpoint(state):
    weights = OrderedDict((f"decode_head.{name}", value) for name, value in state.items())
    weights["backbone.cls_token"] = torch.zeros(1, 1, C)
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "meta": {
            "epoch": 24,
            "iter": 38400,
            "config": "model = dict(type='DepthEncoderDecoder')\nlog_config = dict(interval=50)",
            "time": datetime.datetime(2023, 4, 17),
            "CLASSES": None,
            "hook_msgs": {"best_score": np.float64(0.0861), "best_ckpt": "best_abs_rel.pth", "history": np.arange(3)},
            "hooks": [Hook(), Hook()],
            "paths": pathlib.PurePosixPath("work_dirs/depth"),
        },
        "state_dict": weights,
        "optimizer": optimizer.state_dict(),
    }


torch.save(checkpoint(heads["lin4"]), here / "depth_lin4_mmcv.pth")
torch.save(checkpoint(dpt), here / "depth_dpt_mmcv.pth")
print({name: (here / name).stat().st_size for name in ("depth.safetensors", "depth.json", "depth_lin4_mmcv.pth", "depth_dpt_mmcv.pth")})
