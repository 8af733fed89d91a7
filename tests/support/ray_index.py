"""`index_on_ray` as a process of its own, by a model that takes its time: `python -m support.ray_index VIDEOS INDEX`.

Behind these stand the fields of `IndexOptions` and of `EngineOptions`, as JSON.
"""

import json
import sys
import time

from support.evaluation_models import make_model
from transformers_ila import IlaVideoProcessor


class SlowProcessor(IlaVideoProcessor):
    """Takes a fifth of a second for what a replica computes together."""

    def normalize_on(self, device, views):
        time.sleep(0.2)
        return super().normalize_on(device, views)


def open_slow_model():
    model = make_model()
    return model, SlowProcessor.for_model(model.config)


if __name__ == "__main__":
    from support import ray_index  # so that what is sent to workers has a name there
    from transformers_ila.evaluation.options import IndexOptions
    from transformers_ila.scale import EngineOptions, index_on_ray

    videos, output, options, engine = sys.argv[1:]
    engine_options = EngineOptions(engine="ray", **json.loads(engine))
    print(index_on_ray(ray_index.open_slow_model, videos, output, IndexOptions(**json.loads(options)), engine_options))
