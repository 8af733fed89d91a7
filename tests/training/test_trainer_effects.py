"""Every field of IlaTrainingArguments and every argument of IlaTrainer works, is an error, or is Transformers' own."""

import inspect
import re
from dataclasses import fields

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from support.tiny_models import TINY_VISION, tiny_config
from transformers_ila import (
    AlignedTimesformerConfig,
    AlignedTimesformerForVideoClassification,
    IlaForVideoClassification,
)
from transformers_ila.data.samples import Annotations, Sample
from transformers_ila.model.validation_ila import MULTI_LABEL
from transformers_ila.model.video_processing_ila import IlaVideoProcessor
from transformers_ila.training.arguments import REFUSED, IlaTrainingArguments
from transformers_ila.training.augmentation import ClipAugmentation
from transformers_ila.training.clips import TrainingClips
from transformers_ila.training.recipes import parse
from transformers_ila.training.trainer import IlaTrainer


# Fields that IlaTrainer or IlaTrainingArguments act on -> where that is shown.
WORKS = {
    "learning_rate": "test_arguments.py::test_groups_of_the_paper",
    "weight_decay": "test_arguments.py::test_groups_of_the_paper",
    "new_lr_scale": "test_arguments.py::test_groups_of_the_paper",
    "parameter_groups": "test_arguments.py",
    "freeze_clip": "test_a_model_of_model_init_is_frozen_too",
    "lr_batch_size": "test_trainer.py::test_the_schedule_warms_up_for_epochs",
    "warmup_epochs": "test_trainer.py::test_the_schedule_warms_up_for_epochs",
    "warmup_steps": "test_trainer.py::test_the_schedule_warms_up_for_epochs",
    "min_lr_rate": "test_where_the_cosine_ends",
    "lr_scheduler_type": "test_where_the_cosine_ends",
    "lr_scheduler_kwargs": "test_where_the_cosine_ends",
    "jitter_decay_epoch": "test_trainer.py::test_jitter_has_faded",
    "ema_decay": "test_trainer.py::test_what_is_saved_are_the_averaged_weights",
    "sync_batch_norm": "test_arguments.py",
    "max_unreadable": "test_trainer.py::test_too_many_damaged_videos_stop_the_run",
    "tensorboard_pictures": "test_pictures.py",
    "train_sampling_strategy": "test_data_in_their_own_order_know_the_epoch",
    "optim": "test_optimizers_without_groups_are_refused",
    "optim_args": "Trainer.get_optimizer_cls_and_kwargs",
    "auto_find_batch_size": "test_pairs_of_which_one_would_have_no_effect",
    "label_names": "test_what_model_and_data_do_not_know_is_refused",
    "remove_unused_columns": "test_what_model_and_data_do_not_know_is_refused",
    "accelerator_config": "test_what_model_and_data_do_not_know_is_refused",
    "seed": "test_trainer.py",
    "data_seed": "test_trainer.py::test_loaders_share_one_order",
    "save_total_limit": "test_trainer.py::test_the_best_checkpoint_by_top1_is_kept_and_loaded",
    "save_on_each_node": "test_arguments.py",
    "activation_checkpointing": "test_trainer.py::test_activation_checkpointing_changes_nothing",
    "gradient_accumulation_steps": "test_trainer.py::test_accumulated_gradients_are_those_of_one_big_batch",
    "average_tokens_across_devices": "Trainer's rule for compute_loss_func, in IlaTrainer.compute_loss",
    "load_best_model_at_end": "test_trainer.py::test_the_best_checkpoint_by_top1_is_kept_and_loaded",
    "dataloader_num_workers": "test_trainer.py",
    "dataloader_pin_memory": "test_shard_clips.py",
    "dataloader_persistent_workers": "test_shard_clips.py",
    "dataloader_prefetch_factor": "test_shard_clips.py",
    "dataloader_multiprocessing_context": "test_shard_clips.py",
    "dataloader_in_order": "test_shard_clips.py",
}
# Fields that Trainer or Accelerate act on, and nothing of ours touches.
TRANSFORMERS = set(
    """
    output_dir per_device_train_batch_size num_train_epochs max_steps adam_beta1 adam_beta2 adam_epsilon max_grad_norm
    bf16 fp16 bf16_full_eval fp16_full_eval tf32 activation_checkpointing_kwargs gradient_checkpointing
    gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
    logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter
    include_num_input_tokens_seen log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id
    trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size
    prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object eval_accumulation_steps
    include_for_metrics batch_eval_metrics save_only_model save_strategy save_steps push_to_hub hub_token
    hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision metric_for_best_model greater_is_better
    ignore_data_skip restore_callback_states_from_checkpoint full_determinism use_cpu parallelism_config
    dataloader_drop_last ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph
    ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug skip_memory_metrics do_train do_eval do_predict
    resume_from_checkpoint local_rank
    """.split()
)
# Arguments of the constructor -> where their effect is shown; None: Trainer's own.
CONSTRUCTOR = {
    "model": None,
    "args": "test_other_arguments_are_refused",
    "data_collator": "test_the_data_collator_makes_the_batches",
    "train_collator": "test_trainer.py::test_mixing_is_for_training_only",
    "train_dataset": None,
    "eval_dataset": None,
    "processing_class": None,
    "model_init": "test_a_model_of_model_init_is_frozen_too",
    "compute_loss_func": "test_the_callers_loss_is_trained",
    "compute_metrics": None,
    "callbacks": None,
    "optimizers": "test_the_callers_optimizer_and_schedule",
    "optimizer_cls_and_kwargs": "test_the_callers_class_of_optimizer",
    "preprocess_logits_for_metrics": None,
}
BAD = {
    "label_smoothing_factor": 0.1,
    "neftune_noise_alpha": 5.0,
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    "use_cache": True,
    "enable_jit_checkpoint": True,
    "optim_target_modules": ["fc1"],
    "length_column_name": "frames",
}
PIXELS = torch.randn(8, 4, 3, 28, 28, generator=torch.Generator().manual_seed(0))


class Videos(Dataset):
    """Eight clips of three classes, in an order of their own; it counts the epochs that it is told."""

    def __init__(self, labels=None):
        self.labels = labels if labels is not None else [index % 3 for index in range(8)]
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"pixel_values": PIXELS[index], "labels": torch.tensor(self.labels[index])}


def tiny_model(**given):
    set_seed(0)
    given = {"classification_head": "linear", "classifier_dropout": 0.0, "num_labels": 3, **given}
    return IlaForVideoClassification(tiny_config(**given))


def arguments(folder, **given):
    usual = {"per_device_train_batch_size": 4, "max_steps": 2, "save_strategy": "no", "report_to": "none"}
    usual |= {"disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "learning_rate": 1e-3, "warmup_epochs": 0}
    return IlaTrainingArguments(str(folder), **{**usual, **given})


def trainer_for(folder, *, model=None, data=None, args=None, **given):
    if "model_init" not in given:
        given["model"] = tiny_model() if model is None else model
    return IlaTrainer(args=args or arguments(folder), train_dataset=Videos() if data is None else data, **given)


def batch(labels=(0, 1)):
    return {"pixel_values": PIXELS[: len(labels)], "labels": torch.tensor(labels)}


# -- the table -------------------------------------------------------------------------------------------------------


def test_every_field_is_in_the_table():
    """A new field, of ours or of a later Transformers, needs a row."""
    rows = [*WORKS, *REFUSED, *TRANSFORMERS]
    assert len(set(rows)) == len(rows)
    names = {entry.name for entry in fields(IlaTrainingArguments)}
    assert names <= set(rows)
    assert set(rows) - names <= {"local_rank"}  # of some versions
    assert {*BAD} == {*REFUSED}


def test_every_argument_of_the_constructor_is_in_the_table():
    taken = {*inspect.signature(Trainer.__init__).parameters, *inspect.signature(IlaTrainer.__init__).parameters}
    assert taken - {"self", "rest", "kwargs"} == {*CONSTRUCTOR}


# -- errors ----------------------------------------------------------------------------------------------------------


def test_workers_have_a_limit(tmp_path):
    with pytest.raises(ValueError, match="`dataloader_num_workers` must be from 0 to 1024"):
        arguments(tmp_path, dataloader_num_workers=10**9)


@pytest.mark.parametrize("field", BAD)
def test_fields_that_would_have_no_effect_are_refused(field, tmp_path):
    with pytest.raises(
        ValueError, match=rf"`{field}` is {re.escape(repr(BAD[field]))} and would have no effect \(.*allowed"
    ):
        arguments(tmp_path, **{field: BAD[field]})


@pytest.mark.parametrize(
    "given, message",
    [
        ({"warmup_steps": 3, "warmup_epochs": 2.0}, "`warmup_epochs` is 2.0 .*`warmup_steps` is 3"),
        ({"lr_scheduler_type": "linear", "min_lr_rate": 0.1}, "`min_lr_rate` is 0.1 .*linear"),
        ({"lr_scheduler_kwargs": {"min_lr": 1e-6}, "min_lr_rate": 0.1}, "`min_lr_rate` is 0.1 .*min_lr"),
        ({"auto_find_batch_size": True, "lr_batch_size": 8}, "`auto_find_batch_size`.*`lr_batch_size`"),
        ({"train_sampling_strategy": "group_by_length"}, "random or sequential"),
        ({"jitter_decay_epoch": -1}, "None or 0 and more, got -1"),
    ],
)
def test_pairs_of_which_one_would_have_no_effect(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **given)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"label_names": ["targets"]}, r"`label_names` is \['targets'\]"),
        ({"max_unreadable": 0.5}, "`max_unreadable` is 0.5 .*TrainingClips"),
        ({"accelerator_config": {"use_seedable_sampler": False}}, "`use_seedable_sampler`"),
        ({"jitter_decay_epoch": 3}, "`jitter_decay_epoch` is 3 .*no mask of the model jitters"),
    ],
)
def test_what_model_and_data_do_not_know_is_refused(given, message, tmp_path):
    model = tiny_model(alignment_jitter=0.0)
    trainer_for(tmp_path, model=model, args=arguments(tmp_path))
    with pytest.raises(ValueError, match=message):
        trainer_for(tmp_path, model=model, args=arguments(tmp_path, **given))


def test_columns_of_clips_are_kept(tmp_path):
    samples = [Sample(f"{index}.mp4", (index % 3,), f"{index}.mp4") for index in range(8)]
    clips = TrainingClips(
        Annotations(samples, ["a", "b", "c"], False, "list", ""),
        IlaVideoProcessor.for_model(tiny_config()),
        augment=ClipAugmentation(size=28, flip=0.0),
    )
    trainer_for(tmp_path, data=clips)
    with pytest.raises(ValueError, match="`remove_unused_columns` is True"):
        trainer_for(tmp_path, data=clips, args=arguments(tmp_path, remove_unused_columns=True))


@pytest.mark.parametrize("args", [None, "plain"])
def test_other_arguments_are_refused(args, tmp_path):
    args = args and TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(TypeError, match="`args` must be IlaTrainingArguments, got "):
        IlaTrainer(model=tiny_model(), args=args)


def test_optimizers_without_groups_are_refused(tmp_path):
    trainer = trainer_for(tmp_path, optimizer_cls_and_kwargs=(torch.optim.SGD, {"params": []}))
    with pytest.raises(ValueError, match="`optimizer_cls_and_kwargs` SGD chooses parameters by itself"):
        trainer.create_optimizer()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--do_train", "true"], "`do_train` is True"),
        (["--do_predict", "true"], "`do_predict` is True"),
        (["--resume_from_checkpoint", "x"], "`resume_from_checkpoint` is 'x'.*`resume`"),
        (["--do_eval", "true"], "`do_eval` is true and `eval_strategy` no"),
        (
            ["--global_batch_size", "8", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "4"],
            "`gradient_accumulation_steps` is 4, and `global_batch_size` 8 needs 2",
        ),
        (["--preset", "papers"], "`preset` must be one of paper, released, got 'papers'"),
    ],
)
def test_options_that_a_training_run_does_not_use(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        recipe, _ = parse(None, [*options, "--use_cpu", "true", "--report_to", "none", "--output_dir", str(tmp_path)])
        recipe.model_fields()


# -- effects ---------------------------------------------------------------------------------------------------------


def weighted(weights):
    """A loss with class weights, as Trainer's documentation has it, and the number of its calls."""
    calls = []

    def loss(outputs, labels, num_items_in_batch=None):
        calls.append(len(labels))
        reduction = "mean" if num_items_in_batch is None else "sum"
        found = torch.nn.functional.cross_entropy(outputs.logits, labels, torch.tensor(weights), reduction=reduction)
        return found if num_items_in_batch is None else found / num_items_in_batch

    return loss, calls


def timesformer():
    set_seed(0)
    config = {**TINY_VISION, "num_frames": 4, "num_labels": 3, "alignment_hidden_size": 8}
    return AlignedTimesformerForVideoClassification(AlignedTimesformerConfig(**config))


@pytest.mark.parametrize("make", [tiny_model, timesformer])
def test_the_callers_loss_is_trained(make, tmp_path):
    """In place of the classification loss; the alignment's is added with its weight, and both are logged."""
    function, calls = weighted([1.0, 5.0, 0.0])
    trainer = trainer_for(tmp_path, model=make(), compute_loss_func=function)
    model = trainer.model.eval()
    model.config.alignment_loss_weight = 0.5
    with torch.no_grad():
        loss, outputs = trainer.compute_loss(model, batch(), return_outputs=True)
    expected = function(outputs, torch.tensor([0, 1])) + 0.5 * outputs.alignment_loss
    torch.testing.assert_close(loss, expected)
    calls.clear()
    trainer.train()
    assert calls == [4, 4]
    line = next(line for line in trainer.state.log_history if "classification_loss" in line)
    assert line["loss"] == pytest.approx(line["classification_loss"] + 0.5 * line["alignment_loss"], rel=1e-3)


def test_the_callers_loss_with_accumulated_batches(tmp_path):
    """Parts add up to one big batch: the function divides by all videos, the alignment loss by the batches."""
    function, _ = weighted([1.0, 5.0, 2.0])
    trainer = trainer_for(tmp_path, model=tiny_model(alignment_jitter=0.0), compute_loss_func=function)
    model = trainer.model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # batch statistics see the parts
    whole = trainer.compute_loss(model, batch((0, 1, 2, 1)), num_items_in_batch=torch.tensor(4))
    trainer.current_gradient_accumulation_steps = 2
    halves = [{name: tensor[part] for name, tensor in batch((0, 1, 2, 1)).items()} for part in (slice(2), slice(2, 4))]
    parts = [trainer.compute_loss(model, half, num_items_in_batch=torch.tensor(4)) for half in halves]
    torch.testing.assert_close(sum(parts), whole)


def test_the_callers_loss_of_several_labels_passes_over_what_was_not_read(tmp_path):
    seen = []

    def function(outputs, labels, num_items_in_batch=None):
        seen.append((tuple(outputs.logits.shape), labels.tolist()))
        return outputs.logits.sum() * 0

    model = tiny_model(problem_type=MULTI_LABEL).eval()
    trainer = trainer_for(tmp_path, model=model, data=Videos([[1.0, 0.0, 1.0]] * 8), compute_loss_func=function)
    with torch.no_grad():
        _, outputs = trainer.compute_loss(model, batch([[1.0, 0.0, 1.0], [-100.0] * 3]), return_outputs=True)
    assert seen == [((1, 3), [[1.0, 0.0, 1.0]])] and outputs.logits.shape == (2, 3)


def test_the_callers_class_of_optimizer(tmp_path):
    """It gets the paper's groups, and its own rate and decay in place of the arguments'."""
    kind = (torch.optim.SGD, {"lr": 0.5, "weight_decay": 0.25, "momentum": 0.9})
    trainer = trainer_for(tmp_path, optimizer_cls_and_kwargs=kind, args=arguments(tmp_path, new_lr_scale=2.0))
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.SGD and trainer.optimizer_cls_and_kwargs == kind
    found = {(group["lr"], group["weight_decay"], group["momentum"]) for group in optimizer.param_groups}
    assert found == {(0.5, 0.25, 0.9), (0.5, 0.0, 0.9), (1.0, 0.25, 0.9), (1.0, 0.0, 0.9)}
    trainer = trainer_for(tmp_path, optimizer_cls_and_kwargs=(torch.optim.SGD, {}))
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {1e-3, 1e-2}


def test_the_callers_optimizer_and_schedule(tmp_path):
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    trainer = trainer_for(tmp_path, model=model, optimizers=(optimizer, schedule))
    assert trainer.create_optimizer() is optimizer and trainer.create_scheduler(5) is schedule
    for given, name in (({"new_lr_scale": 3.0}, "new_lr_scale"), ({"min_lr_rate": 0.5}, "min_lr_rate")):
        with pytest.raises(ValueError, match=f"`{name}` is .*`optimizers` has "):
            trainer_for(tmp_path, model=model, optimizers=(optimizer, schedule), args=arguments(tmp_path, **given))


def test_a_model_of_model_init_is_frozen_too(tmp_path):
    trainer = trainer_for(tmp_path, model_init=lambda: tiny_model(), args=arguments(tmp_path, freeze_clip=True))
    trainer.train()
    trained = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    assert trained and all(any(part in name for part in trainer.model.new_parameters) for name in trained)
    with pytest.raises(ValueError, match="`ema_decay`.*`model_init`"):
        trainer_for(tmp_path, model_init=lambda: tiny_model(), args=arguments(tmp_path, ema_decay=0.9))


def test_data_in_their_own_order_know_the_epoch(tmp_path):
    data = Videos()
    args = arguments(tmp_path, train_sampling_strategy="sequential", max_steps=-1, num_train_epochs=2)
    trainer = trainer_for(tmp_path, data=data, args=args)
    seen = [item["labels"].tolist() for item in trainer.get_train_dataloader()]
    assert sum(seen, []) == data.labels
    trainer.train()
    assert data.epochs[-1] == 1 and 0 in data.epochs


def test_the_data_collator_makes_the_batches(tmp_path):
    def swapped(items):
        return {
            "pixel_values": torch.stack([item["pixel_values"] for item in items]),
            "labels": torch.full((len(items),), 2),
        }

    trainer = trainer_for(tmp_path, data_collator=swapped)
    assert next(iter(trainer.get_train_dataloader()))["labels"].tolist() == [2] * 4


@pytest.mark.parametrize(
    "given, end",
    [
        ({"min_lr_rate": 0.25}, 0.25),
        ({"lr_scheduler_kwargs": {"min_lr_rate": 0.5}}, 0.5),
        ({"lr_scheduler_type": "constant"}, 1.0),
    ],
)
def test_where_the_cosine_ends(given, end, tmp_path):
    trainer = trainer_for(tmp_path, args=arguments(tmp_path, **given))
    schedule = trainer.create_scheduler(4, trainer.create_optimizer())
    for _ in range(4):
        trainer.optimizer.step()
        schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(end * 1e-3, rel=1e-3)
    args = arguments(tmp_path, lr_scheduler_type="cosine_warmup_with_min_lr", min_lr_rate=0.25)
    assert args.lr_scheduler_kwargs == {"min_lr_rate": 0.25}
