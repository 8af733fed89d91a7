"""The videos that tests of training learn from, and their processor."""

import pytest

from support.tiny_models import tiny_config
from transformers_ila import IlaVideoProcessor
from transformers_ila.data.annotations import read_annotations
from transformers_ila.motionbench.tasks import write_folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_folder(folder, 16, seed=0, num_frames=6)
    return read_annotations(folder)


@pytest.fixture(scope="module")
def processor():
    return IlaVideoProcessor.for_model(tiny_config())
