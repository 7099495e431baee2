"""An attack from files to files: images in, a folder with adversarial, figures and a sheet out."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from advjax import engine, files
from advjax.attacks.base import Attack
from advjax.errors import AdvjaxError
from advjax.networks.network import Network
from advjax.results import write_pair
from advjax.transforms import Transforms

MAX_EVALUATIONS = 1_000_000  # for each of which a distance is kept


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
    attack: str | Attack = "feature-opt",
    layer: str | None = None,
    delta: float = 10.0,
    solver: Any = None,
    smoothing: Any = "auto",
    transforms: Transforms | None = None,
    start: Literal["source", "random"] = "source",
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Attack one pair of image files and write the result.

    Writes into `out`: adversarial.png (lossless), adversarial.safetensors (float32), result.json
    (every figure, setting and version) and sheet.png (the picture for a slide).

    Args:
        net: The network; it must have `preprocessing`. Whatever its bounds, `delta` is in levels of
            255, and so is what is written.
        source: The image file to change.
        guide: The image file whose representation to take.
        out: A folder, made when missing.
        attack: A name, or an attack with settings of its own (see `advjax.attack_stream`).
        layer: The layer to match, by attacks on labels only measured; the network's default layer
            when None.
        delta: Half-width of the box in levels of 255; label-opt has none.
        solver: The attack's own when None (see `advjax.attack_stream`); the fast gradients take
            none.
        smoothing: Of the gradient's kinks (see `advjax.attack_stream`).
        transforms: Drawn at each evaluation (see `advjax.attack_stream`).
        start: "source" or "random" (see `advjax.attack_stream`).
        seed: For a random start.
        settings: What else result.json should say of the settings (weights, ...).
        progress: Show a bar; None: on a terminal.

    Returns:
        What result.json holds.

    Raises:
        AdvjaxError: A file that cannot be read or written, or an argument that cannot be used.
    """
    out, net = Path(out), net.in_levels
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
        transforms=transforms,
        start=start,
        seed=seed,
    )
    resolved, solver = engine.resolve(net, attack, layer, None, solver)
    smoothing = engine.choose_smoothing(resolved, solver, smoothing)
    layer = "+".join(resolved.layers)
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
        transforms=transforms,
        trace=True,
        start=start,
        seed=seed,
        progress=progress,
    )
    seconds = time.perf_counter() - begin
    distances = result.initial_distance[0], result.distance[0]
    if not np.isfinite(distances).all():
        raise AdvjaxError(
            f"layer {layer!r} of {net.name} overflows on these images (distance "
            f"{distances[0]:g}); give other weights or another layer"
        )
    labels = None
    if net.output is not None:
        shown = np.stack([images[0], images[1], result.adversarial_uint8[0]])
        of_source, of_guide, of_adversarial = net.top(shown)
        labels = of_source, of_guide, of_adversarial
    record = result.record(0)
    record["figures"]["seconds"] = round(seconds, 3)
    record["labels"] = labels and dict(zip(("source", "guide", "adversarial"), labels, strict=True))
    record["settings"] |= inputs | (settings or {})
    sheet = result.sheet(0, labels, (_shown(source), _shown(guide)))
    write_pair(out, result, 0, record, sheet)
    return record


def _shown(path: str | os.PathLike[str]) -> str:
    """Return the file's name as text that can be drawn; not every name on a disk can be."""
    return os.fsencode(Path(path).stem).decode(errors="replace")


def _file(path: str | os.PathLike[str]) -> dict[str, str]:
    content = Path(path).read_bytes()
    return {"name": Path(path).name, "sha256": hashlib.sha256(content).hexdigest()}
