"""Tests of the exporters of Transformers for a suite of models, under the names of Transformers' own.

Transformers mixes an `ExportTesterMixin` into its common suite, but the source release holds `tests/*.py` only, and so
not that one (`tests/exporters/`). This one asks for what that one does, outputs of the same names and values, of
programs for any shape. It also calls each program with other numbers of videos than the example's.
"""

from typing import Any

import pytest
import torch
from transformers.exporters.exporter_dynamo import DynamoExporter
from transformers.exporters.utils import get_leaf_tensors

from support.inputs import randomised


class ExportTesterMixin:
    """Give a suite with `all_model_classes` and `model_tester` the tests of torch.export and ONNX."""

    all_model_classes: Any
    model_tester: Any
    _prepare_for_class: Any

    @pytest.mark.slow
    def test_torch_export(self) -> None:
        self._check_programs(DynamoExporter())

    @pytest.mark.slow
    @pytest.mark.exporter
    def test_onnx_export(self) -> None:
        pytest.importorskip("onnxruntime", reason="ONNX files are run by onnxruntime, of the extra `dev`")
        from transformers.exporters.exporter_onnx import OnnxExporter

        self._check_programs(OnnxExporter())

    @torch.no_grad()
    def _check_programs(self, exporter: Any) -> None:
        """Export each class with one layer a tower, and compare for one, the example's and twice as many rows."""
        for model_class in self.all_model_classes:
            config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
            for tower in (config, getattr(config, "vision_config", None), getattr(config, "text_config", None)):
                if hasattr(tower, "num_hidden_layers"):
                    tower.num_hidden_layers = 1
            model = randomised(model_class(config)).eval()
            inputs = self._prepare_for_class(inputs, model_class)
            program = exporter.export(model, inputs, {"dynamic": True})
            for of_inputs in (lambda rows: rows[:1], lambda rows: rows, lambda rows: torch.cat([rows, rows.flip(0)])):
                each = {name: of_inputs(rows) for name, rows in inputs.items()}
                expected, found = get_leaf_tensors(model(**each)), get_leaf_tensors(program(**each))
                assert expected and found.keys() == expected.keys()
                torch.testing.assert_close(found, expected, atol=6e-6, rtol=1e-5)
