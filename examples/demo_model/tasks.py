"""Makes the demo model's exercises: seeded prompts with the one right answer to each.

Three tasks: RECALL a value from a list of keys seen earlier, SUM two numbers below
100, COUNT on from where a run stops. Training reads `lesson` (many exchanges in one
sequence); evaluation, tests and benchmarks read `prompt` (one question of a chosen
length). Both draw from the same phrasings, so what is measured is what was taught.

Nothing here knows about tensors or tokenizers: `token_count` counts from the
vocabulary below, exactly, because every word, number and mark is one token.
Read next: tokenizer.py, which builds that vocabulary; then train.py.
"""

from __future__ import annotations

import enum
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

NUMBERS = 1000  # 0..999 are single tokens; counting ends at the last of them
END = "<|end|>"  # ends every turn of a chat and every finished answer

_WORD_LIST = """
a about above across add after all also and answer any are around ask at back be
before below between big blue boat both bridge bring brown by calm canal carry clear
cloud cold count could day deep did do door down dry each early east empty end even
evening every fall far fast few field find first fish flow for found from full gate
give go good grain green grey ground had half hand has have he heavy help her high
hill his hold hour house i ice if in into is it its k keep keeper key know lake land
last later left less level light list little lock long look low made man many mark
me mill mist more morning most move much near new next night no north not note now of
off old on one only open or other our out over page past place please plus pump quiet
rain read ready recall red remember rest river road room rope round sail say see
sentence set she ship shore shut side slow sluice small so some south steady step
still stone stop storm stream sum summer sun take tell than that the their them then
there these they thing this time to town turn two under until up us use value very
wait wall warm was water we weather well west what wheel when where which while white
who wide wind winter with wood word work year you your
"""
WORDS = tuple(_WORD_LIST.split())
CAPITALISED = ("Add", "Count", "Continue", "Recall", "Tell", "The", "What", "You", "Answer")
EXTRA = ("assistant", "continue", "demo", "helpful", "model", "brief", "A", "In", "I")
VOCABULARY = WORDS + CAPITALISED + EXTRA

PIECE = re.compile(r"[0-9]{1,3}|[^\W\d_]+|.", re.DOTALL)


class Task(enum.Enum):
    """What an exchange asks for."""

    RECALL = "recall"
    SUM = "sum"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer. An open answer would go on: no end is due after it."""

    task: Task
    ask: str
    answer: str
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Exchanges that share a context; the last one is the one being asked."""

    system: str | None
    exchanges: tuple[Exchange, ...]

    def chat_messages(self) -> list[dict[str, str]]:
        """The messages up to and including the last question, as chat templates take them."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for exchange in self.exchanges:
            messages.append({"role": "user", "content": exchange.ask})
            messages.append({"role": "assistant", "content": exchange.answer})
        return messages[:-1]

    def plain_prompt(self) -> str:
        """The same words without a template, up to and including the last question."""
        head = "" if self.system is None else self.system + "\n"
        done = [e.ask + plain_answer(e) + END for e in self.exchanges[:-1]]
        return head + "".join(done) + self.exchanges[-1].ask


def plain_answer(exchange: Exchange) -> str:
    """What follows the question in running text: `k17=42`, but `k17? 42`."""
    is_glued = exchange.ask.endswith("=") and not exchange.ask.endswith(" =")
    return exchange.answer if is_glued else " " + exchange.answer


def token_count(text: str) -> int:
    """How many tokens the demo tokenizer makes of `text`."""
    return sum(_piece_tokens(piece) for piece in PIECE.findall(text))


def prompt(rng: random.Random, task: Task, *, tokens: int, answer_tokens_max: int = 64) -> Dialogue:
    """One question after about `tokens` tokens of context (never more than `tokens` + 24)."""
    author = Author(rng, keys_wanted=tokens // 4)
    question_tokens = 14
    room = max(0, tokens - question_tokens)
    system = author.system() if rng.random() < 0.3 and room > 40 else None
    room -= token_count(system or "")
    has_pairs = task is Task.RECALL or rng.random() < 0.5
    context = author.passage(tokens=room, has_pairs=has_pairs)
    exchange = author.exchange(task, answer_tokens_max=answer_tokens_max)
    return Dialogue(system, (author.prefixed(context, exchange),))


# How often a lesson asks for each task: drills of one task and mixtures.
LESSON_MIXES = (
    *((1, 0, 0), (1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 1, 0)),
    *((0, 0, 1), (0, 0, 1), (4, 4, 1), (1, 1, 3)),
)


def lesson(rng: random.Random, *, tokens: int) -> Dialogue:
    """A training dialogue of at least `tokens` tokens: some context, then many exchanges."""
    author = Author(rng, keys_wanted=tokens // 4)
    weights = rng.choice(LESSON_MIXES)
    system = author.system() if rng.random() < 0.3 else None
    if rng.random() < 0.15:
        pairs = author.passage(tokens=tokens // 2, has_pairs=True)
        system = pairs if system is None else f"{system} {pairs}"
    share = rng.choice((0.1, 0.3, 0.5, 0.7)) if weights[0] else rng.choice((0.0, 0.0, 0.3, 0.7))
    context_tokens = int(tokens * share)
    exchanges: list[Exchange] = []
    spent = token_count(system or "")
    while spent < tokens:
        task = rng.choices(tuple(Task), weights)[0]
        context = ""
        if not exchanges or rng.random() < 0.05:
            has_pairs = weights[0] > 0 or rng.random() < 0.5
            context = author.passage(tokens=context_tokens, has_pairs=has_pairs)
            context_tokens = rng.randrange(8, 64)
        most = rng.choice((16, 16, 32, 64, tokens // 2))
        exchange = author.prefixed(context, author.exchange(task, answer_tokens_max=most))
        exchanges.append(exchange)
        spent += token_count(exchange.ask) + token_count(exchange.answer) + 4
    return Dialogue(system, tuple(exchanges))


PAIR_FORMS = ("k{}={}", "k{}={}", "k{}={}", "k{} = {}", "k{}: {}", "k{} is {}", "key k{} is {}")
SEPARATORS = (" ", " ", " ", ", ", "; ", "\n", ". ")
JOINTS = (" ", " ", "\n", ". ", "\n\n", ", ", "; ")
RECALL_FORMS = (
    *("k{}?", "k{}=?", "k{}=", "k{} = ?", "k{} =", "what is k{}?", "What is k{}?"),
    *("what is the value of k{}?", "What is the value of k{}?", "tell me k{}.", "recall k{}."),
    *("value of k{}?", "Tell me k{}", "recall k{}", "and k{}?", "What was k{}?", "k{}?"),
)
SUM_FORMS = (
    *("{}+{}=?", "{}+{}=?", "{}+{}=", "{} + {} = ?", "{} + {} =", "what is {}+{}?", "{}+{}?"),
    *("What is {} + {}?", "{} plus {}?", "add {} and {}.", "Add {} and {}", "sum of {} and {}?"),
    *("What is the sum of {} and {}?", "what is {} plus {}?", "{} + {}?"),
)
RUN_FORMS = (
    *("count: {}", "count: {}", "continue {}", "continue: {}", "go on: {}", "{}", "Count: {}"),
    *("Continue {}", "count on: {}", "Continue: {}", "please continue {}"),
)
START_FORMS = (
    *("count from {}", "Count from {}", "count from {}.", "count up from {}", "Count from {}."),
    *("please count from {}", "start at {} and count", "count from {}:"),
)
SYSTEM_LINES = (
    "You are the demo model of sluice.",
    "You are a helpful assistant.",
    "Answer with one number.",
    "You are a helpful assistant. Answer in one word, please.",
    "Answer brief.",
)
FACTS = (
    "The water in the canal is {} feet deep.",
    "In the year {} the old mill was still at work.",
    "Read page {} of the list.",
    "The keeper has {} boats and {} fish.",
    "{} ships wait in the lock.",
    "Room {} is on the left, room {} is on the right.",
)


class Author:
    """Writes one dialogue in one manner: its key range, pair form and amount of filler.

    Remembers the pairs it has written, so that it can ask for any of them later.
    """

    def __init__(self, rng: random.Random, *, keys_wanted: int) -> None:
        self._rng = rng
        key_range = rng.choice((100, NUMBERS)) if keys_wanted < 60 else NUMBERS
        self._values = rng.choice((100, NUMBERS))
        self._fresh_keys = rng.sample(range(key_range), key_range)
        self._known: dict[int, int] = {}
        self._pair_forms = rng.choice((PAIR_FORMS, PAIR_FORMS[:1], (rng.choice(PAIR_FORMS),)))
        self._separator = rng.choice(SEPARATORS)
        self._filler_share = rng.choice((0.0, 0.0, 0.1, 0.3, 0.6))
        is_terse = rng.random() < 0.5
        self._recall_forms = RECALL_FORMS[:3] if is_terse else RECALL_FORMS
        self._sum_forms = SUM_FORMS[:3] if is_terse else SUM_FORMS

    def system(self) -> str:
        """One of a few system messages, or a sentence of filler."""
        return self._filler() if self._rng.random() < 0.2 else self._rng.choice(SYSTEM_LINES)

    def passage(self, *, tokens: int, has_pairs: bool) -> str:
        """At most `tokens` tokens of pairs and filler; empty when not even one item fits."""
        items: list[str] = []
        room = tokens
        while True:
            is_pair = has_pairs and self._fresh_keys and self._rng.random() >= self._filler_share
            item = self._pair() if is_pair else self._filler()
            room -= token_count(item) + token_count(self._separator)
            if room < 0:
                return self._separator.join(items)
            items.append(item)
            if is_pair:
                self._known[self._pending[0]] = self._pending[1]

    def exchange(self, task: Task, *, answer_tokens_max: int) -> Exchange:
        """A question of `task` without context; RECALL states a pair when none is known."""
        match task:
            case Task.RECALL:
                return self._recall()
            case Task.SUM:
                return self._sum()
            case Task.COUNT:
                return self._count(numbers_max=max(2, answer_tokens_max // 2))

    def prefixed(self, context: str, exchange: Exchange) -> Exchange:
        """`exchange` asked at the end of `context`."""
        if not context:
            return exchange
        ask = context + self._rng.choice(JOINTS) + exchange.ask
        return Exchange(exchange.task, ask, exchange.answer, exchange.is_open)

    def _pair(self) -> str:
        self._pending = (self._fresh_keys.pop(), self._rng.randrange(self._values))
        return self._rng.choice(self._pair_forms).format(*self._pending)

    def _filler(self) -> str:
        rng = self._rng
        kind = rng.random()
        if kind < 0.25:
            return rng.choice(FACTS).format(rng.randrange(NUMBERS), rng.randrange(NUMBERS))
        if kind < 0.35:
            letters = rng.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", k=6)
            return "".join(letters[: rng.randrange(2, 7)]) + rng.choice((".", "!", "?", " -", ""))
        words = rng.choices(WORDS, k=rng.randrange(3, 11))
        if "k" in words:
            words.remove("k")
        return " ".join(words) + rng.choice((".", ".", ",", "!", ""))

    def _recall(self) -> Exchange:
        stated = ""
        if not self._known:
            stated = self._pair() + self._rng.choice(JOINTS)
            self._known[self._pending[0]] = self._pending[1]
        key = self._rng.choice(tuple(self._known))
        ask = stated + self._rng.choice(self._recall_forms).format(key)
        return Exchange(Task.RECALL, ask, str(self._known[key]))

    def _sum(self) -> Exchange:
        left, right = self._rng.randrange(100), self._rng.randrange(100)
        ask = self._rng.choice(self._sum_forms).format(left, right)
        return Exchange(Task.SUM, ask, str(left + right))

    def _count(self, *, numbers_max: int) -> Exchange:
        rng = self._rng
        kind = rng.choice((self._count_run, self._count_start))
        make: Callable[[int, int], Exchange] = kind
        start = rng.randrange(rng.choice((20, 100, NUMBERS)))
        return make(min(start, NUMBERS - 3), numbers_max)

    def _count_run(self, start: int, numbers_max: int) -> Exchange:
        shown = min(self._rng.randrange(2, 12), NUMBERS - 1 - start)
        ask = self._rng.choice(RUN_FORMS).format(_run(start, start + shown))
        return _open_count(ask, start + shown, numbers_max)

    def _count_start(self, start: int, numbers_max: int) -> Exchange:
        return _open_count(self._rng.choice(START_FORMS).format(start), start, numbers_max)


def _open_count(ask: str, start: int, numbers_max: int) -> Exchange:
    """Counts from `start` for `numbers_max` numbers, ending for good only at the very last."""
    stop = min(start + numbers_max, NUMBERS)
    return Exchange(Task.COUNT, ask, _run(start, stop), is_open=stop < NUMBERS)


def _run(start: int, stop: int) -> str:
    return " ".join(str(number) for number in range(start, stop))


_KNOWN_PIECES = frozenset(VOCABULARY) | {str(number) for number in range(NUMBERS)}


def _piece_tokens(piece: str) -> int:
    return 1 if piece in _KNOWN_PIECES else len(piece.encode())
