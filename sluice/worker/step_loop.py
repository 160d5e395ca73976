"""The only thread that touches the engine: it runs steps, and between steps what others ask of it.

    event loop --call(ask)--> bounded queue --> engine thread --Future--> event loop
                                                     `--StepReport--> on_change (on this thread)

Never blocks while there is work: questions wait at most one step. When the last work is done it
checks that no block has been lost. Next: `shell.py`, which owns it.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Protocol, TypeVar

from sluice.engine.contract import Engine, StepReport
from sluice.errors import OverloadedError, WorkerLostError

T = TypeVar("T")
log = logging.getLogger(__name__)

QUESTIONS_MAX: Final = 8192
IDLE: Final = StepReport()


class Steps(Protocol):
    """Whoever runs the engine's steps: a thread in production, virtual time in simulation."""

    def start(self) -> None:
        """Begin to run steps whenever there is work."""
        ...

    def stop(self, *, timeout_s: float) -> None:
        """End after the current step. What has not been answered by then fails."""
        ...

    def call(self, ask: Callable[[Engine], T]) -> "Future[T]":
        """Run `ask` between two steps; the future carries its result or its exception."""
        ...


class MakeSteps(Protocol):
    """Puts an engine under somebody who runs it; see `StepLoop` for who hears what."""

    def __call__(
        self,
        engine: Engine,
        *,
        on_change: Callable[[Engine, StepReport], None],
        on_death: Callable[[BaseException], None],
    ) -> Steps: ...


class StepLoop:
    """Runs one engine on a thread of its own. The Steps of production."""

    def __init__(
        self,
        engine: Engine,
        *,
        on_change: Callable[[Engine, StepReport], None],
        on_death: Callable[[BaseException], None],
    ) -> None:
        """`on_change` hears of every step, and with an empty report when the engine falls idle."""
        self._engine = engine
        self._on_change = on_change
        self._on_death = on_death
        self._questions: queue.Queue[Callable[[], None]] = queue.Queue(maxsize=QUESTIONS_MAX)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._is_stopping = False

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, timeout_s: float) -> None:
        """End after the current step. What has not been answered by then fails."""
        self._is_stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def call(self, ask: Callable[[Engine], T]) -> "Future[T]":
        """Run `ask` between two steps; the future carries its result or its exception."""
        answer: Future[T] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(ask(self._engine))
            except Exception as error:  # noqa: BLE001 - the asker gets whatever the engine raised
                answer.set_exception(error)

        if self._is_stopping:
            answer.set_exception(WorkerLostError("the engine has stopped"))
            return answer
        try:
            self._questions.put_nowait(run)
        except queue.Full:
            answer.set_exception(OverloadedError("the engine's queue is full", retry_after_s=1.0))
        return answer

    def _wake(self) -> None:
        with contextlib.suppress(queue.Full):  # a full queue keeps the thread awake anyway
            self._questions.put_nowait(lambda: None)

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._answer_questions()
                if self._engine.has_work():
                    self._on_change(self._engine, self._engine.step())
                else:
                    self._check_conservation()
                    self._on_change(self._engine, IDLE)
                    self._questions.get()()
        except BaseException as error:
            log.exception("the engine thread died")
            self._on_death(error)

    def _answer_questions(self) -> None:
        for _ in range(self._questions.qsize()):
            try:
                self._questions.get_nowait()()
            except queue.Empty:
                return

    def _check_conservation(self) -> None:
        counts = self._engine.blocks()
        found = counts.free + counts.cached + counts.active + counts.held + counts.reserved
        assert found == counts.total, f"KV blocks lost or doubled: {counts}"
