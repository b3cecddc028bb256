"""Opens exported ONNX folders as a Python user would.

    python open_onnx.py PAIR…    each PAIR is MODEL.onnx=EXPECTED.safetensors, which holds pixel_values and the outputs expected of them

Every model passes onnx's checker, shapes inferred and compared, and is run by onnxruntime. One JSON object on stdout:
the operators' version, and of every output the largest difference over the largest expected entry and the smallest
cosine between rows.
"""

import json
import sys

import numpy
import onnx
import onnxruntime
from safetensors.numpy import load_file


def compare(computed, expected):
    assert computed.shape == expected.shape, (computed.shape, expected.shape)
    a, b = (x.reshape(-1, x.shape[-1]).astype("f8") for x in (computed, expected))
    norms = numpy.linalg.norm(a, axis=1) * numpy.linalg.norm(b, axis=1)
    return {
        "worst": float(numpy.abs(a - b).max() / numpy.abs(b).max()),
        "cosine": float(((a * b).sum(1) / numpy.maximum(norms, 1e-12)).min()),
    }


def run(pair):
    path, expected_path = pair.split("=")
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected = load_file(expected_path)
    pixels = expected.pop("pixel_values")
    names = [output.name for output in session.get_outputs()]
    computed = dict(zip(names, session.run(names, {"pixel_values": pixels})))
    assert session.get_inputs()[0].shape[1:] == list(pixels.shape[1:])
    return {
        "opset": model.opset_import[0].version,
        "operators": sorted({node.op_type for node in model.graph.node}),
        "outputs": {name: compare(computed[name], expected[name]) for name in names},
        "missing": sorted(set(expected) - set(names)),
    }


print(json.dumps([run(pair) for pair in sys.argv[1:]]))
