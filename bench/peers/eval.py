"""Evaluations on frozen features for bench/eval.ts: a line of JSON with seconds (without imports), top-1 and what was chosen.

usage: eval.py TRAIN.npy VAL.npy WAY BLOCKS STEPS
WAY   knn-torch      cosine, k = 20, votes exp(similarity / 0.07), by one product and topk, as the reference does
      knn-sklearn    the same by KNeighborsClassifier
      lbfgs-sklearn  LogisticRegression for 45 values of C, chosen on a tenth of train, then all of it; scikit-learn's own stopping rule
      linear-torch   52 linear layers side by side as the reference trains them: one forward and backward of all, SGD with a group for each, cosine
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
