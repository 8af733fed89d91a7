"""Models that replicas of Ray open in tests, with a processor that does what files say."""

import time
from typing import Any

from support.evaluation_models import make_model
from support.reading import ActingProcessor


def open_model() -> tuple[Any, Any]:
    """Make the model of most tests, and a processor that does what files say."""
    model = make_model()
    return model, ActingProcessor.for_model(model.config)


def open_slow_model() -> tuple[Any, Any]:
    """Make a model that takes a second for a batch."""
    model, processor = open_model()
    forward = model.forward

    def slowly(*arguments, **named):
        time.sleep(1)
        return forward(*arguments, **named)

    model.forward = slowly  # which is not fused
    return model, processor
