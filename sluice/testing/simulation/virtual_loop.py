"""An event loop whose clock jumps to the next timer, and the processes that share it.

Everything runs on one thread in an order that follows from the program alone. A Process is a
context: whatever a task of it starts belongs to it, so that all of it can be killed at once, or
stopped and continued as SIGSTOP and SIGCONT do. Never sleeps, polls or opens anything.
Next: `network.py`, the only way from one process to another.
"""

import asyncio
import heapq
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

OWNER: ContextVar["Process | None"] = ContextVar("owner", default=None)


class Process:
    """What shares a fate. `is_alive` is for others to ask; a dead process only cleans up."""

    def __init__(self, name: str, loop: "VirtualLoop") -> None:
        self.name = name
        self.loop = loop
        self.is_alive = True
        self.died_s = 0.0
        self.is_paused = False
        self.backlog: list[asyncio.Handle] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}  # an ordered set
        context = copy_context()
        context.run(OWNER.set, self)
        self._context = context

    def start(self, work: Coroutine[Any, Any, T], *, name: str) -> "asyncio.Task[T]":
        """Run `work` as a task of this process."""
        return self.loop.create_task(work, name=name, context=self._context.copy())

    def call(self, after_s: float, function: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Call a function in this process `after_s` from now."""
        return self.loop.call_later(after_s, function, *args, context=self._context.copy())

    def pause(self) -> None:
        """From here nothing of it runs; what is due waits."""
        self.is_paused = True

    def unpause(self) -> None:
        """All that was due meanwhile runs now, in order."""
        self.is_paused = False
        self.loop.run_first(self.backlog)
        self.backlog = []

    def kill(self) -> None:
        """End every task. They may clean up, but nobody outside notices."""
        if self.is_alive:
            self.is_alive, self.died_s = False, self.loop.time()
        if self.is_paused:
            self.unpause()
        for task in list(self.tasks):
            task.cancel()


class VirtualLoop(base_events.BaseEventLoop):
    """Time passes only when nothing is left to do now. `executor_s` is how long a thread pool takes."""

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self, *, executor_s: Callable[[], float]) -> None:
        super().__init__()
        self._now_s = 0.0
        self._executor_s = executor_s
        self.on_task_error: Callable[[asyncio.Task[Any], BaseException], None] = _raise

    def time(self) -> float:
        return self._now_s

    def create_task(  # type: ignore[override]  # asyncio's stub also takes generators
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> "asyncio.Task[T]":
        task = asyncio.Task(coro, loop=self, name=None if name is None else str(name), context=context)
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is not None:
            owner.tasks[task] = None
            if not owner.is_alive:
                task.cancel()
            task.add_done_callback(lambda done: self._on_done(owner, done))
        return task

    def run_in_executor(  # type: ignore[override]  # the result is a future, as asyncio's own
        self,
        _: object,
        func: Callable[..., T],
        *args: Any,
    ) -> "asyncio.Future[T]":
        """Call `func` a moment later, as if a thread had done it."""
        answer: asyncio.Future[T] = self.create_future()

        def run() -> None:
            if answer.cancelled():
                return
            try:
                answer.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - a thread pool hands on whatever was raised
                answer.set_exception(error)

        self.call_later(self._executor_s(), run)
        return answer

    def run_first(self, handles: list[asyncio.Handle]) -> None:
        """Run these before anything else that is due."""
        self._ready.extendleft(reversed(handles))

    def _on_done(self, owner: Process, task: "asyncio.Task[Any]") -> None:
        owner.tasks.pop(task, None)
        if not task.cancelled() and owner.is_alive and (error := task.exception()) is not None:
            self.on_task_error(task, error)

    # ---------------------------------------------------------------- what BaseEventLoop leaves to its selectors

    def _run_once(self) -> None:
        scheduled, ready = self._scheduled, self._ready
        while scheduled and scheduled[0].cancelled():
            heapq.heappop(scheduled)
        if not ready and not self._stopping:
            assert scheduled, "everyone waits for something that will never happen"
            self._now_s = max(self._now_s, scheduled[0].when())
        while scheduled and scheduled[0].when() <= self._now_s:
            ready.append(heapq.heappop(scheduled))
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.cancelled():
                continue
            owner = handle._context.get(OWNER)  # type: ignore[attr-defined]  # every handle has one
            if owner is not None and owner.is_paused:
                owner.backlog.append(handle)
            else:
                handle._run()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers leave the heap when their time comes."""

    def _process_events(self, event_list: list[object]) -> None:
        """There are none: no sockets."""

    def _write_to_self(self) -> None:
        """Nobody sleeps, so nobody needs waking."""


def _raise(_: "asyncio.Task[Any]", error: BaseException) -> None:
    raise error
