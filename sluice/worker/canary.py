"""The canary: a tiny request of the worker's own, whose answer every worker of the same weights must give.

Computed alone when the worker starts; held as the source of a probe; gone on with over KV that a
peer has sent. Belongs to no router and leaves nothing behind: its prompt is shorter than a block,
so it enters no prefix cache. Next: `probing.py`, who sends it to peers.
"""

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from sluice.domain.block_hash import root_hash
from sluice.domain.ids import BootId, Epoch, RequestId, RouterId, SequenceId
from sluice.domain.sampling import SamplingParams
from sluice.domain.sequence import SequenceState
from sluice.engine.contract import Engine, KvExtent, TokenOut
from sluice.errors import SluiceError, TransferError

T = TypeVar("T")

PROMPT_TOKENS: Final = 14  # with two answered ones never more than the smallest block
ANSWER_TOKENS: Final = 2
ANSWER_S_MAX: Final = 30.0  # a busy engine serves it in its turn
EPOCH: Final = Epoch(1)
ROUTER: Final = RouterId("")


class Ask(Protocol):
    """Runs a question on the engine's thread, between two steps."""

    def __call__(self, question: Callable[[Engine], T], /) -> "Future[T]": ...


@dataclass(slots=True)
class _Listening:
    """Waits for `wanted` tokens of one sequence."""

    wanted: int
    answer: "asyncio.Future[tuple[int, ...]]"
    tokens: list[int] = field(default_factory=list)


class Canary:
    """One worker's canary. Lives on the event loop."""

    def __init__(self, ask: Ask, *, boot: BootId, model_fingerprint: str, vocabulary: int) -> None:
        """`vocabulary` is the model's, so that equal models have equal prompts."""
        self.tokens: tuple[int, ...] = ()  # what our engine answers; empty until it has
        self.problem = "the canary has not been answered yet"
        self._ask = ask
        self._root = root_hash(model_fingerprint=model_fingerprint, salt=f"canary {boot}")
        self._request = RequestId(f"canary of {boot}")
        self._prompt = tuple((31 * at * at + 7) % min(vocabulary, 256) for at in range(PROMPT_TOKENS))
        # As routers number theirs: 32 bits of this incarnation's name, then a counter.
        self._next = int.from_bytes(hashlib.blake2b(f"canary {boot}".encode(), digest_size=4).digest()) << 32
        self._listening: dict[SequenceId, _Listening] = {}

    def hear(self, out: TokenOut) -> None:
        """The engine has chosen a token of a sequence that is no router's."""
        if (listening := self._listening.get(out.sequence)) is not None:
            listening.tokens.append(out.token)
            if len(listening.tokens) == listening.wanted and not listening.answer.done():
                listening.answer.set_result(tuple(listening.tokens))

    def fail(self, sequence: SequenceId, why: str) -> None:
        """The engine has given a sequence up. Unknown ones are ignored."""
        listening = self._listening.get(sequence)
        if listening is not None and not listening.answer.done():
            listening.answer.set_exception(TransferError(f"the canary failed: {why}"))

    async def answer_alone(self) -> None:
        """Have our own engine answer it. Sets `tokens`, or `problem` to why it could not."""
        state = self._state()
        try:
            self.tokens = await self._run(state, ANSWER_TOKENS, lambda engine: engine.add(state, hold=False))
        except SluiceError as error:
            self.problem = f"the canary failed: {error}"
            await self.let_go(state.sequence)
        else:
            self.problem = ""

    async def hold(self) -> tuple[SequenceState, KvExtent]:
        """A held canary after its first token, and its KV; the caller lets it go. Raises SluiceError."""
        state = self._state()
        try:
            first = await self._run(state, 1, lambda engine: engine.add(state, hold=True))
            if first != self.tokens[:1]:
                raise TransferError(f"canary: token {first[0]} now, {self.tokens[0]} at the start")
            extent = await self._on_engine(lambda engine: engine.kv_of(state.sequence))
            return await self._on_engine(lambda engine: engine.state_of(state.sequence)), extent
        except SluiceError:
            await self.let_go(state.sequence)
            raise

    async def go_on(self, state: SequenceState, *, computed: int) -> int:
        """The next token of a peer's canary whose KV is in what we reserved for it.

        Nothing of it is left afterwards, its reservation included. Raises SluiceError.
        """

        def attach(engine: Engine) -> None:
            try:
                engine.attach(state, computed=computed)
            except SluiceError:
                engine.cancel_reservation(state.sequence)
                raise

        (token,) = await self._run(state, 1, attach)
        return token

    async def let_go(self, sequence: SequenceId) -> None:
        """Forget a canary and free its blocks. Only when no push reads them any more."""
        await self._on_engine(lambda engine: engine.abort(sequence))

    async def _run(self, state: SequenceState, wanted: int, begin: Callable[[Engine], None]) -> tuple[int, ...]:
        """Begin it and wait for its tokens. Raises what `begin` raises, or TransferError."""
        answer: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._listening[state.sequence] = _Listening(wanted, answer)
        try:
            await self._on_engine(begin)
            async with asyncio.timeout(ANSWER_S_MAX):
                return await answer
        except TimeoutError as error:
            await self.let_go(state.sequence)
            raise TransferError(f"the canary was not answered within {ANSWER_S_MAX:g} s") from error
        finally:
            del self._listening[state.sequence]

    async def _on_engine(self, question: Callable[[Engine], T]) -> T:
        return await asyncio.wrap_future(self._ask(question))

    def _state(self) -> SequenceState:
        self._next += 1
        return SequenceState(
            sequence=SequenceId(self._next),
            request=self._request,
            router=ROUTER,
            epoch=EPOCH,
            tokens=self._prompt,
            prompt_tokens=PROMPT_TOKENS,
            unit_hashes=(),
            root=self._root,
            sampling=SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0, ignore_eos=True),
        )
