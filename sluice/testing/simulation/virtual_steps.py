"""Runs a toy engine's steps in virtual time. The Steps of simulation; `worker/step_loop.py` is production's.

    ask -> [questions between steps] -> a step takes a while -> engine.step() -> report -> ...

Checks the engine's books after every step and every question, which a thread could not afford.
Next: `toy_engine.py`.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from sluice.engine.contract import Engine, StepReport
from sluice.engine.engine import PagedEngine
from sluice.errors import WorkerLostError
from sluice.testing.simulation.virtual_loop import Process
from sluice.worker.step_loop import IDLE

T = TypeVar("T")

WAKE_S: Final = 1e-4


class VirtualSteps:
    """One engine's thread, in a process that can be killed or stopped."""

    def __init__(
        self,
        process: Process,
        engine: PagedEngine,
        *,
        step_s: Callable[[], float],
        on_change: Callable[[Engine, StepReport], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        self._process = process
        self._engine = engine
        self._step_s = step_s
        self._on_change = on_change
        self._on_death = on_death
        self._questions: deque[Callable[[], None]] = deque()
        self._is_due = False  # a turn is scheduled
        self._is_stopping = False

    def start(self) -> None:
        self._schedule(0.0, self._between_steps)

    def stop(self, *, timeout_s: float) -> None:  # noqa: ARG002 - a virtual thread joins at once
        self._is_stopping = True

    def call(self, ask: Callable[[Engine], T]) -> "Future[T]":
        answer: Future[T] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(ask(self._engine))
            except Exception as error:  # noqa: BLE001 - the asker gets whatever the engine raised
                answer.set_exception(error)

        if self._is_stopping or not self._process.is_alive:
            answer.set_exception(WorkerLostError("the engine has stopped"))
            return answer
        self._questions.append(run)
        self._schedule(WAKE_S, self._between_steps)
        return answer

    def _schedule(self, after_s: float, turn: Callable[[], None]) -> None:
        if not self._is_due:
            self._is_due = True
            self._process.call(after_s, self._run, turn)

    def _run(self, turn: Callable[[], None]) -> None:
        self._is_due = False
        if not self._process.is_alive or self._is_stopping:
            return
        try:
            turn()
            self._engine.check_integrity()
        except BaseException as error:  # noqa: BLE001 - the worker dies of it, as of a dead thread
            self._on_death(error)

    def _end_step(self) -> None:
        report = self._engine.step()
        self._engine.check_integrity()
        self._on_change(self._engine, report)
        self._between_steps()

    def _between_steps(self) -> None:
        for _ in range(len(self._questions)):
            self._questions.popleft()()
        if self._engine.has_work():
            self._schedule(self._step_s(), self._end_step)
        else:
            self._on_change(self._engine, IDLE)
