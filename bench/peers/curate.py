"""faiss for bench/curate.ts: one task on one array, a line of JSON with seconds, quality and peak memory.

usage: curate.py kmeans|flat|range|ivf FILE.npy [k|neighbours] [iterations|threshold] [probes]
"""
import json, resource, sys, time

import faiss
import numpy as np

task, path = sys.argv[1:3]
x = np.load(path)
n, d = x.shape
faiss.omp_set_num_threads(2)
begun = time.time()
out = {}
if task == "kmeans":
    k, iterations = int(sys.argv[3]), int(sys.argv[4])
    km = faiss.Kmeans(d, k, niter=iterations, seed=1, max_points_per_centroid=10**9, min_points_per_centroid=1)
    km.train(x)
    out["seconds"] = time.time() - begun
    distances, _ = km.index.search(x, 1)
    out["objective"] = float(distances.mean())
else:
    threshold = float(sys.argv[4])
    if task == "range":
        index = faiss.IndexFlatIP(d)
        index.add(x)
        lims, similar, ids = index.range_search(x, threshold)
        pairs = {(int(a), int(b)) for a in range(n) for b in ids[lims[a] : lims[a + 1]] if a < b}
    else:
        neighbours = int(sys.argv[3])
        if task == "flat":
            index = faiss.IndexFlatIP(d)
        else:
            lists = int(round(2 * n**0.5))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
            index.nprobe = int(sys.argv[5])
            index.train(x)
        index.add(x)
        scores, ids = index.search(x, neighbours + 1)
        a, j = np.nonzero(scores >= threshold)
        b = ids[a, j]
        keep = a != b
        low, high = np.minimum(a[keep], b[keep]), np.maximum(a[keep], b[keep])
        pairs = set(zip(low.tolist(), high.tolist()))
    out["seconds"] = time.time() - begun
    out["pairs"] = len(pairs)
out["gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps(out))
