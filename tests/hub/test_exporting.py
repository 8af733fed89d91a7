"""Exported folders: complete, loaded without the package to the last bit, and never half-written."""

import ast
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoVideoProcessor,
    CLIPImageProcessor,
    CLIPModel,
    dynamic_module_utils,
    pipeline,
)

from support.elsewhere import LABELS, MODEL, Exports, run_elsewhere
from support.tiny_models import TINY_VISION, byte_tokenizer, tiny_config
from transformers_ila import IlaConfig, IlaForVideoClassification, IlaModel, IlaProcessor, IlaVideoProcessor
from transformers_ila.conversion.published import PUBLISHED
from transformers_ila.conversion.released_cards import published_facts
from transformers_ila.hub import exporting as hub
from transformers_ila.hub.checking import PublishError, check_folder
from transformers_ila.hub.exporting import export
from transformers_ila.hub.facts import ModelFacts, read_facts


NEW_LABELS = ["sitting", "running", "waving", "jumping"]
CODE = {path.name for path in MODEL.glob("*_ila.py")}
# What shipped files may import: what a user of Transformers with videos has, and PyAV.
ALLOWED = {"torch", "torchvision", "transformers", "huggingface_hub", "av", "numpy", "PIL"} | sys.stdlib_module_names
REMEMBERS = "tokenizer_config.json"  # how its tokenizer was loaded and what for
AUTO_CLASSES = (AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor, AutoProcessor)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Exports:
    return Exports(tmp_path_factory.mktemp("exports"))


def read(folder: Path, *, but: str = "") -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name != but}


# -- where the package is missing ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(place) -> Path:
    """The place, with what a process without the package made of every folder as `<name>.pt` and `<name>-again/`."""
    run_elsewhere(place.root, place.root, json.dumps(NEW_LABELS), *place.folders)
    return place.root


def check_results(place: Exports, name: str, got: dict) -> None:
    model, processor = place.model(name), place.processors[name]
    video_processor = getattr(processor, "video_processor", processor)
    pixels = video_processor(str(place.root / "clip.mp4"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(place.pixels).logits
        assert torch.equal(got["logits"], logits) and torch.equal(got["logits of the pipeline's model"], logits)
        assert torch.equal(got["video features"], model.get_video_features(place.pixels).pooler_output)
        assert torch.equal(got["pixels"], pixels) and torch.equal(got["pixels of the processor"], pixels)
        scores = model(pixels).logits.softmax(-1)[0]
        assert [answer["label"] for answer in got["answers"]] == [LABELS[i] for i in scores.argsort(descending=True)]
        assert all(answer["score"] == scores[LABELS.index(answer["label"])].item() for answer in got["answers"])
        if model.config.classification_head == "text":
            ids = place.processors["text"](text=["walking"], return_tensors="pt")["input_ids"]
            assert torch.equal(got["ids"], ids)
            model.set_labels(NEW_LABELS)
            assert torch.equal(got["logits of other classes"], model(place.pixels).logits)
            assert got["logits of other classes"].shape == (2, 4)
    assert got["labels"] == NEW_LABELS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text", "residual", "clip alone", "linear", "vit"])
def test_without_the_package(place, elsewhere, name):
    check_results(place, name, torch.load(elsewhere / f"{name}.pt"))


@pytest.mark.slow
def test_nobody_is_asked_again(elsewhere):
    """Who trusts the code once, by `trust_remote_code=True`, is not asked when class names need the tokenizer."""
    assert not torch.load(elsewhere / "text.pt")["asked"]


@pytest.mark.slow
def test_saved_by_plain_transformers_without_the_package(place, elsewhere):
    folders = [folder.with_name(f"{folder.name}-again") for folder in place.folders]
    run_elsewhere(elsewhere, elsewhere, json.dumps(NEW_LABELS), *folders)
    for folder in folders:
        check_results(place, folder.name.removesuffix("-again"), torch.load(f"{folder}.pt"))


@pytest.mark.slow
def test_export_of_a_model_that_remote_code_loaded(place, tmp_path):
    code = """
import sys
from transformers import AutoModelForVideoClassification, AutoProcessor

for folder in sys.argv[2:]:
    load = {"pretrained_model_name_or_path": folder, "trust_remote_code": True}
    parts = AutoModelForVideoClassification.from_pretrained(**load), AutoProcessor.from_pretrained(**load)
    assert "transformers_ila" not in sys.modules or folder != sys.argv[2]
    from transformers_ila.hub import export
    export(*parts, sys.argv[1] + "/" + folder.rpartition("/")[2])
"""
    run_elsewhere(tmp_path, tmp_path, *place.folders, code=code)
    for folder in place.folders:
        assert read(tmp_path / folder.name, but=REMEMBERS) == read(folder, but=REMEMBERS)


# -- half precision, adapters, compiled models -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["text", "linear"])
def test_half_precision_and_models_from_its_configuration(place, tmp_path, name, dtype):
    folder = export(place.model(name).to(dtype), place.processors[name], tmp_path / "half")
    loaded = IlaForVideoClassification.from_pretrained(folder, dtype="auto")
    assert loaded.dtype == dtype
    export(loaded, AutoProcessor.from_pretrained(folder), tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    made = IlaForVideoClassification(IlaConfig.from_pretrained(folder))  # of one type, and no other than torch's
    assert {tensor.dtype for tensor in made.parameters()} == {torch.float32}
    assert made(place.pixels).logits.isfinite().all()
    export(made, place.processors[name], tmp_path / "made")
    assert "Nobody has measured" in (tmp_path / "made" / "README.md").read_text()


def test_adapters_must_be_merged(place, tmp_path):
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(place.model("linear"), LoraConfig(target_modules=["q_proj"], r=2))
    with pytest.raises(ValueError, match="got PeftModel.*merge_and_unload"):
        export(adapted, place.processors["linear"], tmp_path / "out")
    with pytest.raises(ValueError, match="are not those of its configuration: .*merge_and_unload"):
        export(adapted.base_model.model, place.processors["linear"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(adapted.merge_and_unload(), place.processors["linear"], tmp_path / "out")
    loaded = IlaForVideoClassification.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(loaded(place.pixels).logits, place.models["linear"](place.pixels).logits)


def test_an_adapter_alone(place, tmp_path):
    """Some files, which replace those of a whole model, with a card of their own; and back."""
    from peft import LoraConfig, get_peft_model

    from transformers_ila.training.adapters import load_adapter, lora_config

    folder, processor, base = tmp_path / "out", place.processors["linear"], place.root / "linear"
    export(place.model("linear"), processor, folder)
    model = place.model("linear")
    model.name_or_path = str(base)
    adapted = get_peft_model(model, lora_config(model, r=2, init_lora_weights=False)).eval()
    hub.export_adapter(adapted, processor, folder)
    beside = {"config.json", "video_preprocessor_config.json", "README.md", "README.before.md"}
    assert {path.name for path in folder.iterdir()} == {*hub.ADAPTER_FILES, *beside}
    with torch.no_grad():
        assert torch.equal(load_adapter(folder)(place.pixels).logits, adapted(place.pixels).logits)
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("peft", str(base.resolve())) and "lora" in card.data.tags
    assert 'load_adapter("out").merge_and_unload()' in card.text and "LoRA of rank 2" in card.text
    with pytest.raises(PublishError, match="is an adapter on '.*linear', which is no Hub id that others could load"):
        check_folder(folder)
    facts = ModelFacts(license="apache-2.0")
    hub.export_adapter(adapted, processor, folder, facts=facts)
    hub.export_adapter(adapted, processor, folder)  # the card stays
    assert read_facts(ModelCard.load(folder / "README.md")).license == "apache-2.0"
    plain = get_peft_model(place.model("linear"), LoraConfig(target_modules=["q_proj"], r=2))
    for wrong in (plain, place.model("linear")):
        with pytest.raises(ValueError, match="a PeftModel with the adapter of `training.lora_config`, got"):
            hub.export_adapter(wrong, processor, folder)
    export(adapted.merge_and_unload(), processor, folder)
    assert not list(folder.glob("adapter_*"))


def test_compiled_models_export_as_what_they_wrap(place, tmp_path):
    model = torch.compile(place.model("linear"))
    export(model, place.processors["linear"], tmp_path / "out")
    assert read(tmp_path / "out", but="README.md") == read(place.root / "linear", but="README.md")


@pytest.mark.slow
def test_saved_by_plain_transformers_with_the_package(place, tmp_path):
    """What `save_pretrained` writes of a loaded export has the code that its configuration names."""
    for name, model in place.models.items():
        folder = place.root / name
        loaded, processor = IlaForVideoClassification.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        loaded.save_pretrained(tmp_path / name)
        assert {path.name for path in (tmp_path / name).glob("*_ila.py")} == CODE
        processor.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / f"{name}-processor")
        assert {path.name for path in (tmp_path / f"{name}-processor").glob("*_ila.py")} == CODE
        model.save_pretrained(tmp_path / f"{name}-own")  # nobody exported this one
        assert not list((tmp_path / f"{name}-own").glob("*.py"))
    folders = [tmp_path / name for name in place.models]
    run_elsewhere(tmp_path, place.root, json.dumps(NEW_LABELS), *folders)
    for folder in folders:
        check_results(place, folder.name, torch.load(f"{folder}.pt"))


# -- the card that is there already ----------------------------------------------------------------------------------


def changed(model):
    with torch.no_grad():
        next(model.mit.parameters()).add_(1.0)
    return model


def test_a_card_with_results_of_other_weights_goes_aside(place, tmp_path):
    model, processor = place.model("linear"), place.processors["linear"]
    folder = export(model, processor, tmp_path / "mine")
    written = "---\nlibrary_name: transformers\n---\n# Mine\n\nMy own words.\n"
    (folder / "README.md").write_text(written)
    export(changed(model), processor, folder)
    assert (folder / "README.md").read_text() == written  # says nothing of any weights
    claim = written + "\n<!-- results of the weights abc -->\n"
    (folder / "README.md").write_text(claim)
    export(model, processor, folder)
    assert (folder / "README.md").read_text() == claim  # the weights are the same
    export(changed(model), processor, folder)
    assert "Nobody has measured" in (folder / "README.md").read_text()
    assert (folder / "README.before.md").read_text() == claim


def test_a_card_of_other_classes_goes_aside(place, tmp_path):
    model, processor = place.model("linear"), place.processors["linear"]
    folder = export(model, processor, tmp_path / "mine")
    before = (folder / "README.md").read_text()
    model.set_labels(NEW_LABELS, ignore_mismatched_sizes=True)
    export(model, processor, folder)
    assert "4 labels" in (folder / "README.md").read_text()
    assert (folder / "README.before.md").read_text() == before


# -- where it is installed -------------------------------------------------------------------------------------------


@pytest.fixture
def no_remote_code(monkeypatch, tmp_path):
    """Remote code can neither be loaded nor asked about."""

    def refuse(*arguments, **options):
        raise AssertionError(f"remote code was wanted: {arguments}")

    for name in ("get_cached_module_file", "get_class_in_module"):
        monkeypatch.setattr(dynamic_module_utils, name, refuse)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", refuse)
    before = {name for name in sys.modules if name.startswith("transformers_modules")}
    yield
    assert {name for name in sys.modules if name.startswith("transformers_modules")} == before
    assert not (tmp_path / "modules").exists()


@pytest.mark.parametrize("trust", [{"trust_remote_code": True}, {"trust_remote_code": False}, {}], ids=str)
def test_with_the_package_nothing_of_the_folder_runs(place, no_remote_code, trust):
    for name, model in place.models.items():
        folder = place.root / name
        parts = [auto.from_pretrained(folder, **trust) for auto in AUTO_CLASSES]
        processor = IlaProcessor if model.config.classification_head == "text" else IlaVideoProcessor
        expected = [IlaConfig, IlaModel, IlaForVideoClassification, IlaVideoProcessor, processor]
        assert [type(part) for part in parts] == expected
        classify = pipeline("video-classification", model=str(folder), **trust)
        assert type(classify.model) is IlaForVideoClassification
        assert type(classify.video_processor) is IlaVideoProcessor
        with torch.no_grad():
            for loaded in (parts[2], classify.model):
                assert torch.equal(loaded(place.pixels).logits, model(place.pixels).logits)
        assert parts[3].to_dict() == getattr(parts[4], "video_processor", parts[4]).to_dict()


def test_export_of_a_loaded_model_is_the_same_export(place, tmp_path):
    for name in place.models:
        folder = place.root / name
        model, processor = IlaForVideoClassification.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        assert export(model, processor, tmp_path / name) == tmp_path / name
        assert read(tmp_path / name, but=REMEMBERS) == read(folder, but=REMEMBERS)


def test_export_into_the_folder_it_was_loaded_from(place, tmp_path):
    folder = tmp_path / "text"
    export(place.models["text"], place.processors["text"], folder)
    model = IlaForVideoClassification.from_pretrained(folder)
    model.set_labels(NEW_LABELS)
    export(model, place.processors["text"], folder)
    expected = place.model("text")
    expected.set_labels(NEW_LABELS)
    loaded = IlaForVideoClassification.from_pretrained(folder)
    assert list(loaded.config.id2label.values()) == NEW_LABELS
    with torch.no_grad():
        assert torch.equal(loaded(place.pixels).logits, expected(place.pixels).logits)
        assert torch.equal(model(place.pixels).logits, expected(place.pixels).logits)  # its file was replaced
    assert set(read(folder)) == {*read(place.root / "text"), "README.before.md"}  # whose classes were others


def test_both_towers_alone(place, tmp_path):
    model = IlaModel.from_pretrained(place.root / "text")
    export(model, place.processors["text"], tmp_path / "towers", card="# Towers\n")
    loaded = AutoModel.from_pretrained(tmp_path / "towers")
    with torch.no_grad():
        features = [one.get_video_features(place.pixels).pooler_output for one in (model, loaded)]
    assert type(loaded) is IlaModel and torch.equal(*features)


# -- what is in a folder ---------------------------------------------------------------------------------------------


def test_files(place):
    common = CODE | {"README.md", "config.json", "model.safetensors", "video_preprocessor_config.json"}
    tokenizer = {"tokenizer.json", "tokenizer_config.json"}
    for name in ("text", "residual"):
        assert set(read(place.root / name)) == common | tokenizer | {"processor_config.json"}
    assert set(read(place.root / "linear")) == common
    for folder in place.folders:
        files = read(folder)
        assert all(files[name] == (MODEL / name).read_bytes() for name in CODE)
        assert not [name for name, content in files.items() if str(place.root).encode() in content]
        assert json.loads(files["config.json"])["auto_map"] == hub.MODEL_CODE
        assert f'model="{folder.name}"' in files["README.md"].decode()
        mask = os.umask(0)
        os.umask(mask)
        assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~mask}
        assert folder.stat().st_mode & 0o777 == 0o777 & ~mask


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Siblings and others, wherever in the file."""
    siblings, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            others |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            others.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 and node.module, f"{path.name}: only `from .name_ila import` is found by the loader"
            siblings.add(f"{node.module}.py")
    return siblings, others


def test_code_is_closed_and_needs_nothing_unusual(place):
    folder = place.root / "text"
    for name in CODE:
        siblings, others = imports(folder / name)
        guarded = {"scipy"} if name == "temporal_ila.py" else set()  # asked for by one module, where it is used
        assert siblings <= CODE and others <= ALLOWED | guarded, (name, siblings - CODE, others - ALLOWED)
        found = {Path(file).name for file in dynamic_module_utils.get_relative_import_files(folder / name)}
        assert siblings <= found <= CODE  # by which the loader copies what it needs
        assert set(dynamic_module_utils.check_imports(folder / name)) == {Path(file).stem for file in siblings}
        assert set(dynamic_module_utils.get_imports(folder / name)) <= others
    for reference in {*hub.MODEL_CODE.values(), *hub.PROCESSOR_CODE.values(), *hub.VIDEO_PROCESSOR_CODE.values()}:
        file, _, name = reference.partition(".")
        tree = ast.parse((folder / f"{file}.py").read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_big_models_are_sharded_and_nothing_stale_stays(place, tmp_path, monkeypatch):
    model, processor = place.models["text"], place.processors["text"]
    folder = tmp_path / "model"

    def exported(**options) -> set[str]:
        export(model, processor, folder, **options)
        loaded = IlaForVideoClassification.from_pretrained(folder)
        with torch.no_grad():
            assert torch.equal(loaded(place.pixels).logits, model(place.pixels).logits)
        return {name for name in read(folder) if "safetensors" in name}

    assert exported() == {"model.safetensors"}
    kept = {"notes.txt": b"mine", "head.safetensors": b"mine", "runs/model.safetensors": b"mine"}
    (folder / "runs").mkdir()
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(hub, "MAX_SHARD_SIZE", "200KB")
    several = exported()
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 3 and several == {"model.safetensors.index.json", *shards, *list(kept)[1:]}
    monkeypatch.setattr(hub, "MAX_SHARD_SIZE", "400KB")
    fewer = exported()
    assert len(fewer) < len(several) and not fewer & shards
    monkeypatch.undo()
    assert exported() == {"model.safetensors", *list(kept)[1:]}
    assert kept.items() <= read(folder).items()


def test_no_processor_of_an_earlier_export_stays(place, tmp_path):
    folder = tmp_path / "model"
    export(place.models["text"], place.processors["text"], folder)
    CLIPImageProcessor().save_pretrained(folder)  # as a CLIP folder has
    config = tiny_config(classification_head="linear", vision_config={**TINY_VISION, "image_size": 32})
    export(IlaForVideoClassification(config), IlaVideoProcessor.for_model(config), folder)
    for auto in (AutoProcessor, AutoVideoProcessor):
        processor = auto.from_pretrained(folder)
        assert type(processor) is IlaVideoProcessor and dict(processor.crop_size) == {"height": 32, "width": 32}
    assert set(read(folder)) == {*read(place.root / "linear"), "README.before.md"}


def test_card_is_kept_unless_one_is_given(place, tmp_path, monkeypatch):
    model, processor = place.models["linear"], place.processors["linear"]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    export(model, processor, folder)
    assert (folder / "README.md").read_text() == "mine"
    export(model, processor, folder, card="---\nlicense: mit\n---\n# Other\n")
    assert (folder / "README.md").read_text() == "---\nlicense: mit\n---\n# Other\n"
    (folder / "README.md").unlink()
    monkeypatch.chdir(folder)
    export(model, processor, ".")
    assert 'model="model"' in (folder / "README.md").read_text()
    assert os.listdir(tmp_path) == ["model"] and set(read(folder)) == set(read(place.root / "linear"))


def test_facts_make_the_card(place, tmp_path):
    """They replace a card that is there; published results are in its text only."""
    model, processor = place.models["linear"], place.processors["linear"]
    facts = ModelFacts(title="Mine", license="apache-2.0", results=published_facts(PUBLISHED[0]).results)
    folder = export(model, processor, tmp_path / "model")
    export(model, processor, folder, facts=facts)
    card = ModelCard.load(folder / "README.md")
    assert read_facts(card) == replace(facts, model_id="model") and card.data.license == "apache-2.0"
    assert card.data.get("eval_results") is None and "| published: the paper's Table 1 |" in card.text
    assert not (folder / "README.before.md").exists()
    export(model, processor, folder)  # the weights are the same
    assert read_facts(ModelCard.load(folder / "README.md")).title == "Mine"
    export(changed(place.model("linear")), processor, folder)
    assert read_facts(ModelCard.load(folder / "README.md")).title is None
    with pytest.raises(ValueError, match="not both"):
        export(model, processor, folder, facts=facts, card="# Mine\n")
    for license, message in (("Apache 2", "must be an identifier"), ("mit", "nobody granted a licence")):
        released = place.model("linear")
        released.config.weights_origin = "official_release"
        with pytest.raises(ValueError, match=message):
            export(released, processor, tmp_path / "other", facts=ModelFacts(license=license))
    assert not (tmp_path / "other").exists()


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [(IlaForVideoClassification, "save_pretrained"), (hub, "_set_auto_map")], ids=str)
def test_a_failure_touches_nothing(place, tmp_path, monkeypatch, where):
    """When some files were written already."""
    owner, name = where
    written = getattr(owner, name)

    def fail(*arguments, **options):
        written(*arguments, **options)
        raise OSError("No space left on device")

    model, processor = place.models["linear"], place.processors["linear"]
    before = read(export(place.models["text"], place.processors["text"], tmp_path / "old"))
    monkeypatch.setattr(owner, name, fail)
    for folder in ("old", "new", "deep/er"):
        with pytest.raises(OSError, match="No space left"):
            export(model, processor, tmp_path / folder)
    assert read(tmp_path) == {f"old/{name}": content for name, content in before.items()}
    assert {path.name for path in tmp_path.iterdir()} <= {"old", "deep"} and not os.listdir(tmp_path / "deep")
    monkeypatch.undo()
    export(model, processor, tmp_path / "old", card="# New\n")
    assert set(read(tmp_path / "old")) == set(read(place.root / "linear"))


def test_wrong_inputs(place, tmp_path):
    model, processor = place.models["text"], place.processors["text"]
    config, tokenizer = model.config, processor.tokenizer
    larger = IlaVideoProcessor.for_model(config, crop_size={"height": 32, "width": 32})
    more = IlaVideoProcessor.for_model(config, num_frames=8)
    few_tokens = IlaForVideoClassification(tiny_config())
    clip = CLIPModel.from_pretrained(place.root / "clip")
    images = CLIPImageProcessor()
    vision = model.vision_model
    for arguments, message in {
        (model, larger): r"crops \{'height': 32, 'width': 32\}, the model takes 28 x 28 pixels: `for_model",
        (model, IlaProcessor(larger, tokenizer)): "the model takes 28 x 28",
        (model, more): "takes 8 frames, the model 4",
        (few_tokens, processor): "tokenizer has 190 tokens, the model's text tower 99",
        (clip, processor): "must be an IlaForVideoClassification or IlaModel, got CLIPModel",
        (vision, processor): "must be an IlaForVideoClassification or IlaModel, got IlaVisionModel",
        (model, images): "must be an IlaVideoProcessor or IlaProcessor, got CLIPImageProcessor",
        (model, tokenizer): "must be an IlaVideoProcessor or IlaProcessor, got CLIPTokenizer",
        (model, None): "must be an IlaVideoProcessor or IlaProcessor, got NoneType",
    }.items():
        with pytest.raises(ValueError, match=message):
            export(*arguments, tmp_path / "model")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file' is no folder"):
        export(model, processor, tmp_path / "file")
    assert read(tmp_path) == {"file": b"mine"}


def test_another_tokenizer_is_the_one_that_is_shipped(place, tmp_path):
    """The processor's, also where the model remembers one."""
    tokenizer = byte_tokenizer(tmp_path / "tokenizer")
    tokenizer.model_max_length = 12
    model, processor = place.models["text"], place.processors["text"]
    export(model, IlaProcessor(processor.video_processor, tokenizer), tmp_path / "model", card="# Short\n")
    assert AutoProcessor.from_pretrained(tmp_path / "model").tokenizer.model_max_length == 12
