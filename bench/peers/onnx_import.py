"""Peer of bench/ours/import.mjs: reading an ONNX file with `onnx`, and creating a session with onnxruntime.

    .cache/reference/bin/python bench/peers/onnx_import.py --file model.onnx
"""

import argparse
import json
import time


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", required=True)
    options = parser.parse_args()
    import onnx
    import onnxruntime

    began = time.perf_counter()
    model = onnx.load(options.file)
    loaded = time.perf_counter() - began
    del model
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 2
    began = time.perf_counter()
    onnxruntime.InferenceSession(options.file, settings, providers=["CPUExecutionProvider"])
    print(json.dumps(dict(importSeconds=loaded, sessionSeconds=time.perf_counter() - began)))


if __name__ == "__main__":
    main()
