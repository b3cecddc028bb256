"""Linear classifiers side by side, by PyTorch's own SGD and cosine schedule, and logistic regression by scikit-learn, on drawn features.

usage: python make_probes.py OUT.json [SEED=3]   (torch, scikit-learn)
"""
import json, sys
import numpy as np, torch
from sklearn.linear_model import LogisticRegression
out, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3
rng = np.random.default_rng(seed); torch.manual_seed(seed)
K, C, n = 3, 4, 90
centres = rng.normal(size=(K, 3 * C))
def draw(n):
    y = rng.integers(0, K, n)
    return (centres[y] + 1.6 * rng.normal(size=(n, 3 * C))).astype(np.float32).round(4), y
(x, y), (xv, yv) = draw(n), draw(60)
d = {"classes": K, "width": C, "x": x.flatten().tolist(), "y": y.tolist(), "val": {"x": xv.flatten().tolist(), "y": yv.tolist()}}

# SGD with momentum 0.9 and a cosine to zero; the sum of the losses of all classifiers, as the protocol takes it.
kinds, rates, steps, B = [(4, 4), (4, 8), (0, 8), (0, 12)], [0.1, 0.5, 2.0], 6, 15
init = [(0.01 * torch.randn(K, length)).numpy().astype(np.float32).round(6) for _, length in kinds]
models = [[torch.nn.Linear(length, K) for _ in rates] for _, length in kinds]
groups = []
for k, row in enumerate(models):
    for r, m in enumerate(row):
        with torch.no_grad(): m.weight.copy_(torch.from_numpy(init[k])); m.bias.zero_()
        groups.append({"params": m.parameters(), "lr": rates[r] * B / 256})
opt = torch.optim.SGD(groups, momentum=0.9, weight_decay=0)
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps, eta_min=0)
losses = []
for s in range(steps):
    xb, yb = torch.from_numpy(x[s * B:(s + 1) * B]), torch.from_numpy(y[s * B:(s + 1) * B])
    own = [torch.nn.functional.cross_entropy(m(xb[:, start:start + length]), yb) for (start, length), row in zip(kinds, models) for m in row]
    losses.append([l.item() for l in own])
    opt.zero_grad(); sum(own).backward(); opt.step(); sched.step()
d["sgd"] = {"kinds": kinds, "rates": rates, "steps": steps, "batch": B, "init": [i.flatten().tolist() for i in init], "losses": losses,
            "weights": [[m.weight.detach().flatten().tolist() for m in row] for row in models], "biases": [[m.bias.detach().tolist() for m in row] for row in models]}

d["logistic"] = []
for c in (0.001, 0.1, 10.0):
    m = LogisticRegression(C=c, max_iter=5000, tol=1e-10).fit(x.astype(np.float64), y)
    d["logistic"].append({"C": c, "weight": m.coef_.flatten().tolist(), "accuracy": float(m.score(xv, yv)), "probabilities": m.predict_proba(xv).flatten().round(7).tolist()})
json.dump(d, open(out, "w"))
