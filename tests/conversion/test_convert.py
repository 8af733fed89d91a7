"""Original files to folders: weights, classes, tokens, preprocessing, card; what is refused; the script."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import AutoProcessor, AutoVideoProcessor, CLIPConfig, CLIPModel, CLIPTokenizer, pipeline
from transformers.video_utils import VideoMetadata

from support.paths import SCRIPTS
from support.release_files import save_evil, save_release
from support.released_models import SHARED, WIDE_TEXT, WIDE_VISION, openai_state_dict, published_shapes, released_model
from transformers_ila import IlaForVideoClassification, IlaProcessor, IlaVideoProcessor
from transformers_ila.cli import convert
from transformers_ila.cli.main import run_verb
from transformers_ila.conversion.convert import convert_checkpoint, default_labels
from transformers_ila.conversion.state_dicts import to_released_state_dict
from transformers_ila.conversion.tokenizer import read_tokenizer
from transformers_ila.data.class_names import class_names, fill_up
from transformers_ila.hub.cards import BATCH_STATISTICS, NO_BATCH_STATISTICS, UNUSED_OUTPUTS
from transformers_ila.hub.exporting import export
from transformers_ila.hub.reports import card_of_folder
from transformers_ila.motionbench.tasks import make_videos
from transformers_ila.video_writing import write_mp4


MERGES = ["i n", "t h", "a n", "in g</w>", "e r</w>", "th e</w>", "Ġ Ģ", "r o", "c k", "p l", "pl a"]
VOCAB = 512 + 8 + 2  # the text tower's: eight of the merges above
SCRIPT = SCRIPTS / "convert.py"


# -- files in the original formats -----------------------------------------------------------------------------------


def write_merges(path, merges=MERGES, *, version="#version: 0.2"):
    content = "\n".join([version, *merges]) + "\n"
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


@pytest.fixture(scope="module", autouse=True)
def _text_tower_for_the_tokenizer():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WIDE_TEXT, "vocab_size", VOCAB)
        patch.setitem(WIDE_TEXT, "max_position_embeddings", 48)
        yield


@pytest.fixture(scope="module")
def merges(tmp_path_factory):
    return write_merges(tmp_path_factory.mktemp("tokenizer") / "bpe_simple_vocab_16e6.txt.gz")


@pytest.fixture(scope="module")
def tokenizer(merges):
    return read_tokenizer(merges, vocab_size=VOCAB)


@pytest.fixture(scope="module")
def k400():
    """A released model with text head; its classes are still placeholders."""
    torch.manual_seed(0)
    return released_model()


def linear_model(outputs):
    torch.manual_seed(1)
    model = released_model(head="linear")
    model.set_labels([f"class {index}" for index in range(outputs)])
    with torch.no_grad():
        for tensor in model.classifier.parameters():
            tensor.copy_(torch.randn(tensor.shape))
    return model.eval()


@pytest.fixture(scope="module")
def ssv2():
    return linear_model(400)


@pytest.fixture(scope="module")
def files(tmp_path_factory, k400, ssv2):
    """Names -> files; the release's own are in its format and half of them with a prefix."""
    root = tmp_path_factory.mktemp("files")
    prefixed = {f"module.{key}": tensor for key, tensor in to_released_state_dict(k400).items()}
    save_release(root / "k400.pth", prefixed)
    save_release(root / "ssv2.pth", to_released_state_dict(ssv2), legacy=True, settings={"DATA": {"NUM_CLASSES": 174}})
    return {path.stem: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(2)
    return CLIPModel(CLIPConfig(vision_config=WIDE_VISION, text_config=WIDE_TEXT, projection_dim=64)).half().eval()


@pytest.fixture(scope="module")
def converted(tmp_path_factory, files, merges):
    """The script's own way, in a process of its own: folder and what was printed."""
    root = tmp_path_factory.mktemp("converted")
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "--checkpoint", str(files["k400"]), "--verify"]
    command += ["--output", str(root / "ila-k400"), "--tokenizer", str(merges)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert run.returncode == 0, run.stderr
    return root / "ila-k400", run.stdout


@pytest.fixture(scope="module")
def linear_folder(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("converted") / "ila-ssv2"
    done = convert_checkpoint(files["ssv2"], folder, verify=True)
    assert done.labels == "ssv2" and len(done.verified) == 2
    return folder


@torch.no_grad()
def logits(model):
    torch.manual_seed(3)
    vision = model.config.vision_config
    pixels = torch.randn(2, vision.num_frames, 3, vision.image_size, vision.image_size)
    return model.eval()(pixels).logits


# -- Kinetics-400, by the script -------------------------------------------------------------------------------------


def test_what_the_script_says(converted, k400):
    folder, printed = converted
    tensors = len(to_released_state_dict(k400))
    assert printed.splitlines() == [
        "Form: residual, depthwise_separable, text head; 4 frames of 24 pixels, patches of 8.",
        "Classes: 400, names from kinetics400.",
        f"Verified: {tensors} tensors of the folder are the file's, bit by bit.",
        "Verified: the folder's model gives the same 400 finite logits for a random clip.",
        f"Written: {folder}",
    ]


def test_what_is_in_the_folder(converted):
    folder, _ = converted
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= names
    assert {"modeling_ila.py", "configuration_ila.py", "processing_ila.py", "video_processing_ila.py"} <= names
    assert all(name.endswith((".json", ".safetensors", ".py", ".md")) for name in names)
    assert os.listdir(folder.parent) == [folder.name]
    umask = os.umask(0)
    os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask


def test_the_folders_model_is_the_files(converted, k400, tokenizer):
    folder, _ = converted
    loaded = IlaForVideoClassification.from_pretrained(folder)
    k400.set_labels(class_names("kinetics400"), tokenizer)
    found = logits(loaded)
    assert torch.equal(found, logits(k400)) and found.shape == (2, 400) and found.std() > 1e-3
    assert loaded.config.id2label == dict(enumerate(class_names("kinetics400")))


def test_the_classes_tokens_are_the_tokenizers(converted):
    folder, _ = converted
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    names = class_names("kinetics400")
    model = IlaForVideoClassification.from_pretrained(folder)
    for name, row in zip(names, model.class_input_ids.tolist()):
        ids = tokenizer(name)["input_ids"]
        assert row[: len(ids)] == ids[: len(row)], name
        assert set(row[len(ids) :]) <= {tokenizer.pad_token_id}
    assert len(set(map(tuple, model.class_input_ids.tolist()))) == 400
    assert tokenizer.decode(model.class_input_ids[1], skip_special_tokens=True).strip() == "air drumming"


def test_the_folders_labels_can_be_changed(converted):
    folder, _ = converted
    model = IlaForVideoClassification.from_pretrained(folder, labels=["one", "another"])
    assert logits(model).shape == (2, 2)


def reference_indices(total, num_frames):
    """The release's, for tests: the middle of every segment."""
    ends = [int(np.round((total - 1) / num_frames * index)) for index in range(num_frames + 1)]
    return [(start + end) // 2 for start, end in zip(ends, ends[1:])]


@pytest.mark.parametrize("name", ["converted", "linear_folder"])
def test_the_folders_preprocessing_is_the_releases(name, request):
    folder = request.getfixturevalue(name)
    folder = folder[0] if isinstance(folder, tuple) else folder
    processor = AutoVideoProcessor.from_pretrained(folder)
    assert isinstance(processor, IlaVideoProcessor)
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]
    assert list(processor.image_std) == [0.229, 0.224, 0.225]
    assert processor.resample == 2 and processor.do_rescale and processor.do_normalize  # bilinear
    assert (dict(processor.size), dict(processor.crop_size)) == ({"shortest_edge": 27}, {"height": 24, "width": 24})
    assert (processor.num_frames, processor.frame_sampling) == (4, "segments")
    for total in (1, 2, 3, 4, 5, 7, 16, 33, 250, 301):
        indices = processor.sample_frames(VideoMetadata(total_num_frames=total))
        assert indices.tolist() == reference_indices(total, 4)


@pytest.mark.parametrize(("image_size", "short_side"), [(224, 256), (336, 384)])
def test_preprocessing_at_the_releases_sizes(tmp_path, image_size, short_side, merges):
    """A model of few and large patches, so that it stays small."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(WIDE_VISION, "image_size", image_size)
        patch.setitem(WIDE_VISION, "patch_size", image_size // 2)
        model = released_model(num_frames=8)
    save_release(tmp_path / "a.pth", to_released_state_dict(model))
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "out", tokenizer=merges)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert isinstance(processor, IlaProcessor)
    assert dict(processor.video_processor.size) == {"shortest_edge": short_side}
    write_mp4(tmp_path / "a.mp4", np.full((20, 60, 80, 3), 128, dtype=np.uint8))
    pixels = processor(videos=str(tmp_path / "a.mp4"), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 8, 3, image_size, image_size)
    grey = (torch.tensor(128 / 255) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert (pixels.mean((0, 1, 3, 4)) - grey).abs().max() < 0.05


def test_the_card(converted):
    folder, _ = converted
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.license_name, card.data.model_name) == ("other", "none-granted", "ila-k400")
    assert card.data.eval_results is None  # of these sizes nothing is published
    assert "84.02 %, measured by the code that trained it" in card.text
    assert "no licence" in card.text and "Batch statistics" in card.text
    assert "400 classes" in card.text and "mean 0.485, 0.456, 0.406" in card.text
    assert 'model="ila-k400", trust_remote_code=True' in card.text


def test_the_pipeline_labels_a_video(converted, tmp_path):
    folder, _ = converted
    write_mp4(tmp_path / "video.mp4", next(make_videos(1, seed=0)).frames)
    answers = pipeline("video-classification", model=str(folder))(str(tmp_path / "video.mp4"), top_k=400)
    assert sorted(answer["label"] for answer in answers) == sorted(class_names("kinetics400"))
    assert abs(sum(answer["score"] for answer in answers) - 1) < 1e-4


@pytest.mark.slow
def test_the_cards_usage_example_runs_as_printed_without_the_package(converted, tmp_path):
    folder, _ = converted
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 5
    (tmp_path / folder.name).symlink_to(folder)
    write_mp4(tmp_path / "video.mp4", next(make_videos(1, seed=0)).frames)
    code = f'import sys; sys.modules["transformers_ila"] = None\n{example}'
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == 5 and all(re.fullmatch(r".+ [01]\.\d+", line) for line in lines)
    assert lines[0].rpartition(" ")[0] in class_names("kinetics400")
    assert list((tmp_path / "modules").rglob("modeling_ila.py"))  # the folder's own code did it


# -- Something-Something V2 ------------------------------------------------------------------------------------------


def test_outputs_without_a_class_are_named_unused(linear_folder, ssv2):
    loaded = IlaForVideoClassification.from_pretrained(linear_folder)
    assert torch.equal(logits(loaded), logits(ssv2))
    names = [loaded.config.id2label[index] for index in range(400)]
    assert names == fill_up(class_names("ssv2"), 400)
    assert (names[173], names[174], names[399]) == (class_names("ssv2")[173], "unused output 174", "unused output 399")
    assert isinstance(AutoProcessor.from_pretrained(linear_folder), IlaVideoProcessor)
    assert not list(linear_folder.glob("*token*")) and not list(linear_folder.glob("*vocab*"))
    card = (linear_folder / "README.md").read_text()
    assert "174 classes; 226 further outputs" in card and "one of 174 labels" in card
    assert NO_BATCH_STATISTICS in card and UNUSED_OUTPUTS in card and BATCH_STATISTICS not in card


@pytest.mark.parametrize(("outputs", "expected"), [(174, "ssv2"), (51, None)])
def test_linear_heads_of_other_sizes(tmp_path, outputs, expected):
    model = linear_model(outputs)
    save_file(to_released_state_dict(model), tmp_path / "a.safetensors")
    done = convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "out")
    assert done.labels == expected
    loaded = IlaForVideoClassification.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(loaded), logits(model))
    names = [loaded.config.id2label[index] for index in range(outputs)]
    assert names == (class_names("ssv2") if expected else [f"LABEL_{index}" for index in range(outputs)])


def test_given_labels(tmp_path, files, merges):
    (tmp_path / "mine.txt").write_text("running\nplaying chess\nair drumming\n")
    done = convert_checkpoint(files["k400"], tmp_path / "text", labels=tmp_path / "mine.txt", tokenizer=merges)
    assert done.labels == str(tmp_path / "mine.txt")
    assert logits(IlaForVideoClassification.from_pretrained(tmp_path / "text")).shape == (2, 3)
    done = convert_checkpoint(files["ssv2"], tmp_path / "linear", labels=tmp_path / "mine.txt")
    assert [done.model.config.id2label[index] for index in (2, 3)] == ["air drumming", "unused output 3"]
    (tmp_path / "many.txt").write_text("\n".join(f"class {index}" for index in range(401)))
    with pytest.raises(ValueError, match="has 400 classes, .*many.txt' names 401"):
        convert_checkpoint(files["ssv2"], tmp_path / "other", labels=tmp_path / "many.txt")
    save_file(to_released_state_dict(linear_model(51)), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="has 51 classes, 'kinetics400' names 400"):
        convert_checkpoint(tmp_path / "a.safetensors", tmp_path / "other", labels="kinetics400")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("head", ["k400", "ssv2"])
def test_settings_of_another_data_set(tmp_path, head, files, merges, request):
    tensors = to_released_state_dict(request.getfixturevalue(head))
    path = save_release(tmp_path / "a.pth", tensors, settings={"DATA": {"NUM_CLASSES": 51}})
    with pytest.raises(ValueError, match="trained on 51 classes, not on .*: name them with `labels`"):
        convert_checkpoint(path, tmp_path / "out", tokenizer=merges)
    (tmp_path / "mine.txt").write_text("\n".join(f"class {index}" for index in range(51)))
    done = convert_checkpoint(path, tmp_path / "out", labels=tmp_path / "mine.txt", tokenizer=merges)
    assert done.model.config.id2label[50] == "class 50"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"DATA": 3},
        {"DATA": {}},
        *({"DATA": {"NUM_CLASSES": value}} for value in (400, None, "many", torch.ones(2))),
    ],
    ids=str,
)
def test_settings_that_contradict_nothing(settings, k400, ssv2):
    assert default_labels(k400.config, settings) == "kinetics400"
    assert default_labels(ssv2.config, settings) == "ssv2"


# -- OpenAI's CLIP ---------------------------------------------------------------------------------------------------


class Scripted(nn.Module):
    """Tensors by dotted names, as TorchScript archives hold them."""

    @classmethod
    def of(cls, tensors):
        root = cls()
        for name, tensor in tensors.items():
            *path, leaf = name.split(".")
            module = root
            for part in path:
                if part not in module._modules:
                    module.add_module(part, cls())
                module = module._modules[part]
            if tensor.is_floating_point():
                module.register_parameter(leaf, nn.Parameter(tensor))
            else:
                module.register_buffer(leaf, tensor)
        return root


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["state dict", "torchscript"])
def test_openai_clip(tmp_path, form, clip, merges, tokenizer):
    tensors = {key: t.half() if t.is_floating_point() else t for key, t in openai_state_dict(clip.float()).items()}
    if form == "torchscript":
        torch.jit.script(Scripted.of(tensors)).save(str(tmp_path / "ViT.pt"))
    else:
        torch.save(tensors, tmp_path / "ViT.pt")
    done = convert_checkpoint(tmp_path / "ViT.pt", tmp_path / "clip", tokenizer=merges, verify=True)
    assert done.labels is None and len(done.verified) == 2
    assert done.verified[0].startswith(f"{len(clip.state_dict())} tensors")
    loaded = IlaForVideoClassification.from_pretrained(tmp_path / "clip").eval()
    assert loaded.config.vision_config.alignment_fusion == "interaction"
    assert loaded.dtype == torch.float32
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in clip.state_dict().items())
    assert torch.equal(logits(loaded), logits(done.model))
    ids = tokenizer(["a dog", "playing"], padding=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = clip.get_text_features(ids).pooler_output
        assert torch.equal(loaded.get_text_features(ids).pooler_output, expected)
    processor = AutoVideoProcessor.from_pretrained(tmp_path / "clip")
    assert list(processor.image_mean) == [0.48145466, 0.4578275, 0.40821073]  # CLIP's, not the release's
    card = ModelCard.load(tmp_path / "clip" / "README.md")
    assert card.data.license == "mit" and "untrained" in card.text
    assert "Nobody has measured an accuracy" in card.text


def test_the_origin_travels_with_the_weights(converted, tmp_path):
    """Who loads, trains and exports a converted model publishes nothing that says less of its licence."""
    folder, _ = converted
    model = IlaForVideoClassification.from_pretrained(folder, labels=["mine", "yours"])
    export(model, IlaProcessor.from_pretrained(folder), tmp_path / "mine")
    for card in (ModelCard.load(tmp_path / "mine" / "README.md"), card_of_folder(tmp_path / "mine")):
        assert card.data.license_name == "none-granted" and BATCH_STATISTICS in card.text
        assert "were fine-tuned from" in card.text and "published:" not in card.text
    (tmp_path / "mine" / "README.md").unlink()
    assert card_of_folder(tmp_path / "mine").data.license_name == "none-granted"


def test_the_origin_stays_whatever_configuration_is_given(converted, tmp_path):
    folder, _ = converted
    config = IlaForVideoClassification.from_pretrained(folder).config
    config.weights_origin = None
    assert IlaForVideoClassification.from_pretrained(folder, config=config).config.weights_origin == "official_release"


def test_own_weights_in_the_released_form(files, merges, tmp_path):
    """Someone who trained with the release's code, or took a model of ours there and back."""
    done = convert_checkpoint(files["k400"], tmp_path / "own", tokenizer=merges, own_weights=True)
    card = ModelCard.load(tmp_path / "own" / "README.md")
    assert done.model.config.weights_origin is None and "license" not in card.data.to_dict()
    assert "published:" not in card.text and card.data.get("eval_results") is None


def test_a_recorded_accuracy_stays_in_the_card_and_contradicts_nothing(files, merges, tmp_path):
    save_release(tmp_path / "a.pth", to_released_state_dict(linear_model(5)), max_accuracy=61.25)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "out", labels=tmp_path / "names.txt")
    sentence = "records a best validation accuracy of 61.25 %, measured by the code that trained it."
    for card in (ModelCard.load(tmp_path / "out" / "README.md"), card_of_folder(tmp_path / "out")):
        assert sentence in card.text and UNUSED_OUTPUTS not in card.text
        assert "Nobody has measured an accuracy of this model with this package" in card.text


def test_clip_with_labels(tmp_path, clip, merges, tokenizer):
    torch.save(openai_state_dict(clip.float()), tmp_path / "ViT.pt")
    (tmp_path / "mine.txt").write_text("running\nplaying chess\n")
    done = convert_checkpoint(tmp_path / "ViT.pt", tmp_path / "out", labels=tmp_path / "mine.txt", tokenizer=merges)
    assert done.model.config.id2label == {0: "running", 1: "playing chess"}
    loaded = IlaForVideoClassification.from_pretrained(tmp_path / "out")
    ids = tokenizer("playing chess")["input_ids"]
    assert loaded.class_input_ids[1, : len(ids)].tolist() == ids


# -- tokenizers ------------------------------------------------------------------------------------------------------


def openai_vocabulary(merges):
    """OpenAI's rule, as its tokenizer spells it."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]
    words = ["".join(merge.split()) for merge in merges]
    return [*symbols, *(symbol + "</w>" for symbol in symbols), *words, "<|startoftext|>", "<|endoftext|>"]


@pytest.mark.parametrize("name", ["bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt", "merges.txt"])
def test_a_vocabulary_of_merges(tmp_path, name):
    tokenizer = read_tokenizer(write_merges(tmp_path / name), vocab_size=VOCAB)
    expected = openai_vocabulary(MERGES[:8])
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(expected)}
    assert sorted(ByteLevel.alphabet()) == expected[:256]

    def ids(*tokens):
        return [expected.index(token) for token in ("<|startoftext|>", *tokens, "<|endoftext|>")]

    assert tokenizer("Thing")["input_ids"] == ids("th", "ing</w>")
    assert tokenizer("  the   MAN ")["input_ids"] == ids("the</w>", "m", "a", "n</w>")
    assert tokenizer("é")["input_ids"] == ids("Ã", "©</w>")
    assert tokenizer("rock")["input_ids"] == ids("ro", "c", "k</w>")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert CLIPTokenizer.from_pretrained(tmp_path / "saved")("the rock")["input_ids"] == ids(
        "the</w>", "ro", "c", "k</w>"
    )


@pytest.fixture(scope="module")
def saved_tokenizer(tmp_path_factory, tokenizer):
    """One folder for each form in which Transformers saves it."""
    root = tmp_path_factory.mktemp("tokenizers")
    tokenizer.save_pretrained(root / "whole")
    (root / "parts").mkdir()
    (root / "parts" / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    write_merges(root / "parts" / "merges.txt", MERGES[:8])
    shutil.copytree(root / "whole", root / "clip")
    CLIPConfig(text_config=WIDE_TEXT).save_pretrained(root / "clip")
    return root


@pytest.mark.parametrize(
    "source", ["whole", "whole/tokenizer.json", "parts", "parts/vocab.json", "parts/merges.txt", "clip"]
)
def test_tokenizers_of_folders_and_their_files(saved_tokenizer, tokenizer, source):
    found = read_tokenizer(saved_tokenizer / source, vocab_size=VOCAB)
    for name in ("air drumming", "the thing", "Playing chess!", "é"):
        assert found(name)["input_ids"] == tokenizer(name)["input_ids"]
    assert found.pad_token_id == tokenizer.pad_token_id


def test_merges_beside_another_vocabulary_are_read_themselves(saved_tokenizer, tmp_path):
    shutil.copytree(saved_tokenizer / "parts", tmp_path / "parts")
    (tmp_path / "parts" / "vocab.json").write_text("no JSON")
    path = write_merges(tmp_path / "parts" / "bpe.txt.gz")
    assert len(read_tokenizer(path, vocab_size=VOCAB)) == VOCAB


def test_vocabularies_that_are_refused_or_doubted(tmp_path, saved_tokenizer, caplog):
    with pytest.raises(ValueError, match=f"text tower has {VOCAB - 1} tokens"):
        read_tokenizer(saved_tokenizer / "whole", vocab_size=VOCAB - 1)
    assert not caplog.records
    read_tokenizer(saved_tokenizer / "whole", vocab_size=VOCAB + 1)
    assert "is it the one it was trained with?" in caplog.text
    other = {token: index for index, token in enumerate(["<|startoftext|>", "<|endoftext|>", *"ab", "a</w>"])}
    (tmp_path / "order").mkdir()
    (tmp_path / "order" / "vocab.json").write_text(json.dumps(other))
    (tmp_path / "order" / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="reads 'a' as"):
        read_tokenizer(tmp_path / "order", vocab_size=len(other))


BAD_MERGES = {
    "too few": MERGES[:7],
    "none": [],
    "three symbols": [*MERGES[:7], "a b c"],
    "one symbol": [*MERGES[:7], "a"],
    "a merge twice": [*MERGES[:7], MERGES[0]],
    "symbols that are never made": [*MERGES[:7], "qq zz"],
}


@pytest.mark.parametrize("name", BAD_MERGES)
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_merges_that_are_refused(tmp_path, name, suffix):
    path = write_merges(tmp_path / f"merges{suffix}", BAD_MERGES[name])
    with pytest.raises(
        ValueError, match=f"merges{suffix}' (must hold a line with #version and 8|is no list of merges)"
    ):
        read_tokenizer(path, vocab_size=VOCAB)


def test_files_that_are_no_vocabulary(tmp_path, saved_tokenizer):
    whole = write_merges(tmp_path / "whole.txt.gz").read_bytes()
    contents = {
        "cut.txt.gz": whole[: len(whole) // 2],
        "flipped.txt.gz": whole[:20] + bytes([whole[20] ^ 255]) + whole[21:],
        "plain.txt.gz": b"#version: 0.2\ni n\n",
        "empty.txt": b"",
        "latin.txt": "#version\né è\n".encode("latin-1"),
        "headless.txt": "\n".join(["z z", *MERGES]).encode(),
        "prose.txt": b"to be\nor not\n" * 30,
        "best.pth": b"x",
        "vocab.json": b"{}",
        "tokenizer.json": b"{}",
    }
    for name, content in contents.items():
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(folder))):
            read_tokenizer(folder / name, vocab_size=VOCAB)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no tokenizer.json, and no vocab.json with merges.txt"):
        read_tokenizer(tmp_path / "nothing", vocab_size=VOCAB)
    shutil.copy(saved_tokenizer / "whole" / "tokenizer.json", tmp_path / "nothing")
    (tmp_path / "nothing" / "notes.md").write_text("not this one")
    with pytest.raises(ValueError, match="vocabulary file must be"):
        read_tokenizer(tmp_path / "nothing" / "notes.md", vocab_size=VOCAB)


def test_no_tokenizer_at_hand(tmp_path, files, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError, match="No tokenizer could be loaded from 'nobody/has-this-one'.*no network.*couldn't connect"
    ):
        convert_checkpoint(files["k400"], tmp_path / "out", tokenizer="nobody/has-this-one")
    assert os.listdir(tmp_path) == []


# -- what is refused, and what is left behind ------------------------------------------------------------------------


def test_the_output_must_be_new_or_empty(tmp_path, files):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(ValueError, match=f"{name}' exists and is not an empty folder"):
            convert_checkpoint(files["ssv2"], tmp_path / name)
    assert (tmp_path / "full" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    convert_checkpoint(files["ssv2"], tmp_path / "empty")
    convert_checkpoint(files["ssv2"], tmp_path / "new" / "nested" / "folder")
    for folder in (tmp_path / "empty", tmp_path / "new" / "nested" / "folder"):
        assert logits(IlaForVideoClassification.from_pretrained(folder)).shape == (2, 400)
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "full", "new"]
    assert os.listdir(tmp_path / "new" / "nested") == ["folder"]


def test_the_card_of_the_working_folder_has_its_name(tmp_path, files, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert_checkpoint(files["ssv2"], ".")
    assert 'model="here"' in Path("README.md").read_text()
    assert os.listdir(tmp_path) == ["here"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("visual.ln_post.weight", float("nan"), "these weights are not the file's: .*visual.ln_post.weight"),
        (
            "visual.ln_post.weight",
            float("inf"),
            "the folder's model gives other logits than the converted one, or none",
        ),
    ],
)
def test_a_failed_verification_leaves_nothing_behind(tmp_path, ssv2, key, value, message):
    tensors = to_released_state_dict(ssv2)
    tensors[key] = torch.full_like(tensors[key], value)
    torch.save({"model": tensors}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=f"Verification failed: {message}"):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "out", verify=True)
    assert os.listdir(tmp_path) == ["a.pth"]
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "out"]


def test_verification_notices_the_last_bit_of_a_weight(tmp_path, files, monkeypatch):
    load = IlaForVideoClassification.from_pretrained.__func__

    def changed(cls, *args, **kwargs):
        model = load(cls, *args, **kwargs)
        with torch.no_grad():
            weight = model.classifier.weight
            weight[-1, -1] = torch.nextafter(weight[-1, -1], torch.tensor(9.0))
        return model

    monkeypatch.setattr(IlaForVideoClassification, "from_pretrained", classmethod(changed))
    with pytest.raises(ValueError, match=r"not the file's: \['mit.classify_head.2.weight'\]"):
        convert_checkpoint(files["ssv2"], tmp_path / "out", verify=True)
    assert os.listdir(tmp_path) == []


def test_verification_notices_other_logits(tmp_path, files, monkeypatch):
    load = IlaForVideoClassification.from_pretrained.__func__

    def changed(cls, *args, **kwargs):
        model = load(cls, *args, **kwargs)
        model.classifier_norm.eps = 1e-3
        return model

    monkeypatch.setattr(IlaForVideoClassification, "from_pretrained", classmethod(changed))
    with pytest.raises(ValueError, match="gives other logits than the converted one"):
        convert_checkpoint(files["ssv2"], tmp_path / "out", verify=True)
    assert os.listdir(tmp_path) == []


def test_files_that_do_not_convert(tmp_path, ssv2, merges):
    good = to_released_state_dict(ssv2)
    resnet = {"visual.conv1.weight": torch.zeros(32, 3, 3, 3), "visual.bn1.weight": torch.zeros(32)}
    cases = {
        "other.pt": ({"layer.weight": torch.zeros(2)}, "Neither a released ILA nor an OpenAI CLIP ViT"),
        "resnet.pt": (resnet, "Neither a released ILA nor an OpenAI CLIP ViT"),
        "missing.pt": ({k: t for k, t in good.items() if k != "visual.ln_pre.bias"}, "missing: .*visual.ln_pre.bias"),
        "more.pt": ({**good, "ema.decay": torch.zeros(1)}, "left over: .*ema.decay"),
        "width.pt": ({**good, "visual.conv1.weight": torch.zeros(33, 3, 8, 8)}, "Shapes that do not fit together"),
        "integers.pt": ({**good, "visual.ln_pre.bias": good["visual.ln_pre.bias"].int()}, "another kind of numbers"),
    }
    for name, (tensors, message) in cases.items():
        torch.save(tensors, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            convert_checkpoint(tmp_path / name, tmp_path / "out", tokenizer=merges)
    assert sorted(os.listdir(tmp_path)) == sorted(cases)


def test_the_script_says_what_is_wrong(tmp_path, files, capsys):
    def run(**arguments):
        options = {"output": str(tmp_path / "out"), **arguments}
        code = run_verb(convert, [part for name, value in options.items() for part in (f"--{name}", value)])
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("ila convert: error: ")
        assert len(captured.err.splitlines()) == 1
        return code, captured.err

    canary = tmp_path / "canary"
    save_evil(tmp_path / "evil.pth", "system", canary)
    code, message = run(checkpoint=str(tmp_path / "evil.pth"))
    assert code == 2 and "it names posix.system" in message and not canary.exists()
    assert run(checkpoint=str(tmp_path / "gone.pth"))[0] == 2
    code, message = run(checkpoint=str(files["ssv2"]), labels="kinetics600")
    assert code == 2 and "one of kinetics400, ssv2, or a file" in message
    code, message = run(checkpoint=str(files["ssv2"]), output=str(tmp_path))
    assert code == 2 and "not an empty folder" in message
    code, message = run(checkpoint=str(files["ssv2"]), output=str(tmp_path / "evil.pth" / "out"))
    assert code == 2
    assert sorted(os.listdir(tmp_path)) == ["evil.pth"]


def test_the_script_without_verification(tmp_path, files, capsys):
    assert convert.run(convert.ConvertOptions(checkpoint=str(files["ssv2"]), output=str(tmp_path / "out"))) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "Classes: 400, names from ssv2.",
        f"Written: {tmp_path / 'out'}",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shapes of the published files are not here")
@pytest.mark.parametrize("name", ["k400 ViT-B/32 8f", "ssv2 ViT-B/16 8f"])
def test_published_sizes(tmp_path, name):
    """At full size with random weights, as far as no real tokenizer is needed: one merge for each token."""
    torch.manual_seed(0)
    shapes = published_shapes()[name]
    tensors = {key: 0.02 * torch.randn(shape) for key, shape in shapes.items()}
    tensors |= {key: tensor.abs() + 1 for key, tensor in tensors.items() if "running_var" in key}
    tensors |= {key: torch.tensor(1) for key in tensors if "num_batches_tracked" in key}
    save_release(tmp_path / "a.pth", tensors)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pairs = [f"{a} {b}" for a in letters for b in letters]
    triples = [f"{a}{b} {c}" for a in letters for b in letters for c in letters]
    fours = [f"{a}{b} {c}{d}" for a in letters for b in letters for c in letters for d in letters]
    write_merges(tmp_path / "merges.txt", [*pairs, *triples, *fours])
    done = convert_checkpoint(tmp_path / "a.pth", tmp_path / "out", tokenizer=tmp_path / "merges.txt", verify=True)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert len(done.verified) == 2
    assert card.text.count("| published: the paper's Table") == 2 and card.data.get("eval_results") is None
    assert "Shapes and classes say which variant this is, not that it is the same training" in card.text
