"""The queue is bounded in sequences and tokens, says when to come back, and is fair in order."""

import pytest

from sluice.errors import OverloadedError
from sluice.policy.admission import RETRY_AFTER_MAX_S, AdmissionLimits, AdmissionQueue

LIMITS = AdmissionLimits(queue_sequences_max=3, queue_tokens_max=100, inflight_sequences_max=10, queue_timeout_s=5.0)


def queue_of(*items: str, tokens: int = 10) -> AdmissionQueue[str]:
    queue: AdmissionQueue[str] = AdmissionQueue(LIMITS)
    for item in items:
        queue.enter(item, tokens=tokens, now_s=0.0)
    return queue


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    with pytest.raises(OverloadedError, match="3 sequences are waiting") as caught:
        queue_of("a", "b", "c").check(sequences=1, tokens=1, inflight_sequences=3)
    assert 1.0 <= caught.value.retry_after_s <= RETRY_AFTER_MAX_S


def test_too_many_waiting_tokens_refuse() -> None:
    with pytest.raises(OverloadedError, match="90 prompt tokens are waiting"):
        queue_of("a", tokens=90).check(sequences=1, tokens=20, inflight_sequences=1)


def test_an_empty_queue_takes_a_request_of_any_size() -> None:
    queue_of().check(sequences=5, tokens=10**6, inflight_sequences=0)


def test_what_runs_is_bounded_too() -> None:
    with pytest.raises(OverloadedError, match="serves 9 sequences"):
        queue_of().check(sequences=2, tokens=1, inflight_sequences=9)


def test_first_come_first_served_but_the_bereaved_go_first() -> None:
    queue = queue_of("a", "b")
    queue.return_to_front("lost", tokens=10, now_s=0.0)
    order = []
    while (item := queue.first()) is not None:
        order.append(item)
        queue.take_first(now_s=1.0)
    assert order == ["lost", "a", "b"]
    assert queue.tokens == 0


def test_those_who_waited_too_long_are_taken_out() -> None:
    queue = queue_of("a")
    queue.enter("b", tokens=10, now_s=3.0)
    assert queue.expired(now_s=5.0) == ["a"]
    assert list(queue) == ["b"]
    assert queue.tokens == 10


def test_who_gives_up_leaves_the_queue_once() -> None:
    queue = queue_of("a", "b")
    assert queue.leave("a")
    assert not queue.leave("a")
    assert (list(queue), queue.tokens) == (["b"], 10)


def test_the_estimate_follows_the_pace() -> None:
    queue: AdmissionQueue[int] = AdmissionQueue(LIMITS)
    for item in range(200):
        queue.enter(item, tokens=1, now_s=0.0)
    for item in range(100):
        queue.take_first(now_s=2.0 * item)
    assert queue.wait_estimate_s() == pytest.approx(200.0, rel=0.1)
