"""From a file to a label, through Transformers' pipeline, Auto classes and Trainer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoVideoProcessor, Trainer, TrainingArguments, pipeline

from support.tiny_models import tiny_config
from support.videos import SHARED
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.data.video_folder import VideoFolder, find_videos
from transformers_ila.motionbench.tasks import write_folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_folder(root, 16, seed=0, num_frames=6)
    return find_videos(root)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, videos):
    labels, _ = videos
    folder = tmp_path_factory.mktemp("model")
    config = tiny_config(id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    IlaForVideoClassification(config).save_pretrained(folder)
    IlaVideoProcessor.for_model(config).save_pretrained(folder)
    return folder


def expected(saved, path):
    model = IlaForVideoClassification.from_pretrained(saved).eval()
    inputs = IlaVideoProcessor.from_pretrained(saved)(path, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits.softmax(-1)[0]


def test_pipeline_gives_the_models_probabilities(saved, videos):
    labels, samples = videos
    classify = pipeline("video-classification", model=str(saved))
    path = str(samples[0][0])
    answers = classify(path, top_k=8)
    scores = expected(saved, path)
    assert [answer["label"] for answer in answers] == [labels[index] for index in scores.argsort(descending=True)]
    for answer in answers:
        assert abs(answer["score"] - scores[labels.index(answer["label"])].item()) < 1e-5
    assert len(classify([path, str(samples[1][0])])) == 2


def test_pipeline_in_batches(saved, videos):
    """The pipeline refuses batches unless it is given something to pad with, by this name."""
    processor = IlaVideoProcessor.from_pretrained(saved)
    classify = pipeline("video-classification", model=str(saved), feature_extractor=processor)
    paths = [str(path) for path, _ in videos[1][:5]]
    single, batched = (classify(paths, batch_size=size) for size in (1, 2))
    for one, other in zip(single, batched):
        assert [answer["label"] for answer in one] == [answer["label"] for answer in other]


@pytest.mark.slow
def test_pipeline_in_a_fresh_process(saved, videos):
    code = (
        "import json, sys, transformers_ila; from transformers import pipeline\n"
        "print(json.dumps(pipeline('video-classification', model=sys.argv[1])(sys.argv[2])))"
    )
    path = str(videos[1][3][0])
    run = subprocess.run([sys.executable, "-c", code, str(saved), path], capture_output=True, text=True, check=True)
    answers = json.loads(run.stdout.splitlines()[-1])
    assert abs(answers[0]["score"] - expected(saved, path).max().item()) < 1e-5
    assert "not supported" not in run.stderr


@pytest.mark.skipif(not (SHARED / "real").is_dir(), reason="the shared videos are not here")
def test_pipeline_on_real_videos(saved):
    classify = pipeline("video-classification", model=str(saved))
    files = sorted(path for path in (SHARED / "real").iterdir() if path.suffix != ".json")
    assert len(files) >= 3
    for path in files:
        answers = classify(str(path), top_k=8)
        assert abs(sum(answer["score"] for answer in answers) - 1) < 1e-4


def test_auto_classes_find_the_processor(saved):
    processor = AutoVideoProcessor.from_pretrained(saved)
    assert isinstance(processor, IlaVideoProcessor) and processor.crop_size["height"] == 28


def arguments(folder: Path, **fields) -> TrainingArguments:
    defaults = {"per_device_train_batch_size": 4, "max_steps": 3, "report_to": "none", "disable_tqdm": True}
    return TrainingArguments(str(folder), **{**defaults, **fields})


def test_trainer_trains_evaluates_saves_and_resumes(tmp_path, saved, videos):
    processor = IlaVideoProcessor.from_pretrained(saved)
    data = VideoFolder(videos[1], processor, keep=True)

    def train(folder, **fields):
        model = IlaForVideoClassification.from_pretrained(saved, alignment_jitter=0.0)
        trainer = Trainer(
            model,
            arguments(folder, **fields),
            train_dataset=data,
            eval_dataset=data,
            processing_class=processor,
            compute_metrics=lambda p: {"shape": list(p.predictions.shape)},
        )
        return trainer

    trainer = train(tmp_path / "a", save_steps=2, max_steps=4)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    trained = {name: weight for name, weight in trainer.model.named_parameters()}
    assert any(not torch.equal(before[name], trained[name]) for name in trained)
    assert all(torch.equal(before[name], trained[name]) for name in trained if name.startswith("text_model"))
    metrics = trainer.evaluate()
    assert metrics["eval_shape"] == [16, 8]  # logits alone are gathered
    trainer.save_model(str(tmp_path / "final"))
    scores = expected(tmp_path / "final", videos[1][0][0])
    assert torch.isfinite(scores).all()
    resumed = train(tmp_path / "a", save_steps=2, max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    for name, weight in resumed.model.named_parameters():
        torch.testing.assert_close(weight, trained[name])


def test_gradient_accumulation_gives_the_loss_of_one_big_batch(tmp_path, saved, videos):
    """Alignment statistics see smaller batches, so batch norm is the one thing that may differ: a linear check."""
    data = VideoFolder(videos[1][:8], IlaVideoProcessor.from_pretrained(saved), keep=True)
    losses = []
    for size, steps in ((8, 1), (2, 4)):
        model = IlaForVideoClassification.from_pretrained(saved, temporal_module="none")
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1}
        trainer = Trainer(
            model, arguments(tmp_path, logging_steps=1, save_strategy="no", **options), train_dataset=data
        )
        losses.append(trainer.train().training_loss)
    assert abs(losses[0] - losses[1]) < 1e-5
