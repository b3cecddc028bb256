"""Opens a model that dinov2 exported in the Hugging Face layout, and computes features of images with transformers.

    dinov2 export run --to hf -o run-hf
    python examples/python/open_export.py run-hf photo.jpg …
"""
import json
import sys

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

folder, *images = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(folder)
model = AutoModel.from_pretrained(folder).eval()
with torch.no_grad():
    inputs = processor([Image.open(path).convert("RGB") for path in images], return_tensors="pt")
    features = model(**inputs).last_hidden_state[:, 0]  # the class tokens, [n, D]
print(json.dumps([[round(value, 4) for value in row] for row in features.tolist()]))
