"""Stands for a camera: writes a sequence of motions as MPEG-TS to standard output, in real time.

    python tests/support/camera.py '{"seconds": 20, "stall": [5, 3]}'

It says on standard error, in one line of JSON, when the first frame was written (`time.monotonic()`, which all
processes of a machine share) and what is shown when.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import av


def write_stream(
    output,
    frames,
    *,
    fps=8,
    stall=(1e9, 0.0),
    resize=(1e9, 0),
    first_pts=0.0,
    speed=1.0,
    started=lambda: None,
):
    """Write frames (S, S, 3) as MPEG-TS, each when it is due.

    stall: seconds at which nothing is written for so many seconds; what was filmed meanwhile comes in a burst.
    resize: seconds from which frames have another side.
    first_pts: seconds at which timestamps begin. speed: of its clock; 0: without any waiting.
    """
    container: Any = None
    stream: Any = None
    begun = time.monotonic()
    for index, frame in enumerate(frames):
        seconds = index / fps
        side = resize[1] if seconds >= resize[0] else frame.shape[0]
        if container is None or stream.width != side:
            if container is not None:
                container.mux(stream.encode())
                container.close()
            container = av.open(output, "w", format="mpegts", options={"flush_packets": "1"})
            tune = {"preset": "ultrafast", "tune": "zerolatency", "crf": "18", "g": str(2 * fps)}
            stream = container.add_stream("libx264", rate=fps, options=tune)
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        if speed:
            due = begun + seconds / speed
            if stall[0] <= seconds < stall[0] + stall[1]:
                due = begun + sum(stall)
            time.sleep(max(0.0, due - time.monotonic()))
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(side, side)
        picture.pts = index + round(first_pts * fps)
        container.mux(stream.encode(picture))
        output.flush()
        if index == 0:
            started()
    container.mux(stream.encode())
    container.close()


class _Open:
    """Standard output that stays open where a container on it is closed."""

    def __init__(self, file):
        self.write, self.flush = file.write, file.flush


def main(options):
    from transformers_ila.motionbench.sequences import MotionSequence

    of_sequence = ("seconds", "seed", "index", "fps", "side", "split")
    sequence = MotionSequence(**{name: options.pop(name) for name in of_sequence if name in options})
    time.sleep(options.pop("late", 0.0))

    def started():
        said = {"started": time.monotonic(), "annotations": sequence.truth()["annotations"]}
        print(json.dumps(said), file=sys.stderr, flush=True)

    write_stream(_Open(sys.stdout.buffer), sequence.frames(), fps=sequence.fps, started=started, **options)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
    main(json.loads(sys.argv[1]))
