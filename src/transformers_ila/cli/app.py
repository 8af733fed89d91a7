"""Serve a page on which anybody can ask a model about a video: its label, where it looked, and what happens when.

Without a model it opens the one that `ila demo` left in demo_output/model. The page is reached from this machine only,
unless --host or --share say otherwise. Users choose among the models that are named, or name a Hub id, and open files
on this machine only in --folders. What they send is deleted when they leave, and nothing is left when the page ends.

Exit code: 130 ended by Ctrl-C, 2 bad arguments, a port that is taken, or Gradio is missing.
"""

from ..app.launch import launch
from ..app.options import AppOptions
from .main import interrupted_by_sigterm


EXAMPLES = (
    "ila app",
    "ila app my-ila openai/clip-vit-base-patch32 --folders path/to/videos --port 8000",
)
POSITIONAL = "models"


def run(options: AppOptions) -> int:
    """Serve the page until the process is interrupted."""
    with interrupted_by_sigterm():
        launch(options)
    return 0
