"""Opens checkpoints as a Python user would, and saves some as only PyTorch can.

    python open_checkpoints.py transformers FOLDER IO    runs the model of FOLDER on the recorded inputs, prints the worst differences
    python open_checkpoints.py processor FOLDER OUT IMAGE…  prepares images as FOLDER says, writes the pixels to OUT
    python open_checkpoints.py torch FILE SAFETENSORS    loads FILE with weights_only=True, compares each tensor, prints the structure
    python open_checkpoints.py save FOLDER               saves views, shared storages, types and wrappers, with the plain values beside

    python open_checkpoints.py                           answers requests on stdin, each a line with the words above as a JSON list

Every answer is one JSON object on a line of stdout.
"""

import collections
import json
import sys

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def difference(a, b):
    assert a.shape == b.shape, (a.shape, b.shape)
    return (a - b).abs().max().item()


def run_transformers(folder, io_path):
    from transformers import AutoConfig, AutoModel

    io = load_file(io_path)
    config = AutoConfig.from_pretrained(folder)
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    model.eval()
    registers = getattr(config, "num_register_tokens", 0)
    out = {
        "class": type(model).__name__,
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "mismatched": sorted(str(key) for key in info["mismatched_keys"]),
        "worst": {},
    }
    masks = io["masks"].bool()
    # Without registers, transformers resamples positions differently, so only the native size can agree.
    cases = {"full": (io["x"], None), "masked": (io["x"], masks)}
    if registers:
        cases["resized"] = (io["x2"], None)
    with torch.no_grad():
        for name, (images, mask) in cases.items():
            tokens = model(images, bool_masked_pos=mask).last_hidden_state
            out["worst"][name] = max(
                difference(tokens[:, 0], io[f"{name}.x_norm_clstoken"]),
                difference(tokens[:, 1 + registers :], io[f"{name}.x_norm_patchtokens"]),
            )
    return out


def run_processor(folder, out, *images):
    """The pixels that the image processor of transformers (Pillow) makes of images, as one file of float32 tensors."""
    from PIL import Image
    from transformers import BitImageProcessorPil

    processor = BitImageProcessorPil.from_pretrained(folder)
    made = {str(i): processor(images=Image.open(path), return_tensors="pt")["pixel_values"][0].contiguous() for i, path in enumerate(images)}
    save_file(made, out)
    return {"images": len(made)}


def run_torch(path, reference):
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    plain = load_file(reference)
    flat, roots = loaded, []
    while "teacher" in flat:
        roots.append("teacher")
        flat = flat["teacher"]
    for name, tensor in flat.items():
        bare = name.removeprefix("backbone.")
        expected = plain[name if name in plain else bare]
        assert torch.equal(tensor, expected), name
        assert tensor.is_contiguous() and tensor.dtype == expected.dtype, name
    with safe_open(reference, "pt") as file:
        metadata = file.metadata()
    return {"roots": roots, "names": list(flat), "metadata": metadata}


def run_save(folder):
    torch.manual_seed(5)
    base = torch.randn(6, 10)
    views = {
        "base": base,
        "transposed": base.t(),
        "column": base[:, 3],
        "window": base[1:5:2, 2:9:3],
        "expanded": base[0].expand(3, 10),
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
    }
    types = {
        str(dtype).removeprefix("torch."): (torch.randn(7) * 50).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    }
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    training = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "seen": {1, 2},
        "name": "run",
        "size": torch.Size([2, 3]),
        "counts": collections.OrderedDict(a=1),
    }
    named = {"views": views, "types": types, "training": model.state_dict()}
    for name, tensors in named.items():
        save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, f"{folder}/{name}.safetensors")
    for protocol in (2, 3, 4, 5):
        torch.save(views, f"{folder}/views-{protocol}.pth", pickle_protocol=protocol)
        torch.save({"teacher": types}, f"{folder}/types-{protocol}.pth", pickle_protocol=protocol)
        torch.save(training, f"{folder}/training-{protocol}.pth", pickle_protocol=protocol)
    for name, content in {"views": views, "types": {"teacher": types}, "training": training}.items():
        torch.save(content, f"{folder}/{name}-old.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), f"{folder}/module.pth")
    return {"torch": torch.__version__}


answers = {"transformers": run_transformers, "processor": run_processor, "torch": run_torch, "save": run_save}

if __name__ == "__main__":
    # Importing torch and transformers takes longer than most answers, so one process may give many.
    for request in [sys.argv[1:]] if len(sys.argv) > 1 else map(json.loads, sys.stdin):
        what, *arguments = request
        print(json.dumps(answers[what](*arguments)), flush=True)
