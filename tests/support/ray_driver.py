"""Labels videos by Ray in a process that tests can kill: `python -m support.ray_driver VIDEOS OUTPUT OPTIONS ENGINE`.

The last two are fields of `LabelOptions` and `EngineOptions`, in JSON. It prints what it counted.
"""

import json
import sys
import time
from typing import Any

from support.evaluation_models import make_model
from support.reading import ActingProcessor
from transformers_ila.evaluation.options import LabelOptions
from transformers_ila.scale import EngineOptions, label_on_ray


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


if __name__ == "__main__":
    videos, output, options, engine = sys.argv[1:]
    asked = LabelOptions(**json.loads(options))
    print(label_on_ray(open_model, videos, output, asked, EngineOptions(engine="ray", **json.loads(engine))))
