"""An attack from files to files: images in, a folder with adversarial, figures and a sheet out."""

import dataclasses
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from advjax import engine, files
from advjax.data.images import write_png
from advjax.display import descent, versions
from advjax.engine import AttackResult
from advjax.errors import AdvjaxError
from advjax.networks.network import Network
from advjax.sheet import Labels, Sheet, draw_sheet
from advjax.solvers import Status

MAX_EVALUATIONS = 1_000_000  # for each of which a distance is kept
PACKAGES = ("advjax", "jax", "jaxlib", "flax", "numpy")


def check(
    net: Network,
    source: str | os.PathLike[str],
    guide: str | os.PathLike[str],
    out: str | os.PathLike[str],
    **settings: Any,
) -> UInt8[np.ndarray, "2 h w c"]:
    """Raise, before any work, what `attack_files` would say of its arguments.

    Args:
        net: The network, or its outline (`advjax.networks.zoo.outline`).
        source: See `attack_files`.
        guide: See `attack_files`.
        out: See `attack_files`.
        **settings: Those of the attack and its solver.

    Returns:
        The two images.

    Raises:
        AdvjaxError: As in `attack_files`.
    """
    engine.attack_stream(net, (), **settings)
    given = {name: settings[name] for name in ("attack", "layer", "solver")}
    _, solver = engine.resolve(net, given["attack"], given["layer"], None, given["solver"])
    if solver.max_evaluations > MAX_EVALUATIONS:
        raise AdvjaxError(
            f"max_evaluations is {solver.max_evaluations}; give at most {MAX_EVALUATIONS}"
        )
    images = np.stack([net.read(source), net.read(guide)])
    files.check_writable(Path(out))
    return images


def attack_files(
    net: Network,
    source: str | os.PathLike[str],
    guide: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    attack: str = "feature-opt",
    layer: str | None = None,
    delta: float = 10.0,
    solver: Any = None,
    smoothing: Any = "auto",
    start: str = "source",
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Attack one pair of image files and write the result.

    Writes into `out`: adversarial.png (lossless), adversarial.safetensors (float32), result.json
    (every figure, setting and version) and sheet.png (the picture for a slide).

    Args:
        net: The network; it must have `preprocessing`.
        source: The image file to change.
        guide: The image file whose representation to take.
        out: A folder, made when missing.
        attack: "feature-opt", "feature-linear", "feature-fgrad", "label-opt" or "label-fgrad".
        layer: The layer to match, by attacks on labels only measured; the network's default layer
            when None.
        delta: Half-width of the box in levels of 255; label-opt has none.
        solver: The attack's own when None (see `advjax.attack_stream`); the fast gradients take
            none.
        smoothing: Of the gradient's kinks (see `advjax.attack_stream`).
        start: "source" or "random" (see `advjax.attack_stream`).
        seed: For a random start.
        settings: What else result.json should say of the settings (weights, ...).
        progress: Show a bar; None: on a terminal.

    Returns:
        What result.json holds.

    Raises:
        AdvjaxError: A file that cannot be read or written, or an argument that cannot be used.
    """
    out = Path(out)
    images = check(
        net,
        source,
        guide,
        out,
        attack=attack,
        layer=layer,
        delta=delta,
        solver=solver,
        smoothing=smoothing,
        start=start,
        seed=seed,
    )
    resolved, solver = engine.resolve(net, attack, layer, None, solver)
    smoothing = engine.choose_smoothing(resolved, solver, smoothing)
    (layer,) = resolved.layers
    name = resolved.name
    inputs = {"source": _file(source), "guide": _file(guide)}
    begin = time.perf_counter()
    result = engine.attack(
        net,
        images[0],
        images[1],
        attack=resolved,
        delta=delta,
        solver=solver,
        smoothing=smoothing,
        trace=True,
        start=start,
        seed=seed,
        progress=progress,
    )
    seconds = time.perf_counter() - begin
    trace = (
        None if result.trace is None else descent(result.trace[0], name, squared=resolved.squared)
    )
    distances = result.initial_distance[0], result.distance[0]
    if not np.isfinite(distances).all():
        raise AdvjaxError(
            f"layer {layer!r} of {net.name} overflows on these images (distance "
            f"{distances[0]:g}); give other weights or another layer"
        )
    labels = _labels(net, np.stack([images[0], images[1], result.adversarial_uint8[0]]))
    bound = None if name == "label-opt" else float(delta)
    record = {
        "figures": figures(result, seconds, trace and trace.values),
        "labels": labels and dict(zip(("source", "guide", "adversarial"), labels, strict=True)),
        "settings": inputs
        | {
            "attack": name,
            "network": net.name,
            "layer": layer,
            "delta": bound,
            "solver": {"name": type(solver).__name__} | dataclasses.asdict(solver),
            "smoothing": smoothing and dataclasses.asdict(smoothing),
            "start": start,
            "seed": seed,
        }
        | (settings or {}),
        "versions": versions(PACKAGES),
    }
    text = json.dumps(record, indent=2, default=str) + "\n"
    from safetensors.numpy import save

    sheet = Sheet(
        source=images[0],
        guide=images[1],
        adversarial=result.adversarial_uint8[0],
        delta=bound,
        initial_distance=float(result.initial_distance[0]),
        distance=float(result.distance[0]),
        network=net.name,
        layer=layer,
        labels=labels,
        # One step is no descent, and the objectives of label-opt's many c are not to be compared.
        trace=trace.values if trace and resolved.attempts == 1 and not resolved.one_step else None,
        trace_title=trace.name.capitalize() if trace and trace.name != "distance" else None,
        names=(_shown(source), _shown(guide)),
        attack=name,
        verdict=_verdict(record["figures"]) if resolved.to_label else "",
    )
    # Last: a folder with a result.json is whole. One of an earlier run must not speak for this one.
    _remove(out / "result.json")
    write_png(out / "adversarial.png", result.adversarial_uint8[0])
    pixels = {"adversarial": np.ascontiguousarray(result.adversarial[0])}
    files.write_bytes(out / "adversarial.safetensors", save(pixels))
    draw_sheet(out / "sheet.png", sheet)
    files.write_text(out / "result.json", text)
    return record


def figures(
    result: AttackResult, seconds: float, trace: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the figures of the first pair as plain numbers for JSON; None for NaN and infinity."""
    status = Status(int(result.status[0]))
    initial = float(result.initial_distance[0])
    numbers = {
        "ratio": float(result.ratio[0]),
        "ratio_uint8": float(result.distance_uint8[0]) / initial if initial else 0.0,
        "distance": float(result.distance[0]),
        "distance_uint8": float(result.distance_uint8[0]),
        "initial_distance": initial,
        "objective": float("nan") if result.objective is None else float(result.objective[0]),
        "seconds": round(seconds, 3),
        "trace": [] if trace is None else [float(d) for d in trace],
    }
    finite = {
        name: [v if np.isfinite(v) else None for v in value]
        if isinstance(value, list)
        else (value if np.isfinite(value) else None)
        for name, value in numbers.items()
    }

    def taken(label: Any) -> bool | None:
        wanted = result.guide_label
        return None if label is None or wanted is None else bool(label[0] == wanted[0])

    ended = {
        "takes_label": taken(result.label),
        "takes_label_uint8": taken(result.label_uint8),
        "evaluations": int(result.evaluations[0]),
        "status": status.name,
        "status_text": status.text,
    }
    return ended | finite


def _verdict(figures: dict[str, Any]) -> str:
    if figures["takes_label_uint8"]:
        return "Takes the guide's label"
    if figures["takes_label"]:
        return "Takes the guide's label, but not when rounded to 8 bits"
    return "Does not take the guide's label"


def _labels(net: Network, images: np.ndarray) -> tuple[Labels, Labels, Labels] | None:
    if net.output is None:
        return None
    probabilities = np.asarray(net(images, net.output)[net.output])

    def top(row):
        best = np.argsort(-row)[:3]
        return [(net.classes[i] if net.classes else f"class {i}", float(row[i])) for i in best]

    source, guide, adversarial = map(top, probabilities)
    return source, guide, adversarial


def _shown(path: str | os.PathLike[str]) -> str:
    """Return the file's name as text that can be drawn; not every name on a disk can be."""
    return os.fsencode(Path(path).stem).decode(errors="replace")


def _file(path: str | os.PathLike[str]) -> dict[str, str]:
    content = Path(path).read_bytes()
    return {"name": Path(path).name, "sha256": hashlib.sha256(content).hexdigest()}


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise AdvjaxError(
            f"out {str(path.parent)!r}: {path.name} of an earlier run cannot be removed "
            f"({error.strerror}); choose another folder"
        ) from error
