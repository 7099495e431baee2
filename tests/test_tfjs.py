import json

import numpy as np
import pytest
from tfjs_writer import MANIFEST, write_model, write_tgz

from advjax.checkpoints.tfjs import decode_weights, read_tfjs
from advjax.errors import WeightsError

RNG = np.random.default_rng(0)
STORED = {"conv/filters": "uint8", "conv/bias": "float32", "fc": "uint16", "one": "uint8"}
ARRAYS = {
    "conv/filters": RNG.normal(size=(3, 3, 2, 5)),
    "conv/bias": RNG.normal(size=5),
    "fc": RNG.normal(size=(7, 3)) - 4,
    "one": np.full((), 0.25),
}


@pytest.mark.parametrize("parts", [1, 3])
def test_every_kind_of_tensor(parts, tmp_path):
    expected = write_model(tmp_path / "net.tgz", ARRAYS, STORED.get, parts=parts)
    found = read_tfjs(tmp_path / "net.tgz", MANIFEST)
    assert list(found) == list(ARRAYS)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
        # As near as the stored numbers are apart.
        steps = {"uint8": 255, "uint16": 65535, "float32": 1e6}[STORED[name]]
        assert abs(found[name] - ARRAYS[name]).max() <= np.ptp(ARRAYS[name]) / steps + 1e-6


FC = {"name": "fc", "shape": [2, 2], "dtype": "float32"}
BITS = {"dtype": "uint8", "scale": 0.5, "min": 0.0}


@pytest.mark.parametrize(
    ("changes", "size", "says"),
    [
        ({"dtype": "int32"}, 16, "fc is int32 stored as float32"),
        ({"quantization": BITS | {"dtype": "float16"}}, 8, "stored as float16"),
        ({}, 15, "fc ends at byte 16 of 15"),
        ({}, 17, "17 bytes where 16 are listed"),
        ({"shape": [-2, -2]}, 16, "fc ends at"),
        ({"quantization": BITS | {"scale": float("nan")}}, 4, "NaN or infinite"),
    ],
)
def test_what_is_refused(changes, size, says, tmp_path):
    entries = [FC | changes]
    with pytest.raises(ValueError, match=says):
        decode_weights(bytes(size), entries)
    text = json.dumps([{"weights": entries, "paths": ["net.bin"]}]).encode()
    write_tgz(tmp_path / "net.tgz", {"package/model/net.bin": bytes(size), MANIFEST: text})
    with pytest.raises(WeightsError, match=says) as error:
        read_tfjs(tmp_path / "net.tgz", MANIFEST)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", [b"[", b"{}", b"[1]", b'[{"weights": [{}], "paths": []}]', b"\xff", b'["paths"]', None]
)
def test_manifests_that_are_none(text, tmp_path):
    write_tgz(tmp_path / "net.tgz", {} if text is None else {MANIFEST: text})
    if text == b"{}":
        assert read_tfjs(tmp_path / "net.tgz", MANIFEST) == {}
        return
    with pytest.raises(WeightsError, match="fetch or copy it again") as error:
        read_tfjs(tmp_path / "net.tgz", MANIFEST)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cut", [1, 20, 0.5, 0.8])
def test_an_archive_that_is_cut_off_or_none(cut, tmp_path):
    write_model(tmp_path / "net.tgz", ARRAYS, STORED.get)
    whole = (tmp_path / "net.tgz").read_bytes()
    (tmp_path / "net.tgz").write_bytes(whole[: cut if cut >= 1 else int(cut * len(whole))])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        read_tfjs(tmp_path / "net.tgz", MANIFEST)
    with pytest.raises(WeightsError, match=r"missing\.tgz"):
        read_tfjs(tmp_path / "missing.tgz", MANIFEST)
