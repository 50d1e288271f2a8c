"""How far the building of an engine is, told as it goes: some take minutes and say nothing by themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Watch", "monitor"]

Watch = Callable[[str, int, int], None]
"""(what, done, of): as the bars of the command line take it."""


class Phases:
    """Nested phases of a build as one share in [0, 1], which never falls.

    A phase has a number of steps; a phase inside another is a part of the other's present step.
    """

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.parent: dict[str, str | None] = {}
        self.order: list[str] = []
        self.share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self.steps[name], self.done[name], self.parent[name] = max(steps, 1), 0, parent
        self.order.append(name)

    def step(self, name: str, number: int) -> float:
        self.done[name] = min(number + 1, self.steps[name])
        return self._raised()

    def finish(self, name: str) -> float:
        self.order.remove(name)
        above = self.parent.pop(name)
        del self.steps[name], self.done[name]
        return 1.0 if above is None and not self.order else self._raised()

    def _raised(self) -> float:
        inside = 0.0
        for name in reversed(self.order):
            inside = min((self.done[name] + min(inside, 0.99)) / self.steps[name], 1.0)
        self.share = max(self.share, inside)
        return self.share


def monitor(trt: Any, what: str, watch: Watch | None) -> Any:
    """TensorRT's progress monitor that tells whole per cents to `watch`.

    What `watch` raises, such as the interruption by the user, stops the build and is kept as `stopped`, for the caller
    to raise: an exception must not pass through the builder's own frames.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.phases, self.told = Phases(), 0
            self.stopped: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return self._tell(self.phases.step(phase_name, step))

        def phase_finish(self, phase_name: str) -> None:
            self._tell(self.phases.finish(phase_name))

        def _tell(self, share: float) -> bool:
            percent = int(100 * share)
            if watch is not None and self.stopped is None and percent > self.told:
                self.told = percent
                try:
                    watch(what, percent, 100)
                except BaseException as problem:
                    self.stopped = problem
            return self.stopped is None

    return Monitor()
