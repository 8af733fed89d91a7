"""Checkpoint files as the official release pickles them."""

import io
import os
import subprocess
import sys
import types
import warnings
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def installed(**modules):
    """Modules that exist while a file is written, `yacs__config={"CfgNode": ...}`, and not when it is read."""
    names = {name.replace("__", "."): members for name, members in modules.items()}
    assert not any(name in sys.modules for name in names)
    for name, members in names.items():
        sys.modules[name] = types.ModuleType(name)
        for member, value in members.items():
            value.__module__, value.__qualname__ = name, member
            setattr(sys.modules[name], member, value)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class CfgNode(dict):
    """As yacs' class, down to the attributes that its pickles hold."""

    def __init__(self, values):
        super().__init__({key: CfgNode(value) if isinstance(value, dict) else value for key, value in values.items()})
        self.__dict__["__immutable__"] = False
        self.__dict__["__deprecated_keys__"] = set()
        self.__dict__["__renamed_keys__"] = {}
        self.__dict__["__new_allowed__"] = False

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)

    def __setattr__(self, name, value):
        if self.__dict__["__immutable__"]:
            raise AttributeError(name)
        self[name] = value


SETTINGS = {
    "DATA": {"NUM_CLASSES": 400, "LABEL_LIST": "labels/kinetics_400_labels.csv", "NUM_FRAMES": 8, "INPUT_SIZE": 224},
    "MODEL": {"ARCH": "ViT-B/32", "PRETRAINED": None, "DROP_PATH_RATE": 0.0},
    "AUG": {"NUM_SEGMENTS": 1, "NESTED": {"MIXUP": 0.8, "VIEWS": [4, 3], "PAIR": (1, 2)}},
    "OUTPUT": "",
}


def weights():
    torch.manual_seed(0)
    return OrderedDict(
        {
            "visual.proj": torch.randn(4, 3),
            "visual.half": torch.randn(5).half(),
            "visual.batch.num_batches_tracked": torch.tensor(7),
            "visual.transposed": torch.randn(3, 2).T,
            "logit_scale": torch.tensor(4.6),
        }
    )


def release(tensors, **fields):
    """What the release's training saves."""
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.randn(6), "exp_avg_sq": torch.rand(6)}
    return {
        "model": tensors,
        "optimizer": {"state": {0: moments}, "param_groups": [{"lr": 8e-6, "betas": (0.9, 0.98), "params": [0]}]},
        "lr_scheduler": {"base_values": [8e-6], "last_epoch": 29, "verbose": False, "warmup": None},
        "max_accuracy": 84.02,
        "epoch": 29,
        **fields,
    }


def save_release(path, tensors=None, *, legacy=False, settings=SETTINGS, **fields):
    with installed(yacs={}, yacs__config={"CfgNode": CfgNode}):
        config = CfgNode(settings)
        config.__dict__["__immutable__"] = True
        content = release(weights() if tensors is None else tensors, **{"config": config, **fields})
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


# -- pickles that want to be executed --------------------------------------------------------------------------------


class Reduced:
    """Pickled as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class WithState:
    def __init__(self, state):
        self.state = state

    def __getstate__(self):
        return self.state

    def __setstate__(self, state):
        Path(state).touch()


class New:
    def __new__(cls, path=None):
        if path is not None:
            Path(path).touch()
        return super().__new__(cls)

    def __init__(self, path=None):
        self.path = path

    def __getnewargs__(self):
        return (str(self.path),)

    def __getstate__(self):
        return None


class Settings(dict):
    """A dictionary like the configuration's, with another name."""

    __hash__ = object.__hash__

    def __init__(self, path):
        self.path = str(path)

    def __setstate__(self, state):
        Path(state["path"]).touch()


ATTACKS = {  # -> what makes the object, what the message names
    "system": (lambda canary: Reduced(os.system, f"touch '{canary}'"), "posix.system"),
    "popen": (
        lambda canary: Reduced(subprocess.Popen, ["touch", str(canary)]),
        "(subprocess|commands).Popen",
    ),  # the second: Python 2's name
    "eval": (lambda canary: Reduced(eval, f"open({str(canary)!r}, 'w').close()"), "(builtins.)?eval"),
    "exec": (lambda canary: Reduced(exec, f"open({str(canary)!r}, 'w')"), "(builtins.)?exec"),
    "open": (lambda canary: Reduced(open, str(canary), "w"), "(io|_io).open"),
    "getattr": (
        lambda canary: Reduced(getattr, Reduced(Path, canary), "touch"),
        "(builtins.getattr|getattr|pathlib.*)",
    ),
    "nested pickle": (
        lambda canary: Reduced(torch.storage._load_from_bytes, saved(Reduced(os.system, f"touch '{canary}'"))),
        "torch.storage._load_from_bytes",
    ),
    "state": (lambda canary: WithState(str(canary)), "evil.module.WithState"),
    "new": (lambda canary: New(canary), "evil.module.New"),
    "dictionary": (lambda canary: Settings(canary), "evil.module.Settings"),
}


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def contaminated(evil, place):
    content = release(weights(), config={"DATA": {}})
    if place == "top":
        return evil
    if place == "model":
        content["model"]["visual.evil"] = evil
    elif place == "nested in config":
        content["config"]["DATA"]["EVIL"] = [(evil,)]
    elif place == "key":
        content["optimizer"]["state"][(1, evil)] = 0
    else:
        content[place] = evil
    return content


def save_evil(path, attack, canary, *, place="config", protocol=2, legacy=False):
    classes = {"WithState": WithState, "New": New, "Settings": Settings}
    with installed(evil={}, evil__module=classes), warnings.catch_warnings(action="ignore"):
        evil = ATTACKS[attack][0](canary)
        canary.unlink(missing_ok=True)  # made by making one of them
        torch.save(
            contaminated(evil, place), path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
        )
    assert not canary.exists()
