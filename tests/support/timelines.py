"""Timelines for tests of their files, and labels that are markup somewhere."""

import numpy as np

from transformers_ila.timeline.segments import Segment
from transformers_ila.timeline.sources import SourceNote
from transformers_ila.timeline.timeline import Timeline


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=http://example.org/x onerror=alert(2)>",
    "a --> b & c < d",
    '{{data}} {{title}} "quo\'te" $x^2$',
    "line\nbreak",
    " ",
    "\u202egnp.exe\x1b",
    "12",
    "\u9a91\u81ea\u884c\u8f66",
    "{\\an8}top \\N",
    "<!-- c --> <b>x</b>",
    "=1+1",
)


def make_timeline(labels=("walking", "running", "waving"), seconds=10.0, rate=4.0, **fields) -> Timeline:
    """A timeline with random scores, the first seven of them warming up, and a segment of each label in turn."""
    count = int(seconds * rate)
    times = np.arange(count) / rate
    if "scores" not in fields:
        fields["scores"] = np.random.default_rng(0).dirichlet(np.ones(len(labels)), count).astype(np.float32)
    step = seconds / len(labels)
    values = {
        "video": "clip.mp4",
        "labels": list(labels),
        "times": times,
        "starts": np.maximum(0, times - 7 / rate),
        "warming_up": np.arange(count) < 7,
        "segments": [Segment(label, i * step, (i + 0.9) * step, 0.5 + i / 1000) for i, label in enumerate(labels)],
        "notes": [SourceNote(2.5, "gap", "nothing for 0.4 s")],
        "settings": {"mode": "stream", "rate": rate, "segments": {"smoothing": 0.5}},
        "duration": seconds,
    }
    return Timeline(**(values | fields))
