"""What another toolkit learns from a folder of images in how many processor minutes, judged as `knn-eval` judges.

usage: learning.py DATA [--method simclr] [--model torchvision/resnet18] [--side 64] [--epochs 10] [--batch 128]
                   [--sizes 48,96] [--seed 0] [-o FOLDER]
DATA   holds train/CLASS/IMAGE to learn from (the names of the classes are not shown to it) and val/CLASS/IMAGE, which
       is read once.

Trains with lightly-train's `pretrain` in one thread, its defaults but for what is named above, and classifies each
image of val by its 10 and 20 nearest of train: cosine similarity s, weights exp(s / 0.07), as in DINO (Caron et al.
2021, section 4.1). Images are resized to the short side, cut from the middle and normalised by ImageNet's mean and
deviation. Prints two rows of Markdown for each size: the trained and the untrained network.
Needs: pip install lightly-train torch torchvision (0.18 was measured; see bench/RESULTS.md).
"""
import argparse, os, resource, time
from pathlib import Path

os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"  # no telemetry
import lightly_train, numpy as np, torch, torchvision
from PIL import Image

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
TEMPERATURE = 0.07


def processor_minutes():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime) / 60


def pretrain(options, data, folder):
    """Trains, and gives the processor minutes that it took."""
    views = {"image_size": (options.side, options.side)}
    if options.method.startswith("dino"):
        local = max(options.side // 2, 24)
        views["local_view"] = {"num_views": 4, "view_size": (local, local)}
    start = processor_minutes()
    lightly_train.pretrain(
        out=str(folder), data=str(data / "train"), model=options.model, method=options.method, epochs=options.epochs,
        batch_size=options.batch, num_workers=0, devices=1, accelerator="cpu", precision="32-true", overwrite=True,
        transform_args=views, seed=options.seed,
    )
    return processor_minutes() - start


def network(model, weights=None):
    """The backbone [B, 3, side, side] -> [B, dim], its classifier taken off."""
    net = torchvision.models.get_model(model.removeprefix("torchvision/"))
    net.fc = torch.nn.Identity()
    if weights:
        missing, _ = net.load_state_dict(torch.load(weights, weights_only=True), strict=False)
        if missing:
            raise SystemExit(f"{weights} lacks {missing[0]} and {len(missing) - 1} more: it is no {model}")
    return net.eval()


def pixels(path, side):
    """One image as [3, side, side]."""
    image = Image.open(path).convert("RGB")
    scale = side / min(image.size)
    image = image.resize([round(length * scale) for length in image.size], Image.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cut = np.asarray(image.crop((left, top, left + side, top + side))) / 255
    return ((cut - MEAN) / DEVIATION).transpose(2, 0, 1).astype(np.float32)


@torch.no_grad()
def features(net, folder, side):
    """Features of length one [images, dim] and the numbers of their classes [images]."""
    names = sorted(child.name for child in folder.iterdir() if child.is_dir())
    found = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    rows = [net(torch.tensor(np.stack([pixels(path, side) for path, _ in found[at : at + 100]]))) for at in range(0, len(found), 100)]
    return torch.nn.functional.normalize(torch.cat(rows), dim=1).numpy(), np.array([label for _, label in found])


def nearest_neighbours(net, data, side, counts=(10, 20)):
    """Top-1 in percent for each number of neighbours."""
    (train, known), (val, wanted) = features(net, data / "train", side), features(net, data / "val", side)
    similarity = val @ train.T  # [val, train]
    order = np.argsort(-similarity, axis=1, kind="stable")
    top1 = []
    for count in counts:
        near = order[:, :count]
        weights = np.exp(np.take_along_axis(similarity, near, 1) / TEMPERATURE)
        votes = np.stack([(weights * (known[near] == label)).sum(1) for label in range(known.max() + 1)], 1)
        top1.append(100 * float((votes.argmax(1) == wanted).mean()))
    return top1


def main():
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("data", type=Path)
    read.add_argument("--method", default="simclr")
    read.add_argument("--model", default="torchvision/resnet18")
    read.add_argument("--side", type=int, default=64, help="side of the training crops in pixels")
    read.add_argument("--epochs", type=int, default=10)
    read.add_argument("--batch", type=int, default=128)
    read.add_argument("--sizes", default="48,96", help="sides at which features are computed")
    read.add_argument("--seed", type=int, default=0)
    read.add_argument("-o", "--output", type=Path, default=Path("learning-peer"))
    options = read.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    folder = options.output / f"{options.method}-{options.side}-{options.epochs}-{options.seed}"
    began = time.time()
    untrained = network(options.model)
    minutes = pretrain(options, options.data, folder)
    trained = network(options.model, folder / "exported_models" / "exported_last.pt")
    print(f"lightly-train {lightly_train.__version__}, torch {torch.__version__}, {time.time() - began:.0f} s of wall time")
    print("| | side | processor minutes | k = 10 | k = 20 |\n| --- | --- | --- | --- | --- |")
    for side in map(int, options.sizes.split(",")):
        for name, net, cost in ((f"{options.method}, {options.epochs} epochs", trained, f"{minutes:.1f}"), ("untrained", untrained, "")):
            print(f"| {options.model}, {name} | {side} | {cost} | " + " | ".join(f"{score:.1f}" for score in nearest_neighbours(net, options.data, side)) + " |", flush=True)


if __name__ == "__main__":
    main()
