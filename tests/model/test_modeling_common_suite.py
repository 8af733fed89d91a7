"""Transformers' ModelTesterMixin and ConfigTester, run against our models and configurations.

Every kind of architecture takes all of the suite's tests: the tower, the two-tower model, the classifier, the frozen
CLIP with a decoder, the aligned TimeSformer. A switch of one of them (temporal module, fusion, pairing, head) takes
those of `OF_A_SWITCH`.
"""

import unittest
from typing import Any

import pytest
import torch
from transformers.testing_utils import torch_device

from support.export_suite import ExportTesterMixin
from support.tiny_models import TINY_ILA, TINY_VISION, tiny_config
from support.transformers_common_suite import common_suite
from transformers_ila import (
    IlaConfig,
    IlaForVideoClassification,
    IlaModel,
    IlaTextConfig,
    IlaVisionConfig,
    IlaVisionModel,
)
from transformers_ila.backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from transformers_ila.backbones.timesformer import (
    AlignedTimesformerConfig,
    AlignedTimesformerForVideoClassification,
    AlignedTimesformerModel,
)
from transformers_ila.model.temporal_ila import TEMPORAL_MODULES


models = common_suite("test_modeling_common")
configurations = common_suite("test_configuration_common")


# What a switch can break: how many tokens there are, what they see of each other, and which weights and buffers there
# are. The suite's other tests ask about loading, attention kernels and configurations, where no switch is read;
# tests/model/test_temporal.py trains, saves, casts and checkpoints every form.
OF_A_SWITCH = {
    "test_all_tensors_are_parameter_or_buffer",
    "test_attention_outputs",
    "test_batching_equivalence",
    "test_can_be_initialized_on_meta",
    "test_can_capture_specific_layers_hidden_states",
    "test_can_init_all_missing_weights",
    "test_determinism",
    "test_eager_matches_sdpa_inference_09_fp32_pad_left",
    "test_hidden_states_output",
    "test_init_weights_can_init_buffers",
    "test_keep_in_fp32_modules",
    "test_keep_in_fp32_modules_exist",
    "test_retain_grad_hidden_states_attentions",
    "test_save_load",
    "test_training",
    "test_training_gradient_checkpointing",
}


def switch(suite: type) -> type:
    """Class decorator: the suite with the tests of `OF_A_SWITCH` only, in the slow tier."""
    names = {name for name in dir(suite) if name.startswith("test_") and callable(getattr(suite, name))}
    assert OF_A_SWITCH <= names, f"the suite has no test named {sorted(OF_A_SWITCH - names)}"
    for name in names - OF_A_SWITCH:
        setattr(suite, name, None)
    return pytest.mark.slow(suite)


class IlaTester:
    """What the suite asks of a tester: a small configuration and inputs for it."""

    batch_size = 3

    def __init__(self, config: Any, *, is_training: bool = True) -> None:
        self.config, self.is_training = config, is_training
        vision = getattr(config, "vision_config", config)
        self.num_hidden_layers = vision.num_hidden_layers
        self.num_attention_heads = vision.num_attention_heads
        self.hidden_size = vision.hidden_size
        self.seq_length = 1 + (vision.image_size // vision.patch_size) ** 2 + getattr(vision, "num_register_tokens", 0)
        self.num_frames, self.image_size = vision.num_frames, vision.image_size

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        size = (self.batch_size, self.num_frames, 3, self.image_size, self.image_size)
        return type(self.config).from_dict(self.config.to_dict()), {"pixel_values": models.floats_tensor(size)}

    def text_inputs(self) -> dict[str, torch.Tensor]:
        text = self.config.text_config
        input_ids = models.ids_tensor((self.batch_size, 7), text.vocab_size - 2)
        input_ids[:, -1] = text.eos_token_id
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


class IlaModelTester(IlaTester):
    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        config, inputs = super().prepare_config_and_inputs_for_common()
        return config, {**inputs, **self.text_inputs()}


class SuiteOverrides(ExportTesterMixin, models.ModelTesterMixin):
    """Overrides that hold for all our models, each with its reason."""

    extra_tokens = 1  # that the alignment gives the attention
    test_resize_embeddings = False  # no model here has an output vocabulary

    def test_attention_outputs(self) -> None:
        # the mutual-information token takes part in the attention, so maps are one longer than hidden states
        self.model_tester.encoder_seq_length = self.model_tester.seq_length + self.extra_tokens
        super().test_attention_outputs()

    def _prepare_for_class(self, inputs: dict, model_class: Any, return_labels: bool = False) -> dict:
        # the suite adds labels to the classes it knows by name
        inputs = super()._prepare_for_class(inputs, model_class, return_labels=return_labels)
        if return_labels:
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long, device=torch_device)
        return inputs

    def _text_features_prepare_config_and_inputs(self) -> tuple[Any, dict[str, torch.Tensor]]:
        # a classifier's forward takes no text, so its tester's inputs hold none
        return self.model_tester.prepare_config_and_inputs_for_common()[0], self.model_tester.text_inputs()

    def _video_features_prepare_config_and_inputs(self) -> tuple[Any, dict[str, torch.Tensor]]:
        # the suite renames the key to that of vision-language models, `pixel_values_videos`
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        return config, {"pixel_values": inputs["pixel_values"]}

    def test_model_get_set_embeddings(self) -> None:
        # the input embedding is a convolution over pixels, not an `nn.Embedding`
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config)
            self.assertIsInstance(model.get_input_embeddings(), torch.nn.Conv2d)
            self.assertIsNone(model.get_output_embeddings())

    @unittest.skip("the inputs are pixels: there are no `inputs_embeds`")
    def test_inputs_embeds(self) -> None: ...

    @unittest.skip("the inputs are pixels: there are no `inputs_embeds`")
    def test_inputs_embeds_matches_input_ids(self) -> None: ...


class IlaVisionModelCommonTest(SuiteOverrides, unittest.TestCase):
    all_model_classes = (IlaVisionModel,)

    def setUp(self) -> None:
        # a tower has no loss, so it is not trained alone
        self.model_tester = IlaTester(tiny_config().vision_config, is_training=False)
        self.config_tester = configurations.ConfigTester(
            self, config_class=IlaVisionConfig, has_text_modality=False, hidden_size=32, num_attention_heads=4
        )

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


@switch
class VitTowerCommonTest(IlaVisionModelCommonTest):
    def setUp(self) -> None:
        super().setUp()
        fields = {"patch_bias": True, "pre_layer_norm": False, "num_register_tokens": 2, "gated_mlp": True}
        self.model_tester = IlaTester(tiny_config(**fields).vision_config, is_training=False)


class IlaTextConfigCommonTest(unittest.TestCase):
    def test_config(self) -> None:
        fields = {"hidden_size": 32, "num_attention_heads": 4}
        configurations.ConfigTester(self, config_class=IlaTextConfig, **fields).run_common_tests()


class IlaModelCommonTest(SuiteOverrides, unittest.TestCase):
    all_model_classes = (IlaModel,)
    _is_composite = True
    additional_model_inputs = ["pixel_values", "attention_mask"]

    def setUp(self) -> None:
        self.model_tester = IlaModelTester(tiny_config())
        common = ["projection_dim", "initializer_range", "num_frames"]
        self.config_tester = configurations.ConfigTester(
            self, config_class=IlaConfig, has_text_modality=False, common_properties=common
        )

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    def _prepare_for_class(self, inputs: dict, model_class: Any, return_labels: bool = False) -> dict:
        # the contrastive loss needs no labels, it is asked for
        inputs = super()._prepare_for_class(inputs, model_class)
        return {**inputs, "return_loss": True} if return_labels else inputs

    @unittest.skip("hidden states are those of the towers, which are tested on their own")
    def test_hidden_states_output(self) -> None: ...

    @unittest.skip("attentions are those of the towers, which are tested on their own")
    def test_attention_outputs(self) -> None: ...

    @unittest.skip("hidden states and attentions are those of the towers, which are tested on their own")
    def test_retain_grad_hidden_states_attentions(self) -> None: ...


class IlaForVideoClassificationCommonTest(SuiteOverrides, unittest.TestCase):
    all_model_classes = (IlaForVideoClassification,)
    _is_composite = True

    def setUp(self) -> None:
        self.model_tester = IlaTester(tiny_config(num_labels=4))


@switch
class IlaForVideoClassificationLinearHeadCommonTest(IlaForVideoClassificationCommonTest):
    def setUp(self) -> None:
        self.model_tester = IlaTester(tiny_config(num_labels=4, classification_head="linear"))


@switch
class IlaForVideoClassificationResidualCommonTest(IlaForVideoClassificationCommonTest):
    extra_tokens = 0

    def setUp(self):
        super().setUp()
        self.model_tester = IlaTester(tiny_config(num_labels=4, alignment_fusion="residual"))


# Name of the suite -> fields of the tower, and how many tokens more than a frame's own its attention sees.
TOWERS: dict[str, tuple[dict[str, Any], int]] = {
    name: ({"temporal_module": name}, int(name in ("average", "message"))) for name in (*TEMPORAL_MODULES, "none")
} | {
    "add": ({"alignment_fusion": "add"}, 0),
    "concat": ({"alignment_fusion": "concat"}, 49),
    "windows": ({"alignment_operator": "window_attention"}, 1),
    "middle": ({"alignment_pairing": "middle"}, 1),
}


def _suite_of(name: str, fields: dict[str, Any], extra_tokens: int) -> type:
    """The suite for a tower with another temporal module or another form of ILA's."""

    class TowerCommonTest(IlaVisionModelCommonTest):
        def setUp(self) -> None:
            super().setUp()
            self.extra_tokens = extra_tokens
            self.model_tester.config = tiny_config(gta_groups=4, **fields).vision_config

        if "temporal_module" in fields:

            @unittest.skip("batch normalisation is ILA's: these have no statistics to keep in float32")
            def test_keep_in_fp32_modules_exist(self) -> None: ...

        if name == "joint":

            @unittest.skip("all frames share one attention, so its maps are of T * L tokens")
            def test_attention_outputs(self) -> None: ...

    TowerCommonTest.__name__ = TowerCommonTest.__qualname__ = f"{name.title()}CommonTest"
    return switch(TowerCommonTest)


globals().update({f"{name.title()}CommonTest": _suite_of(name, *of_tower) for name, of_tower in TOWERS.items()})


@switch
class PaperFormCommonTest(IlaForVideoClassificationCommonTest):
    def setUp(self):
        super().setUp()
        self.model_tester = IlaTester(tiny_config(num_labels=4, alignment_fusion="mi_token"))


@pytest.mark.slow
class FrozenClipCommonTest(IlaForVideoClassificationCommonTest):
    all_model_classes = (FrozenClipForVideoClassification,)

    def setUp(self) -> None:
        self.model_tester = IlaTester(FrozenClipConfig(vision_config=TINY_VISION, **TINY_ILA, num_labels=4))

    def _text_features_prepare_config_and_inputs(self) -> Any:
        self.skipTest("a linear head has no text tower")

    @unittest.skip("CLIP's embeddings take no gradient")
    def test_retain_grad_hidden_states_attentions(self) -> None: ...


@pytest.mark.slow
class AlignedTimesformerModelCommonTest(SuiteOverrides, unittest.TestCase):
    all_model_classes = (AlignedTimesformerModel,)
    fields: dict[str, Any] = {}
    is_training = False  # no loss without a head

    def setUp(self) -> None:
        config = AlignedTimesformerConfig(**TINY_VISION, **TINY_ILA, num_labels=4, **self.fields)
        self.model_tester = IlaTester(config, is_training=self.is_training)

    def test_hidden_states_output(self) -> None:
        # one class token for the clip; attentions are those of its frames
        tester = self.model_tester
        tester.encoder_seq_length = 1 + tester.num_frames * (tester.seq_length - 1)
        super().test_hidden_states_output()

    @unittest.skip("the input embedding is TimeSformer's module of patches and positions")
    def test_model_get_set_embeddings(self) -> None: ...


@pytest.mark.slow
class AlignedTimesformerForVideoClassificationCommonTest(AlignedTimesformerModelCommonTest):
    all_model_classes = (AlignedTimesformerForVideoClassification,)
    is_training = True


@switch
class AtaTimesformerCommonTest(AlignedTimesformerForVideoClassificationCommonTest):
    fields = {"temporal_module": "ata"}
    extra_tokens = 0

    @unittest.skip("batch normalisation is ILA's: ATA has no statistics to keep in float32")
    def test_keep_in_fp32_modules_exist(self) -> None: ...


del ExportTesterMixin, SuiteOverrides  # base classes, no tests of their own
