"""`IlaTrainer` end to end on generated videos and a tiny model, and the plain `Trainer` beside it."""

import errno
import fcntl
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file
from torch.utils.data import ConcatDataset, Dataset, Subset
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import TrainerState

import transformers_ila.training.trainer
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.data.annotations import read_annotations
from transformers_ila.data.class_indices import ClassIndex
from transformers_ila.data.video_folder import VideoFolder, find_videos
from transformers_ila.files import LOCK, FolderInUseError
from transformers_ila.model.alignment_ila import PointPredictor
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.motionbench.tasks import MOTIONS
from transformers_ila.training.arguments import IlaTrainingArguments
from transformers_ila.training.augmentation import ClipAugmentation, MixClips, MixingCollator
from transformers_ila.training.callbacks import TrainedMark
from transformers_ila.training.checkpoints import last_complete_checkpoint, require_states
from transformers_ila.training.clips import EvaluationClips, TrainingClips
from transformers_ila.training.trainer import (
    IlaTrainer,
    class_logits,
    multi_label_metrics,
    top5_indices,
    top_accuracies,
)
from transformers_ila.training.unreadable import REPORT, UnreadableVideos


FRAME_RATE = 8 * 3 / 4  # of frames 0, 1, 3 and 4 of six, 8 a second
ACCUMULATION_TOLERANCE = 1e-6  # float32 sums in another order


def tiny_model(**fields):
    set_seed(0)
    names = {"id2label": dict(enumerate(sorted(MOTIONS))), "label2id": {n: i for i, n in enumerate(sorted(MOTIONS))}}
    return IlaForVideoClassification(tiny_config(classification_head="linear", **{**names, **fields}))


def arguments(folder, **fields):
    given = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "max_steps": 6,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "learning_rate": 1e-4,
        "warmup_steps": 1,
    }
    return IlaTrainingArguments(str(folder), **{**given, **fields})


def trainer_for(folder, videos, processor, *, model=None, args=None, mixing=True, normalise=True, **options):
    augment = ClipAugmentation(size=28, flip=0.0)
    clips = TrainingClips(videos, processor, augment=augment, seed=0, normalise=normalise)
    collator = MixingCollator(MixClips(8)) if mixing else None
    return IlaTrainer(
        model=tiny_model() if model is None else model,
        args=arguments(folder) if args is None else args,
        train_dataset=clips,
        eval_dataset=EvaluationClips(videos, processor, normalise=normalise),
        processing_class=processor,
        train_collator=collator,
        compute_metrics=top_accuracies,
        preprocess_logits_for_metrics=top5_indices,
        **options,
    )


@pytest.fixture(scope="module")
def run(videos, processor, tmp_path_factory):
    """One run with everything on, and what it left."""
    folder = tmp_path_factory.mktemp("run")
    fields = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    fields |= {"load_best_model_at_end": True, "metric_for_best_model": "top1", "save_total_limit": 2}
    args = arguments(folder, ema_decay=0.5, jitter_decay_epoch=1, **fields)
    trainer = trainer_for(folder, videos, processor, args=args)
    trainer.train()
    return trainer, folder


def test_the_log_has_both_losses_and_what_limits_the_speed(run):
    trainer, _ = run
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        total = line["classification_loss"] + line["alignment_loss"]
        assert line["loss"] == pytest.approx(total, rel=1e-4)  # the weight is 1
        assert line["videos_per_second"] > 0 and 0 <= line["data_wait"] <= 1 and line["memory_gib"] > 0.01
    assert lines[0]["learning_rate"] > 0


def test_evaluating_and_saving_take_no_time_of_the_log(videos, processor, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("transformers_ila.training.trainer.time", SimpleNamespace(perf_counter=lambda: now[0]))
    mark = transformers_ila.training.trainer.write_manifest

    def marked(folder):
        now[0] += 1000
        mark(folder)

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            now[0] += 2

        def on_prediction_step(self, args, state, control, **kwargs):
            now[0] += 1000

    monkeypatch.setattr("transformers_ila.training.trainer.write_manifest", marked)
    fields = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = trainer_for(tmp_path, videos, processor, args=arguments(tmp_path, **fields), callbacks=[Clock()])
    trainer.train()
    lines = [line["videos_per_second"] for line in trainer.state.log_history if "videos_per_second" in line]
    assert lines == [2.0, 2.0, 2.0]  # two steps of four videos in four seconds


def test_the_best_checkpoint_by_top1_is_kept_and_loaded(run):
    trainer, folder = run
    scores = {line["step"]: line["eval_top1"] for line in trainer.state.log_history if "eval_top1" in line}
    assert trainer.state.best_metric == max(scores.values())
    best = f"checkpoint-{trainer.state.best_global_step}"
    kept = sorted(path.name for path in folder.glob("checkpoint-*"))
    assert best in kept and "checkpoint-6" in kept and len(kept) <= 2
    assert trainer.evaluate()["eval_top1"] == pytest.approx(trainer.state.best_metric)
    average = load_file(folder / best / "moving_average.safetensors")  # it was the average that was the best
    assert all(torch.equal(value, trainer.average.values[name]) for name, value in average.items())


def test_what_is_saved_are_the_averaged_weights(run, tmp_path):
    trainer, _ = run
    trainer.save_model(str(tmp_path))
    saved = IlaForVideoClassification.from_pretrained(tmp_path)
    values = trainer.average.values
    for name, parameter in saved.named_parameters():
        if name in values:
            assert torch.equal(parameter, values[name]), name
    name = "classifier.weight"
    assert not torch.equal(dict(trainer.model.named_parameters())[name], values[name])
    assert (tmp_path / "processor_config.json").is_file() or (tmp_path / "video_preprocessor_config.json").is_file()


def test_jitter_has_faded(run):
    trainer, _ = run
    assert {module.jitter for module in trainer.model.modules() if isinstance(module, PointPredictor)} == {0.1}


def test_a_step_marks_the_model_as_trained(run):
    marks = [callback for callback in run[0].callback_handler.callbacks if isinstance(callback, TrainedMark)]
    model = IlaForVideoClassification(tiny_config())
    model.remember_untrained(["mit.position_embedding"])
    for mark in marks:
        mark.on_step_end(None, None, None, model=model)
    assert not model.untrained() and model.config.untrained_weights is None


def test_the_clips_frame_rate_is_kept_in_what_is_saved(run, tmp_path):
    trainer, folder = run
    assert trainer.model.config.frame_rate == pytest.approx(FRAME_RATE)
    checkpoint = next(folder.glob("checkpoint-*"))
    assert IlaForVideoClassification.from_pretrained(checkpoint).config.frame_rate == pytest.approx(FRAME_RATE)


def test_a_given_frame_rate_stays_and_a_stored_one_is_measured_anew(videos, processor, tmp_path, caplog):
    def trained(model, data=None):
        trainer = trainer_for(tmp_path / "run", videos, processor, model=model)
        trainer.train_dataset = trainer.train_dataset if data is None else data
        trainer._keep_frame_rate()
        return trainer.model.config.frame_rate

    assert trained(tiny_model(frame_rate=30)) == 30
    tiny_model(frame_rate=30).save_pretrained(tmp_path / "trained")
    load = IlaForVideoClassification.from_pretrained
    assert trained(load(tmp_path / "trained")) == pytest.approx(FRAME_RATE)
    assert trained(load(tmp_path / "trained", frame_rate=30)) == 30
    assert trained(load(tmp_path / "trained", frame_rate=5.5)) == 5.5
    assert trained(load(tmp_path / "trained", config=tiny_model(frame_rate=7).config)) == 7
    assert trained(load(tmp_path / "trained"), data=[]) == 30 and "`frame_rate` stays 30" in caplog.text
    assert trained(load(tmp_path / "trained"), data=ConcatDataset([VideoFolder(videos.pairs(), processor)])) == (
        pytest.approx(FRAME_RATE)
    )
    assert trained(tiny_model(), data=[]) is None


def test_mixing_is_for_training_only(run):
    trainer, _ = run
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["labels"].shape == (4, 8) and batch["labels"].is_floating_point()
    batch = next(iter(trainer.get_eval_dataloader()))
    assert batch["labels"].ndim == 1 and not batch["labels"].is_floating_point()
    assert "clip_seed" not in batch


def test_loaders_share_one_order(run):
    trainer, _ = run
    first, second = trainer.get_train_dataloader(), trainer.get_train_dataloader()
    assert first.batch_sampler.sampler is second.batch_sampler.sampler is trainer.data_epoch.order


def test_a_finished_run_takes_no_step_more(run, videos, processor):
    trainer, folder = run
    again = trainer_for(folder, videos, processor, args=trainer.args)
    assert again.train(resume_from_checkpoint=True).global_step == 6
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert all(torch.equal(value, again.average.values[name]) for name, value in trainer.average.values.items())
    renamed = tiny_model(**label_fields(sorted(MOTIONS)[::-1]))
    with pytest.raises(ValueError, match="checkpoint-6' was trained on other classes.*class 0 is 'app"):
        trainer_for(folder, videos, processor, model=renamed, args=trainer.args).train(resume_from_checkpoint=True)


def test_accuracies_pass_over_what_was_not_read():
    logits = torch.tensor([[3.0, 2, 1], [1, 2, 3], [1, 3, 2]])
    best = top5_indices(logits, torch.tensor([0, 0, 0]))
    assert best[:, :3].tolist() == [[0, 1, 2], [2, 1, 0], [1, 2, 0]]

    class Prediction:
        predictions, label_ids = best.numpy(), torch.tensor([0, 0, -100]).numpy()

    assert top_accuracies(Prediction) == {"top1": 0.5, "top5": 1.0, "unreadable": 1.0}
    Prediction.label_ids = torch.tensor([-100, -100, -100]).numpy()
    assert top_accuracies(Prediction)["top1"] == 0.0


# -- gradient accumulation -------------------------------------------------------------------------------------------


class KeepGradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def step_of(folder, videos, processor, *, parts, options=None, **fields):
    """Loss and gradients of one step with 8 videos, in so many parts; `options` are of the training arguments."""
    keep = KeepGradients()
    args = arguments(
        folder,
        max_steps=1,
        logging_steps=1,
        per_device_train_batch_size=8 // parts,
        gradient_accumulation_steps=parts,
        max_grad_norm=0.0,
        **(options or {}),
    )
    model = tiny_model(classifier_dropout=0.0, **fields)
    trainer = trainer_for(folder, videos, processor, model=model, args=args, mixing=False, callbacks=[keep])
    trainer.train()
    loss = next(line["loss"] for line in trainer.state.log_history if "loss" in line)
    statistics = {f"{name}, statistics": value for name, value in model.named_buffers() if "running" in name}
    return loss, keep.gradients | statistics


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_are_those_of_one_big_batch(videos, processor, tmp_path, parts):
    loss, gradients = step_of(tmp_path, videos, processor, parts=1, temporal_module="none")
    other, others = step_of(tmp_path, videos, processor, parts=parts, temporal_module="none")
    assert other == pytest.approx(loss, abs=1e-4)  # of the log, which rounds
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], atol=ACCUMULATION_TOLERANCE, rtol=1e-4)


def test_batch_normalisation_sees_the_parts(videos, processor, tmp_path):
    """Why it is not the same with alignment: each part is normalised by its own statistics."""
    _, gradients = step_of(tmp_path, videos, processor, parts=1)
    _, others = step_of(tmp_path, videos, processor, parts=2)
    name = next(name for name in gradients if ".temporal." in name)
    assert any(not torch.allclose(gradients[n], others[n], atol=1e-6) for n in gradients), name


def test_activation_checkpointing_changes_nothing(videos, processor, tmp_path):
    loss, gradients = step_of(tmp_path, videos, processor, parts=1)
    other, others = step_of(tmp_path, videos, processor, parts=1, options={"activation_checkpointing": True})
    assert other == pytest.approx(loss, abs=1e-4) and gradients.keys() == others.keys()
    assert any("running_mean" in name for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], atol=ACCUMULATION_TOLERANCE, rtol=1e-4)


def test_bytes_are_normalised_on_the_device(videos, processor, tmp_path):
    """The same step from uint8 clips; mixup rounds them once, so not to the last bit."""
    losses = {}
    for normalise in (True, False):
        args = arguments(tmp_path, max_steps=2, logging_steps=1, eval_strategy="steps", eval_steps=2)
        trainer = trainer_for(tmp_path, videos, processor, args=args, normalise=normalise)
        batch = next(iter(trainer.get_train_dataloader()))
        assert batch["pixel_values"].dtype == (torch.float32 if normalise else torch.uint8)
        trainer.train()
        losses[normalise] = [line.get("loss", line.get("eval_loss")) for line in trainer.state.log_history[:-1]]
    assert losses[True] == pytest.approx(losses[False], rel=1e-3) and len(losses[True]) == 3
    other = IlaVideoProcessor.for_model(tiny_config(), image_mean=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="normalise differently"):
        trainer.evaluate(EvaluationClips(videos, other, normalise=False))


def test_an_evaluation_encodes_the_texts_once(videos, processor, tmp_path, monkeypatch):
    """The text tower learns, so that its features are of one evaluation only."""
    names = sorted(MOTIONS)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    model = IlaForVideoClassification(tiny_config(freeze_text_model=False, **labels))
    calls = []
    model.text_model.register_forward_hook(lambda *_: calls.append(1))
    trainer = trainer_for(
        tmp_path, videos, processor, model=model, args=arguments(tmp_path, per_device_eval_batch_size=4)
    )
    for count in (1, 2):
        trainer.evaluate()
        assert len(calls) == count


def test_half_precision(videos, processor, tmp_path):
    loss, _ = step_of(tmp_path, videos, processor, parts=1)
    other, gradients = step_of(tmp_path, videos, processor, parts=1, options={"bf16": True})
    assert other == pytest.approx(loss, rel=0.02) and other != loss
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in gradients.values())


@pytest.mark.parametrize(("fields", "steps"), [({"num_train_epochs": 10, "max_steps": -1}, 8), ({"max_steps": 12}, 8)])
def test_the_schedule_warms_up_for_epochs(videos, processor, tmp_path, fields, steps):
    """16 videos are four steps of four an epoch; two epochs warm up."""
    args = arguments(tmp_path, warmup_steps=0, warmup_epochs=2, lr_batch_size=16, **fields)
    trainer = trainer_for(tmp_path, videos, processor, args=args)
    total = 40 if args.max_steps < 0 else 12
    trainer.create_optimizer()
    schedule = trainer.create_scheduler(total, trainer.optimizer)
    assert trainer.args.warmup_steps == 0  # of another number of steps it would be another number
    assert trainer.scaled_learning_rate() == pytest.approx(1e-4 * 4 / 16)
    rates = []
    for _ in range(total + 1):
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        trainer.optimizer.step()
        schedule.step()
    peak = rates[steps]
    assert sorted({round(rate / 2.5e-5, 6) for rate in peak}) == [1.0, 10.0] and rates[steps // 2][0] == peak[0] / 2
    assert rates[-1][0] == pytest.approx(0.01 * peak[0])


# -- trouble ---------------------------------------------------------------------------------------------------------


def with_broken(videos, folder, count):
    """The same list with so many of its files damaged."""
    samples = []
    for index, sample in enumerate(videos.samples):
        if index < count:
            path = folder / f"broken_{index}.mp4"
            path.write_bytes(b"no video")
            sample = sample._replace(video=str(path), name=path.name)
        samples.append(sample)
    return type(videos)(samples, videos.class_names, False, "list", "test")


def test_a_damaged_part_is_trained_through_and_reported(videos, processor, tmp_path):
    few = with_broken(videos, tmp_path, 2)
    args = arguments(tmp_path, max_steps=8, dataloader_num_workers=2, dataloader_persistent_workers=True)
    trainer = trainer_for(tmp_path, few, processor, args=args)
    assert trainer.train().global_step == 8
    report = json.loads((tmp_path / REPORT).read_text())
    assert set(report["videos"]) == {"broken_0.mp4", "broken_1.mp4"} and report["unreadable"] == 2
    assert report["readings"] >= 32 + report["failures"] and report["per_rank"][0]["rank"] == 0


def test_names_that_are_no_text_are_reported(tmp_path):
    counted = UnreadableVideos(0.5, 4)
    counted.count(1, [("lone\udc80.mp4", "no such file")])
    assert counted.write(tmp_path) == 1
    assert json.loads((tmp_path / REPORT).read_text("utf-8"))["videos"] == {"lone\udc80.mp4": "no such file"}


def test_too_many_damaged_videos_stop_the_run(videos, processor, tmp_path):
    many = with_broken(videos, tmp_path, 8)
    trainer = trainer_for(tmp_path, many, processor, args=arguments(tmp_path, max_steps=20))
    with pytest.raises(RuntimeError, match="readings failed.*20.0% is allowed"):
        trainer.train()
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["videos"].keys() == trainer.unreadable.reasons.keys() and len(report["videos"]) > 3
    assert report["failures"] == trainer.unreadable.failures and "20.0% is allowed" in report["stopped"]


def test_the_counts_of_a_checkpoint_are_gone_on_with(videos, processor, tmp_path):
    """And not those of the steps behind it, which are taken again."""
    few = with_broken(videos, tmp_path, 2)
    args = arguments(tmp_path, save_strategy="steps", save_steps=4, max_steps=6)
    whole = trainer_for(tmp_path, few, processor, args=args)
    whole.train()
    expected = json.loads((tmp_path / REPORT).read_text())
    again = trainer_for(tmp_path, few, processor, args=args)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.unreadable.readings < expected["readings"]
    assert json.loads((tmp_path / REPORT).read_text()) == expected
    assert expected["per_rank"] == [{"rank": 0, **{n: expected[n] for n in ("readings", "failures")}}]


def test_nothing_but_damaged_videos_stops_the_run_at_once(videos, processor, tmp_path):
    with pytest.raises(RuntimeError, match="No replacement could be read for a video"):
        trainer_for(tmp_path, with_broken(videos, tmp_path, 16), processor).train()


def test_damaged_videos_of_the_evaluation_are_counted(videos, processor, tmp_path):
    trainer = trainer_for(tmp_path, videos, processor)
    trainer.eval_dataset = EvaluationClips(with_broken(videos, tmp_path, 3), processor)
    metrics = trainer.evaluate()
    assert metrics["eval_unreadable"] == 3 and metrics["eval_loss"] == metrics["eval_loss"]


@pytest.mark.parametrize("batch", [3, 8])
def test_damaged_videos_with_several_labels_are_counted(videos, processor, tmp_path, batch):
    """In batches of three, one has nothing but damaged videos."""
    names = sorted(MOTIONS)
    samples = [sample._replace(labels=(index % 8, (index + 3) % 8)) for index, sample in enumerate(videos.samples)]
    whole = type(videos)(samples, names, True, "list", "test")
    broken = replace(whole, samples=with_broken(whole, tmp_path, 3).samples)
    trainer = trainer_for(
        tmp_path,
        videos,
        processor,
        model=tiny_model(problem_type="multi_label_classification", alignment_loss_weight=0.0),
        args=arguments(tmp_path, per_device_eval_batch_size=batch),
    )
    trainer.compute_metrics, trainer.preprocess_logits_for_metrics = multi_label_metrics, class_logits
    metrics = trainer.evaluate(EvaluationClips(broken, processor))
    assert metrics["eval_unreadable"] == 3 and 0 < metrics["eval_mean_average_precision"] <= 1
    rest = trainer.evaluate(EvaluationClips(replace(whole, samples=samples[3:]), processor))
    assert rest["eval_unreadable"] == 0
    assert metrics["eval_mean_average_precision"] == pytest.approx(rest["eval_mean_average_precision"])
    if batch == 3:  # whose other batches are the same
        assert metrics["eval_loss"] == pytest.approx(rest["eval_loss"], rel=1e-5)
    assert 0.3 < metrics["eval_loss"] < 1.5


class TermAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_saves_and_ends(videos, processor, tmp_path):
    trainer = trainer_for(tmp_path, videos, processor, callbacks=[TermAt(3)])
    assert trainer.train().global_step == 4 and trainer.stop.stopped
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-4"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    again = trainer_for(tmp_path, videos, processor)
    assert again.train(resume_from_checkpoint=True).global_step == 6 and not again.stop.stopped


def test_sigterm_is_not_kept_waiting_by_an_evaluation(videos, processor, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("transformers_ila.training.trainer.write_manifest", lambda folder: saved.append(folder.name))
    args = arguments(tmp_path, eval_strategy="epoch", save_strategy="epoch", max_steps=12)
    trainer = trainer_for(tmp_path, videos, processor, args=args, callbacks=[TermAt(5)])
    assert trainer.train().global_step == 6
    assert [line["step"] for line in trainer.state.log_history if "eval_top1" in line] == [4]
    assert saved == ["checkpoint-4", "checkpoint-6"]


@pytest.mark.parametrize("counted", [True, False])
def test_a_loader_that_fails_after_sigterm_is_no_error(videos, processor, tmp_path, monkeypatch, counted):
    class TermAfter(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:  # behind the callback that looks for it
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = trainer_for(tmp_path, videos, processor, callbacks=[])
    trainer.add_callback(TermAfter())
    if not counted:
        trainer.train_collator, trainer.unreadable, trainer.train_dataset = None, None, trainer.eval_dataset
        trainer.pop_callback(UnreadableVideos)
    read = type(trainer.train_dataset).__getitem__

    def fails_then(clips, index):
        if trainer.stop.received:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")
        return read(clips, index)

    monkeypatch.setattr(type(trainer.train_dataset), "__getitem__", fails_then)
    assert trainer.train().global_step == 2 and trainer.stop.stopped
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-2"


def test_a_full_disk_leaves_the_last_checkpoint(videos, processor, tmp_path, monkeypatch):
    args = arguments(tmp_path, save_strategy="steps", save_steps=2, save_total_limit=1)
    trainer = trainer_for(tmp_path, videos, processor, args=args)
    save = torch.save

    def full(content, file, *rest, **options):
        if "checkpoint-4" in str(file):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return save(content, file, *rest, **options)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="checkpoint-4' could not be written.*No space left.*last whole.*checkpoint-2'"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert last_complete_checkpoint(tmp_path).name == "checkpoint-2"


def test_fewer_videos_than_a_batch_are_refused(videos, processor, tmp_path):
    with pytest.raises(ValueError, match="16 videos are fewer than one global batch of 32"):
        trainer_for(tmp_path, videos, processor, args=arguments(tmp_path, per_device_train_batch_size=32)).train()


def test_half_a_checkpoint_is_not_resumed_from(videos, processor, tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(ValueError, match="is not a whole checkpoint: complete.json is missing"):
        trainer_for(tmp_path, videos, processor).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.fixture
def resumable(run, videos, processor, tmp_path):
    """Make trainers that would go on from the run's first checkpoint that is left, in a folder of their own."""
    shutil.copytree(min(run[1].glob("checkpoint-*")), tmp_path / "checkpoint-4")
    return lambda **fields: trainer_for(tmp_path, videos, processor, args=arguments(tmp_path, ema_decay=0.5, **fields))


@pytest.mark.parametrize(
    ("name", "change"), [("optimizer.pt", "gone"), ("scheduler.pt", "changed"), ("rng_state.pth", "gone")]
)
def test_what_changes_while_it_is_loaded_is_not_gone_on_from(resumable, tmp_path, monkeypatch, name, change):
    """The Trainer passes over these where they are gone: exit code 0, and other weights."""
    checked, file = transformers_ila.training.trainer.require_same_checkpoint, tmp_path / "checkpoint-4" / name

    def then_changed(*args, **options):
        checked(*args, **options)
        content = file.read_bytes()
        file.unlink()
        if change == "changed":  # of another run, say: the size is the same
            file.write_bytes(content)

    monkeypatch.setattr(transformers_ila.training.trainer, "require_same_checkpoint", then_changed)
    with pytest.raises(ValueError, match=rf"checkpoint-4' changed while it was loaded: {name} \({change}\)"):
        resumable().train(resume_from_checkpoint=True)


def without(checkpoint, name):
    """As if a whole checkpoint had never had a file."""
    manifest = json.loads((checkpoint / "complete.json").read_text())
    (checkpoint / "complete.json").write_text(json.dumps({key: manifest[key] for key in manifest if key != name}))
    (checkpoint / name).unlink()


def test_a_checkpoint_without_states_is_none_to_go_on_from(resumable, tmp_path, caplog):
    checkpoint = tmp_path / "checkpoint-4"
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_1.pth")
    manifest = (checkpoint / "complete.json").read_text()
    (checkpoint / "complete.json").write_text(manifest.replace("rng_state.pth", "rng_state_1.pth"))
    require_states(checkpoint, process=1)
    assert not caplog.records
    require_states(checkpoint, process=None)
    assert "saved by another number of processes and has no rng_state.pth" in caplog.text
    without(checkpoint, "optimizer.pt")
    without(checkpoint, "rng_state_1.pth")
    with pytest.raises(ValueError, match="checkpoint-4' has no optimizer and no random generators .`save_only_model`"):
        resumable().train(resume_from_checkpoint=True)
    state = load_file(checkpoint / "model.safetensors")
    state.pop("classifier.weight")
    missing = resumable().model.load_state_dict(state, strict=False)
    with pytest.raises(ValueError, match="of another model: 1 of this one's weights are missing .*, 0 are not its"):
        resumable()._issue_warnings_after_load(missing)


def test_the_best_weights_are_found_where_the_folder_was_moved_or_missed(run, videos, processor, tmp_path):
    trainer, folder = run
    shutil.copytree(folder, tmp_path / "moved")
    best = tmp_path / "moved" / os.path.basename(trainer.state.best_model_checkpoint)
    last = last_complete_checkpoint(tmp_path / "moved")
    state = json.loads((last / "trainer_state.json").read_text()) | {"best_model_checkpoint": f"elsewhere/{best.name}"}
    (last / "trainer_state.json").write_text(json.dumps(state))
    fields = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "ema_decay": 0.5}
    fields |= {"load_best_model_at_end": True, "metric_for_best_model": "top1"}
    again = trainer_for(tmp_path, videos, processor, args=arguments(tmp_path / "moved", **fields))
    again.restore_finished_run(str(last), TrainerState.load_from_json(str(last / "trainer_state.json")))
    weights = load_file(best / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in again.model.state_dict().items())
    (best / "moving_average.safetensors").unlink()
    with pytest.raises(ValueError, match="best weights cannot be loaded, .* is not whole: moving_average.safetensors"):
        again.restore_finished_run(str(last), TrainerState.load_from_json(str(last / "trainer_state.json")))


def test_two_trainers_do_not_write_to_one_folder(videos, processor, tmp_path):
    with (tmp_path / LOCK).open("ab") as lock:  # as another process holds it
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FolderInUseError, match=f"Another process writes to {str(tmp_path)!r}"):
            trainer_for(tmp_path, videos, processor).train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_run_whose_lock_was_deleted_stops_where_another_has_the_folder(videos, processor, tmp_path):
    class Other(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            (tmp_path / LOCK).unlink()
            self.lock = (tmp_path / LOCK).open("ab")
            fcntl.flock(self.lock, fcntl.LOCK_EX)

    other = Other()
    trainer = trainer_for(tmp_path, videos, processor, args=arguments(tmp_path, save_strategy="steps", save_steps=1))
    trainer.add_callback(other)
    with pytest.raises(FolderInUseError, match=f"Another process writes to {str(tmp_path)!r}"):
        trainer.train()
    other.lock.close()
    assert (tmp_path / LOCK).is_file() and not list(tmp_path.glob("checkpoint-*"))
    assert not list(filter_repo_objects([LOCK], ignore_patterns=["_*"]))  # what the Trainer does not upload


# -- the plain Trainer -----------------------------------------------------------------------------------------------


class Plain(Dataset):
    def __init__(self, clips):
        self.clips = clips

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        return {name: self.clips[index][name] for name in ("pixel_values", "labels")}


@pytest.mark.parametrize("columns", [True, False])
def test_the_plain_trainer_works(videos, processor, tmp_path, columns):
    clips = TrainingClips(videos, processor, augment=ClipAugmentation(size=28))
    seen = []

    class Epochs(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(clips.epoch)

    args = TrainingArguments(
        str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=4,
        logging_steps=2,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=columns,
    )
    trainer = Trainer(
        model=tiny_model(),
        args=args,
        train_dataset=clips if columns else Plain(clips),
        eval_dataset=EvaluationClips(videos, processor),
        processing_class=processor,
        compute_metrics=top_accuracies,
        preprocess_logits_for_metrics=top5_indices,
        callbacks=[Epochs()],
    )
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_top1"] <= 1
    if columns:
        assert seen == [0, 0, 0, 0, 1, 1]  # Accelerate tells the data set, on one process


@pytest.mark.slow
def test_it_learns(videos, processor, tmp_path):
    """Sixteen videos by heart: rates, order and labels fit together."""
    fields = {"max_steps": 200, "learning_rate": 3e-3, "new_lr_scale": 1.0, "logging_steps": 20, "ema_decay": 0.9}
    model = tiny_model(alignment_fusion="residual", classifier_dropout=0.0)
    trainer = trainer_for(tmp_path, videos, processor, model=model, args=arguments(tmp_path, **fields), mixing=False)
    trainer.train_dataset = EvaluationClips(videos, processor)  # without augmentation
    trainer.train()
    losses = [line["classification_loss"] for line in trainer.state.log_history if "classification_loss" in line]
    assert losses[-1] < 0.7 * losses[0], losses
    assert trainer.evaluate()["eval_top1"] >= 0.5  # of eight classes


# -- classes of other lists ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(videos, tmp_path_factory):
    """Videos of three of the eight classes: 0, 1 and 2 of their folder, 5, 6 and 7 of the model."""
    root = tmp_path_factory.mktemp("three")
    for name in sorted(MOTIONS)[5:]:
        (root / name).symlink_to(f"{videos.source}/{name}")
    return root


def test_lists_of_another_order_are_joined_by_name(videos, three, processor, tmp_path):
    names, own = sorted(MOTIONS), read_annotations(three)
    trainer = trainer_for(tmp_path, videos, processor)
    expected = trainer.evaluate(EvaluationClips(own, processor, labels=names))
    rest = read_annotations(videos.source, labels=names[::-1])
    forms = {
        "clips": EvaluationClips(own, processor),
        "folder": VideoFolder(find_videos(three)[1], processor),
        "subset": Subset(EvaluationClips(rest, processor), [i for i, s in enumerate(rest.samples) if s.labels[0] < 3]),
    }
    for form in forms.values():
        found = trainer.evaluate(form)
        assert [found[f"eval_{name}"] for name in ("loss", "top1")] == [
            pytest.approx(expected[f"eval_{name}"]) for name in ("loss", "top1")
        ]
        assert set(trainer.predict(form).label_ids.tolist()) == {5, 6, 7}
    both = ConcatDataset([EvaluationClips(own, processor), EvaluationClips(rest, processor)])
    assert trainer.predict(both).label_ids.tolist() == [5, 5, 6, 6, 7, 7, *sorted(list(range(8)) * 2)]
    assert trainer.evaluate({"three": EvaluationClips(own, processor)})["eval_three_top1"] == expected["eval_top1"]
    trained = trainer_for(tmp_path, rest, processor).train_dataset
    assert [names[int(sample.labels[0])] for sample in trained.samples] == [
        Path(s.video).parent.name for s in rest.samples
    ]


def test_a_plain_trainer_is_given_the_names(three, processor, tmp_path, caplog):
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True)
    clips = EvaluationClips(read_annotations(three), processor, labels=sorted(MOTIONS))
    found = Trainer(
        tiny_model(), args, compute_metrics=top_accuracies, preprocess_logits_for_metrics=top5_indices
    ).predict(clips)
    assert found.label_ids.tolist() == [5, 5, 6, 6, 7, 7] and not caplog.records
    clips = EvaluationClips(read_annotations(three), processor)
    assert [clips[0]["labels"], clips[1]["labels"]] == [0, 0]
    assert [record.message.split(": ")[1][:37] for record in caplog.records] == [
        "give `labels=model.config.class_names"
    ]


def test_data_that_the_model_is_not_for(videos, three, processor, tmp_path):
    own = read_annotations(three)
    with pytest.raises(ValueError, match="none of the 8 class names"):
        trainer_for(
            tmp_path,
            replace(own, class_names=None, samples=[s._replace(labels=(ClassIndex(0, "x"),)) for s in own.samples]),
            processor,
        )
    trainer = trainer_for(tmp_path, videos, processor)
    several = replace(videos, multi_label=True)
    with pytest.raises(ValueError, match="gives a video several labels, and the model's `problem_type` is None"):
        trainer.evaluate(EvaluationClips(several, processor))
    trainer.model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="gives a video one label"):
        trainer.evaluate(EvaluationClips(videos, processor))
    for column in ("label", "labels", "label_ids"):
        columns = SimpleNamespace(features={column: SimpleNamespace(names=sorted(MOTIONS)[::-1])})
        with pytest.raises(ValueError, match=f"'{column}' counts its classes in another order than the model"):
            trainer.get_eval_dataloader(columns)
    folders = [name.replace(" ", "_") for name in sorted(MOTIONS)]
    trainer._join_classes(SimpleNamespace(features={"label": SimpleNamespace(names=folders)}))


def test_metrics_take_no_rows_for_indices():
    best, rows = torch.zeros(4, 5, dtype=torch.long), torch.eye(4)
    for labels in (rows, rows[0], torch.tensor([True] * 4)):
        with pytest.raises(ValueError, match="`multi_label_metrics` is for several labels"):
            top_accuracies(EvalPrediction(best.numpy(), labels.numpy()))
    for labels in (torch.arange(4), rows[:, :3]):
        with pytest.raises(ValueError, match="`top_accuracies` is for one label"):
            multi_label_metrics(EvalPrediction(rows.numpy(), labels.numpy()))
    with pytest.raises(ValueError, match="rows of 0 and 1"):
        multi_label_metrics(EvalPrediction(rows.numpy(), (0.5 * rows).numpy()))
