"""A dispatcher whose workers are played by the test: what they are told is read, what they say is typed.

No network, no tasks, a clock that moves when told to: every race can be written down as an
order of calls. Next: `tests/unit/test_router_dispatcher.py`.
"""

from typing import Final

from sluice.clock import ManualClock
from sluice.domain.block_hash import extend_chain, root_hash
from sluice.domain.ids import BootId, RequestId, RouterId, WorkerId
from sluice.domain.load import WorkerInfo, WorkerLoad
from sluice.domain.role import Lifecycle, Role
from sluice.domain.sampling import SamplingParams
from sluice.policy.admission import AdmissionLimits
from sluice.policy.joint import Joint
from sluice.policy.policy import Policy
from sluice.router.dispatch_limits import DispatchLimits
from sluice.router.dispatcher import Dispatcher
from sluice.router.fleet import Fleet, Member
from sluice.router.job import Job, Prompt
from sluice.router.observer import Observer
from sluice.router.output import Delivery
from sluice.router.request import Request
from sluice.router.worker_link import WorkerLink
from sluice.telemetry.metrics import RouterMetrics
from sluice.text.tokenizer import SpecialTokens, Tokenizer
from sluice.wire import convert
from sluice.wire.gen import sluice_pb2 as pb

PROMPT: Final = tuple(range(100, 200))
ROOT: Final = root_hash(model_fingerprint="f", salt="")
LIMITS: Final = DispatchLimits(
    admission=AdmissionLimits(
        queue_sequences_max=4, queue_tokens_max=10**6, inflight_sequences_max=50, queue_timeout_s=30.0
    ),
    attempts_max=3,
    unread_tokens_max=20,
    records_max=100,
)


class RecordedLink(WorkerLink):
    """Keeps what is sent instead of writing it."""

    __slots__ = ("messages",)

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[pb.RouterMessage] = []

    def send(self, message: pb.RouterMessage) -> None:
        if not self.closed_because:
            self.messages.append(message)
            self.sent += 1


class Desk:
    """A dispatcher with workers played by the test: what they are told is read, what they say is typed."""

    def __init__(self, tokenizer: Tokenizer, policy: Policy | None = None) -> None:
        self.clock = ManualClock(100.0)
        self.tokenizer = tokenizer
        observer = Observer(RouterMetrics(queue_requests_max=4), model="m")
        self.dispatcher = Dispatcher(
            router=RouterId("r"),
            tokenizer=tokenizer,
            fleet=Fleet(expiry_s=5.0),
            policy=policy or Joint(),
            limits=LIMITS,
            observer=observer,
            clock=self.clock,
        )

    def join(
        self, name: str, role: Role = Role.MIXED, *, batch: int = 8, boot: str = "", fingerprint: str = "f"
    ) -> Member:
        info = WorkerInfo(
            worker=WorkerId(name),
            boot=BootId(boot or f"{name}-boot"),
            role=role,
            model="m",
            model_fingerprint=fingerprint,
            kv_address=f"{name}:1",
            block_tokens=16,
            blocks=1000,
            sequence_tokens_max=4096,
            batch_sequences_max=batch,
            device="cpu",
        )
        member = self.dispatcher.join(info, RecordedLink())
        self.beat(member)
        return member

    def beat(self, member: Member, lifecycle: Lifecycle = Lifecycle.READY, role: Role | None = None) -> None:
        load = WorkerLoad(lifecycle=lifecycle, free_blocks=1000, role=role)
        self.dispatcher.on_message(member, pb.WorkerMessage(heartbeat=convert.load_to_wire(load)))

    def told(self, member: Member) -> list[pb.RouterMessage]:
        """What the worker has been told since last asked, but for who its peers are."""
        assert isinstance(member.link, RecordedLink)
        messages, member.link.messages = member.link.messages, []
        return [message for message in messages if not message.HasField("peers")]

    def start(self, member: Member) -> pb.Start:
        (message,) = self.told(member)
        assert message.WhichOneof("body") == "start"
        return message.start

    def tokens(
        self, member: Member, sequence: int, tokens: list[int], *, epoch: int = 0, first: int = 0, finish: str = ""
    ) -> None:
        """The worker sends output tokens, the first with index `first`."""
        step = pb.StepTokens(
            sequence=[sequence] * len(tokens),
            epoch=[epoch] * len(tokens),
            index=range(first, first + len(tokens)),
            token=tokens,
        )
        if finish:
            step.finish.append(pb.Finish(row=len(tokens) - 1, reason=finish))
        self.dispatcher.on_message(member, pb.WorkerMessage(tokens=step))

    def handoff(
        self, member: Member, state: pb.SequenceState, outcome: pb.HandoffOutcome, *, moved_bytes: int = 0
    ) -> None:
        """The prefill worker reports how the handoff went."""
        report = pb.HandoffReport(sequence=state.sequence, epoch=state.epoch, outcome=outcome, bytes=moved_bytes)
        self.dispatcher.on_message(member, pb.WorkerMessage(handoff=report))

    def submit(
        self,
        delivery: Delivery = Delivery.EACH_STEP,
        *,
        prompt: tuple[int, ...] = PROMPT,
        n: int = 1,
        stops: tuple[str, ...] = (),
        timeout_s: float = 60.0,
    ) -> Request:
        prompts = (Prompt(tokens=prompt, root=ROOT, unit_hashes=tuple(extend_chain(ROOT, prompt))),)
        job = Job(
            request=RequestId("cmpl-1"),
            prompts=prompts,
            n=n,
            sampling=SamplingParams(max_tokens=50, seed=7),
            stops=stops,
            timeout_s=timeout_s,
        )
        return self.dispatcher.submit(job, delivery)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, SpecialTokens.LEAVE_OUT)

    async def text(self, request: Request) -> str:
        return "".join([piece.text for piece in await request.outbox.take()])

    def is_empty(self) -> bool:
        members = list(self.dispatcher.fleet)
        return not (self.dispatcher.sequences or self.dispatcher.waiting or any(m.sequences for m in members))
