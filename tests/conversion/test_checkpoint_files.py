"""Checkpoint files: the release's format, TorchScript, safetensors; pickles that want to be executed; damage."""

import copyreg
import io
import pickle
import random
import struct
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from support.release_files import (
    ATTACKS,
    SETTINGS,
    New,
    Settings,
    WithState,
    installed,
    save_evil,
    save_release,
    weights,
)
from transformers_ila.conversion.checkpoint_files import is_torchscript, read_checkpoint


pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, of old protocols and of TorchScript's end

CUTS, FLIPS = 150, 150  # of each format


@pytest.fixture(autouse=True)
def _nothing_is_executed(monkeypatch):
    """torch's ways to run what a file holds; the module's own reader must do without them."""

    def forbidden(*args, **kwargs):
        raise AssertionError("a file's program was loaded")

    monkeypatch.setattr(torch.jit, "load", forbidden)
    monkeypatch.setattr(torch._C, "import_ir_module", forbidden)
    monkeypatch.setattr(torch._C, "import_ir_module_from_buffer", forbidden)


def equal(found, expected):
    return list(found) == list(expected) and all(
        found[key].dtype == expected[key].dtype and torch.equal(found[key], expected[key]) for key in expected
    )


# -- files that are read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_release_file(tmp_path, legacy):
    allowed = set(torch.serialization.get_safe_globals())
    path = save_release(tmp_path / "best.pth", legacy=legacy)
    assert zipfile.is_zipfile(path) != legacy
    with pytest.raises(pickle.UnpicklingError, match="CfgNode"):
        torch.load(path, weights_only=True)
    file = read_checkpoint(path)
    assert equal(file.state_dict, weights())
    assert file.settings == SETTINGS and file.max_accuracy == 84.02
    assert {type(file.settings), type(file.settings["AUG"]["NESTED"])} == {dict}
    assert set(torch.serialization.get_safe_globals()) == allowed
    assert "yacs" not in sys.modules


def test_a_large_optimizer_is_mapped_and_not_read(tmp_path):
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("this system does not list its mappings")
    path = save_release(tmp_path / "best.pth")
    file = read_checkpoint(path)
    mapped = [line.split() for line in maps.read_text().splitlines() if line.endswith(str(path))]
    ranges = [tuple(int(number, 16) for number in fields[0].split("-")) for fields in mapped]
    assert ranges
    for tensor in file.state_dict.values():
        assert any(start <= tensor.data_ptr() < end for start, end in ranges)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_state_dicts(tmp_path, key, legacy):
    tensors = {f"module.{name}": tensor for name, tensor in weights().items()}
    torch.save(
        tensors if key is None else {key: tensors, "epoch": 3},
        tmp_path / "a.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    file = read_checkpoint(str(tmp_path / "a.pt"))
    assert equal(file.state_dict, tensors)
    assert (file.settings, file.max_accuracy) == ({}, None)


def test_parameters_buffers_and_the_state_of_a_module(tmp_path):
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    torch.save(module.state_dict(), tmp_path / "module.pt")  # an OrderedDict with attributes
    assert equal(read_checkpoint(tmp_path / "module.pt").state_dict, module.state_dict())
    named = dict([*module.named_parameters(), *module.named_buffers()])
    torch.save(named, tmp_path / "named.pt")
    file = read_checkpoint(tmp_path / "named.pt")
    assert equal(file.state_dict, named)
    assert not any(tensor.requires_grad for tensor in file.state_dict.values())


def test_views_of_one_storage(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {"rows": whole[1:3], "columns": whole[:, ::2], "same": whole, "empty": whole[:0], "tied": whole[1:3]}
    torch.save(tensors, tmp_path / "views.pt")
    assert equal(read_checkpoint(tmp_path / "views.pt").state_dict, tensors)


def test_safetensors(tmp_path):
    tensors = {name: tensor.contiguous() for name, tensor in weights().items()}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"config": "{}"})
    found = read_checkpoint(tmp_path / "a.safetensors").state_dict
    assert equal({name: found[name] for name in tensors}, tensors) and len(found) == len(tensors)


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (71.5, 71.5),
        (71, 71.0),
        (0.0, None),
        (True, None),
        (float("nan"), None),
        (-1, None),
        (840.2, None),
        ("x", None),
    ],
)
def test_the_recorded_accuracy_is_a_percentage_or_none(tmp_path, recorded, expected):
    assert read_checkpoint(save_release(tmp_path / "a.pth", max_accuracy=recorded)).max_accuracy == expected


@pytest.mark.parametrize("config", [None, [1, 2], "text", 3])
def test_settings_that_are_none(tmp_path, config):
    assert read_checkpoint(save_release(tmp_path / "a.pth", config=config)).settings == {}


# -- TorchScript -----------------------------------------------------------------------------------------------------


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3).half()
        self.register_buffer("steps", torch.tensor([3, 4]))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("bytes", torch.tensor([1, 255], dtype=torch.uint8))
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("brain", torch.randn(2).bfloat16())
        self.register_buffer("wide", torch.randn(2).double())
        self.transposed = nn.Parameter(torch.randn(3, 2).T)

    def forward(self, x):
        return self.linear(x.half()).float() + self.wide.float().sum()


class Whole(nn.Module):
    sizes: list[int]
    table: dict[str, float]
    extra: list[torch.Tensor]

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Part(), Part()])
        self.named = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Sequential(nn.Linear(3, 3), nn.ReLU())})
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.named["one"].weight
        block = torch.randn(10)
        self.register_buffer("front", block[:4])
        self.register_buffer("behind", block[4:].reshape(2, 3))
        self.sizes, self.table, self.extra = [1, 2], {"a": 1.5}, [torch.zeros(2)]
        self.scale, self.name, self.pair, self.nothing = 0.5, "x", (1, "y"), None

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        x = self.named["two"](self.named["one"](x)) + self.tied(x)
        return self.scale * x + self.behind[0] + self.front.sum() + len(self.sizes) + self.extra[0].sum()


class Traced(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(Part(), Part())
        self.tied = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.tied[1].weight = self.tied[0].weight

    def forward(self, x):
        return self.tied[1](self.tied[0](self.parts(x)))


def save_torchscript(path, *, how="script"):
    torch.manual_seed(0)
    script = torch.jit.script(Whole()) if how == "script" else torch.jit.trace(Traced(), torch.randn(2, 3))
    script.save(str(path))
    return script


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_equals_its_state_dict(tmp_path, how):
    script = save_torchscript(tmp_path / "a.pt", how=how)
    assert is_torchscript(tmp_path / "a.pt")
    expected = script.state_dict()
    assert len(expected) > 20 and any("tied" in key for key in expected)
    file = read_checkpoint(tmp_path / "a.pt")
    assert sorted(file.state_dict) == sorted(expected)
    assert equal({key: file.state_dict[key] for key in expected}, expected)
    assert (file.settings, file.max_accuracy) == ({}, None)


def rewritten(path, new, changes=(), *, added=()):
    """A copy of a zip archive with other content for some names (without their first folder), or more entries."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as archive:
        for entry in old.infolist():
            content = dict(changes).get(entry.filename.partition("/")[2], old.read(entry))
            if content is not None:
                archive.writestr(entry.filename, content)
        for name, content in added:
            archive.writestr(name, content)
    return new


def test_the_program_of_an_archive_is_not_read(tmp_path):
    script = save_torchscript(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        code = [name.partition("/")[2] for name in archive.namelist() if "/code/" in name]
    assert code
    changes = {name: b"\x00 no program" for name in (*code, "constants.pkl")}
    file = read_checkpoint(rewritten(tmp_path / "a.pt", tmp_path / "b.pt", changes))
    assert sorted(file.state_dict) == sorted(script.state_dict())


def pickled(root):
    """`data.pkl` of a module with these attributes, written by hand: (name, bytes that push a value) pairs."""
    attributes = b"".join(b"X" + struct.pack("<I", len(name)) + name + value for name, value in root)
    return b"\x80\x02c__torch__\nM\n)\x81}(" + attributes + b"ub."


@pytest.mark.parametrize(
    "data",
    [
        pickled([]),
        pickled([(b"a", b"K\x01")]),
        b"\x80\x02]K\x01a.",
        b"\x80\x02c__torch__\nM\n)\x81.",  # made, and never given a state
        b"\x80\x02c__torch__\nM\n)\x81K\x05b.",
        b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.",  # a module that holds itself
        b"\x80\x02c__torch__\nM\n)\x81ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sbb.",
        pickled([(b"a", b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)))Ntq\x01R")]),
    ],
)
def test_torchscript_without_tensors(tmp_path, data):
    save_torchscript(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="TorchScript archive"):
        read_checkpoint(rewritten(tmp_path / "a.pt", tmp_path / "b.pt", {"data.pkl": data}))


def test_modules_without_a_state_hold_nothing(tmp_path):
    save_torchscript(tmp_path / "a.pt")
    data = pickled([(b"empty", b"c__torch__\nN\n)\x81"), (b"w", TENSOR), (b"none", b"c__torch__\nN\n)\x81Nb")])
    changes = {"data.pkl": data, "data/0": struct.pack("<f", 1.5)}
    file = read_checkpoint(rewritten(tmp_path / "a.pt", tmp_path / "b.pt", changes))
    assert equal(file.state_dict, {"w": torch.tensor([1.5])})


def test_torchscript_with_several_data_or_other_byte_order(tmp_path):
    save_torchscript(tmp_path / "a.pt")
    good = zipfile.ZipFile(tmp_path / "a.pt").read("a/data.pkl")
    for name in ("b/data.pkl", "a/data.pkl"):
        rewritten(tmp_path / "a.pt", tmp_path / "b.pt", added=[(name, good)])
        with pytest.raises(ValueError, match="TorchScript archive"):
            read_checkpoint(tmp_path / "b.pt")
    for change in ({"byteorder": b"big"}, {"data/0": None}, {"data/0": b"123"}):
        with pytest.raises(ValueError, match="TorchScript archive"):
            read_checkpoint(rewritten(tmp_path / "a.pt", tmp_path / "b.pt", change))


def test_views_beyond_a_storage_are_refused(tmp_path):
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    save_torchscript(tmp_path / "a.pt")
    for offset, size in (
        (b"K\x00", b"K\x02"),
        (b"K\x00", b"K\x03"),
        (b"K\x02", b"K\x01"),
        (b"J\xff\xff\xff\xff", b"K\x01"),
    ):
        tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + b"\x85K\x01\x85\x89NtR"
        changes = {"data.pkl": pickled([(b"w", tensor)]), "data/0": struct.pack("<2f", 1.5, 2.5)}
        path = rewritten(tmp_path / "a.pt", tmp_path / "b.pt", changes)
        if (offset, size) == (b"K\x00", b"K\x02"):
            assert read_checkpoint(path).state_dict["w"].tolist() == [1.5, 2.5]
        else:
            with pytest.raises(ValueError, match="TorchScript archive"):
                read_checkpoint(path)


PLACES = ("config", "optimizer", "lr_scheduler", "model", "nested in config", "key", "top")


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attacks_are_real(tmp_path, attack):
    """An ordinary unpickler falls for each of them."""
    canary = tmp_path / "canary"
    save_evil(tmp_path / "evil.pth", attack, canary)
    with installed(evil={}, evil__module={"WithState": WithState, "New": New, "Settings": Settings}):
        try:
            content = torch.load(tmp_path / "evil.pth", weights_only=False)
            if attack == "getattr":
                content["config"]()
            if attack == "popen":
                content["config"].wait()
        except AttributeError:  # of a class that wants its state in another form
            pass
    assert canary.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_by_name(tmp_path, attack, protocol, legacy):
    canary = tmp_path / "canary"
    for place in PLACES if protocol in (2, 4) else PLACES[:1]:
        save_evil(tmp_path / "evil.pth", attack, canary, place=place, protocol=protocol, legacy=legacy)
        with pytest.raises(ValueError, match=f"is refused: it names {ATTACKS[attack][1]}, and only tensors are read"):
            read_checkpoint(tmp_path / "evil.pth")
        assert not canary.exists()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_attacks_in_torchscript_are_refused_by_name(tmp_path, attack, protocol):
    canary = tmp_path / "canary"
    save_torchscript(tmp_path / "a.pt")
    with installed(evil={}, evil__module={"WithState": WithState, "New": New, "Settings": Settings}):
        evil = ATTACKS[attack][0](canary)
        canary.unlink(missing_ok=True)
        data = pickle.dumps({"state": evil}, protocol=protocol)
    path = rewritten(tmp_path / "a.pt", tmp_path / "evil.pt", {"data.pkl": data})
    name = f"({ATTACKS[attack][1]}|__builtin__.*|copyreg._reconstructor|copy_reg._reconstructor|torch.storage.*)"
    with pytest.raises(ValueError, match=f"is refused: it names {name}, and only tensors are read"):
        read_checkpoint(path)
    assert not canary.exists()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


STORAGE = b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01"
RAW = {  # pickles written by hand; {c} is the canary. None: torch's reader has no name for it
    "INST": (b"(S'touch {c}'\niposix\nsystem\n.", "posix.system"),
    "OBJ": (b"(cposix\nsystem\nS'touch {c}'\no.", "posix.system"),
    "GLOBAL, REDUCE": (b"cposix\nsystem\n(S'touch {c}'\ntR.", "posix.system"),
    "Python 2's names": (b'c__builtin__\neval\n(S\'open("{c}", "w")\'\ntR.', "(__builtin__.|builtins.)?eval"),
    "STACK_GLOBAL": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c{n}touch {c}\x85R.", "posix.system"),
    "STACK_GLOBAL of memos": (
        b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x9400h\x00h\x01\x93\x8c{n}touch {c}\x85R.",
        "posix.system",
    ),
    "dotted name": (b"\x80\x04\x8c\x05torch\x8c\x10serialization.os\x93.", "torch.serialization.os"),
    "EXT1": (b"\x80\x02\x82\xf0X{n4}touch {c}\x85R.", None),
    "NEWOBJ": (b"\x80\x02csubprocess\nPopen\nX{n4}touch {c}\x85\x81.", "subprocess.Popen"),
    "NEWOBJ_EX": (b"\x80\x04csubprocess\nPopen\nX{n4}touch {c}\x85}\x92.", "subprocess.Popen"),
    "persistent id of text": (b"Pmodule\n.", None),
    "persistent module": (b"\x80\x02(" + text("module") + b"cposix\nsystem\nNNtQ.", "posix.system"),
    "persistent something": (b"\x80\x02(" + text("program") + STORAGE + b"tQ.", None),
    "persistent number": (b"\x80\x02K\x05Q.", None),
    "storage of no type": (b"\x80\x02(" + text("storage") + b"K\x01" + text("0") + text("cpu") + b"K\x01tQ.", None),
    "attributes of a function": (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.",
        None,
    ),
    "frames": (b"\x80\x05\x95\x02\x00\x00\x00\x00\x00\x00\x00N.", None),
    "nothing": (b"", None),
    "no end": (b"\x80\x02N", None),
    "empty stack": (b"\x80\x02.", None),
    "memo of nothing": (b"\x80\x02h\x05.", None),
}


def raw(name, canary):
    data, named = RAW[name]
    command = f"touch {canary}".encode()
    assert len(command) < 256
    data = data.replace(b"{n4}", struct.pack("<I", len(command))).replace(b"{n}", bytes([len(command)]))
    return data.replace(b"{c}", str(canary).encode()), named


@pytest.fixture
def short_path(tmp_path_factory):
    """A canary in a path that fits into one byte's length."""
    return tmp_path_factory.mktemp("c") / "canary"


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle", "torchscript"])
def test_pickles_written_by_hand(tmp_path, short_path, name, kind):
    data, named = raw(name, short_path)
    path = tmp_path / "evil.pth"
    if kind == "plain pickle":
        path.write_bytes(data)
    elif kind == "legacy":
        torch.save({}, path, _use_new_zipfile_serialization=False)
        head = [pickle.dumps(value, 2) for value in legacy_head(path)]
        path.write_bytes(b"".join(head) + data)
    else:
        if kind == "zip":
            torch.save(weights(), tmp_path / "a.pt")
        else:
            save_torchscript(tmp_path / "a.pt")
        rewritten(tmp_path / "a.pt", path, {"data.pkl": data})
    copyreg.add_extension("posix", "system", 0xF0)
    try:
        with pytest.raises(ValueError) as error:
            read_checkpoint(path)
    finally:
        copyreg.remove_extension("posix", "system", 0xF0)
    if named is not None and (kind, name) != ("torchscript", "persistent module"):
        assert error.match(f"is refused: it names {named}, and only tensors are read")
    if kind == "torchscript" and name == "EXT1":
        assert error.match("it names posix.system")
    assert not short_path.exists()


def legacy_head(path):
    with path.open("rb") as file:
        return [pickle.load(file) for _ in range(3)]


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + STORAGE + b"tQK\x00K\x01\x85K\x01\x85\x89NtR"
STANDIN = b"cyacs.config\nCfgNode\n"
TRICKS = {  # with the one class that has a stand-in; True: refused, False: read as a plain dictionary
    "attributes of the class": (STANDIN + b"}" + text("a") + b"K\x01sb", True),
    "hidden methods": (
        STANDIN + b")\x81}(" + text("get") + b"K\x01" + text("items") + b"K\x01" + text("__class__") + b"K\x02ub",
        False,
    ),
    "state that is none": (STANDIN + b")\x81K\x05b", True),
    "called": (STANDIN + text("touch") + b"\x85R", False),
    "made with arguments": (STANDIN + b"}" + text("a") + b"K\x01s\x85\x81", False),
    "appended to": (STANDIN + b")\x81K\x01a", True),
    "itself inside": (STANDIN + b")\x81q\x07" + text("SELF") + b"h\x07s", False),
    "of another module": (b"cyacs.other\nCfgNode\n)\x81", True),
    "inside another name": (b"cyacs.config\nCfgNode.__init__\n)\x81", True),
    "instance called": (STANDIN + b")\x81)R", True),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_with_the_stand_in(tmp_path, trick):
    value, refused = TRICKS[trick]
    data = b"\x80\x02}(" + text("model") + b"}" + text("w") + TENSOR + b"s" + text("config") + value + b"u."
    torch.save({"w": torch.tensor([1.5])}, tmp_path / "a.pt")
    path = rewritten(tmp_path / "a.pt", tmp_path / "b.pt", {"data.pkl": data})
    if refused:
        with pytest.raises(ValueError):
            read_checkpoint(path)
    else:
        file = read_checkpoint(path)
        assert file.state_dict["w"].tolist() == [1.5] and type(file.settings) is dict
        assert file.settings.get("DATA", "none") == "none" and list(file.settings) in ([], ["SELF"])


def test_hidden_methods_of_a_state_dict(tmp_path):
    """As above, where the dictionary of the weights, or the whole content, is the ordered one."""
    hiding = b"}(" + b"".join(text(name) + b"K\x01" for name in ("items", "keys", "get", "values")) + b"ub"
    ordered = b"ccollections\nOrderedDict\n)R"
    data = b"\x80\x02" + ordered + text("model") + ordered + text("w") + TENSOR + b"s" + hiding + b"s" + hiding + b"."
    torch.save({"w": torch.tensor([1.5])}, tmp_path / "a.pt")
    path = rewritten(tmp_path / "a.pt", tmp_path / "b.pt", {"data.pkl": data})
    assert torch.load(path, weights_only=True)["model"].items == 1
    assert equal(read_checkpoint(path).state_dict, {"w": torch.tensor([1.5])})


def test_attributes_set_on_the_reader_do_not_stay(tmp_path):
    """BUILD on what stands for `_rebuild_tensor_v2` writes to a function; the next file must not see that."""
    save_torchscript(tmp_path / "a.pt")
    setting = b"N}" + text("__defaults__") + b"K\x01\x85s\x86b"
    data = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + setting + b"0ctorch.jit._pickle\nx\n" + setting + b"0N."
    with pytest.raises(ValueError, match="without tensors"):
        read_checkpoint(rewritten(tmp_path / "a.pt", tmp_path / "b.pt", {"data.pkl": data}))
    from transformers_ila.conversion import checkpoint_files

    functions = [value for value in vars(checkpoint_files).values() if isinstance(value, types.FunctionType)]
    assert functions and all(function.__defaults__ != (1,) for function in functions)


@pytest.mark.parametrize("order", ["good first", "evil first"])
@pytest.mark.parametrize("folder", ["a", "b"])
@pytest.mark.parametrize("kind", ["zip", "torchscript"])
def test_several_pickles_in_one_archive(tmp_path, short_path, kind, folder, order):
    if kind == "zip":
        torch.save(weights(), tmp_path / "a.pt")
    else:
        save_torchscript(tmp_path / "a.pt")
    evil, _ = raw("GLOBAL, REDUCE", short_path)
    good = zipfile.ZipFile(tmp_path / "a.pt").read("a/data.pkl")
    first, second = (good, evil) if order == "good first" else (evil, good)
    path = rewritten(tmp_path / "a.pt", tmp_path / "b.pt", {"data.pkl": first}, added=[(f"{folder}/data.pkl", second)])
    try:
        file = read_checkpoint(path)
    except ValueError:
        pass
    else:
        assert kind == "zip" and equal(file.state_dict, weights())
    assert not short_path.exists()


def test_pickles_beside_the_data_are_not_read(tmp_path, short_path):
    evil, _ = raw("GLOBAL, REDUCE", short_path)
    torch.save(weights(), tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", added=[("a/attributes.pkl", evil), ("a/extra/data.pkl", evil)])
    assert equal(read_checkpoint(tmp_path / "b.pt").state_dict, weights())
    save_torchscript(tmp_path / "a.pt")
    rewritten(tmp_path / "a.pt", tmp_path / "b.pt", {"constants.pkl": evil}, added=[("a/extra/data.pkl", evil)])
    assert read_checkpoint(tmp_path / "b.pt").state_dict
    assert not short_path.exists()


def test_environment_variables_cannot_allow_pickles(tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    save_evil(tmp_path / "evil.pth", "system", canary)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ValueError, match="posix.system"):
        read_checkpoint(tmp_path / "evil.pth")
    assert not canary.exists()


def test_messages_do_not_advise_to_run_the_pickle(tmp_path):
    canary = tmp_path / "canary"
    save_evil(tmp_path / "evil.pth", "system", canary)
    (tmp_path / "text.pth").write_text("no checkpoint")
    for name in ("evil.pth", "text.pth"):
        with pytest.raises(ValueError) as error:
            read_checkpoint(tmp_path / name)
        assert name in str(error.value) and len(str(error.value).splitlines()) == 1
        for advice in ("weights_only", "trust", "add_safe_globals", "arbitrary code"):
            assert advice not in str(error.value)


# -- files that are none ---------------------------------------------------------------------------------------------


def formats(folder):
    """One small file of each format."""
    save_release(folder / "release.pth")
    save_release(folder / "legacy.pth", legacy=True)
    save_torchscript(folder / "script.pt", how="trace")
    save_file({"a": torch.randn(9, 9), "b": torch.arange(5)}, folder / "a.safetensors")
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return formats(tmp_path_factory.mktemp("good"))


NAMES = ["release.pth", "legacy.pth", "script.pt", "a.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_truncated_files(tmp_path, good, name):
    content = good[name].read_bytes()
    assert read_checkpoint(good[name]).state_dict
    steps = range(0, len(content), max(1, len(content) // CUTS))
    for length in (*steps, len(content) - 1):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(ValueError):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(tmp_path, good, name):
    """Other bytes, holes, bytes too many: a ValueError, or tensors, as the formats cannot tell in every place."""
    content = good[name].read_bytes()
    generator = random.Random(name)
    refused = 0
    for index in range(FLIPS):
        damaged = bytearray(content)
        for _ in range(generator.choice([1, 1, 4, 32])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        start = generator.randrange(len(damaged))
        if index % 5 == 1:
            del damaged[start : start + generator.randrange(1, 200)]
        if index % 5 == 2:
            damaged[start:start] = generator.randbytes(generator.randrange(1, 200))
        if index % 5 == 3:
            damaged[start : start + 300] = bytes(len(damaged[start : start + 300]))
        (tmp_path / name).write_bytes(damaged)
        try:
            file = read_checkpoint(tmp_path / name)
        except ValueError:
            refused += 1
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in file.state_dict.values())
    assert refused > FLIPS // 10


def tar_of(content):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(**entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/") + ".pkl", content)
    return buffer.getvalue()


OTHERS = {
    "empty": b"",
    "text": b"epoch,accuracy\n1,2\n" * 50,
    "one byte": b"\x80",
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "zeros": bytes(4096),
    "tar": tar_of(b"cposix\nsystem\n(S'true'\ntR."),
    "zip": zip_of(document=b"text"),
    "zip of nothing": zip_of(),
    "zip with data": zip_of(a__data=b"\x80\x02}.", a__version=b"3"),
    "only constants": zip_of(a__constants=b"\x80\x02)."),
    "pickle": pickle.dumps({"weight": [1.0, 2.0]}),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "HTML": b"<!DOCTYPE html><html><title>Quota exceeded</title></html>",
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("name", OTHERS)
def test_files_that_are_no_checkpoints(tmp_path, name, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(OTHERS[name])
    with pytest.raises(ValueError, match=f"file{suffix}' "):
        read_checkpoint(path)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "gone.pth", "", tmp_path / "gone" / "a.safetensors"):
        with pytest.raises(ValueError, match="There is no checkpoint file"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"model": {}},
        {"state_dict": {}, "epoch": 1},
        {"model": {"a": torch.zeros(1), "b": 3}},
        {"model": {"a": {"b": torch.zeros(1)}}},
        {0: torch.zeros(1)},
        {"model": {("a", "b"): torch.zeros(1)}},
        {"a": torch.zeros(1), "epoch": 3},
        {"a": torch.eye(3).to_sparse()},
        {"a": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
        {"a": torch.empty(2, device="meta")},
        [torch.zeros(1)],
        torch.zeros(1),
        "text",
        None,
    ],
    ids=lambda content: f"{content!r:.40}".split(" at ")[0],
)
def test_files_without_a_state_dict(tmp_path, content):
    if isinstance(content, dict) and callable(content.get("a")):
        content = {"a": content["a"]()}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth' must hold a (state dict|dictionary of tensors)"):
        read_checkpoint(tmp_path / "a.pth")


def test_safetensors_without_tensors(tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="must hold a state dict"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_whole_models_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="it names torch.nn.modules.linear.Linear, and only tensors are read"):
        read_checkpoint(tmp_path / "model.pt")
