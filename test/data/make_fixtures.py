"""Records what Pillow and torchvision make of small drawn images, for augment.test.ts and resample.test.ts.

usage: make_fixtures.py OUT      (needs Pillow, numpy, torch and torchvision; the output is committed, so tests need none of them)

Writes pixels.bin (all images one after the other, RGB bytes) and pixels.json (what each of them is: operation, factor, size, offset).
The images are drawn by formula: gradients, stripes, discs and noise. Nothing here is a photograph.
"""
import json
import sys

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as F

out = sys.argv[1]
blob, cases = bytearray(), []


def put(image):
    a = np.ascontiguousarray(np.asarray(image.convert("RGB")), dtype=np.uint8)
    at = len(blob)
    blob.extend(a.tobytes())
    return {"at": at, "width": a.shape[1], "height": a.shape[0]}


def draw(width, height, seed):
    rs = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    a = np.stack([x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), 127 + 127 * np.sin(x / 3 + y / 5)], -1)
    disc = (x - width / 3) ** 2 + (y - height / 2) ** 2 < (min(width, height) / 3) ** 2
    a[disc] = [230, 40, 90]
    a[(x.astype(int) + y.astype(int)) % 11 == 0] = [12, 200, 255]
    half = slice(height // 2, None)
    a[half] = np.clip(a[half] + rs.randint(-60, 61, a[half].shape), 0, 255)
    return Image.fromarray(a.astype(np.uint8))


def case(op, source, result, **more):
    cases.append({"op": op, "source": source, "result": put(result), **more})


picture = draw(37, 29, 1)
spot = put(picture)
for f in (0.6, 0.83, 1.0, 1.21, 1.4):
    case("brightness", spot, F.adjust_brightness(picture, f), factor=f)
    case("contrast", spot, F.adjust_contrast(picture, f), factor=f)
for f in (0.8, 0.9317, 1.0, 1.2):
    case("saturation", spot, F.adjust_saturation(picture, f), factor=f)
for f in (-0.1, -0.0431, 0.0, 0.0021, 0.07, 0.1, 0.5):
    case("hue", spot, F.adjust_hue(picture, f), factor=f)
case("grey", spot, F.rgb_to_grayscale(picture, 3))
case("solarize", spot, F.solarize(picture, 128), factor=128)

square = draw(24, 24, 2)
spot = put(square)
for sigma in (0.1, 0.4, 0.77, 1.0, 1.63, 2.0):
    case("blur", spot, F.gaussian_blur(square, [9, 9], [sigma, sigma]), factor=sigma)

# Every pair of sizes: enlarging, shrinking, one axis only, tall enough to turn the order of the passes, a single pixel.
for i, (w, h, ow, oh) in enumerate([(30, 20, 38, 25), (61, 47, 16, 12), (20, 90, 25, 10), (20, 90, 17, 40), (33, 20, 33, 9), (33, 20, 9, 20), (1, 1, 6, 5), (2, 3, 20, 7), (90, 4, 7, 6)]):
    image = draw(w, h, 10 + i)
    case("resize", put(image), image.resize((ow, oh), Image.BICUBIC))
image = draw(50, 40, 30)
spot = put(image)
for box in ((3.3, 2.7, 23.4, 32.9), (0.5, 0.25, 49.75, 39.5), (10, 5, 40, 35)):
    case("box", spot, image.resize((16, 14), Image.BICUBIC, box=box), box=box)
for crop, flip in (((7, 3, 27, 33), False), ((0, 0, 50, 31), True), ((11, 9, 27, 23), True), ((20, 30, 36, 40), True)):
    result = image.crop(crop).resize((16, 14), Image.BICUBIC)
    case("crop", spot, result.transpose(Image.FLIP_LEFT_RIGHT) if flip else result, box=crop, flip=flip)
# torchvision's evaluation transform, small: resize the short side, cut the middle.
for w, h in ((50, 40), (41, 67), (35, 36)):
    image = draw(w, h, 40 + w)
    case("eval", put(image), F.center_crop(F.resize(image, 25, F.InterpolationMode.BICUBIC), 20), resize=25, crop=20)

# torch.linspace in single precision decides the upper bound of masked patches.
ladders = [{"count": n, "values": torch.linspace(0.1, 0.5, n + 1).tolist()} for n in (1, 2, 3, 7, 16, 31, 64)]

with open(out + "/pixels.bin", "wb") as f:
    f.write(blob)
with open(out + "/pixels.json", "w") as f:
    json.dump({"cases": cases, "ladders": ladders}, f, separators=(",", ":"))
    f.write("\n")
print(len(cases), "cases,", len(blob), "bytes")
