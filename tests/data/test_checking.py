"""The scan of a data set: what is found, what survives crashes, hangs and interruptions."""

import csv
import json
import os
import shutil
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from support import paths
from support.videos import write_video
from transformers_ila.cli import check_videos as script
from transformers_ila.cli.main import run_verb
from transformers_ila.data import checking as video_check
from transformers_ila.data.checking import COLUMNS, CONTEXT, VideoCheck, read_journal, write_report
from transformers_ila.data.lists import iter_list
from transformers_ila.model.video_reading_ila import IlaVideoMetadata


SHARED = paths.SHARED / "videos"
NOT_UTF8 = os.fsdecode(b"caf\xe9.mp4")


def fake_check(path, *, limits):
    """A decoder that does what the file's name says."""
    name = os.path.basename(path)
    global spoilt
    if "crash" in name or "spoilt" in globals():
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in name:
        threading.Event().wait()
    if "bug" in name:
        raise KeyError("two\nlines")
    if "spoils" in name:
        spoilt = True
    return IlaVideoMetadata(total_num_frames=20, fps=25.0)


def slow_check(path, *, limits):
    Path(path).with_name(f"{os.getpid()}.pid").touch()
    return fake_check(path, limits=limits)


def scan_slowly(arguments):
    script.check_videos = partial(video_check.check_videos, check=slow_check)
    sys.exit(run_verb(script, arguments))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as table:
        return list(csv.DictReader(table))


# -- checking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({"frames": 8}, "ok"),
        ({"frames": 7}, "too_short"),
        ({"frames": 8, "frames_lost": 1}, "damaged"),
        ({"frames": 8, "frames_corrupt": 1}, "damaged"),
        ({"frames": 7, "frames_lost": 1}, "too_short"),
        ({"reason": "no video stream"}, "unreadable"),
    ],
)
def test_status(found, status):
    assert VideoCheck("a.mp4", **found).status(min_frames=8) == status


@pytest.mark.slow
def test_crashes_and_hangs_cost_one_video_each(tmp_path, monkeypatch):
    names = ["crash.mp4", "hang.mp4", "spoils.mp4", *(f"{i}.mp4" for i in range(9)), "crash2.mp4", "bug.mp4"]
    touch(tmp_path, *names)
    now, reasons = [0.0], {}
    monkeypatch.setattr(video_check, "time", SimpleNamespace(monotonic=lambda: now[0]))
    for check in video_check.check_videos(
        [str(tmp_path / name) for name in names],
        journal=tmp_path / "journal",
        workers=2,
        max_seconds=3,
        grace=2,
        check=fake_check,
    ):
        reasons[os.path.basename(check.path)] = check.reason
        if len(reasons) == len(names) - 1:  # all but the one that hangs
            now[0] = 6.0
    assert sorted(reasons) == sorted(names)
    assert {name: reason for name, reason in reasons.items() if reason} == {
        "crash.mp4": "the decoder crashed (Segmentation fault)",
        "crash2.mp4": "the decoder crashed (Segmentation fault)",
        "hang.mp4": "took longer than 5 s",
        "bug.mp4": "KeyError: 'two\\nlines'",
    }


@pytest.mark.parametrize("workers", [0, 10**9])
def test_numbers_of_workers_that_are_refused(tmp_path, workers):
    with pytest.raises(ValueError, match=f"1 or more, at most 1024, got {workers}"):
        next(video_check.check_videos(["a.mp4"], journal=tmp_path / "journal", workers=workers))


@pytest.fixture
def slow_set(tmp_path) -> tuple[Path, list[str]]:
    """A folder in which one of two workers hangs at once, the other behind 50 results; arguments to scan it."""
    touch(tmp_path / "videos", "000-hang.mp4", "050-hang.mp4", *(f"{i:03}.mp4" for i in range(100)))
    return tmp_path, [str(tmp_path / "videos"), "--workers", "2", "--report", str(tmp_path / "report.csv")]


def wait_for_results(folder: Path) -> None:
    """Until both workers hang, and what came before is written."""
    journal, videos = folder / "report.journal", folder / "videos"

    def busy() -> bool:
        both = len(list(videos.glob("*.pid"))) == 2
        return both and journal.is_file() and journal.read_text().count("state") == 50

    wait_until(busy)


def wait_for_the_end_of_workers(folder: Path) -> None:
    workers = [int(file.stem) for file in (folder / "videos").glob("*.pid")]
    wait_until(lambda: not any(map(runs, workers)))


def runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # ended, whether or not anyone has asked for its exit code


@pytest.mark.slow
def test_killed_scan_goes_on(slow_set, monkeypatch, capsys):
    folder, arguments = slow_set
    journal = folder / "report.journal"
    scan = CONTEXT.Process(target=scan_slowly, args=(arguments,))
    scan.start()
    wait_for_results(folder)
    scan.kill()
    scan.join()
    wait_for_the_end_of_workers(folder)
    assert not (folder / "report.csv").exists()

    for hanging in (folder / "videos").glob("*-hang.mp4"):
        hanging.unlink()
    with journal.open("a") as lines:
        lines.write('{"check": {"path": "half a li')
    monkeypatch.setattr(script, "check_videos", partial(video_check.check_videos, check=fake_check))
    assert run_verb(script, arguments) == 0
    assert "50 of 100 results taken over" in capsys.readouterr().out
    assert journal.read_text().count("state") == 100
    assert [Path(row["path"]).name for row in read_csv(folder / "report.csv")] == [f"{i:03}.mp4" for i in range(100)]
    run_verb(script, arguments)
    assert "100 of 100 results taken over" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_ends_the_workers(slow_set, monkeypatch, capsys):
    folder, arguments = slow_set

    def press() -> None:
        wait_for_results(folder)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(script, "check_videos", partial(video_check.check_videos, check=slow_check))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    thread = threading.Thread(target=press)
    thread.start()
    assert run_verb(script, arguments) == 130
    thread.join()
    signal.signal(signal.SIGINT, before)
    wait_for_the_end_of_workers(folder)
    assert capsys.readouterr().err.endswith("Interrupted; the same command goes on from here.\n")


def wait_until(condition) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- the journal -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_the_journal_holds_good(tmp_path):
    names = ["same", "longer", "newer", "gone", "bug"]
    touch(tmp_path, *names, "folder/1.png")
    paths = [str(tmp_path / name) for name in [*names, "folder"]]
    journal = tmp_path / "journal"
    list(video_check.check_videos(paths, journal=journal, workers=1, max_seconds=3, check=fake_check))
    assert set(read_journal(journal, paths, max_seconds=3)) == set(paths)
    assert read_journal(journal, [str(tmp_path / "other")], max_seconds=3) == {}
    (tmp_path / "longer").write_bytes(b"more")
    os.utime(tmp_path / "newer", (1, 1))
    (tmp_path / "gone").unlink()
    touch(tmp_path, "folder/2.png")
    held = read_journal(journal, paths, max_seconds=3)
    assert sorted(map(os.path.basename, held)) == ["bug", "same"]
    assert list(read_journal(journal, paths, max_seconds=4)) == [str(tmp_path / "same")]


@pytest.mark.parametrize("line", [b"\0\0\xff\xff", b"[]", b"3", b'{"check": {"path": "a"}}', b'{"check": {"new": 1}}'])
def test_lines_of_the_journal_that_are_no_records(tmp_path, line):
    touch(tmp_path, "a")
    journal = tmp_path / "journal"
    state = video_check._state(str(tmp_path / "a"))
    good = json.dumps({"check": {"path": str(tmp_path / "a"), "frames": 9}, "state": state, "seconds": 1})
    journal.write_bytes(b"\n".join([line, good.encode(), line]))
    assert read_journal(journal, [str(tmp_path / "a")], max_seconds=1)[str(tmp_path / "a")].frames == 9


# -- what is written -------------------------------------------------------------------------------------------------

ODD = ['a,"b"\n.mp4', "\r\n;'.mp4", NOT_UTF8, "=1+1.mp4", " 动作🎬 .mp4"]


@pytest.mark.parametrize("suffix", [".csv", ".JSON"])
def test_report_round_trip(tmp_path, suffix):
    checks = [VideoCheck(name, frames=9, fps=29.97, width=4, reason=f"bad: {name}") for name in ODD]
    file = tmp_path / f"report{suffix}"
    file.write_text("old")
    write_report(checks, file, min_frames=8)
    rows = read_csv(file) if suffix == ".csv" else json.loads(file.read_text())
    assert [tuple(row) for row in rows] == [COLUMNS] * len(ODD)
    assert [row["path"] for row in rows] == ODD
    assert [row["reason"] for row in rows] == [f"bad: {name}" for name in ODD]
    expected = {"status": "unreadable", "frames": 9, "fps": 29.97, "width": 4, "height": None}
    if suffix == ".csv":
        expected = {column: "" if value is None else str(value) for column, value in expected.items()}
    assert all({column: row[column] for column in expected} == expected for row in rows)
    assert os.listdir(tmp_path) == [file.name]


# -- the script ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    """Two whole videos (one with an odd name), one cut off, one short, one that is text, and a list of them."""
    folder = tmp_path_factory.mktemp("data_set")
    write_video(folder / "ok.mp4", 12)
    write_video(folder / "short.mp4", 7)
    cut = write_video(folder / "cut.mp4", 90, container_options={"movflags": "faststart"}, bf=0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    (folder / "text.mp4").write_text("no video")
    (folder / NOT_UTF8).write_bytes((folder / "ok.mp4").read_bytes())
    head = b'path,label\r\nok.mp4,1\r\n"short.mp4",2\n# cut:\ncut.mp4,3\n\n'
    (folder / "list.csv").write_bytes(head + b"text.mp4,1\n./ok.mp4,4\ngone.mp4,4\n caf\xe9.mp4 ,2")
    return folder


def run(folder: Path, *options: str, source: str = "list.csv", report: Path) -> tuple[int, dict[str, str]]:
    """The exit code and the status of each video."""
    code = run_verb(script, [str(folder / source), "--workers", "1", "--report", str(report), *options])
    return code, {os.path.basename(row["path"]): row["status"] for row in read_csv(report)}


def test_list_to_report_and_clean_list(tmp_path, data_set, capsys):
    report, clean = tmp_path / "report.csv", tmp_path / "clean.csv"
    code, statuses = run(data_set, "--clean_list", str(clean), report=report)
    expected = {"ok.mp4": "ok", "short.mp4": "too_short", "cut.mp4": "damaged", "text.mp4": "unreadable"}
    assert (code, statuses) == (1, expected | {"gone.mp4": "unreadable", NOT_UTF8: "ok"})
    head = b"path,label\r\nok.mp4,1\r\n# cut:\n"
    tail = b"\n./ok.mp4,4\n caf\xe9.mp4 ,2"
    assert clean.read_bytes() == head + b"cut.mp4,3\n" + tail
    rows = {os.path.basename(row["path"]): row for row in read_csv(report)}
    assert rows["ok.mp4"]["frames"] == "12"
    assert (rows["ok.mp4"]["width"], rows["ok.mp4"]["height"], rows["ok.mp4"]["fps"]) == ("64", "48", "25.0")
    assert int(rows["cut.mp4"]["frames"]) + int(rows["cut.mp4"]["frames_lost"]) == 90
    assert rows["gone.mp4"]["reason"] == "no such file or folder"
    assert "Invalid data" in rows["text.mp4"]["reason"]
    assert "6 videos: 2 ok, 2 unreadable, 1 too_short, 1 damaged." in capsys.readouterr().out

    code, statuses = run(data_set, "--clean_list", str(clean), "--drop_damaged", "--min_frames", "7", report=report)
    assert "5 of 6 results taken over" in capsys.readouterr().out  # what is gone may have come back
    assert statuses["short.mp4"] == "ok"
    assert clean.read_bytes() == head.replace(b"#", b'"short.mp4",2\n#') + tail
    run(data_set, "--restart", report=report)
    assert "taken over" not in capsys.readouterr().out


def test_folder_to_clean_list(tmp_path, data_set):
    clean = tmp_path / "clean.txt"
    code, statuses = run(data_set, "--clean_list", str(clean), source="", report=tmp_path / "report.csv")
    assert (code, len(statuses)) == (1, 5)
    assert clean.read_bytes() == b"caf\xe9.mp4\ncut.mp4\nok.mp4\n"


@pytest.mark.parametrize("name", ["a.mp4\n/etc/b.mp4", "a\rb.mp4", " a.mp4", '"a.mp4" b.mp4', "ok.mp4"])
def test_a_name_that_no_list_can_hold_is_refused(tmp_path, data_set, name, capsys):
    folder = tmp_path / "videos"
    (folder / name).parent.mkdir(parents=True)
    shutil.copy(data_set / "ok.mp4", folder / name)
    options = [str(folder), "--workers", "1", "--report", str(tmp_path / "r.csv"), "--clean_list"]
    code = run_verb(script, [*options, str(tmp_path / "clean.txt")])
    if not code:
        assert list(iter_list(tmp_path / "clean.txt", root=folder))[0].path == str(folder / name)
    assert code == (0 if name.startswith(("ok", '"')) else 2) and (
        "rename the file" in capsys.readouterr().err
    ) is bool(code)


def test_all_whole(tmp_path, data_set):
    (tmp_path / "list.txt").write_text("ok.mp4 1\n")
    code, statuses = run(tmp_path, "--videos", str(data_set), source="list.txt", report=tmp_path / "report.csv")
    assert (code, statuses) == (0, {"ok.mp4": "ok"})


def test_files_patterns_lists_and_folders_at_once(tmp_path, data_set, monkeypatch, capsys):
    monkeypatch.chdir(data_set)
    report = tmp_path / "new" / "folder" / "report.csv"
    sources = ["ok.mp4", "s*.mp4", "list.csv", str(data_set)]
    assert run_verb(script, [*sources, "--workers", "1", "--report", str(report)]) == 1
    checked = [os.path.basename(row["path"]) for row in read_csv(report)]
    assert checked == ["ok.mp4", "short.mp4", "cut.mp4", "text.mp4", "gone.mp4", NOT_UTF8]
    assert run_verb(script, ["ok.mp4", "--report", str(report), "--clean_list", str(tmp_path / "clean.txt")]) == 0
    assert (tmp_path / "clean.txt").read_text() == "ok.mp4\n"


BAD_ARGUMENTS = {
    "no source": ([], "name a folder with videos or an annotation list"),
    "gone": (["gone"], "'gone' is neither a folder nor an annotation list"),
    "binary": (["utf16.txt"], "'utf16.txt', line 1, column 1: what stands here is no text in UTF-8, but in UTF-16"),
    "empty list": (["empty.txt"], "'empty.txt' lists no video"),
    "empty folder": (["nothing"], "'nothing' holds no video; known suffixes: .3gp"),
    "workers": (["list.txt", "--workers", "0"], "--workers must be 1 or more, at most 1024, got 0"),
    "not a number": (["list.txt", "--workers", "two"], "invalid int value: 'two'"),
    "min_frames": (["list.txt", "--min_frames", "0"], "--min_frames must be 1 or more, got 0"),
    "max_seconds": (["list.txt", "--max_seconds", "nan"], "--max_seconds must be above 0, got nan"),
    "unknown": (["list.txt", "--colour", "red"], "there is no option --colour"),
    "suffix": (["list.txt", "--report", "report.txt"], "must end in .csv or .json, got 'report.txt'"),
    "below a file": (["list.txt", "--report", "list.txt/r.csv"], "list.txt' is a file."),
    "a folder": (["list.txt", "--clean_list", "nothing"], "--clean_list must name a file, and 'nothing' is a folder."),
    "root": (["list.txt", "--videos", "gone"], "no folder 'gone'"),
    "a URL": (["https://host/a.mp4"], "is a URL"),
    "a clean list of several": (
        ["list.txt", "ok.mp4", "--clean_list", "c.txt"],
        "one list or folder, got 'list.txt', 'ok",
    ),
    "a clean list of a pattern": (["o*.mp4", "--clean_list", "c.txt"], "one list or folder, got 'o*.mp4'"),
    "root of a folder": ([".", "--videos", "nothing"], "goes only with a list"),
    "over the input": (["list.txt", "--clean_list", "./list.txt"], "'./list.txt' would overwrite the input"),
    "journal over the input": (["list.journal", "--report", "list.csv"], "would overwrite the input"),
    "report over the input": (["list.csv", "--report", "list.csv"], "'list.csv' would overwrite the input"),
    "over the report": (["list.txt", "--report", "a.csv", "--clean_list", "a.csv"], "overwrite the file of --report"),
    "drop what": (["list.txt", "--drop_damaged"], "--drop_damaged needs --clean_list"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(tmp_path, monkeypatch, capsys, case):
    arguments, message = BAD_ARGUMENTS[case]
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "ok.mp4")
    files = {"list.txt": "ok.mp4 1\n", "list.csv": "ok.mp4,1\n", "empty.txt": "# nothing\n"}
    for name, content in files.items():
        Path(name).write_text(content)
    Path("utf16.txt").write_text("ok.mp4 1\n", encoding="utf-16")
    Path("nothing").mkdir()
    before = sorted(os.listdir())
    assert run_verb(script, arguments) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert message in error
    assert sorted(os.listdir()) == before
    assert Path("list.txt").read_text() == files["list.txt"]


# -- real and broken videos ------------------------------------------------------------------------------------------

DAMAGED = {"broken_start.ts", "bytes_flipped_middle.mp4", "truncated_60pct_moov_front.mp4"}


def expected_status(entry: dict) -> str:
    if entry.get("expected") == "error":
        return "unreadable"
    if entry.get("frames", entry.get("decoded_frames")) < 8:
        return "too_short"
    return "damaged" if entry["file"] in DAMAGED else "ok"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder of real and broken videos is not here")
def test_shared_videos(tmp_path):
    expected = {}
    for folder in ("real", "broken"):
        entries = json.loads((SHARED / folder / "MANIFEST.json").read_text(encoding="utf-8"))
        expected |= {entry["file"]: expected_status(entry) for entry in entries}
    del expected["audio_with_cover.mka"]  # its suffix is none of a video
    code, statuses = run(SHARED, "--workers", "2", source="", report=tmp_path / "report.csv")
    assert statuses == expected
    assert code == 1
