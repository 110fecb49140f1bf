"""The kernel that runs wherever torch does: float64 products of limbs."""

import torch

from veil_optimized import field


class Portable:
    """Blocks of weights are widened to float64, in which every sum of limb products is exact."""

    name = "portable"

    def multiply(self, masked: torch.Tensor, weights: torch.Tensor, modulus: int) -> torch.Tensor:
        """Return masked rows times weights, mod p, int64 [n, outputs]."""
        return field.multiply(masked, weights, modulus)

    def exact(self, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return 16-bit rows times weights as integers, int64 [n, outputs]."""
        wide = rows.to(torch.float64)
        result = torch.empty(len(rows), len(weights), dtype=torch.int64, device=rows.device)
        for part, block in field.blocks(weights):
            result[:, part] = wide @ block.T
        return result
