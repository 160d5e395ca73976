"""Linear layers whose weights are laid out for oneDNN: on a CPU, small batches run nearly twice as fast.

torch multiplies float32 by MKL, which at 8 rows reads weights at about half the memory's speed;
the packed product reads them at full speed, and is no slower at 512 rows (figures:
benchmarks/engine.py). Decides only where packing applies; never changes what is computed beyond the
last bits. Next: `model_loader.py`, its only user.
"""

from typing import Final

import torch
from torch import nn

ROWS_EXPECTED: Final = 8
"""The batch oneDNN lays weights out for; other batches run on the same layout."""


class PackedLinear(nn.Module):
    """Stands in for an nn.Linear whose weight it has packed; the original may be freed."""

    packed: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS_EXPECTED)  # noqa: SLF001  # the only way to pack
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., inputs] -> [..., outputs]"""
        # "none", [] and "" say that no activation is fused.
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")  # noqa: SLF001  # the only way to use packed weights
        return product


def pack_linears(module: nn.Module) -> int:
    """Replace every plain float32 CPU nn.Linear under `module`; returns how many. None where oneDNN is missing."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch is partly typed
    if not available or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return 0
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            # Subclasses may do more than multiply, so the exact type is asked for.
            if type(child) is nn.Linear and child.weight.device.type == "cpu" and child.weight.dtype is torch.float32:
                setattr(parent, name, PackedLinear(child))
                count += 1
    return count
