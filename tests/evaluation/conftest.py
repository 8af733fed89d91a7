"""The model that most tests of evaluation ask, and its processor."""

import pytest

from support.evaluation_models import make_model
from transformers_ila import IlaVideoProcessor


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor(model):
    return IlaVideoProcessor.for_model(model.config)
