"""Damages weights files at random and reads them: python fuzz_weights.py COUNT SEED FILE...

Each damaged file must give a one-line WeightsError or a right load, within 20 seconds and 1 GiB of
memory beyond what the program has at its start. A .caffemodel that still loads must hold the
numbers that `wire_layers` below, a decoder written independently of the package, finds in it; a
safetensors file of advjax that still loads must be equal to the original. Prints one line of JSON.
"""

import contextlib
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from advjax.checkpoints import WeightsMetadata, load_weights, read_caffemodel, sniff
from advjax.errors import WeightsError

SECONDS, MEMORY = 20, 2**30


def fields(message: bytes) -> Iterator[tuple[int, int, bytes | int, int]]:
    """(number, wire type, value, position of the value) of each field of a protobuf message."""
    position, groups = 0, []

    def varint() -> int:
        nonlocal position
        value = 0
        for shift in range(0, 70, 7):
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & (2**64 - 1)
        raise ValueError("varint")

    while position < len(message):
        number, wire = divmod(varint(), 8)
        start = position
        value: bytes | int = 0
        if wire == 0:
            value = varint()
        elif wire in (1, 2, 5):
            size = {1: 8, 5: 4}.get(wire) or varint()
            start, position = position, position + size
            value = message[start:position]
            if position > len(message):
                raise ValueError("truncated")
        elif wire == 3:
            groups.append(number)
        elif wire == 4 and groups and groups[-1] == number:
            groups.pop()
            continue
        else:
            raise ValueError("wire type")
        if not groups:
            yield number, wire, value, start
    if groups:
        raise ValueError("open group")


def wire_layers(message: bytes) -> list[tuple[bytes, list[bytes]]]:
    """The name of each layer and the float32 bytes of each of its blobs, straight off the wire."""
    layers = []
    for number, wire, layer, _ in fields(message):
        if wire != 2 or number not in (2, 100):
            continue
        name, blobs = b"", []
        for inner, inner_wire, value, _ in fields(layer):
            if (inner, inner_wire) == (4 if number == 2 else 1, 2):
                name = value
            elif (inner, inner_wire) == (6 if number == 2 else 7, 2):
                data, raw = {5: b"", 8: b""}, {10: 0, 12: b""}
                for field, kind, numbers, _ in fields(value):
                    if (field, kind) in ((10, 0), (12, 2)):
                        raw[field] = numbers
                    if field in data and kind in (2, 5 if field == 5 else 1):
                        data[field] += numbers
                if data[8]:
                    data[5] = np.frombuffer(data[8], "<f8").astype("<f4").tobytes()
                if raw[12] and not data[5]:
                    kind = {0: "<f8", 1: "<f4", 2: "<f2"}[raw[10] & (2**32 - 1)]
                    data[5] = np.frombuffer(raw[12], kind).astype("<f4").tobytes()
                blobs.append(data[5])
        layers.append((name, blobs))
    return layers


def structure(raw: bytes, kind: str) -> list[int]:
    """The positions of bytes that are not numbers: where damage is most telling."""
    if kind == "safetensors":
        return list(range(8 + struct.unpack("<Q", raw[:8])[0]))
    payload = np.zeros(len(raw), bool)
    for number, _, layer, at in fields(raw):
        for inner, _, blob, inside in fields(layer) if number in (2, 100) else ():
            for field, _, value, start in fields(blob) if inner == {2: 6, 100: 7}[number] else ():
                if field == 5:
                    begin = at + inside + start
                    payload[begin : begin + len(value)] = True
    return np.flatnonzero(~payload).tolist()


def mutate(raw: bytes, places: list[int], random: random.Random) -> bytes:
    """One to four kinds of damage, most of it among the bytes that are not numbers."""
    damaged = bytearray(raw)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if not damaged:
            break
        at = random.choice(places) if random.random() < 0.7 else random.randrange(len(damaged))
        at = min(at, len(damaged) - 1)
        length = random.randint(1, 16)
        match random.randrange(7):
            case 0 | 1:  # a bit
                damaged[at] ^= 1 << random.randrange(8)
            case 2:  # the end is missing
                del damaged[at:]
            case 3:
                damaged[at:at] = random.randbytes(length)
            case 4:
                del damaged[at : at + length]
            case 5:  # a length or a shape: some varint, or some digits
                number = random.getrandbits(random.choice((3, 7, 14, 32, 63)))
                varint = bytes(number >> 7 * i & 127 | 128 for i in range(number.bit_length() // 7))
                text = str(number).encode()
                damaged[at : at + 1] = random.choice((varint + bytes([number % 128]), text))
            case 6:  # a piece of it once more
                start = random.randrange(len(damaged))
                damaged[at : at + length] = damaged[start : start + random.randint(1, 256)]
    return bytes(damaged)


def check(path: Path, raw: bytes, original: Path, kind: str) -> None:
    """Reads the damaged file; AssertionError when what comes back is not right."""
    if kind == "safetensors":
        tensors, metadata = load_weights(path)
        expected, expected_metadata = load_weights(original)
        if expected_metadata == WeightsMetadata():  # another program's: nothing vouches for it
            header = struct.unpack("<Q", raw[:8])[0]
            for name, row in json.loads(raw[8 : 8 + header]).items():
                if name != "__metadata__":
                    begin, end = (8 + header + offset for offset in row["data_offsets"])
                    assert tensors.pop(name).tobytes() == raw[begin:end]
            assert not tensors
            return
        assert metadata == expected_metadata
        assert tensors.keys() == expected.keys()
        assert all(np.array_equal(tensors[name], expected[name]) for name in expected)
        return
    found = [
        (layer.name.encode(), [blob.tobytes() for blob in layer.blobs])
        for layer in read_caffemodel(path).layers
    ]
    assert found == wire_layers(raw)


def main() -> int:
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    originals = [Path(name) for name in sys.argv[3:]]
    kinds = [sniff(original) for original in originals]
    raws = [original.read_bytes() for original in originals]
    places = [structure(raw, kind) for raw, kind in zip(raws, kinds, strict=True)]
    for original, raw, kind in zip(originals, raws, kinds, strict=True):
        check(original, raw, original, kind)
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    generator = random.Random(seed)
    messages, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged"
        for index in range(count):
            which = generator.randrange(len(originals))
            damaged = mutate(raws[which], places[which], generator)
            path.write_bytes(damaged)
            signal.alarm(SECONDS)
            begin = time.perf_counter()
            try:
                check(path, damaged, originals[which], kinds[which])
            except WeightsError as error:
                messages.append(str(error))
            except BaseException:
                kept = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{index}-{originals[which].name}"
                kept.write_bytes(damaged)
                print(f"kept in {kept}", file=sys.stderr)
                raise
            signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - begin)
    assert not [message for message in messages if "\n" in message or len(message) > 1000]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"count": count, "refused": len(messages), "slowest_s": round(slowest, 3)}
    print(json.dumps({**figures, "peak_rss_mib": round(peak)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
