"""CLIP's MLP on the same weights, computed faster: three fifths of the tower's time are spent in it."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import QuickGELUActivation
from transformers.models.clip.modeling_clip import CLIPMLP

from .fast_path_ila import is_followed, is_precise


QUICK = 1.702  # of QuickGELU


class QuickGelu(QuickGELUActivation):
    """CLIP's activation x sigmoid(1.702 x), as silu(1.702 x) / 1.702.

    One tensor less is kept for the backward pass, and without gradients there is one new tensor instead of three. They
    are the tower's largest, and fresh memory for one costs as much as computing it.
    """

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if values.dtype == torch.float16:  # which has no room for 1.702 times its largest numbers
            return super().forward(values)
        scaled = QUICK * values
        if torch.is_grad_enabled():
            return F.silu(scaled) / QUICK
        return F.silu(scaled, inplace=True).div_(QUICK)


class IlaMLP(CLIPMLP):
    """CLIP's MLP. In eval mode and without gradients both factors of QuickGELU are `alpha` of the products beside it,

        s = 1.702 (W1 x + b1),    W2 silu(s) / 1.702 + b2

    so that of the activation only silu is left, in place. On a CPU s is computed in slices as wide as the tower: one
    product with four times as many columns is a fifth slower there. Adapters, hooks and whatever moves weights
    (offloading, sharding) work on the layers themselves: where there are any, and in half precision, it is computed as
    it stands; and so for tracing and function transforms, which know no `out`.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if (
            self.training
            or torch.is_grad_enabled()
            or is_followed(hidden_states)
            or not (is_precise(hidden_states) and self._is_plain())
        ):
            return super().forward(hidden_states)
        tokens, weights, offsets = hidden_states.flatten(0, -2), self.fc1.weight.T, QUICK * self.fc1.bias
        step = len(weights) if tokens.device.type == "cpu" else len(offsets)
        scaled = tokens.new_empty(len(tokens), len(offsets))
        for start in range(0, len(offsets), step):
            part = slice(start, start + step)
            torch.addmm(offsets[part], tokens, weights[:, part], alpha=QUICK, out=scaled[:, part])
        output = torch.addmm(self.fc2.bias, F.silu(scaled, inplace=True), self.fc2.weight.T, alpha=1 / QUICK)
        return output.unflatten(0, hidden_states.shape[:-1])

    def _is_plain(self) -> bool:
        """Whether nothing but these three layers, as they are, is asked for."""
        layers = (self.fc1, self.activation_fn, self.fc2)
        if [type(layer) for layer in layers] != [nn.Linear, QuickGelu, nn.Linear]:
            return False
        hooked = any(layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer) for layer in layers)
        if hooked or nn.modules.module._has_any_global_hook():
            return False
        return all(type(weight) is nn.Parameter for layer in layers for weight in layer._parameters.values())
