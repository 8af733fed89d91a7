"""Models, labels and views that the tests of evaluation share."""

import os
import subprocess
import sys

import pytest
import torch

from support.paths import SCRIPTS
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.evaluation.options import PROTOCOLS
from transformers_ila.model.alignment_ila import PointLayer
from transformers_ila.motionbench.tasks import MOTIONS


SCRIPT = SCRIPTS / "evaluate.py"
TOLERANCE = 1e-5  # of logits, whose scale is some 14
LABELS = sorted(MOTIONS)


def make_model(**fields) -> IlaForVideoClassification:
    """Tiny, for the eight motions; videos, and statistics other than the running ones, make a difference to it."""
    torch.manual_seed(0)
    config = tiny_config(
        id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)}, **fields
    )
    model = IlaForVideoClassification(config).eval()
    for module in model.vision_model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, PointLayer)):
            torch.nn.init.normal_(module.weight, std=1.5 * module.weight[0].numel() ** -0.5)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            module.num_batches_tracked.fill_(7)
    return model


def views_of(processor, path, protocol="1x1") -> torch.Tensor:
    """(V, T, C, H, W)"""
    clips, crops = PROTOCOLS[protocol]
    views = processor(path, num_clips=clips, num_crops=crops, return_tensors="pt")["pixel_values"]
    return views[0] if views.ndim == 6 else views


def torchrun(*command: object, processes: int = 2) -> subprocess.CompletedProcess:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*launch, *map(str, command)], capture_output=True, text=True, env=environment)


# -- fixtures: the `conftest.py` of a folder imports those that its tests ask for -----------------------------------


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor(model):
    return IlaVideoProcessor.for_model(model.config)
