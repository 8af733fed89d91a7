"""Pixels and weights drawn at random for small models."""

import torch


CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def pixels(*views, frames=4, size=28, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *views, frames, 3, size, size, generator=generator)


def randomised(model, seed=0):
    """Nothing left at zero: points move, biases act."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model
