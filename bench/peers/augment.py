"""Peers of the training crops: JPEG files to 2 × 224² + 8 × 98² views a photo, on one thread.

usage: augment.py FOLDER COUNT MODE
MODE   decode   Pillow decodes to RGB and nothing else
       resize   two large and eight small random crops of decoded photos, bicubic, by Pillow
       all      decode, crops, flip, colour jitter in random order, grey, blur and solarisation, by Pillow: the recipe of the reference, whose own
                transforms call the same functions of Pillow, but for the blur, which torchvision does on tensors and more slowly
       torch    the crops alone as tensor operations: interpolate(bicubic, antialias) on channels-first bytes
Prints one JSON line: photos a second of wall time and of processor time, the best of three passes after a warm-up.
"""
import glob, json, math, os, random, sys, time

folder, count, mode = sys.argv[1], int(sys.argv[2]), sys.argv[3]
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
import PIL

files = sorted(glob.glob(os.path.join(glob.escape(folder), "**", "*.jp*g"), recursive=True), key=os.fsencode)[:count]
decode = lambda file: Image.open(file).convert("RGB")


def cut(draw, width, height, scale):
    """A box of a random resized crop: x, y, w, h."""
    for _ in range(10):
        area = width * height * draw.uniform(*scale)
        aspect = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return draw.randint(0, width - w), draw.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def turn(image, by):
    """Turns the hue by a part of the circle."""
    h, s, v = image.convert("HSV").split()
    shift = int(by * 255) % 256
    return Image.merge("HSV", (h.point(lambda x: (x + shift) % 256), s, v)).convert("RGB")


VIEWS = [(224, (0.32, 1), 0.0, 0.0), (224, (0.32, 1), 0.9, 0.2)] + [(98, (0.05, 0.32), 0.5, 0.0)] * 8


def crops(image, draw, colours):
    made = []
    for size, scale, blur, solarize in VIEWS:
        x, y, w, h = cut(draw, *image.size, scale)
        view = image.crop((x, y, x + w, y + h)).resize((size, size), Image.BICUBIC)
        if colours:
            if draw.random() < 0.5:
                view = ImageOps.mirror(view)
            if draw.random() < 0.8:
                steps = [
                    lambda v: ImageEnhance.Brightness(v).enhance(draw.uniform(0.6, 1.4)),
                    lambda v: ImageEnhance.Contrast(v).enhance(draw.uniform(0.6, 1.4)),
                    lambda v: ImageEnhance.Color(v).enhance(draw.uniform(0.8, 1.2)),
                    lambda v: turn(v, draw.uniform(-0.1, 0.1)),
                ]
                draw.shuffle(steps)
                for step in steps:
                    view = step(view)
            if draw.random() < 0.2:
                view = view.convert("L").convert("RGB")
            if draw.random() < blur:
                view = view.filter(ImageFilter.GaussianBlur(draw.uniform(0.1, 2)))
            if draw.random() < solarize:
                view = ImageOps.solarize(view, 128)
        made.append(view)
    return made


if mode == "decode":
    work = [lambda draw, f=f: decode(f) for f in files]
elif mode == "all":
    work = [lambda draw, f=f: crops(decode(f), draw, True) for f in files]
elif mode == "resize":
    work = [lambda draw, i=i: crops(i, draw, False) for i in [decode(f) for f in files]]
elif mode == "torch":
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    torch.set_num_threads(1)
    tensors = [torch.from_numpy(np.array(decode(f))).permute(2, 0, 1).contiguous()[None] for f in files]

    def views(image, draw):
        made = []
        for size, scale, _, _ in VIEWS:
            x, y, w, h = cut(draw, image.shape[3], image.shape[2], scale)
            made.append(interpolate(image[:, :, y : y + h, x : x + w], size=(size, size), mode="bicubic", antialias=True))
        return made

    work = [lambda draw, i=i: views(i, draw) for i in tensors]
else:
    sys.exit(f"no mode {mode}")

wall, processor = [], []
for turn_number in range(4):
    draw = random.Random(turn_number)
    begun, used = time.perf_counter(), time.process_time()
    for job in work:
        job(draw)
    wall.append(time.perf_counter() - begun)
    processor.append(time.process_time() - used)
print(json.dumps({"wall": len(files) / min(wall[1:]), "processor": len(files) / min(processor[1:]), "version": PIL.__version__}))
