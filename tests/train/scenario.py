"""Runs in processes of their own, so that they can be killed, signaled and joined.

A fork server that has everything imported starts each in a tenth of a second; a new interpreter needs four.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import bifocals.recipes  # noqa: F401  (imported once, in the server)
from bifocals.data import Data
from bifocals.structures import rank
from bifocals.train import Provenance, Run, State, find_recipe, fit
from bifocals.train.checkpoint import list_checkpoints, read_checkpoint
from bifocals.train.validation import Validation
from bifocals.train.weights import from_bytes, read_best

ROOT = Path(__file__).parents[2]
STAND_IN = str(Path(__file__).with_name("stand_in.py"))

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Job:
    """A call of `fit` in a process of its own, and what befalls it."""

    arguments: Mapping[str, Any]
    run: Run
    recipe: str = f"{STAND_IN}:tiny"
    at_step: int = -1
    """The first step after which it befalls."""
    event: str = "nothing"
    """kill: SIGKILL after `delay` seconds, with all its children; kill_alone: without them; kill_write: with them, in
    fsync number `fsync` after the step; term, int: the signal to itself; term_group: to its children too;
    lose_evaluation: the same, and its next evaluation fails as one whose workers have ended."""
    delay: float = 0.0
    fsync: int = 0
    ranks: int = 1
    signaled: tuple[int, ...] = (0, 1)
    """Ranks that it befalls."""
    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


def start(job: Job, output: Path, of_rank: int = 0, port: int = 0) -> BaseProcess:
    """Starts a job; what it prints goes to the file `output`."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    if job.ranks > 1:
        job = replace(job, environment={
            "RANK": str(of_rank), "LOCAL_RANK": str(of_rank), "WORLD_SIZE": str(job.ranks), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), **job.environment})
    process = CONTEXT.Process(target=_run, args=(job, str(output)))
    process.start()
    return process


def finish(job: Job, output: Path, seconds: float = 120) -> int:
    """Starts a job on all its ranks and waits for it; the exit code of rank 0, negative for a signal."""
    port = free_port()
    processes = [start(job, output.with_suffix(f".{r}.txt") if r else output, r, port) for r in range(job.ranks)]
    try:
        for process in processes:
            process.join(seconds)
            assert process.exitcode is not None, f"still running after {seconds} s: {output.read_text()}"
    finally:
        for process in processes:
            kill_group(process)
    code = processes[0].exitcode
    assert code is not None
    return code


def kill_group(process: BaseProcess) -> None:
    """Ends a job and its loader's workers; torch leaves one behind whose parent is killed while it starts."""
    assert process.pid is not None
    with suppress(ProcessLookupError):  # all have ended, or the group is not made yet
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run(job: Job, output: str) -> None:
    os.setpgid(0, 0)  # a group of its own, to be killed as one
    # A child of the server would start its loader's workers through one more server, seconds each.
    multiprocessing.set_start_method("fork", force=True)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
    os.environ.update(job.environment)
    torch.set_num_threads(job.threads)
    provenance = Provenance(job.recipe, job.arguments, ("test",))
    experiment = find_recipe(job.recipe)(**job.arguments)
    fit(experiment, job.run, provenance, on_step=befall(job))


def befall(job: Job) -> Callable[[State], None]:
    pending = True

    def on_step(state: State) -> None:
        nonlocal pending
        # Not "==": killed a little late, the session before may have got further than this step.
        if pending and 0 <= job.at_step <= state.step and rank() in job.signaled:
            pending = False
            strike(job)
        if state.step == state.total and job.event in ("kill", "kill_alone"):
            time.sleep(10)  # the run does not end before it is killed

    return on_step


def strike(job: Job) -> None:
    match job.event:
        case "kill":
            threading.Thread(target=_kill_after, args=(job.delay, True), daemon=True).start()
        case "kill_alone":
            threading.Thread(target=_kill_after, args=(job.delay, False), daemon=True).start()
        case "kill_write":
            kill_at_fsync(job.fsync)
        case "lose_evaluation":
            Validation.__call__ = _lost  # type: ignore[method-assign]
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
        case "int":
            os.kill(os.getpid(), signal.SIGINT)
        case "term_group":
            # From outside: a loader's worker ends in silence when its own parent sends the signal.
            subprocess.run(["kill", "-TERM", "--", f"-{os.getpid()}"], check=True, start_new_session=True)


def _lost(self: Validation, workdir: Path) -> Any:
    os.kill(os.getpid(), signal.SIGTERM)
    raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")


def _kill_after(delay: float, children: bool) -> None:
    time.sleep(delay)
    (os.killpg if children else os.kill)(os.getpid(), signal.SIGKILL)


def kill_at_fsync(number: int) -> None:
    """From now on, the process dies inside of fsync number `number`: before the bytes are safe."""
    real, calls = os.fsync, iter(range(1, 10_000))

    def fsync(descriptor: int) -> None:
        if next(calls) == number:
            os.killpg(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync


def draw_set(root: Path, train: int, val: int = 0, size: int = 64, empty: tuple[int, ...] = ()) -> Data:
    """A COCO set of square pictures with one to three bright rectangles of two classes; `empty` ones have none."""
    generator = np.random.default_rng(7)
    for split, count in (("train", train), ("val", val)):
        if not count:
            continue
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        images, objects = [], []
        for i in range(count):
            picture = generator.integers(0, 90, (size, size, 3), dtype=np.uint8)
            for _ in range(0 if split == "train" and i in empty else int(generator.integers(1, 4))):
                width, height = generator.integers(12, size // 2, 2).tolist()
                x, y = int(generator.integers(0, size - width)), int(generator.integers(0, size - height))
                label = int(generator.integers(0, 2))
                picture[y : y + height, x : x + width, label] = 255
                objects.append({"id": len(objects) + 1, "image_id": i + 1, "category_id": label + 1, "iscrowd": 0,
                                "bbox": [x, y, width, height], "area": width * height})
            Image.fromarray(picture).save(root / split / f"{i}.png")
            images.append({"id": i + 1, "file_name": f"{i}.png", "width": size, "height": size})
        record = {"images": images, "annotations": objects,
                  "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(record))
    return Data(root=str(root))


def last_tensors(workdir: Path) -> dict[str, Tensor]:
    """Every tensor of the last checkpoint: model, average, optimizer, objective, random states."""
    files = read_checkpoint(list_checkpoints(workdir)[-1][1]).files
    return {f"{name}:{key}": tensor for name in sorted(files) if name.endswith(".safetensors")
            for key, tensor in from_bytes(files[name]).items()}


def last_record(workdir: Path) -> dict[str, Any]:
    """state.json of the last checkpoint, without the time it took."""
    record = json.loads(read_checkpoint(list_checkpoints(workdir)[-1][1]).files["state.json"])
    return {name: value for name, value in record.items() if not name.startswith("seconds")}


def assert_equal_runs(one: Path, other: Path) -> None:
    """Both runs ended with the same bits: tensors, counts, best and history."""
    assert list_checkpoints(one)[-1][0] == list_checkpoints(other)[-1][0]
    first, second = last_tensors(one), last_tensors(other)
    assert first.keys() == second.keys()
    different = [name for name, tensor in first.items()
                 if tensor.dtype != second[name].dtype or not same_bits(tensor, second[name])]
    assert different == []
    assert last_record(one) == last_record(other)
    assert (one / "best").exists() == (other / "best").exists()
    if (one / "best").exists():
        (weights, facts), (others, other_facts) = read_best(one), read_best(other)
        assert facts == other_facts
        assert [name for name, tensor in weights.items() if not same_bits(tensor, others[name])] == []


def same_bits(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(
        one.contiguous().reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8))
