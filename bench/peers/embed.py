"""Peers of `dinov2 embed` on a CPU: JPEG files to cls features, decoded at full size by Pillow (bicubic 256, centre crop 224), batches of 16.

usage: embed.py FOLDER COUNT MODE SIZE WORKERS [WEIGHTS]
MODE   hf (transformers, float32) | torch | torch_bf16 (the reference modules; REF names a checkout of facebookresearch/dinov2) | ort (ONNX Runtime) | export (WEIGHTS is our exported model.onnx)
       cosine FEATURES.npy: compares features with those of the reference in float32 on the same WEIGHTS and prints the smallest and mean cosine
SIZE   s | b
Prints one JSON line: images a second of the better of two passes after a warm-up, and peak memory in GiB.
"""
import glob, json, os, resource, sys, time

folder, count, mode, size, workers = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
weights = sys.argv[6] if len(sys.argv) > 6 else None
import numpy as np
import torch
from PIL import Image

torch.set_num_threads(int(os.environ.get("THREADS", os.cpu_count())))
files = sorted(glob.glob(os.path.join(glob.escape(folder), "**", "*.jpg"), recursive=True), key=os.fsencode)[:count]
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def load(file):
    image = Image.open(file).convert("RGB")
    w, h = image.size
    short = min(w, h)
    image = image.resize((int(256 * w / short), int(256 * h / short)), Image.BICUBIC)  # torchvision's Resize
    w, h = image.size
    left, top = round((w - 224) / 2), round((h - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


class Photos(torch.utils.data.Dataset):
    def __len__(self):
        return len(files)

    def __getitem__(self, i):
        return torch.from_numpy(load(files[i]))


C, L, H = {"s": (384, 12, 6), "b": (768, 12, 12)}[size]


def reference(side):
    os.environ["XFORMERS_DISABLED"] = "1"
    sys.path.insert(0, os.environ["REF"])
    import dinov2.models.vision_transformer as V

    make = {"s": V.vit_small, "b": V.vit_base}[size]
    net = make(patch_size=14, img_size=side, init_values=1.0, block_chunks=0).eval()
    if weights:
        from safetensors.torch import load_file

        net.load_state_dict(load_file(weights))
    return net


if mode == "hf":
    from transformers import Dinov2Config, Dinov2Model

    net = Dinov2Model(Dinov2Config(hidden_size=C, num_hidden_layers=L, num_attention_heads=H, image_size=518, patch_size=14)).eval()
    features = lambda x: net(x).pooler_output
elif mode == "export":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(weights, options)
    features = lambda x: torch.from_numpy(session.run(["pooler_output"], {"pixel_values": x.numpy()})[0])
elif mode == "ort":
    import onnxruntime

    path = f"/tmp/dinov2-bench-{size}.onnx"
    if not os.path.exists(path):

        class Cls(torch.nn.Module):
            def __init__(self, net):
                super().__init__()
                self.net = net

            def forward(self, x):
                return self.net.forward_features(x, None)["x_norm_clstoken"]

        # Positions for 224 px are resampled beforehand: the graph has no bicubic resampling.
        torch.onnx.export(Cls(reference(224)).eval(), (torch.randn(16, 3, 224, 224),), path, input_names=["x"], output_names=["y"],
                          dynamic_axes={"x": {0: "b"}, "y": {0: "b"}}, dynamo=False, opset_version=17)  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    features = lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])
else:
    features = reference(518)


def run():
    loader = torch.utils.data.DataLoader(Photos(), batch_size=16, num_workers=workers)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=mode == "torch_bf16"):
        return np.concatenate([features(x).float().numpy() for x in loader])


if mode.startswith("cosine"):
    mine, theirs = np.load(sys.argv[7])[: len(files)], run()
    cosine = (mine * theirs).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(theirs, axis=1)
    print(json.dumps({"images": len(files), "least": float(cosine.min()), "mean": float(cosine.mean())}))
    sys.exit()
features(torch.randn(16, 3, 224, 224))
best = 1e9
for _ in range(2):
    begun = time.time()
    run()
    best = min(best, time.time() - begun)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"images_per_second": len(files) / best, "peak_gib": peak}))
