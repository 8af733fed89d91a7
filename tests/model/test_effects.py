"""Every field of our configurations has an effect, is an error, or is Transformers' own; problems; presets."""

import json
import logging
from dataclasses import fields
from functools import cache

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPConfig, CLIPVisionConfig, TimesformerConfig

from support.tiny_models import TINY_VISION, tiny_config
from transformers_ila import (
    AlignedTimesformerConfig,
    AlignedTimesformerForVideoClassification,
    FrozenClipConfig,
    FrozenClipForVideoClassification,
    IlaConfig,
    IlaForVideoClassification,
    IlaVideoProcessor,
    IlaVisionConfig,
)
from transformers_ila.backbones.frozen_clip import FrozenClipVisionConfig
from transformers_ila.model import validation_ila
from transformers_ila.model.configuration_ila import PRESETS
from transformers_ila.model.validation_ila import MULTI_LABEL


SIDE = 12  # pixels
VISION = {**TINY_VISION, "image_size": SIDE}


def ila(**given):
    return tiny_config(**{"vision_config": dict(VISION), "num_labels": 3, **given})


def timesformer(**given):
    return AlignedTimesformerConfig(**{**VISION, "num_frames": 4, "num_labels": 3, **given})


def frozen_clip(**given):
    return FrozenClipConfig(**{"vision_config": dict(VISION), "num_frames": 4, "num_labels": 3, **given})


KINDS = {
    "ila": (ila, IlaForVideoClassification),
    "timesformer": (timesformer, AlignedTimesformerForVideoClassification),
    "frozen clip": (frozen_clip, FrozenClipForVideoClassification),
}


def trace(kind, **given):
    """What a model of a configuration is and computes: its weights, what of them trains, logits and loss."""
    return _trace(kind, json.dumps(given))


@cache
def _trace(kind, given):
    torch.manual_seed(0)
    config = KINDS[kind][0](**json.loads(given))
    model = KINDS[kind][1](config).train()
    weights = {name: (weight.shape, weight.requires_grad) for name, weight in model.named_parameters()}
    buffers = {name: buffer.shape for name, buffer in model.named_buffers()}
    with torch.no_grad():
        for weight in model.parameters():  # what starts with zeros shows nothing
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    pixels = torch.randn(2, config.num_frames, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    output = model(pixels, labels=torch.tensor([0, 2]))
    return weights, buffers, output.logits.detach().tolist(), output.loss.item()


# -- fields with an effect -------------------------------------------------------------------------------------------

# field -> another value than its default, and what must stand beside it
WORKS = {
    "num_frames": (3, {}),
    "temporal_module": ("average", {}),
    "alignment_fusion": ("add", {}),
    "alignment_conv": ("standard", {}),
    "alignment_operator": ("window_attention", {}),
    "alignment_hidden_size": (12, {}),
    "alignment_layers": ([1], {}),
    "alignment_pairing": ("first", {}),
    "alignment_causal": (True, {}),
    "alignment_distance": ("euclidean", {}),
    "alignment_eta": (2.0, {}),
    "alignment_delta": (0.5, {}),
    "alignment_beta": (3.0, {}),
    "alignment_jitter": (0.0, {}),
    "mit_num_hidden_layers": (0, {}),
    "mit_num_attention_heads": (2, {}),
    "mit_intermediate_size": (40, {}),
    "normalize_frames": (True, {"mit_num_hidden_layers": 0}),
    "shift_division": (4, {"temporal_module": "shift"}),
    "ata_dealignment": (False, {"temporal_module": "ata"}),
    "gta_groups": (4, {"temporal_module": "gta"}),
    "gta_regions": (5, {"temporal_module": "gta"}),
    "drop_path_rate": (0.9, {}),
    "patch_bias": (True, {}),
    "pre_layer_norm": (False, {}),
    "num_register_tokens": (2, {}),
    "gated_mlp": (True, {}),
    "projection_dim": (32, {}),
    "logit_scale_init_value": (1.0, {}),
    "initializer_factor": (2.0, {}),
    "initializer_range": (0.5, {}),
    "classification_head": ("linear", {}),
    "use_video_prompt": (False, {}),
    "prompt_layers": (1, {}),
    "prompt_alpha": (1.0, {}),
    "prompt_num_attention_heads": (2, {}),
    "prompt_hidden_act": ("gelu", {}),
    "prompt_attention_dropout": (0.5, {}),
    "prompt_projection_dropout": (0.5, {}),
    "freeze_text_model": (False, {}),
    "freeze_vision_model": (True, {}),
    "class_features": ("embeddings", {}),
    "classifier_dropout": (0.0, {"classification_head": "linear"}),
    "alignment_loss_weight": (0.0, {}),
    "label_smoothing": (0.5, {}),
}
OF_A_DECODER = {
    "decoder_num_layers": (1, {}),
    "decoder_temporal": (["convolution"], {}),
    "decoder_num_attention_heads": (2, {}),
}
SHOWN_ELSEWHERE = {
    "label_templates": "tests/model/test_class_tokens.py",
    "image_normalization": "test_the_normalisation_reaches_the_processor",
    "frame_rate": "tests/training/test_trainer.py",  # no logits depend on it
    "weights_origin": "tests/hub/test_cards.py",
    "untrained_weights": "tests/model/test_pretrained.py",
    "problem_type": "test_only_classes_are_learned",
    "id2label": "tests/model/test_modeling.py",
    "label2id": "tests/model/test_modeling.py",
    "vision_config": "all of WORKS that are IlaVisionConfig's",
    "text_config": "tests/model/test_modeling.py::test_text_features_equal_clip",
}


def of_transformers(kind):
    return {entry.name for entry in fields(kind)}


@pytest.mark.parametrize(
    "kind, parent",
    [
        (IlaConfig, CLIPConfig),
        (IlaVisionConfig, CLIPVisionConfig),
        (FrozenClipConfig, CLIPConfig),
        (FrozenClipVisionConfig, CLIPVisionConfig),
        (AlignedTimesformerConfig, TimesformerConfig),
    ],
)
def test_every_field_is_in_the_table(kind, parent):
    """A field without a row here, and not of the parent in Transformers, needs a row."""
    ours = {entry.name for entry in fields(kind)} - {entry.name for entry in fields(parent)}
    assert ours <= {*WORKS, *OF_A_DECODER, *SHOWN_ELSEWHERE}
    named = {name for use in kind.uses for name in use.fields}
    assert named <= {entry.name for entry in fields(kind)}


@pytest.mark.parametrize("field", WORKS)
def test_it_has_an_effect(field):
    value, beside = WORKS[field]
    assert trace("ila", **beside) != trace("ila", **beside, **{field: value})


ALIGNMENT = [name for name in WORKS if name.startswith("alignment_")]


CAUSAL = "alignment_causal"  # of ILA's own tower: the others attend to all frames


@pytest.mark.parametrize(
    "field", [*(name for name in ALIGNMENT if name != CAUSAL), "label_smoothing", "temporal_module"]
)
def test_it_has_an_effect_inside_timesformer(field):
    value, beside = {**WORKS, "temporal_module": ("none", {})}[field]
    assert trace("timesformer", **beside) != trace("timesformer", **beside, **{field: value})


@pytest.mark.parametrize(
    "field",
    [*OF_A_DECODER, *(name for name in ALIGNMENT if name != CAUSAL), "classifier_dropout", "label_smoothing"],
)
def test_it_has_an_effect_on_a_frozen_clip(field):
    """The alignment's also where only the decoder aligns."""
    value, beside = {**WORKS, **OF_A_DECODER}[field]
    if field in ALIGNMENT and field != "alignment_layers":
        beside = {"temporal_module": "none", "decoder_temporal": ["alignment"]}
    beside = {name: other for name, other in beside.items() if name != "classification_head"}
    assert trace("frozen clip", **beside) != trace("frozen clip", **beside, **{field: value})


def test_the_normalisation_reaches_the_processor():
    wanted = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    assert IlaVideoProcessor.for_model(ila(image_normalization=wanted)).image_std == (0.4, 0.5, 0.6)


# -- fields without one ----------------------------------------------------------------------------------------------

OTHER_MODULE = {"temporal_module": "ata"}
LINEAR = {"classification_head": "linear"}
NO_ROW = ("alignment_layers", "alignment_hidden_size", "alignment_jitter", "alignment_loss_weight", CAUSAL)
IDLE = [
    *(("ila", OTHER_MODULE, name, WORKS[name][0]) for name in ALIGNMENT if name not in NO_ROW),
    ("ila", OTHER_MODULE, "alignment_jitter", 0.1),
    ("ila", OTHER_MODULE, "alignment_loss_weight", 0.5),
    ("ila", {"temporal_module": "none"}, "alignment_fusion", "mi_token"),
    ("ila", {"alignment_layers": []}, "alignment_pairing", "first"),
    ("ila", {"temporal_module": "none"}, "alignment_layers", [1]),
    ("ila", {"alignment_beta": 0.0}, "alignment_delta", 0.5),
    ("ila", {"temporal_module": "none"}, CAUSAL, True),
    ("ila", {"temporal_module": "average"}, CAUSAL, True),
    *(
        ("ila", {"temporal_module": module, "alignment_layers": []}, CAUSAL, True)
        for module in ("ila", "shift", "gta")
    ),
    ("frozen clip", {}, CAUSAL, True),
    ("ila", {}, "shift_division", 4),
    ("ila", {"temporal_module": "divided"}, "ata_dealignment", False),
    ("ila", {}, "gta_regions", 5),
    ("ila", {"mit_num_hidden_layers": 0}, "mit_intermediate_size", 40),
    ("ila", {"vision_config": {**VISION, "num_hidden_layers": 1}}, "drop_path_rate", 0.5),
    *(("ila", {"use_video_prompt": False}, name, WORKS[name][0]) for name in ("prompt_layers", "prompt_alpha")),
    *(("ila", LINEAR, name, WORKS[name][0]) for name in ("prompt_hidden_act", "prompt_attention_dropout")),
    ("ila", LINEAR, "prompt_projection_dropout", 0.5),
    ("ila", LINEAR, "class_features", "embeddings"),
    ("ila", LINEAR, "label_templates", ["a {}"]),
    ("ila", {}, "normalize_frames", True),
    ("ila", LINEAR, "logit_scale_init_value", 1.0),
    ("ila", LINEAR, "freeze_text_model", False),
    ("ila", {"class_features": "embeddings"}, "freeze_text_model", False),
    ("ila", {}, "classifier_dropout", 0.25),
    ("ila", {"problem_type": MULTI_LABEL}, "label_smoothing", 0.1),
    ("timesformer", OTHER_MODULE, "alignment_fusion", "interaction"),
    ("timesformer", {"temporal_module": "none"}, "alignment_jitter", 0.1),
    ("timesformer", OTHER_MODULE, "alignment_loss_weight", 0.5),
    ("timesformer", {"problem_type": MULTI_LABEL}, "label_smoothing", 0.1),
    ("frozen clip", {"temporal_module": "none"}, "alignment_fusion", "mi_token"),
    ("frozen clip", {"temporal_module": "none"}, "alignment_loss_weight", 0.5),
    ("frozen clip", {}, "mit_num_hidden_layers", 2),
    ("frozen clip", {}, "mit_num_attention_heads", 2),
    ("frozen clip", {}, "mit_intermediate_size", 40),
    ("frozen clip", {}, "drop_path_rate", 0.5),
    ("frozen clip", {}, "attention_dropout", 0.5),
    ("frozen clip", {}, "prompt_alpha", 1.0),
    ("frozen clip", {}, "freeze_text_model", False),
    ("frozen clip", {}, "projection_dim", 100),
]
ONLY_WARNED = {"alignment_hidden_size", "gta_groups", "mit_num_attention_heads", "prompt_num_attention_heads"}


def test_every_condition_is_tried():
    uses = {*IlaConfig.uses, *IlaVisionConfig.uses, *FrozenClipConfig.uses, *FrozenClipVisionConfig.uses}
    named = {name for use in (*uses, *AlignedTimesformerConfig.uses) for name in use.fields}
    assert named == {field for _, _, field, _ in IDLE} - {"projection_dim"} | ONLY_WARNED
    assert {name for use in uses if not use.refused for name in use.fields} == ONLY_WARNED


@pytest.mark.parametrize("kind, beside, field, value", IDLE)
def test_without_an_effect_it_is_an_error(kind, beside, field, value, tmp_path):
    make, given = KINDS[kind][0], {field: value}
    if field == "attention_dropout":
        given = {"vision_config": {**VISION, field: value}}
    make(**beside)  # in itself it is fine
    with pytest.raises(
        (StrictDataclassError, ValueError), match=f"(?s)`{field}` is {value!r}.*allowed: ".replace("[", r"\[")
    ):
        make(**beside, **given)
    config = make(**beside)
    config.save_pretrained(tmp_path)
    if "vision_config" not in given:
        with pytest.raises((StrictDataclassError, ValueError), match=f"`{field}` is"):
            type(config).from_pretrained(tmp_path, **given)
    if kind == "ila":  # and set afterwards it is not saved
        part = config if field in {entry.name for entry in fields(IlaConfig)} else config.vision_config
        setattr(part, field, value)
        with pytest.raises(StrictDataclassError, match=f"`{field}` is"):
            config.save_pretrained(tmp_path)


def test_numbers_for_all_variants_are_named_in_a_warning(caplog):
    validation_ila.logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger=validation_ila.__name__):
        ila(temporal_module="none", alignment_hidden_size=12, gta_groups=4)
    assert "`alignment_hidden_size` is 12" in caplog.text and "`gta_groups` is 4" in caplog.text


def test_what_says_that_nothing_happens_is_taken():
    config = ila(temporal_module="none", alignment_jitter=0.0, alignment_loss_weight=0.0, classifier_dropout=0.0)
    assert config.vision_config.alignment_jitter == 0 and not config.alignment_loss_weight
    assert not ila(classification_head="linear", use_video_prompt=False).use_video_prompt


def test_a_file_may_hold_what_has_no_effect(tmp_path, caplog):
    """Files of before do, and so does one whose module is replaced while it is loaded."""
    ila(alignment_fusion="mi_token", alignment_delta=0.5, alignment_loss_weight=0.5).save_pretrained(tmp_path)
    validation_ila.logger.warning_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger=validation_ila.__name__):
        config = IlaConfig.from_pretrained(tmp_path, temporal_module="gta", gta_groups=4)
    said = caplog.text
    for name in ("alignment_fusion", "alignment_delta", "alignment_loss_weight"):
        assert f"`{name}` is" in said
    vision = config.vision_config
    assert (vision.temporal_module, vision.gta_groups, vision.alignment_fusion) == ("gta", 4, "interaction")
    assert (vision.alignment_delta, config.alignment_loss_weight) == (0.25, 1.0)
    written = json.loads((tmp_path / "config.json").read_text())
    written["vision_config"]["temporal_module"] = "ata"
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert IlaConfig.from_pretrained(tmp_path).vision_config.alignment_fusion == "interaction"
    assert IlaVisionConfig.from_pretrained(tmp_path).alignment_fusion == "interaction"
    both = IlaConfig.from_pretrained(tmp_path, temporal_module="ila", alignment_fusion="add")
    assert both.vision_config.alignment_fusion == "add" and both.vision_config.alignment_delta == 0.5
    timesformer(alignment_fusion="add").save_pretrained(tmp_path)
    loaded = AlignedTimesformerConfig.from_pretrained(tmp_path, temporal_module="ata")
    assert (loaded.temporal_module, loaded.alignment_fusion) == ("ata", "mi_token")


def test_what_a_file_says_may_be_replaced(tmp_path):
    """By what is given, before anything is validated; what then has no effect is dropped, as ever."""
    smooth = {"label_smoothing": 0.1, "classification_head": "linear"}
    for make in (ila, timesformer, frozen_clip):
        given = smooth if make is not timesformer else {"label_smoothing": 0.1}
        config = make(**given)
        config.save_pretrained(tmp_path)
        several = type(config).from_pretrained(tmp_path, problem_type=MULTI_LABEL)
        assert (several.problem_type, several.label_smoothing) == (MULTI_LABEL, 0.0)
        written = json.loads((tmp_path / "config.json").read_text())
        for problem in (MULTI_LABEL, "regression"):
            (tmp_path / "config.json").write_text(json.dumps({**written, "problem_type": problem}))
            if problem == MULTI_LABEL:
                assert type(config).from_pretrained(tmp_path).label_smoothing == 0.0
            one = type(config).from_pretrained(tmp_path, problem_type="single_label_classification")
            assert one.label_smoothing == 0.1
        with pytest.raises(StrictDataclassError, match="`problem_type` is 'regression'"):
            type(config).from_pretrained(tmp_path)


def test_a_decoder_s_file_may_hold_an_alignment_that_nothing_uses(tmp_path):
    frozen_clip(temporal_module="none", decoder_temporal=["alignment"], alignment_fusion="add").save_pretrained(
        tmp_path
    )
    assert FrozenClipConfig.from_pretrained(tmp_path).vision_config.alignment_fusion == "add"
    loaded = FrozenClipConfig.from_pretrained(tmp_path, decoder_temporal=["convolution"])
    assert loaded.vision_config.alignment_fusion == "interaction"
    assert FrozenClipConfig.paper(temporal_module="none").vision_config.alignment_fusion == "interaction"


def test_names_of_other_programs_are_dropped_from_files(tmp_path, caplog):
    """OpenAI's CLIP lists numbers of generated text in its towers; some programs write `hidden_size` at the top."""
    for make, place in ((ila, "vision_config"), (frozen_clip, "vision_config"), (timesformer, None)):
        config = make()
        written = {**config.to_dict(), "decoder_start_token_id": None, "prompt_note": "x", "temperature": 1.0}
        if place is not None:
            written |= {"hidden_size": 32, place: {**written[place], "decoder_start_token_id": None, "mit_note": 1}}
        validation_ila.logger.warning_once.cache_clear()
        with caplog.at_level(logging.WARNING, logger=validation_ila.__name__):
            loaded = type(config).from_dict(dict(written))
        assert {**loaded.to_dict(), "vision_config": None} == {
            **config.to_dict(),
            "decoder_start_token_id": None,
            "vision_config": None,
        }
        assert place is None or not hasattr(loaded.vision_config, "mit_note")
        assert "`prompt_note` of the file is dropped" in caplog.text and "decoder_start_token_id" not in caplog.text
        (tmp_path / "config.json").write_text(json.dumps(config.to_dict(), default=str))
        with pytest.raises(ValueError, match="no field `temporal_modul`"):
            type(config).from_pretrained(tmp_path, temporal_modul="none")
    clip = CLIPConfig(vision_config={**VISION, "decoder_start_token_id": None})
    assert IlaConfig(vision_config=clip.vision_config).vision_config.image_size == SIDE
    for head in ({"problem_type": "regression"}, {"id2label": {0: "beauty"}}):  # which is not loaded here
        CLIPConfig(**head).save_pretrained(tmp_path)
        assert IlaConfig.from_pretrained(tmp_path).class_names == ["LABEL_0", "LABEL_1"]


def test_towers_of_our_other_models_are_checked():
    with pytest.raises(StrictDataclassError, match="`mit_num_hidden_layers` is 2"):
        FrozenClipConfig(vision_config=IlaVisionConfig(**VISION, mit_num_hidden_layers=2))


@pytest.mark.parametrize(
    "make, given, message",
    [
        (ila, {"alignment_fuson": "mi_token"}, "no field `alignment_fuson`; did you mean `alignment_fusion`"),
        (ila, {"label_smoothng": 0.1}, "did you mean `label_smoothing`"),
        (ila, {"num_frame": 8}, "did you mean `num_frames`"),
        (
            ila,
            {"hidden_size": 64},
            "`hidden_size` has no effect here; it is a field of `vision_config` and of `text_con",
        ),
        (ila, {"vision_config": {**VISION, "mit_layers": 2}}, "no field `mit_layers`"),
        (timesformer, {"alignment_mode": "add"}, "no field `alignment_mode`"),
        (timesformer, {"temporal_modul": "ata"}, "did you mean `temporal_module`"),
        (frozen_clip, {"decoder_layers": 2}, "no field `decoder_layers`; did you mean .*`decoder_num_layers`"),
        (frozen_clip, {"alignment_fuson": "add"}, "did you mean `alignment_fusion`"),
    ],
)
def test_names_that_are_no_fields(make, given, message):
    """Transformers makes attributes of them, and nothing reads those."""
    with pytest.raises(ValueError, match=message):
        make(**given)
    assert make(torchscript=True, temperature=0.5) is not None  # files of CLIP hold many


# -- what is learned -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "field, value, allowed",
    [("problem_type", "regression", "multi_label_classification"), ("num_labels", 1, "2 or more")],
)
def test_only_classes_are_learned(kind, field, value, allowed, tmp_path):
    """Numbers are not; VideoMAE's loss of such falls, and ours was 0, or a cross-entropy that nobody asked for."""
    make, model_class = KINDS[kind]
    message = f"(?s)`{field}` is {value!r}; allowed: .*{allowed}"
    with pytest.raises(StrictDataclassError, match=message):
        make(**{field: value})
    make().save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassError, match=message):
        type(make()).from_pretrained(tmp_path, **{field: value})
    model = model_class(make())
    setattr(model.config, field, value)
    pixels = torch.zeros(1, 4, 3, SIDE, SIDE)
    for call in (
        lambda: model(pixels),
        lambda: model(pixels, labels=torch.tensor([0])),
        lambda: model(pixels[:, None]),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match=message):
        model.classification_loss(torch.zeros(1, 3), torch.tensor([0]))


def test_one_class_cannot_be_named(tmp_path):
    linear, text = (IlaForVideoClassification(ila(classification_head=head)) for head in ("linear", "text"))
    linear.save_pretrained(tmp_path)
    for call in (
        lambda: linear.set_labels(["one"]),
        lambda: text.set_class_input_ids(torch.ones(1, 5, dtype=torch.long)),
        lambda: text.set_class_embeddings(torch.ones(1, 64)),
        lambda: AlignedTimesformerForVideoClassification(timesformer()).set_labels(["one"]),
        lambda: FrozenClipForVideoClassification(frozen_clip()).set_labels(["one"]),
        lambda: IlaForVideoClassification.from_pretrained(tmp_path, labels=["one"]),
    ):
        with pytest.raises(ValueError, match="`num_labels` is 1; allowed: 2 or more"):
            call()
    assert linear.config.num_labels == text.config.num_labels == linear.classifier.out_features == 3
    linear.config.problem_type = MULTI_LABEL
    linear.set_labels(["one"])


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_is_learned_as_a_label(kind):
    """With several labels a single class is there or not, and the loss falls."""
    make, model_class = KINDS[kind]
    torch.manual_seed(0)
    model = model_class(make(num_labels=1, problem_type=MULTI_LABEL)).train()
    pixels, labels = torch.randn(2, 4, 3, SIDE, SIDE), torch.tensor([[1.0], [0.0]])
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model.classification_loss(model(pixels).logits, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_smoothing_is_refused_where_several_labels_are_set_later():
    model = IlaForVideoClassification(ila(label_smoothing=0.1))
    model.config.problem_type = MULTI_LABEL
    with pytest.raises(ValueError, match="`label_smoothing` is 0.1"):
        model(torch.zeros(1, 4, 3, SIDE, SIDE))


# -- presets ---------------------------------------------------------------------------------------------------------


def test_presets():
    paper, released = IlaConfig.paper().vision_config, IlaConfig.released().vision_config
    for vision, fusion, distance, jitter in (
        (paper, "mi_token", "euclidean", 0.0),
        (released, "residual", "separable", 0.2),
        (IlaVisionConfig.paper(), "mi_token", "euclidean", 0.0),
        (IlaVisionConfig.released(), "residual", "separable", 0.2),
        (FrozenClipConfig.paper("B/16").vision_config, "mi_token", "euclidean", 0.0),
        (AlignedTimesformerConfig.paper(), "mi_token", "euclidean", 0.0),
    ):
        assert (vision.alignment_fusion, vision.alignment_distance, vision.alignment_jitter) == (
            fusion,
            distance,
            jitter,
        )
    default = IlaConfig().vision_config
    assert (default.alignment_fusion, default.alignment_distance, default.alignment_jitter) == (
        "interaction",
        "separable",
        0.2,
    )


def test_presets_forward_sizes_and_overrides():
    config = IlaConfig.paper("L/14", num_frames=16, classification_head="linear", alignment_conv="standard")
    sized = IlaConfig.from_clip_size("L/14", num_frames=16, classification_head="linear", alignment_conv="standard")
    assert config.vision_config.to_dict() == {**sized.vision_config.to_dict(), **PRESETS["paper"]}
    assert IlaConfig.released("B/32", alignment_jitter=0.1).vision_config.alignment_jitter == 0.1
    inner = IlaConfig.paper(vision_config={**TINY_VISION, "alignment_distance": "separable"}).vision_config
    assert (inner.alignment_distance, inner.alignment_fusion, inner.hidden_size) == ("separable", "mi_token", 32)
    other = IlaConfig.paper(temporal_module="ata").vision_config
    assert (other.temporal_module, other.alignment_fusion) == ("ata", "interaction")
    with pytest.raises(StrictDataclassError, match="alignment_pairing"):
        IlaConfig.paper(temporal_module="ata", alignment_pairing="first")
    with pytest.raises(ValueError, match="'B/8'; allowed"):
        IlaConfig.paper("B/8")
