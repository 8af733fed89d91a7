"""The model that most tests here ask, and its processor."""

from support.evaluation_models import model, processor


__all__ = ["model", "processor"]
