"""Tasks of local videos run by the real `mteb` library; run by `make test-extra PARTS=mteb`."""

import re
import shutil
from functools import partial
from pathlib import Path

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from mteb.abstasks.classification import AbsTaskClassification
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification
from transformers import AutoProcessor, CLIPImageProcessor, CLIPModel

from support.paths import ROOT
from support.tiny_models import save_clip, save_vit
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor, read_video
from transformers_ila.model.video_frames_ila import segment_indices
from transformers_ila.search.mteb import MtebEncoder
from transformers_ila.video_writing import write_mp4


COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
WORDS = [f"a video of {name}" for name in COLOURS]
EACH = 6
COMMIT = 40 * "1"


def about(name, kind, modalities, category, score):
    return TaskMetadata(
        name=name,
        description="Videos of one colour.",
        dataset={"path": "local", "revision": "1"},
        type=kind,
        category=category,
        modalities=modalities,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
    )


class _Local:
    rows: Dataset  # video, label

    def load_data(self, num_proc=None, **kwargs):
        self.dataset, self.data_loaded = DatasetDict(train=self.rows, test=self.rows), True


class LocalClassification(_Local, AbsTaskClassification):
    metadata = about("LocalClassification", "VideoClassification", ["video"], "v2c", "accuracy")
    input_column_name = "video"
    samples_per_label = 2
    n_experiments = 2


class LocalZeroShot(_Local, AbsTaskZeroShotClassification):
    metadata = about("LocalZeroShot", "VideoZeroshotClassification", ["video", "text"], "v2t", "accuracy")
    input_column_name = "video"

    def get_candidate_labels(self):
        return WORDS


class LocalRetrieval(AbsTaskRetrieval):
    metadata = about("LocalRetrieval", "Any2AnyRetrieval", ["video", "text"], "t2v", "ndcg_at_10")
    rows: Dataset

    def load_data(self, num_proc=None, **kwargs):
        names = [str(index) for index in range(len(self.rows))]
        corpus = Dataset.from_dict({"id": names, "video": self.rows["video"]})
        queries = Dataset.from_dict({"id": [f"q{index}" for index in range(len(WORDS))], "text": WORDS})
        relevant = {f"q{index}": {} for index in range(len(WORDS))}
        for name, label in zip(names, self.rows["label"]):
            relevant[f"q{label}"][name] = 1
        split = RetrievalSplitData(queries=queries, corpus=corpus, relevant_docs=relevant, top_ranked=None)
        self.dataset, self.data_loaded = {"default": {"test": split}}, True


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    paths, labels = [], []
    for label, (name, colour) in enumerate(COLOURS.items()):
        for index in range(EACH):
            picture = np.array(colour) + random.integers(-25, 25, (48, 64, 3))
            frames = np.broadcast_to(picture.clip(0, 255).astype(np.uint8), (9 + index, 48, 64, 3))
            paths.append(str(folder / f"{name}{index}.mp4"))
            write_mp4(paths[-1], frames)
            labels.append(label)
    return Dataset.from_dict({"video": paths, "label": labels})


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = save_clip(tmp_path_factory.mktemp("models") / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(clip):
    return MtebEncoder(clip, device="cpu")


def run(encoder, kind, rows, cache=None, **options):
    task = type(kind.__name__, (kind,), {"rows": rows})()
    (result,) = mteb.evaluate(encoder, task, cache=cache, encode_kwargs={"batch_size": 4}, **options).task_results
    return result.scores["test"][0]


def test_classification(encoder, rows):
    assert run(encoder, LocalClassification, rows)["accuracy"] == 1


def test_zero_shot_and_retrieval_score_what_the_features_say(encoder, rows):
    texts, videos = encoder.encode([{"text": WORDS}]), encoder.encode([{"video": rows["video"]}])
    cosines, labels = videos @ texts.T, np.array(rows["label"])
    accuracy = (cosines.argmax(1) == labels).mean()
    assert run(encoder, LocalZeroShot, rows)["accuracy"] == pytest.approx(accuracy)
    order = (-cosines.T).argsort(1)[:, :10]  # (words, 10 best videos)
    gains, discounts = labels[order] == np.arange(len(WORDS))[:, None], 1 / np.log2(np.arange(2, 12))
    expected = ((gains * discounts).sum(1) / discounts[:EACH].sum()).mean()
    scores = run(encoder, LocalRetrieval, rows)
    assert scores["ndcg_at_10"] == pytest.approx(expected, abs=1e-4)


def test_features_are_those_of_transformers(encoder, clip, rows):
    theirs, processor = CLIPModel.from_pretrained(clip).eval(), AutoProcessor.from_pretrained(clip)
    frames, _ = read_video(rows["video"][0], partial(segment_indices, num_frames=encoder.model.config.num_frames))
    with torch.no_grad():
        pixels = processor(images=list(frames), return_tensors="pt")
        each = theirs.get_image_features(**pixels).pooler_output
        text = theirs.get_text_features(**processor(text=WORDS, padding=True, return_tensors="pt")).pooler_output
    each, text = (torch.nn.functional.normalize(part, dim=-1) for part in (each, text))
    video = torch.nn.functional.normalize(each.mean(0), dim=-1)
    np.testing.assert_allclose(encoder.encode([{"video": rows["video"][:1]}])[0], video.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.encode([{"text": WORDS}]), text.numpy(), atol=1e-5)


class Decoder:
    """What mteb uses of a torchcodec `VideoDecoder`; it promises more frames than it has."""

    def __init__(self, path, promised=3):
        self.frames = torch.from_numpy(read_video(path, lambda total: list(range(total)))[0]).permute(0, 3, 1, 2)
        self.metadata = type("Metadata", (), {"num_frames": len(self.frames) + promised})

    def get_frames_at(self, indices):
        if max(indices) >= len(self.frames):
            raise RuntimeError("no more frames left to decode")
        return type("FrameBatch", (), {"data": self.frames[indices]})


def test_videos_come_as_paths_bytes_frames_and_decoders(encoder, rows):
    paths = rows["video"][:3]
    expected = encoder.encode([{"video": paths}])
    assert expected.dtype == np.float32 and np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-6)
    stored = [{"path": None, "bytes": Path(path).read_bytes()} for path in paths]  # `Video(decode=False)`
    decoders = [Decoder(path) for path in paths]
    for videos in (stored, decoders, [decoder.frames for decoder in decoders]):
        np.testing.assert_allclose(encoder.encode([{"video": videos[:2]}, {"video": videos[2:]}]), expected, atol=1e-6)
    with pytest.raises(ValueError, match="no frame that can be decoded"):
        encoder.encode([{"video": [Decoder(paths[0], promised=-9)]}])


def test_a_video_with_a_text_is_the_sum(encoder, rows):
    batch = {"video": rows["video"][:2], "text": WORDS[:2]}
    parts = [encoder.encode([{name: values}]) for name, values in batch.items()]
    total = sum(parts) / np.linalg.norm(sum(parts), axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode([{**batch, "id": ["1", "2"]}]), total, atol=1e-6)


def test_what_cannot_be_encoded_is_refused(encoder, clip):
    for batch in ({"audio": [0]}, {"video": [0], "audio": [0]}, {"image": [0]}, {"id": ["1"]}):
        with pytest.raises(ValueError, match="must have text, video or both; got"):
            encoder.encode([batch])
    with pytest.raises(ValueError, match="`precision` is 'int8'"):
        encoder.encode([], precision="int8")
    assert encoder.encode([]).shape == encoder.encode([{"video": []}]).shape == (0, 64)
    for batch, got in (
        ({"text": "waving"}, "text: 'waving'"),
        ({"text": WORDS, "video": ["a.mp4"]}, "text: 3, video: 1"),
    ):
        with pytest.raises(ValueError, match=f"as many texts as videos; got {got}"):
            encoder.encode([batch])
    with pytest.raises(ValueError, match="labels, templates have no effect"):
        MtebEncoder(clip, labels=list(COLOURS), templates="a video of {}.")
    with pytest.raises(ValueError, match="`revision` is 'other'"):
        MtebEncoder(clip, "other")


def test_results_are_kept_by_the_weights(tmp_path, encoder, clip, rows):
    meta, cache = encoder.mteb_model_meta, mteb.ResultCache(tmp_path)
    assert meta.modalities == ["video", "text"] and meta.embed_dim == 64 and meta.name.endswith("/clip")
    run(encoder, LocalClassification, rows, cache)
    assert [path.parent.name for path in tmp_path.rglob("LocalClassification.json")] == [meta.revision]
    assert meta.load_model is not None and MtebEncoder(clip, meta.revision).mteb_model_meta.revision == meta.revision


@pytest.mark.parametrize("revision", [None, "main"])
def test_results_of_a_hub_id_are_kept_by_the_commit(tmp_path, clip, revision):
    folder = tmp_path / "models--user--clip"
    shutil.copytree(clip, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)
    meta = MtebEncoder("user/clip", revision, cache_dir=tmp_path, token="secret", dtype=torch.bfloat16).mteb_model_meta
    assert (meta.name, meta.revision) == ("user/clip", COMMIT)
    assert meta.experiment_kwargs == {"dtype": "torch.bfloat16"} and "secret" not in str(meta)


def test_the_example_of_the_documentation_runs(tmp_path, clip, rows, monkeypatch, capsys):
    shutil.copytree(clip, tmp_path / "openai" / "clip-vit-base-patch16")
    shutil.copyfile(rows["video"][0], tmp_path / "video.mp4")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"<!-- test: mteb -->\n```python\n(.*?)```", (ROOT / "docs/search.md").read_text(), re.DOTALL)
    exec(code, {})
    assert re.fullmatch(r"\[\[-?0\.\d+ +-?0\.\d+\]\]\n", capsys.readouterr().out)


def test_a_tower_of_pictures_encodes_videos_alone(tmp_path, rows, caplog):
    save_vit(tmp_path)
    encoder = MtebEncoder(tmp_path)
    assert encoder.encode([{"video": rows["video"][:2]}]).shape == (2, 32) and "random" not in caplog.text
    with pytest.raises(ValueError, match="num_frames have no effect"):
        MtebEncoder(tmp_path, num_frames=4)


def test_a_linear_head_encodes_videos_alone(tmp_path, clip, rows):
    options = {"classification_head": "linear", "labels": list(COLOURS), "num_frames": 4}
    model = IlaForVideoClassification.from_pretrained(clip, **options)
    model.save_pretrained(tmp_path)
    IlaVideoProcessor.for_model(model.config).save_pretrained(tmp_path)
    encoder = MtebEncoder(tmp_path)
    assert encoder.mteb_model_meta.modalities == ["video"]
    assert run(encoder, LocalClassification, rows)["accuracy"] == 1
    with pytest.raises(ValueError, match="no text tower"):
        encoder.encode([{"text": WORDS}])


def test_a_subfolder_holds_model_and_processor(tmp_path, clip, rows):
    options = {"classification_head": "linear", "labels": list(COLOURS), "num_frames": 4}
    model = IlaForVideoClassification.from_pretrained(clip, **options)
    model.save_pretrained(tmp_path / "inner")
    (tmp_path / "config.json").write_text("{}")  # of another model, as another revision's
    processor = IlaVideoProcessor.for_model(model.config, image_mean=[0.1] * 3)
    processor.save_pretrained(tmp_path / "inner")
    encoder = MtebEncoder(tmp_path, subfolder="inner")
    assert encoder.processor.image_mean == processor.image_mean
