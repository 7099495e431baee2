"""Write archives of TensorFlow.js weights, as npm packages have them."""

import gzip
import io
import json
import tarfile

MANIFEST = "package/model/net-weights_manifest.json"


def write_tgz(path, files):
    """Write a .tgz of these files, bytes by name."""
    with gzip.open(path, "wb", 1) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def quantised(array, dtype):
    """Return the bytes and the manifest's entry of an array stored as uint8 or uint16."""
    steps = {"uint8": 255, "uint16": 65535}[dtype]
    low, scale = float(array.min()), float(array.max() - array.min()) / steps or 1.0
    codes = ((array - low) / scale).round().astype({"uint8": "u1", "uint16": "<u2"}[dtype])
    return codes, {"dtype": dtype, "scale": scale, "min": low}


def write_model(path, arrays, stored, manifest=MANIFEST, parts=1):
    """Write arrays in their order, each stored as `stored(name)` says, cut into `parts` files.

    Returns:
        The arrays that a reader shall find.
    """
    raw, entries, expected = b"", [], {}
    for name, array in arrays.items():
        entry = {"name": name, "shape": list(array.shape), "dtype": "float32"}
        if (dtype := stored(name)) == "float32":
            raw += array.astype("<f4").tobytes()
            expected[name] = array.astype("float32")
        else:
            codes, entry["quantization"] = quantised(array, dtype)
            raw += codes.tobytes()
            scale, low = entry["quantization"]["scale"], entry["quantization"]["min"]
            expected[name] = (codes.astype("float64") * scale + low).astype("float32")
        entries.append(entry)
    size = -(-len(raw) // parts)
    pieces = {f"net-{n}.bin": raw[n * size : (n + 1) * size] for n in range(parts)}
    text = json.dumps([{"weights": entries, "paths": list(pieces)}]).encode()
    folder = manifest.rpartition("/")[0]
    named = {f"{folder}/{name}": content for name, content in pieces.items()}
    write_tgz(path, named | {manifest: text})
    return expected
