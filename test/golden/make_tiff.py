"""Records TIFF files that sharp does not write, for `test/data/image/tiff.test.ts`: tifffile with imagecodecs; writes tiff.json beside this file."""
import base64
import io
import json
import pathlib

import numpy as np
import tifffile

HEIGHT, WIDTH = 16, 24
y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
colours = np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, x * y // 7], -1).astype(np.uint8)
wide = colours.astype(np.uint16) * 256 + 17
depth = (x * 0.13 + y * 0.7 + 0.5).astype(np.float32)
classes = ((x // 5 + y // 4) % 6).astype(np.uint8)
table = (np.arange(768).reshape(3, 256) * 80 % 65536).astype(np.uint16)


def written(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, software=False, **options)
    return base64.b64encode(file.getvalue()).decode()


def plain(pixels, **options):
    return written(pixels, photometric="minisblack", **options)


pictures = {
    "strips": written(colours, photometric="rgb", compression="zstd", rowsperstrip=5),
    "tiles": written(colours, photometric="rgb", compression="zstd", predictor=2, tile=(16, 16)),
    "big": written(colours, photometric="rgb", compression="zstd", bigtiff=True, byteorder=">"),
    "planes": written(np.moveaxis(colours, -1, 0).copy(), photometric="rgb", planarconfig="separate", compression="zstd"),
    "16 bits": written(wide, photometric="rgb", compression="zstd", predictor=2, byteorder=">"),
}
numbers = {
    "float": [plain(depth, compression="zstd", predictor=3), depth],
    "float in tiles": [plain(depth, compression="zstd", tile=(16, 16)), depth],
    "classes": [plain(classes, compression="zstd"), classes],
    "indices": [written(classes, photometric="palette", colormap=table, compression="lzw"), classes],
    "signed 8": [plain(classes.astype(np.int8) - 3), classes.astype(int) - 3],
    "signed 16": [plain(classes.astype(np.int16) * 300 - 600, compression="lzw"), classes.astype(int) * 300 - 600],
    "signed 32": [plain(classes.astype(np.int32) * 70_000 - 9, compression="deflate"), classes.astype(int) * 70_000 - 9],
    "unsigned 32": [plain(classes.astype(np.uint32) * 700_000_000, compression="zstd"), classes.astype(int) * 700_000_000],
    "bits": [plain(classes > 2), classes > 2],
}
refused = {
    "LZMA": plain(classes, compression="lzma"),
    "16 bits a floating-point number": plain(depth.astype(np.float16)),
    "64 bits a floating-point number": plain(depth.astype(np.float64)),
    "a plane for each colour": written(
        np.moveaxis(colours, -1, 0).copy(), photometric="rgb", planarconfig="separate", compression="deflate", tile=(16, 16)
    ),
    "YCbCr": written(colours, photometric="ycbcr", subsampling=(1, 1)),
    "L\\*a\\*b\\*": written(colours, photometric="cielab"),
}
target = pathlib.Path(__file__).with_name("tiff.json")
target.write_text(
    json.dumps(
        {
            "tifffile": tifffile.__version__,
            "pictures": pictures,
            "numbers": {name: {"file": file, "values": [round(float(v), 4) for v in values.ravel()]} for name, (file, values) in numbers.items()},
            "refused": refused,
        }
    )
    + "\n"
)
