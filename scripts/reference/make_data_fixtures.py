"""Images and sounds as Pillow, scipy and transformers prepare them: fixtures/data/{media.json, *.png, *.jpg, *.parquet}.

Needs pillow, scipy, transformers and, for the Parquet files, pyarrow.
"""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.signal import resample_poly
from transformers import WhisperFeatureExtractor

OUT = Path(__file__).parents[2] / "fixtures" / "data"
random = np.random.default_rng(0)


def packed(array, dtype):
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()


def picture(width, height):
    """Smooth colours with edges, so that filters and rounding matter."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([127 + 127 * np.sin(x / 5), 127 + 127 * np.cos(y / 3 + x / 7), (x * y) % 256], -1)
    rgb[height // 3 : height // 2, width // 4 : width // 2] = (250, 5, 130)
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def file_bytes(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return base64.b64encode(buffer.getvalue()).decode()


source = picture(37, 23)
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
resized = [
    {"width": w, "height": h, "resampling": name, "data": packed(source.resize((w, h), code), np.uint8)}
    for name, code in FILTERS.items()
    for w, h in [(16, 16), (50, 40), (37, 9), (8, 23)]
]

grey16 = Image.fromarray((np.arange(12, dtype=np.uint16) * 5000).reshape(3, 4))
modes = {
    "rgb": source,
    "grey": source.convert("L"),
    "palette": source.convert("P", palette=Image.ADAPTIVE, colors=13),
    "bits": source.convert("1"),
    "alpha": source.convert("RGBA"),
    "grey-alpha": source.convert("LA"),
}
png = [
    {"name": name, "file": file_bytes(image, format="PNG"), "data": packed(image.convert("RGB"), np.uint8)}
    for name, image in modes.items()
]
jpeg = []
for name, options in {"444": {"subsampling": 0}, "420": {"subsampling": 2}, "422": {"subsampling": 1}, "progressive": {"progressive": True, "subsampling": 0}}.items():
    file = file_bytes(source, format="JPEG", quality=90, **options)
    decoded = Image.open(io.BytesIO(base64.b64decode(file))).convert("RGB")
    jpeg.append({"name": name, "file": file, "data": packed(decoded, np.uint8)})

# As CLIP's processor does: shortest edge, middle, scale, normalise.
mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
short = 20
sized = source.resize((int(short * 37 / 23), short), 3)
left, top = (sized.width - 16) // 2, (sized.height - 16) // 2
pixels = np.asarray(sized.crop((left, top, left + 16, top + 16)), np.float64) / 255
processed = ((pixels - mean) / std).transpose(2, 0, 1)
clip = {
    "config": {
        "size": {"shortest_edge": short},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 16, "width": 16},
        "image_mean": mean,
        "image_std": std,
    },
    "data": packed(processed, np.float32),
}

seconds = np.arange(4000) / 8000
sound = (0.5 * np.sin(2 * np.pi * 440 * seconds) + 0.2 * random.standard_normal(4000)).astype(np.float32)
rates = [
    {"from": a, "to": b, "data": packed(resample_poly(sound.astype(np.float64), b // g, a // g), np.float32)}
    for a, b, g in [(8000, 16000, 8000), (44100, 16000, 100), (16000, 11025, 25)]
]
spectrograms = []
for mels, length in [(80, 4000), (128, 6400)]:
    extractor = WhisperFeatureExtractor(feature_size=mels)
    padded = np.pad(sound, (0, length - 4000))
    features = extractor._np_extract_fbank_features(padded[None], "cpu")[0]
    spectrograms.append({"mels": mels, "length": length, "data": packed(features, np.float32)})

OUT.mkdir(parents=True, exist_ok=True)
content = {
    "source": {"width": 37, "height": 23, "data": packed(source, np.uint8)},
    "luma": packed(source.convert("L"), np.uint8),
    "resized": resized,
    "png": png,
    "jpeg": jpeg,
    "clip": clip,
    "sound": packed(sound, np.float32),
    "rates": rates,
    "spectrograms": spectrograms,
}
(OUT / "media.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    print("no pyarrow: the Parquet files are left as they are")
else:
    rows = {
        "text": [f"row {index} ☃" for index in range(50)],
        "label": [index % 3 for index in range(50)],
    }
    for codec in ["snappy", "zstd", "gzip"]:
        pq.write_table(pa.table(rows), OUT / f"text-{codec}.parquet", compression=codec, row_group_size=20)
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = [{"bytes": base64.b64decode(png[index]["file"]), "path": f"{index}.png"} for index in (0, 1)]
    table = pa.table({"image": pa.array(pictures, cell), "label": [4, 2]})
    pq.write_table(table, OUT / "images.parquet")
