"""Random histories with pictures: encode workers crash, stall, drain and lose messages like all others."""

from collections.abc import Sequence

import pytest

from sluice.domain.role import Role
from sluice.domain.sampling import SamplingParams
from sluice.testing.simulation import __main__ as command
from sluice.testing.simulation import random_run, scenario, toy_sight
from sluice.testing.simulation.clients import Client, with_pictures
from sluice.testing.simulation.sim_worker import WorkerPlan
from sluice.testing.simulation.world import World

CHUNKS = 5
CHUNK_RUNS = 25


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_fault_changes_a_token_or_an_embedding_or_leaks_a_block_of_either(chunk: int) -> None:
    for seed in range(chunk * CHUNK_RUNS, (chunk + 1) * CHUNK_RUNS):
        result = random_run.run(seed, sees=True)
        assert not result.broken, command.describe(result, sees=True)


def test_a_prompt_that_is_moved_while_it_waits_for_an_image_is_computed_elsewhere() -> None:
    """It was refused as if the client had made a mistake."""
    mixed = [WorkerPlan(name=f"m{number}", image_blocks=40) for number in range(2)]
    encoder = WorkerPlan(name="e0", role=Role.ENCODE)

    async def script(world: World) -> None:
        prompt, images = with_pictures(range(20, 60), [b"a picture", b"another"])
        client = Client(
            name="c",
            prompt=prompt,
            images=images,
            files=(b"a picture", b"another"),
            sampling=SamplingParams(max_tokens=20, ignore_eos=True),
        )
        world.ask(client)
        await scenario.until(world, lambda: bool(world.running()) and world.running()[0][1].can_move)
        router, flow = world.running()[0]
        target = router.dispatcher.targets.elsewhere_for(flow)
        assert target is not None
        flow.move(target, why="a whim", now_s=router.now_s())

    world = scenario.play(script, workers=(*mixed, encoder))
    assert scenario.whole(world), [client.error for client in world.clients]


def test_a_reader_that_is_later_than_its_images() -> None:
    """It waited for its deadline."""
    result = random_run.run(696, sees=True)
    assert not result.broken, command.describe(result, sees=True)


def wrong_rows(_: toy_sight.ToyTower, images: Sequence[toy_sight.ToyPrepared]) -> list[toy_sight.Bytes]:
    """What the tower would make of another picture."""
    return [toy_sight.rows_of(bytes(16), 0, image.layout.tokens) for image in images]


def test_the_laws_notice_an_embedding_that_is_another_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.testing.simulation.toy_sight.ToyTower.rows", wrong_rows)
    broken = [line for seed in range(4) for line in random_run.run(seed, sees=True).broken]
    assert any("are not the picture's" in line for line in broken)
