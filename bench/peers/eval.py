"""Evaluations on frozen features for bench/eval.ts: a line of JSON with seconds (without imports), top-1 and what was chosen.

usage: eval.py TRAIN.npy VAL.npy WAY BLOCKS STEPS [C], or eval.py FOLDER FOLDER depth-torch 0 STEPS
WAY   knn-torch      cosine, k = 20, votes exp(similarity / 0.07), by one product and topk, as the reference does
      knn-sklearn    the same by KNeighborsClassifier
      lbfgs-sklearn  LogisticRegression for 45 values of C, chosen on a tenth of train, then all of it; scikit-learn's own stopping rule; with C, told for that value too
      linear-torch   52 linear layers side by side as the reference trains them: one forward and backward of all, SGD with a group for each, cosine
      depth-torch    a linear depth head on maps of FOLDER: 256 bins, SigLoss, AdamW under one cycle of rate and momentum, channels brought to one scale, as depth-eval --cached does
Labels are those of the .jsonl beside each .npy.
"""
import json, sys, time

import numpy as np

train, val, way, blocks, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])


def read(path):
    rows = [json.loads(line) for line in open(path[:-4] + ".jsonl")]
    return np.load(path), np.array([row["label"] for row in rows if "label" in row])


if way.endswith("torch"):
    import torch
else:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
begun = time.time()


def depth():
    F = torch.nn.functional
    torch.manual_seed(0)
    shape = json.load(open(train + "/shape.json"))
    h, w, D, H, W = (shape[key] for key in ("h", "w", "channels", "height", "width"))
    load = lambda name, *sides: torch.from_numpy(np.fromfile(f"{train}/{name}", np.float32)).reshape(-1, *sides)
    x, truth = load("train-features", h, w, D), load("train-truth", H, W)
    bins, most = torch.linspace(0.001, 10, 256), 10
    mean, deviation = x.reshape(-1, D).mean(0), x.reshape(-1, D).std(0, unbiased=False)
    layer = torch.nn.Linear(D, 256)
    # The head begins at the depths that there are.
    seen = torch.zeros(256, dtype=torch.float64)
    for t in truth:
        known = t[t > 0]
        seen += torch.bincount(((known - 0.001) / (most - 0.001) * 255).round().long().clamp(0, 255), minlength=256).double() / len(known)
    with torch.no_grad():
        layer.bias += (256 * seen / seen.sum()).float()

    def tell(features, times):
        logits = layer(features).permute(0, 3, 1, 2)
        if times > 1:
            logits = F.interpolate(logits, scale_factor=times, mode="bilinear", align_corners=False)
        p = logits.relu() + 0.1
        return (p * bins[:, None, None]).sum(1, keepdim=True) / p.sum(1, keepdim=True)

    def sig(said, true, spread):
        known = (true > 0) & (true <= most)
        g = torch.log(said[known] + 1e-3) - torch.log(true[known] + 1e-3)
        return torch.sqrt((g.var() if spread else 0) + 0.15 * g.mean() ** 2)

    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=0.01)
    rise, turn, order = max(1, round(steps / 3)), 0.3 * steps, []
    for step in range(steps):
        share = step / turn if step < turn else (steps - step) / (steps - turn)
        for group in optimizer.param_groups:
            warm = 1 - (1 - step / rise) * (1 - 1e-3) if step < rise else 1
            group["lr"] = warm * 1e-2 * (1 + np.cos(np.pi * step / steps)) / 2
            group["betas"] = (0.85 + 0.05 * (1 + np.cos(np.pi * share)), 0.999)
        if not order:
            order = list(torch.randperm(len(x)).split(8))
        rows = order.pop()
        said = F.interpolate(tell((x[rows] - mean) / deviation, 1), (H, W), mode="bilinear", align_corners=False)[:, 0]
        loss = sig(said, truth[rows], step >= min(100, round(steps / 10)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 35)
        optimizer.step()
    xv, tv = load("val-features", h, w, D), load("val-truth", H, W)
    errors = []
    with torch.no_grad():
        for one, true in zip(xv, tv):
            said = tell(((one - mean) / deviation)[None], 4).clamp(0.001, most)
            said = F.interpolate(said, (H, W), mode="bilinear", align_corners=False)[0, 0]
            errors.append(float(((said - true)[true > 0] ** 2).mean().sqrt()))
    print(json.dumps({"seconds": time.time() - begun, "rmse": float(np.mean(errors))}))


if way == "depth-torch":
    depth()
    sys.exit()
(x, names), (xv, namesv) = read(train), read(val)
assert len(x) == len(names) and len(xv) == len(namesv)
classes = sorted(set(names))
number = {name: k for k, name in enumerate(classes)}
y, yv = np.array([number[n] for n in names]), np.array([number.get(n, -1) for n in namesv])
K, note = len(classes), None

if way == "knn-torch":
    a, b = (torch.nn.functional.normalize(torch.from_numpy(t), dim=1) for t in (x, xv))
    similar, rows = (b @ a.T).topk(20)
    votes = torch.zeros(len(xv), K).scatter_add_(1, torch.from_numpy(y)[rows], torch.softmax(similar / 0.07, 1))
    said = votes.argmax(1).numpy()
elif way == "knn-sklearn":
    model = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    said = model.fit(x, y).predict(xv)
elif way == "lbfgs-sklearn":
    order = np.random.default_rng(0).permutation(len(x))
    held, rest = order[: len(x) // 10], order[len(x) // 10 :]
    x = x.astype(np.float64)
    fit = lambda c, rows: LogisticRegression(C=c, max_iter=1000).fit(x[rows], y[rows])
    scores = [(fit(c, rest).score(x[held], y[held]), c) for c in 10 ** np.linspace(-6, 5, 45)]
    best = max(scores, key=lambda pair: pair[0])[1]
    said = fit(best, order).predict(xv.astype(np.float64))
    note = f"C {best:.2g}"
    if len(sys.argv) > 6:  # the C that another program chose on its own tenth: then both have solved the same problem
        took = time.time() - begun
        other = float(sys.argv[6])
        note += f"; with C {other:.2g}: {100 * float((fit(other, order).predict(xv.astype(np.float64)) == yv).mean()):.1f}"
        begun = time.time() - took
else:
    torch.manual_seed(0)
    C = x.shape[1] // (blocks + 1)
    tokens, means = np.split(x, [blocks * C], axis=1)
    tokens = torch.from_numpy(tokens.reshape(len(x), blocks, C).copy())
    means, labels = torch.from_numpy(means.copy()), torch.from_numpy(y)

    def inputs(cls, mean, n, pool):
        return torch.cat([*(cls[:, i] for i in range(blocks - n, blocks)), *([mean] if pool else [])], dim=-1)

    rates = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1]
    batch = 128
    layers, groups = [], []
    for n in (1, blocks):
        for pool in (False, True):
            for rate in rates:
                layer = torch.nn.Linear((n + pool) * C, K)
                layer.weight.data.normal_(0, 0.01)
                layer.bias.data.zero_()
                layers.append((n, pool, rate, layer))
                groups.append({"params": layer.parameters(), "lr": rate * batch / 256})
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0)
    order = torch.randperm(len(x))
    for step in range(steps):
        rows = order[(torch.arange(batch) + step * batch) % len(x)]
        cls, mean, target = tokens[rows], means[rows], labels[rows]
        loss = sum(torch.nn.functional.cross_entropy(layer(inputs(cls, mean, n, pool)), target) for n, pool, _, layer in layers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    v = torch.from_numpy(xv)
    vcls, vmean = v[:, : blocks * C].reshape(len(v), blocks, C), v[:, blocks * C :]
    with torch.no_grad():
        all_said = [layer(inputs(vcls, vmean, n, pool)).argmax(1).numpy() for n, pool, _, layer in layers]
    top = int(np.argmax([(s == yv).mean() for s in all_said]))
    said, note = all_said[top], f"{layers[top][0]} blocks{' + mean' if layers[top][1] else ''}, learning rate {layers[top][2]}"
print(json.dumps({"seconds": time.time() - begun, "top1": float((said == yv).mean()), "note": note}))
