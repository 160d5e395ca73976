"""One client's request and what the client saw of it, token by token.

Runs in the router's process, as an HTTP handler does; what it has delivered is the client's and
outlives the router. Judges: every token is the model's, in order, once; or a named error ends it.
Next: `toy_model.py`, which knows the right answer.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from sluice.domain.block_hash import extend_chain, root_hash
from sluice.domain.ids import RequestId
from sluice.domain.image import ImageSpan, run_of
from sluice.domain.sampling import SamplingParams
from sluice.errors import Code, DeadlineError, SluiceError
from sluice.router.job import Job, Picture, Prompt
from sluice.router.output import Delivery
from sluice.testing.simulation import toy_model, toy_sight
from sluice.testing.simulation.sim_router import SimRouter
from sluice.testing.simulation.sim_worker import FINGERPRINT

ROOT = root_hash(model_fingerprint=FINGERPRINT, salt="")
FIELD = "pictures[0]"
GONE = "names a picture that no encode worker has"
HONEST_ERRORS = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED, Code.CANCELLED})


@dataclass(kw_only=True)
class Client:
    """A request. `abort_after` tokens of its first choice it hangs up, if ever.

    When its router dies it comes back, up to `returns` times, and says what it has.
    """

    name: str
    prompt: tuple[int, ...]  # as the model reads it, its pictures laid out
    sampling: SamplingParams
    n: int = 1
    timeout_s: float = 60.0
    abort_after: int | None = None
    returns: int = 0
    images: tuple[ImageSpan, ...] = ()
    files: tuple[bytes, ...] = ()  # of the pictures in the prompt, each once
    names: bool = False  # it names the pictures that are known instead of sending them
    is_back: bool = False
    delivery: Delivery = Delivery.EACH_STEP
    seen: dict[int, list[int]] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    error: str = ""
    is_over: bool = False
    problems: list[str] = field(default_factory=list)
    _answers: dict[int, list[int]] = field(default_factory=dict)

    def job(self, pictures: tuple[Picture, ...] = ()) -> Job:
        """What intake would have made of it."""
        prompt = Prompt(
            tokens=self.prompt,
            root=ROOT,
            unit_hashes=tuple(extend_chain(ROOT, self.prompt)),
            images=self.images,
            pictures=pictures,
        )
        prompts = (prompt,)
        return Job(
            request=RequestId(self.name),
            prompts=prompts,
            n=self.n,
            sampling=self.sampling,
            stops=(),
            timeout_s=self.timeout_s,
            next_index=tuple(len(self.seen.get(choice, ())) for choice in range(self.n)) if self.is_back else (),
        )

    async def ask(self, router: SimRouter) -> None:
        """Send it and read the answer to its end."""
        with contextlib.ExitStack() as held:
            await self._ask(router, held)

    async def _ask(self, router: SimRouter, held: contextlib.ExitStack) -> None:
        try:
            job = self.job(await self._pictures(router, held))
            copies = await router.dispatcher.copies_of(job)
            request = router.dispatcher.submit(job, self.delivery, copies)
        except SluiceError as error:
            self._fail(error)
            return
        try:
            while pieces := await request.outbox.take():
                for piece in pieces:
                    self._read(job, piece.choice, piece.first_index, piece.tokens)
                    if piece.finish is not None:
                        self.finished.add(piece.choice)
                if self.abort_after is not None and len(self.seen.get(0, ())) >= self.abort_after:
                    self.error = "aborted"
                    break
        except SluiceError as error:
            self._fail(error)
        finally:
            if router.process.is_alive:
                router.dispatcher.release(request)
        if not self.error:
            self._check_whole(job)

    async def _pictures(self, router: SimRouter, held: contextlib.ExitStack) -> tuple[Picture, ...]:
        """Its pictures, once encode workers have looked at them; no longer than its client waits."""
        desk = router.dispatcher.desk
        try:
            async with asyncio.timeout(self.timeout_s):
                found = await desk.pictures([(FIELD, data) for data in self.files], root=ROOT)
        except TimeoutError as error:
            raise DeadlineError("its pictures were not looked at in time") from error
        # Those that are known it names from here on: an encode worker is to keep them.
        recalled = (desk.recall(one.name, field=FIELD, root=ROOT, held=held) if one.is_known else None for one in found)
        return tuple(again or one for again, one in zip(recalled, found, strict=True)) if self.names else found

    @property
    def seen_tokens(self) -> int:
        """How many tokens the client has got."""
        return sum(map(len, self.seen.values()))

    @property
    def is_answered(self) -> bool:
        """Whether every choice came to its end."""
        return len(self.finished) == self.n

    def _read(self, job: Job, choice: int, first_index: int, tokens: list[int]) -> None:
        seen = self.seen.setdefault(choice, [])
        if first_index != len(seen):
            self.problems.append(f"{self.name}/{choice}: token {first_index} came after {len(seen)} tokens")
        seen += tokens
        expected = self._expected(job, choice)
        if seen != expected[: len(seen)]:
            at = next(
                (i for i, pair in enumerate(zip(seen, expected, strict=False)) if pair[0] != pair[1]), len(expected)
            )
            self.problems.append(f"{self.name}/{choice}: token {at} is not the model's ({len(expected)} expected)")

    def _check_whole(self, job: Job) -> None:
        for choice in range(self.n):
            expected = self._expected(job, choice)
            seen = self.seen.get(choice, [])
            if seen != expected:
                self.problems.append(f"{self.name}/{choice}: ended with {len(seen)} of {len(expected)} tokens")

    def _expected(self, job: Job, choice: int) -> list[int]:
        if choice not in self._answers:
            self._answers[choice] = toy_model.answer(self.prompt, job.sampling_of(choice))
        return self._answers[choice]

    def _fail(self, error: SluiceError) -> None:
        self.error = f"{error.code.value}: {error}"
        is_forgotten = self.names and GONE in str(error)  # who only names a picture may have to send it after all
        if error.code not in HONEST_ERRORS and not is_forgotten:
            self.problems.append(f"{self.name}: {self.error}")


def with_pictures(words: Sequence[int], files: Sequence[bytes]) -> tuple[tuple[int, ...], tuple[ImageSpan, ...]]:
    """A prompt of one word before each picture, and the others after the last; and where its pictures stand."""
    tokens: list[int] = []
    spans: list[ImageSpan] = []
    for word, data in zip(words, files, strict=False):
        layout = toy_sight.layout_of(data)
        tokens.append(word)
        run, parts = run_of(layout, len(tokens))
        tokens += run
        spans += parts
    return (*tokens, *words[len(files) :]), tuple(spans)
