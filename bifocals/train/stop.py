"""SIGTERM and SIGINT: finish the step, save, leave with exit code 75."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from bifocals.structures import world_size

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: stopped on request, `--run.resume auto` goes on. torchrun, which is signaled first, waits
for its processes to save and then ends with a code of its own."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """The run was asked to stop and has saved a checkpoint. Uncaught, the process ends with exit code 75."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class StopSignal:
    """Notes SIGTERM and SIGINT and lets all ranks stop after the same step. A second signal ends the process at once.

    Python delivers signals to the main thread alone; elsewhere this listens to nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self.control: dist.ProcessGroup | None = None
        """A gloo group beside nccl: what ranks tell each other through it never waits for the device."""
        self._before: dict[signal.Signals, Any] = {}
        self._flag = torch.zeros(1, dtype=torch.int64)
        self._work: Any = None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        if world_size() > 1:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)
            self.control = group
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Processes started inside never get the signals: a loader's workers go on when the whole group is signaled.

        They end with their parent. Without this torch would raise for a dead worker in the middle of the last step.
        """
        if not hasattr(signal, "pthread_sigmask"):
            yield
            return
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def ask(self) -> None:
        """Starts to ask all ranks whether to stop after this step; the answer travels while the step is computed."""
        if self.control is not None:
            self._flag.fill_(int(self.requested))
            self._work = dist.all_reduce(self._flag, op=dist.ReduceOp.MAX, group=self.control, async_op=True)

    def agreed(self) -> bool:
        """Whether to stop after this step, equal on all ranks."""
        if self.control is None:
            return self.requested
        self._work.wait()
        return bool(self._flag.item())
