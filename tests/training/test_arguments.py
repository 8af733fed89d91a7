"""Parts of training by themselves: groups, jitter, moving average, statistics of two processes, checkpoints."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from support.tiny_models import tiny_config
from transformers_ila import (
    AlignedTimesformerForVideoClassification,
    FrozenClipForVideoClassification,
    IlaForVideoClassification,
)
from transformers_ila.model.alignment_ila import PointPredictor
from transformers_ila.training.arguments import IlaTrainingArguments, is_new_parameter, parameter_groups
from transformers_ila.training.callbacks import JitterDecay, MovingAverage
from transformers_ila.training.checkpoints import (
    _identity,
    last_complete_checkpoint,
    require_same_checkpoint,
    write_manifest,
)


@pytest.fixture
def model():
    return IlaForVideoClassification(tiny_config())


def arguments(folder, **fields):
    return IlaTrainingArguments(str(folder), report_to="none", **fields)


def test_groups_of_the_paper(model, tmp_path):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model.named_parameters(), arguments(tmp_path), 1e-3, new_parameters=model.new_parameters)
    found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found["vision_model.encoder.layers.0.mlp.fc1.weight"] == (1e-3, 0.003)
    assert found["vision_model.encoder.layers.0.mlp.fc1.bias"] == (1e-3, 0.0)
    assert found["mit.encoder.layers.0.mlp.fc1.weight"] == (1e-2, 0.003)
    alignment = {value[0] for name, value in found.items() if ".temporal." in name}
    assert alignment == {1e-2} and found["logit_scale"] == (1e-3, 0.0)


def test_what_is_new_in_the_backbones():
    new = FrozenClipForVideoClassification.new_parameters
    assert is_new_parameter("decoder.layers.0.mlp.fc1.weight", new) and is_new_parameter("classifier.weight", new)
    assert not is_new_parameter("vision_model.encoder.layers.0.mlp.fc1.weight", new)
    new = AlignedTimesformerForVideoClassification.new_parameters
    assert is_new_parameter("timesformer.encoder.layer.3.alignment.pairs.point_head.points.bias", new)
    assert not is_new_parameter("timesformer.encoder.layer.3.output.dense.weight", new)


def test_jitter_is_halved_from_its_epoch_on(model):
    callback = JitterDecay(2)
    for epoch, expected in ((0, 0.2), (1, 0.2), (2, 0.1), (3, 0.05)):
        callback.on_epoch_begin(None, SimpleNamespace(epoch=float(epoch)), None, model=model)
        assert {module.jitter for module in model.modules() if isinstance(module, PointPredictor)} == {expected}


def test_moving_average(model, tmp_path):
    average = MovingAverage(model, 0.5)
    model.register_buffer("kept", torch.ones(2), persistent=False)  # as class features are, once computed
    before = model.logit_scale.detach().clone()
    with torch.no_grad():
        model.logit_scale.add_(1.0)
    average.on_step_end(None, SimpleNamespace(global_step=1000), None)
    with average.in_place():
        torch.testing.assert_close(model.logit_scale.detach(), before + 0.5)
    torch.testing.assert_close(model.logit_scale.detach(), before + 1.0)
    assert "kept" not in average.values
    average.save(tmp_path)
    again = MovingAverage(model, 0.5)
    again.load(tmp_path)
    assert all(torch.equal(again.values[name], value) for name, value in average.values.items())


def test_only_whole_checkpoints_count(tmp_path):
    for step in (5, 10, 15):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x" * step)
        (folder / "trainer_state.json").write_text("{}")
        if step < 15:
            write_manifest(folder)
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-10" / "model.safetensors").write_bytes(b"x")
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-5"
    for nonsense in ("{}", "[]", "null", "{", '{"model.safetensors": 5}'):
        (tmp_path / "checkpoint-5" / "complete.json").write_text(nonsense)
        assert last_complete_checkpoint(tmp_path) is None
    (tmp_path / "checkpoint-last").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert last_complete_checkpoint(tmp_path) is None and last_complete_checkpoint(tmp_path / "nowhere") is None


TWO_PROCESSES = """
import json, sys, torch
from torch import distributed, nn
from transformers_ila.training.sync_batch_norm import synchronise_batch_norm

rank, port = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{port}", rank=rank, world_size=2)
torch.manual_seed(0)
whole = torch.randn(6, 3, 4, 4)
alone = nn.Sequential(nn.BatchNorm2d(3))
with torch.no_grad():
    alone[0].weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
together = synchronise_batch_norm(nn.Sequential(nn.BatchNorm2d(3)))
together.load_state_dict(alone.state_dict())
expected_input = whole.clone().requires_grad_()
(alone(expected_input) ** 3).sum().backward()
mine = slice(0, 2) if rank == 0 else slice(2, 6)
part = whole[mine].clone().requires_grad_()
(together(part) ** 3).sum().backward()
weight = together[0].weight.grad.clone()
distributed.all_reduce(weight)
differences = {
    "input": (part.grad - expected_input.grad[mine]).abs().max().item(),
    "weight": (weight - alone[0].weight.grad).abs().max().item(),
    "mean": (together[0].running_mean - alone[0].running_mean).abs().max().item(),
    "var": (together[0].running_var - alone[0].running_var).abs().max().item(),
}
distributed.destroy_process_group()  # or its threads may still run when the process ends, which then aborts
print(json.dumps(differences))
"""


@pytest.mark.slow
def test_batch_statistics_of_two_processes_are_those_of_one(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", TWO_PROCESSES]
    both = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in both:
        printed, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        differences = json.loads(printed.splitlines()[-1])
        assert all(difference < 2e-4 for difference in differences.values()), differences
        assert max(differences["mean"], differences["var"]) < 1e-6


def test_processes_agree_on_a_checkpoint(tmp_path, monkeypatch):
    """Each in its turn says what the other one found."""
    folders = [tmp_path / name / "checkpoint-4" for name in ("a", "b", "c")]
    for folder, content in zip(folders, ("{}", "{}", "{ }")):
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(content)
        (folder / f"rng_state_{folder.parent.name}.pth").write_text("")
        write_manifest(folder)

    def agree(*checkpoints, own=False):
        """Each process finds one of them."""
        found = [_identity(checkpoint, own_folders=own) for checkpoint in checkpoints]
        monkeypatch.setattr("transformers_ila.training.checkpoints.all_gather", lambda work: found)
        require_same_checkpoint(checkpoints[0], own_folders=own)

    agree(folders[0], folders[0])
    agree(None, None)
    agree(folders[0], folders[1], own=True)
    with pytest.raises(ValueError, match="process 0: checkpoint-4; process 1: the beginning. All machines must see"):
        agree(folders[0], None)
    for other in folders[1:]:
        with pytest.raises(ValueError, match="same checkpoint .of different content.: process 0: checkpoint-4; proc"):
            agree(folders[0], other)
