"""Models of the page: who may open which, how many stay, and what is said where one cannot be opened."""

import json
import shutil
import threading
from types import SimpleNamespace

import pytest
import torch

from support.evaluation_models import make_model
from support.hub_stand_in import HubStandIn
from transformers_ila import IlaVideoProcessor
from transformers_ila.app import models
from transformers_ila.app.limits import AppError, Busy
from transformers_ila.app.models import ModelCache, Opened
from transformers_ila.app.options import AppOptions


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "first"
    model = make_model()
    model.save_pretrained(folder)
    IlaVideoProcessor.for_model(model.config).save_pretrained(folder)
    for name in ("second", "third"):
        shutil.copytree(folder, folder.with_name(name))
    return folder.parent


def test_models_are_shared_and_read_within_the_limits(saved):
    model_cache = ModelCache(AppOptions(models=[str(saved / "first")], pixels=12345, dtype="bfloat16", device="cpu"))
    assert model_cache.choices == [str(saved / "first")]
    with model_cache.open(model_cache.choices[0]) as opened:
        assert opened is model_cache.open(model_cache.choices[0])
        assert (opened.model.device.type, opened.model.dtype, opened.model.training) == ("cpu", torch.bfloat16, False)
        assert opened.processor.read_limits["max_pixels"] == 12345
        assert opened.name == model_cache.choices[0]


class Shelf(ModelCache):
    """Opens names without anything behind them; waits where `go_on` has an event for one."""

    def __init__(self, *names, **options):
        super().__init__(SimpleNamespace(**vars(AppOptions(**options)), chosen_models=list(names)))
        self.loads, self.go_on = [], {}

    def _load(self, source, name):
        self.loads.append(source)
        if source in self.go_on:
            assert self.go_on[source].wait(60)
        return Opened(None, None, name, self.options.job_seconds)


def test_the_least_recently_used_goes_and_never_one_at_work():
    model_cache = Shelf("first", "second", "third", models_in_memory=2)
    with model_cache.open("first") as opened:
        model_cache.open("second")
        model_cache.open("third")
        assert model_cache.open("first") is opened and list(model_cache._opened) == ["first", "third"]
        with model_cache.open("third"), pytest.raises(Busy, match="all models that fit in memory are at work"):
            model_cache.open("second")
    model_cache.open("second")
    assert len(model_cache._opened) == 2


def test_one_at_a_time_computes_with_a_model():
    model_cache = Shelf("first", job_seconds=0.01)
    with model_cache.open("first") as opened:
        with pytest.raises(Busy, match="is answering other questions"):
            opened.__enter__()
    with opened:
        assert opened.users == 1
    assert opened.users == 0


def test_a_slow_load_keeps_nobody_from_another_model():
    model_cache = Shelf("first", "second")
    model_cache.go_on["first"] = threading.Event()
    found = []
    threads = [threading.Thread(target=lambda: found.append(model_cache.open("first"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    model_cache.open("second")
    model_cache.go_on["first"].set()
    for thread in threads:
        thread.join()
    assert model_cache.loads.count("first") == 1 and len(set(map(id, found))) == 1 and len(found) == 3


@pytest.mark.parametrize(
    "name", ["../models/first", "/etc", "first/../..", "~", "up", "nul\0", "n" * 5000, "a/b/c", "-x/y"]
)
def test_folders_outside_are_refused_in_the_same_words(name, saved, tmp_path):
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "up").symlink_to(saved)
    with pytest.raises(AppError, match="is neither offered here, nor a folder that this page may read, nor a Hub id"):
        ModelCache(AppOptions(folders=[str(allowed)])).open(name)


def test_folders_inside_are_opened(saved):
    model_cache = ModelCache(AppOptions(folders=[str(saved)]))
    assert model_cache.open("first").name == "first" and model_cache.open(str(saved / "first")) is model_cache.open(
        "first"
    )


def test_a_local_folder_is_no_hub_id(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    with pytest.raises(AppError, match="is neither offered here"):
        ModelCache(AppOptions()).open(f"{saved.name}/first")


def test_fixed_models(saved):
    model_cache = ModelCache(AppOptions(models=[str(saved / "first")], fixed_models=True, folders=[str(saved)]))
    for name in ("user/name", "second"):
        with pytest.raises(AppError, match="is not offered here. Choose among"):
            model_cache.open(name)
    with pytest.raises(AppError, match="Choose a model first"):
        model_cache.open(" ")


def test_broken_models_are_sentences(saved, tmp_path):
    def changed(name, **fields):
        folder = shutil.copytree(saved / "first", tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))
        return folder

    changed("bert", model_type="bert")
    changed("code", model_type="unheard", auto_map={"AutoConfig": "evil.Evil"})
    (changed("cut") / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    (changed("weightless") / "model.safetensors").unlink()
    vision = json.loads((saved / "first" / "config.json").read_text())["vision_config"]
    changed("wide", vision_config={**vision, "hidden_size": 40_000})
    changed("deep", vision_config={**vision, "num_hidden_layers": 20_000})
    (changed("adapter") / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    (changed("torn") / "config.json").write_text("{")
    model_cache = ModelCache(AppOptions(folders=[str(tmp_path)]))
    for name, message in {
        "bert": "of kind 'bert'; this page opens: ila",
        "code": "of kind 'unheard'",
        "cut": "“cut” cannot be opened",
        "weightless": "holds no weights",
        "adapter": "is an adapter",
        "torn": "cannot be opened",
        "wide": "megabytes or more; at most 4000 are taken here",  # which its small file of weights does not tell
        "deep": "`num_hidden_layers` is 20000",
    }.items():
        for _ in range(2):  # the second time from memory
            with pytest.raises(AppError, match=message):
                model_cache.open(name)
    assert not model_cache._opened


def test_hub_ids_are_bounded_before_they_are_downloaded(monkeypatch):
    def tree(self, source):
        if source == "user/none":
            raise TimeoutError("no route")
        files = {"model.safetensors": 5 * 2**20, "pytorch_model.bin": 2**30, "config.json": 10}
        return [SimpleNamespace(path=name, size=size) for name, size in files.items()] + [SimpleNamespace(path="onnx")]

    monkeypatch.setattr(models.HfApi, "list_repo_tree", tree)
    model_cache = ModelCache(AppOptions(model_megabytes=4))
    with pytest.raises(AppError, match="weights of 5 megabytes; at most 4 are taken here"):
        model_cache.open("user/large")
    with pytest.raises(AppError, match="user/none” cannot be opened"):
        model_cache.open("user/none")


VISITORS = """
import json
from pathlib import Path
from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_CACHE
from transformers_ila.app.limits import AppError
from transformers_ila.app.models import ModelCache
from transformers_ila.app.options import AppOptions

names = ["me/first", "me/second"]
for name in names:
    HfApi().create_repo(name)
    HfApi().upload_folder(repo_id=name, folder_path=FOLDER)
there = lambda: sorted(path.name for path in Path(HF_HUB_CACHE).glob("models--*") if any(path.rglob("*.safetensors")))
model_cache = ModelCache(AppOptions(models_in_memory=1, device="cpu"))
for name in names:
    assert model_cache.open(name).name == name
print(json.dumps(there()))
model_cache.close()
print(json.dumps(there()))
try:
    ModelCache(AppOptions(model_megabytes=0.001)).open("me/first")
except AppError as error:
    print(json.dumps(str(error)))
print(json.dumps(there()))
"""


@pytest.mark.slow
def test_what_was_downloaded_for_users_goes_again(saved, tmp_path):
    with HubStandIn(users={"token-me": "me"}) as hub:
        printed = hub.run(tmp_path / "home", VISITORS.replace("FOLDER", repr(str(saved / "first"))))
    found = [json.loads(line) for line in printed.splitlines()]
    assert found[0] == ["models--me--second"] and found[1] == found[3] == []
    assert "megabytes; at most 0.001 are taken here" in found[2]
