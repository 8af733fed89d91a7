"""Starts the page of a Space, with the models that the variable MODELS names, or the one in the folder `model`."""

import os
import sys
from pathlib import Path

from ila_cli import main


MODELS = os.environ.get("MODELS", "").split() or ["model"]
EXAMPLES = sorted(map(str, Path("examples").glob("*.*")))
LIMITS = "--megabytes 50 --seconds 300 --job_seconds 300 --queue 20 --idle_minutes 15 --model_megabytes 1500".split()

if __name__ == "__main__":
    offered = ["--examples", *EXAMPLES] if EXAMPLES else []
    sys.exit(main(["app", *MODELS, "--host", "0.0.0.0", "--port", "7860", "--device", "cpu", *offered, *LIMITS]))
