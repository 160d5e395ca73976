"""What a GPUClass says of its speed, as the profile file that a worker starts from.

The worker learns from its own steps afterwards. Pure. Next: `worker_workload.py`, which puts the file beside its
settings.
"""

from typing import Final

from sluice.capacity.profile_file import Profile, profile_text
from sluice.capacity.step_curve import StepCurve
from sluice.operator.accept import AcceptedPool

PROFILE_FILE: Final = "profile.json"


def gpu_profile(pool: AcceptedPool, *, model: str) -> str:
    """The file's text; empty unless the pool is of one class and that has both curves.

    Of several classes the cluster decides which one a pod lands on, and its settings are written before.
    """
    if len(pool.classes) != 1:
        return ""
    (gpu,) = pool.classes
    prefill, decode = gpu.spec.curves.prefill, gpu.spec.curves.decode
    if prefill is None or decode is None:
        return ""
    curve = StepCurve(
        base_s=max(prefill.constant_s, decode.constant_s),  # a step has one constant, whatever is in it
        prefill_token_s=prefill.token_s,
        pair_s=2.0 * prefill.token_squared_s,  # n tokens attend over n²/2 pairs
        decode_s=decode.sequence_s,
        context_token_s=decode.context_token_s,
    )
    return profile_text(
        Profile(gpu_class=gpu.name, model=model, tensor_parallel=pool.spec.tensor_parallel, curve=curve)
    )
