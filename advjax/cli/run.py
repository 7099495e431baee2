"""The command `advjax run`."""

import dataclasses
import importlib.util
import re
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from advjax.choices import Pairing, Precision
from advjax.cli.options import AttackOptions
from advjax.cli.parser import Command
from advjax.cli.run_status import Verify
from advjax.errors import AdvjaxError
from advjax.networks.options import NetworkOptions

REASONS = 5  # of failures that are shown


@dataclasses.dataclass(frozen=True)
class Run(Command):
    """Attack any number of pairs; the same command again goes on where it stopped.

    PAIRS is a .csv, .tsv or .parquet file with the columns source and guide, and optionally id,
    label, layer and delta (empty: the options below). Or it is a folder of images, or
    tfds:NAME:SPLIT, to be paired with --guides, or, without, with the images of other classes.

    'advjax run status DIR' says how far a run is, 'advjax run verify DIR' whether its files are
    whole. The exit status is 0, 1 when some pairs could not be attacked, 2 when the run cannot go
    on, 130 when it was interrupted.

    Attributes:
        pairs: The list of pairs, or the sources.
        guides: A folder of guides, or tfds:NAME:SPLIT.
        pairing: The pairs to make: all sources with all guides, 20 random sources with 3,000 guides
            as in the paper, or random pairs.
        count: The number of random pairs.
        target_ratio: A pair is done when its distance is this fraction of the initial one.
        until_label: A pair is done when it takes the guide's label.
        until_distance: A pair is done when its distance is this or less.
        until_cosine: A pair is done when its cosine to the guide is this or more.
        precision: The precision of matrix products; highest is float32.
        batch_size: The number of pairs attacked at once, over all devices of a process; no more
            than there are.
        out: The run's directory.
        trace: Keep the distance at each evaluation.
        keep_float32: Keep the adversarial before rounding, too.
        shard_size: The number of pairs in a file.
        save_every: Seconds between two savings of files that are not full yet.
        retry_failed: Do the pairs that failed again.
        dry_run: Say how many pairs, bytes and hours it would be, from a short measurement.
        verify: Check the files of the run in PAIRS, as 'advjax run verify' does.
        quiet: Print nothing but errors, and show no progress.
        share: I/N: be the I-th (from 0) of N processes that work on the same run, as in an array of
            jobs.
        distributed: Join JAX's multi-process runtime, and take this process's share; started on
            each machine.
        coordinator: The HOST:PORT of process 0, where JAX's runtime does not find it by itself.
        processes: The number of processes, where JAX's runtime does not find it by itself.
        process: The number of this process, where JAX's runtime does not find it by itself.
        ray: The address of a Ray cluster ('auto'), or 'local'.
        ray_workers: The number of Ray actors; one for each GPU of the cluster when not given, or
            else for each CPU.
    """

    arguments: ClassVar = {"pairs": "PAIRS"}
    groups: ClassVar = {
        "pairs": ("guides", "pairing", "count"),
        "network": (),
        "attack": (),
        "engine": (
            *("target_ratio", "until_label", "until_distance", "until_cosine"),
            *("precision", "batch_size"),
        ),
        "output": (
            *("out", "trace", "keep_float32", "shard_size", "save_every", "retry_failed"),
            *("dry_run", "verify", "quiet"),
        ),
        "cluster": (
            *("share", "distributed", "coordinator", "processes", "process", "ray"),
            "ray_workers",
        ),
    }
    examples: ClassVar = (
        "advjax run photographs --pairing random --count 20 --max-evaluations 150 --out run",
        "advjax run pairs.csv --network caffenet --layer fc7 --batch-size 64 --out run",
    )
    pairs: tuple[str, ...]
    guides: str | None = None
    pairing: Pairing = "all"
    count: int | None = None
    network: NetworkOptions = NetworkOptions()
    attack: AttackOptions = AttackOptions()
    target_ratio: float | None = None
    until_label: bool = False
    until_distance: float | None = None
    until_cosine: float | None = None
    precision: Precision = "highest"
    batch_size: int = 32
    out: Path | None = None
    trace: bool = False
    keep_float32: bool = False
    shard_size: int = 256
    save_every: float = 60.0
    retry_failed: bool = False
    dry_run: bool = False
    verify: bool = False
    quiet: bool = False
    share: str | None = None
    distributed: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    ray: str | None = None
    ray_workers: int | None = None

    def run(self) -> int:
        """Run the command and return the exit status."""
        words = list(self.pairs)
        if self.verify:
            return Verify(Path(words[-1])).run()
        if len(words) != 1:
            raise AdvjaxError(
                f"pairs is {' '.join(words)!r}; give one list or folder, 'status DIR' or "
                "'verify DIR'"
            )
        return self._attack(words[0])

    def _attack(self, words: str) -> int:
        from advjax.runs.dry_run import describe, dry_run
        from advjax.runs.pair_list import make_pair_list

        if self.out is None and not self.dry_run:
            raise AdvjaxError("out is not given; name the run's directory with --out")
        share = self._share()  # before JAX is used
        seed = self.attack.seed
        pairs = make_pair_list(
            words, self.guides, pairing=self.pairing, count=self.count, seed=seed
        )
        self._check(pairs)
        job = self._job(self.network.load(seed))
        if self.dry_run:
            print(describe(dry_run(job, pairs), job))
            return 0
        assert self.out is not None
        begin = time.monotonic()
        outcome = self._run(job, pairs, self.out, share)
        return _print_outcome(outcome, self.out, time.monotonic() - begin, self.quiet)

    def _share(self) -> tuple[int, int] | None:
        """Return this process's number and how many work on the run; None: this one alone."""
        if self.share is not None:
            index, _, count = self.share.partition("/")
            if not (index.isdecimal() and count.isdecimal()):
                raise AdvjaxError(f"share is {self.share!r}; give I/N, such as 0/4")
            if int(index) >= int(count):
                raise AdvjaxError(
                    f"share is {self.share!r}; give 0/{count} to {int(count) - 1}/{count}"
                )
            return int(index), int(count)
        if self.distributed:
            from advjax.runs.cluster import join_processes

            return join_processes(self.coordinator, self.processes, self.process)
        return None

    def _run(self, job: Any, pairs: Any, out: Path, share: tuple[int, int] | None) -> Any:
        from advjax.runs.driver import run, run_share

        options: Any = {"retry_failed": self.retry_failed, "save_every": self.save_every}
        options["named"] = {"pairs": self.pairs[0], "guides": self.guides} | self.network.files()
        if self.quiet:
            options["progress"] = False
        if self.ray is not None:
            from advjax.runs.cluster import run_on_ray

            options |= {"address": self.ray, "workers": self.ray_workers}
            return run_on_ray(job, pairs, out, **options)
        if share is not None:
            return run_share(job, pairs, out, *share, **options)
        return run(job, pairs, out, **options)

    def _check(self, pairs: Any) -> None:
        """Raise all that can be said before the network's weights are loaded."""
        from advjax.files import check_writable
        from advjax.runs.directory import check_place
        from advjax.runs.lock import busy, is_locked

        if self.ray is not None and importlib.util.find_spec("ray") is None:
            raise AdvjaxError("Ray is not installed: run pip install 'advjax[ray]'")
        job = self._job(self.network.outline())
        for layer in [None, *pairs.table["layer"].unique().drop_null().to_pylist()]:
            job.check(layer)
        if self.out is not None and not self.dry_run:
            check_writable(self.out)
            check_place(self.out, job.settings(pairs), pairs)
            if self.share is None and not self.distributed and is_locked(self.out):
                raise busy(self.out)

    def _job(self, net: Any) -> Any:
        from advjax.attacks.until import Until
        from advjax.runs.pipeline import Job

        until = Until(self.until_distance, cosine=self.until_cosine)
        return Job(
            net=net,
            **self.attack.settings(),
            batch_size=self.batch_size,
            until=until if until.names else None,
            target_ratio=self.target_ratio,
            until_label=self.until_label,
            precision=self.precision,
            trace=self.trace,
            keep_float32=self.keep_float32,
            shard_size=self.shard_size,
        )


def _print_outcome(outcome: Any, out: Path, seconds: float, quiet: bool) -> int:
    from advjax.runs.progress import duration

    if outcome.failed and not quiet:
        _print_failures(out)
    some = f"; {outcome.failed:,} failed, see the column 'error'" if outcome.failed else ""
    if not outcome.whole:
        print(
            f"advjax: stopped with {outcome.done:,} of {outcome.pairs:,} pairs done{some}; the "
            "same command goes on",
            file=sys.stderr,
        )
        return 130
    if quiet:
        return 1 if outcome.failed else 0
    if not outcome.new:
        print(f"finished already: {outcome.pairs:,} pairs in {out}{some}")
    else:
        print(
            f"{outcome.pairs:,} pairs in {out}, {outcome.new:,} of them now, in "
            f"{duration(seconds)} ({outcome.new / seconds:.3g} pairs/s){some}"
        )
    print(f"'advjax report {out}' makes a page of it")
    return 1 if outcome.failed else 0


def _print_failures(out: Path) -> None:
    """Say why pairs failed: each kind of reason once, with its number and an example."""
    from advjax.runs import open_run

    errors = open_run(out).table(["error"])["error"].drop_null().to_pylist()
    kinds: dict[str, list[str]] = {}
    for error in errors:  # the same reason of another file is the same kind
        kinds.setdefault(re.sub(r"'.*?'|\d+", "", error), []).append(error)
    for alike in sorted(kinds.values(), key=len, reverse=True)[:REASONS]:
        print(f"advjax: {len(alike):,} failed: {alike[0]}", file=sys.stderr)
    if len(kinds) > REASONS:
        print(f"advjax: and {len(kinds) - REASONS:,} other reasons", file=sys.stderr)
