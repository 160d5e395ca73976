"""Every policy by the name a person types. Next: `policy.py` for what a policy is."""

from collections.abc import Callable
from typing import Final

from sluice.domain.ids import WorkerId
from sluice.domain.role import Role
from sluice.errors import ConfigError
from sluice.policy.dynamo import Dynamo
from sluice.policy.fleet_table import ROLE_BITS, FleetTable
from sluice.policy.joint import SPLIT_TOKENS_MIN, Joint
from sluice.policy.least_load import LeastLoad
from sluice.policy.llm_d import LlmD
from sluice.policy.llumnix import Llumnix
from sluice.policy.lmetric import Lmetric
from sluice.policy.mooncake import Mooncake
from sluice.policy.policy import Ask, Policy
from sluice.policy.polyserve import PolyServe
from sluice.policy.prefix_aware import PrefixAware
from sluice.policy.round_robin import RoundRobin
from sluice.policy.xllm import Xllm

POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    "joint": Joint,
    "round_robin": RoundRobin,
    "least_load": LeastLoad,
    "prefix_aware": PrefixAware,
    "lmetric": Lmetric,
    "dynamo": Dynamo,
    "llm_d": LlmD,
    "llumnix": Llumnix,
    "xllm": Xllm,
    "mooncake": Mooncake,
    "polyserve": PolyServe,
}


def make_policy(name: str, *, split_tokens_min: int = SPLIT_TOKENS_MIN) -> Policy:
    """A fresh policy. Raises ConfigError for a name nobody has.

    `split_tokens_min`: uncached prompt tokens below which a handoff between idle workers does not pay;
    for the policies that weigh that at all.
    """
    if name == Joint.name:
        return Joint(split_tokens_min=split_tokens_min)
    make = POLICIES.get(name)
    if make is None:
        raise ConfigError(f"policy: '{name}' is unknown; choose one of {', '.join(POLICIES)}")
    return make()


def compile_policy(name: str) -> None:
    """Have what a placement runs compiled, so that no request waits for it: seconds the first time on a machine,
    a fraction of one from then on. Raises ConfigError for a name nobody has."""
    fleet = FleetTable()
    slot = fleet.add(WorkerId("nobody"))
    fleet.is_ready[slot], fleet.role_bits[slot] = 1, ROLE_BITS[Role.MIXED]
    fleet.sequence_tokens_max[slot] = fleet.blocks[slot] = fleet.free_blocks[slot] = 2
    make_policy(name).place(Ask(prompt_tokens=1, output_tokens_max=1), fleet, {}, now_s=0.0)
