"""The `ila` command: its help, what it imports for that, and how it fails."""

import fcntl
import io
import json
import subprocess
import sys
from dataclasses import dataclass, field
from types import ModuleType

import pytest

import ila_cli
from support.paths import ROOT, SCRIPTS
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli import check_videos, demo, evaluate, train
from transformers_ila.cli.main import run_verb
from transformers_ila.cli.shared.parsing import help_text, read_options
from transformers_ila.distributed import RemoteRankError
from transformers_ila.files import LOCK
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.version import __version__


VERBS = list(ila_cli.VERBS)
DOORS = {"flops": "cost", "make_model_cards": "card"}  # scripts that are not named as their verb


# -- without any verb ------------------------------------------------------------------------------------------------


def run_entry(*arguments, report="[]"):
    code = f"import json, sys, ila_cli\nprint(ila_cli.main({list(arguments)!r}))\nprint(json.dumps({report}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src")
    *printed, report = done.stdout.splitlines()
    return "\n".join(printed), json.loads(report), done.stderr


@pytest.mark.parametrize("arguments", [["--help"], [], ["predikt"], ["--version"]])
def test_without_a_verb_nothing_is_imported(arguments):
    printed, imported, errors = run_entry(*arguments, report="[n for n in sys.modules if n.count('.') == 0]")
    assert not {"torch", "transformers", "transformers_ila", "numpy"} & set(imported)
    if arguments == ["predikt"]:
        assert printed == "2" and errors.count("\n") == 1 and "Did you mean 'predict'?" in errors
    else:
        assert printed.endswith("0") and (__version__ in printed if "--version" in arguments else "publish" in printed)


# -- help ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def helped():
    """What `--help` of each verb prints, and what third parties it imports beside those of the package's face."""
    code = """
import contextlib, importlib, io, json, sys
import transformers_ila
from transformers import HfArgumentParser, TrainingArguments
from transformers_ila.cli.main import main
def third_parties():
    return {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
found = {}
for verb in json.loads(sys.argv[1]):
    before = third_parties()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main([verb, "--help"])
    found[verb] = [code, printed.getvalue(), sorted(third_parties() - before)]
print(json.dumps(found))
"""
    command = [sys.executable, "-c", code, json.dumps(VERBS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "src")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(helped, verb):
    code, printed, imported = helped[verb]
    assert code == 0 and imported == []
    assert printed.startswith(f"usage: ila {verb} [") and "\n\nExamples:\n  " in printed
    examples = printed.partition("\n\nExamples:\n")[2].partition("\n\n")[0].splitlines()
    assert len(examples) >= 2 and all(verb in example for example in examples)
    assert max(map(len, printed.splitlines())) < 130


def test_help_of_train_names_the_trainers_own_options(helped):
    printed = helped["train"][1]
    assert (
        "--gradient_checkpointing," in printed and "--new_lr_scale NUMBER" in printed and "(default: 10.0)" in printed
    )


# -- options ---------------------------------------------------------------------------------------------------------


@dataclass
class Options:
    """What is done."""

    model: str = field(metadata={"help": "a folder"})
    videos: list[str] = field(default_factory=list)
    top_k: int = field(default=5, metadata={"help": "labels"})
    fuse: bool = True
    retry: bool = False

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"--top_k must be 1 or more, got {self.top_k}.")


def make_verb(run=lambda options: 0):
    verb = ModuleType("package.some_verb", "Do something.")
    run.__annotations__ = {"options": Options, "return": int}
    verb.run, verb.EXAMPLES, verb.POSITIONAL = run, ("ila some-verb a", "ila some-verb b"), "videos"
    return verb


def test_words_may_stand_before_and_behind_options():
    arguments = ["a.mp4", "--model", "m", "b.mp4", "--no_fuse", "--retry"]
    (options,) = read_options(make_verb(), arguments)
    assert options == Options("m", ["a.mp4", "b.mp4"], fuse=False, retry=True)
    assert read_options(make_verb(), ["--model=m", "--top-k", "3"]) == [Options("m", top_k=3)]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--modle", "m"], "there is no option --modle; did you mean --model?"),
        (["--model", "m", "--colour", "red"], "there is no option --colour; --help lists all options"),
        ([], "the following arguments are required: --model"),
        (["--model"], "argument --model: expected one argument"),
        (["--model", "m", "--top_k", "many"], "argument --top_k/--top-k: invalid int value: 'many'"),
        (["--model", "m", "--top_k", "0"], "--top_k must be 1 or more, got 0."),
        (["a", "--model", "m", "--videos", "b"], "'a' is given beside --videos; give one of them"),
    ],
)
def test_wrong_options_are_one_line(arguments, message, capsys, monkeypatch):
    assert run_verb(make_verb(), arguments) == 2
    assert capsys.readouterr() == ("", f"ila some-verb: error: {message}\n")
    monkeypatch.setenv("LOCAL_RANK", "1")  # of several processes the first one says it
    assert run_verb(make_verb(), arguments) == 2 and capsys.readouterr() == ("", "")


def test_words_without_a_field_for_them():
    verb = make_verb()
    del verb.POSITIONAL
    with pytest.raises(ValueError, match="'a b' belongs to no option"):
        read_options(verb, ["a", "b", "--model", "m"])


@pytest.mark.parametrize(
    "error,code,message",
    [
        (ValueError("two\nlines"), 2, "ila some-verb: error: two lines\n"),
        (FileNotFoundError(2, "No such file", "x"), 2, "ila some-verb: error: [Errno 2] No such file: 'x'\n"),
        (ImportError("needs tensorboard"), 2, "ila some-verb: error: needs tensorboard\n"),
        (RuntimeError(), 2, "ila some-verb: error: RuntimeError\n"),
        (RemoteRankError("process 1: gone"), 2, ""),
        (KeyboardInterrupt(), 130, "ila some-verb: interrupted\n"),
    ],
)
def test_failures_are_one_line(error, code, message, capsys):
    def run(options):
        raise error

    assert run_verb(make_verb(run), ["--model", "m"]) == code
    assert capsys.readouterr() == ("", message)


def test_help_text():
    text = help_text(make_verb(), "some-verb", all_options=True)
    assert text.startswith("usage: ila some-verb [VIDEOS] [options]\n\nDo something.\n\nExamples:\n  ila some-verb a")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "--model TEXT a folder (required)" in lines and "--top_k NUMBER labels (default: 5)" in lines
    assert "--no_fuse (on by default; this turns it off)" in lines and "--retry" in lines
    assert "--videos TEXT ... (default: none)" in lines


# -- other doors -----------------------------------------------------------------------------------------------------


def test_every_verb_has_a_door():
    doors = {DOORS.get(file.stem, file.stem.replace("_", "-")) for file in SCRIPTS.glob("*.py")}
    assert doors == set(VERBS)
    for file in SCRIPTS.glob("*.py"):
        verb = DOORS.get(file.stem, file.stem.replace("_", "-"))
        assert f'main(["{verb}", ' in file.read_text() and len(file.read_text().splitlines()) <= 6


def test_an_unknown_verb_behind_the_entry(capsys):
    assert ila_cli.main(["predikt"]) == 2 and "Did you mean 'predict'?" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupt_while_modules_are_imported_is_no_traceback(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers_ila.cli.main.main", interrupted)
    assert ila_cli.main(["predict"]) == 130 and capsys.readouterr().err == "ila predict: interrupted\n"


def test_module_door_and_torchrun():
    """`python -m transformers_ila`, and two processes of which the first one says what is wrong."""
    module = ["-m", "transformers_ila", "evaluate", "--modle", "m"]
    message = "ila evaluate: error: there is no option --modle; did you mean --model?\n"
    alone = subprocess.run([sys.executable, *module], capture_output=True, text=True, cwd=ROOT / "src")
    assert (alone.returncode, alone.stderr) == (2, message)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *module]
    both = subprocess.run(launch, capture_output=True, text=True, cwd=ROOT / "src")
    assert both.returncode != 0 and both.stderr.count(message) == 1 and "exitcode  : 2" in both.stderr


@pytest.mark.parametrize(
    ("verb", "lock", "options"),
    [
        (check_videos, ".report.journal.lock", ["{0}", "--report", "{0}/report.csv"]),
        (demo, LOCK, ["--output", "{0}"]),
        (train, LOCK, ["small_b16_8f", "--train_list", "{0}", "--output_dir", "{0}", "--use_cpu", "true"]),
    ],
)
def test_the_same_command_twice_at_a_time(tmp_path, capsys, verb, lock, options):
    (tmp_path / "a.mp4").touch()
    with (tmp_path / lock).open("ab") as held:  # as another process holds it
        fcntl.flock(held, fcntl.LOCK_EX)
        assert run_verb(verb, [option.format(tmp_path) for option in options]) == 2
    assert f"error: Another process writes to {str(tmp_path)!r}: " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((lock, "a.mp4"))


def test_names_that_are_no_text_are_printed(monkeypatch):
    verb = ModuleType("transformers_ila.cli.say")
    verb.parse_arguments = lambda arguments: arguments
    verb.run = lambda name: print(name) or 0
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict"))
    assert run_verb(verb, ["lone\udc80.mp4"]) == 0
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue() == b"lone\\udc80.mp4\n"


def test_numbers_in_a_list_are_told_to_be_the_models_indices(tmp_path, caplog):
    config = tiny_config(classification_head="linear", **label_fields(["run", "walk"]))
    IlaForVideoClassification(config).save_pretrained(tmp_path / "model")
    IlaVideoProcessor.for_model(config).save_pretrained(tmp_path / "model")
    (tmp_path / "a.mp4").touch()
    for label in ("1", "walk"):
        caplog.clear()
        (tmp_path / "list.csv").write_text(f"path,label\na.mp4,{label}\n")
        folder, file = str(tmp_path), str(tmp_path / "list.csv")
        given = evaluate.EvaluateArguments(model=str(tmp_path / "model"), videos=folder, list=file)
        assert evaluate.read_samples(given).samples[0].labels == (1,)
        said = "numbers: they are taken as indices of the model's 2 classes, of which 0 is 'run'"
        assert (said in caplog.text) is (label == "1")
