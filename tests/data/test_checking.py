"""The scan of a data set: what is listed, what is found, what survives crashes, hangs and interruptions."""

import csv
import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from support import paths
from support.videos import write_video
from transformers_ila.cli import check_videos as script
from transformers_ila.cli.main import run_verb
from transformers_ila.data import checking as video_check
from transformers_ila.data.checking import COLUMNS, CONTEXT, VideoCheck, read_journal, write_report
from transformers_ila.data.video_lists import list_videos
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
        time.sleep(60)
    if "bug" in name:
        raise KeyError("two\nlines")
    if "spoils" in name:
        spoilt = True
    return IlaVideoMetadata(total_num_frames=20, fps=25.0)


def slow_check(path, *, limits):
    Path(path).with_name(f"{os.getpid()}.pid").touch()
    time.sleep(60 if path.endswith("hang.mp4") else 0.03)
    return fake_check("fine", limits=limits)


def scan_slowly(arguments):
    script.check_videos = partial(video_check.check_videos, check=slow_check)
    sys.exit(run_verb(script, arguments))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def paths_of(folder: Path, content: str | bytes) -> list[str | None]:
    """Paths that a list with this content gives, relative to its folder."""
    (folder / "list.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    listed = list_videos(folder / "list.txt")
    assert b"".join(video.line for video in listed) == (folder / "list.txt").read_bytes()
    return [video.path and os.path.relpath(video.path, folder) for video in listed]


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as table:
        return list(csv.DictReader(table))


# -- which videos ----------------------------------------------------------------------------------------------------

LINES = {
    "a.mp4": "a.mp4",
    "a.mp4 3": "a.mp4",
    "a.mp4 3 17 4": "a.mp4",
    "a.mp4,3": "a.mp4",
    "a.mp4\t3\r": "a.mp4",
    "a.mp4 , riding a bike": "a.mp4",
    "my clip, 7.mp4 3": "my clip, 7.mp4",
    '"my clip, 7.mp4",3': "my clip, 7.mp4",
    "'a.mp4' 3": "a.mp4",
    '"say ""hi"".mp4",1': 'say "hi".mp4',
    "b 3": "b 3",  # this file exists, and so does b
    "b 4": "b",
    "frames/one 150 3": "frames/one",
    "./frames/../a.mp4 3": "a.mp4",
    "gone.mp4 3 4": "gone.mp4",
    "gone.mp4,riding a bike": "gone.mp4",
    "gone 3,4": "gone",
    '"gone, too" 3': "gone, too",
    "frames/gone one.mp4 3": "frames/gone one.mp4",
    "frames gone.mp4 3": "frames gone.mp4",  # not the folder that its beginning names
}


@pytest.mark.parametrize("line", LINES)
def test_path_of_a_line(tmp_path, line):
    touch(tmp_path, "a.mp4", "my clip, 7.mp4", 'say "hi".mp4', "b", "b 3", "frames/one/1.jpg")
    assert paths_of(tmp_path, f"first.mp4 1\n{line}\n") == ["first.mp4", LINES[line]]


@pytest.mark.parametrize("header", ["path,label", "video_path\tclass", '"Video Name","label"', "path label", "file"])
def test_what_is_no_video(tmp_path, header):
    assert paths_of(tmp_path, f"\n# a.mp4 1\n{header}\r\na.mp4 1") == [None, None, None, "a.mp4"]
    assert paths_of(tmp_path, f"a.mp4 1\n{header}\n")[1] is not None  # a header stands first
    assert paths_of(tmp_path, f"a.mp4 1\n \t\r\n#{header}") == ["a.mp4", None, None]


def test_what_looks_like_a_header(tmp_path):
    touch(tmp_path, "clip")
    assert paths_of(tmp_path, "clip\n") == ["clip"]
    assert paths_of(tmp_path, "video,3\n") == ["video"]
    assert paths_of(tmp_path, "video.mp4,label\n") == ["video.mp4"]


def test_odd_bytes_in_a_list(tmp_path):
    touch(tmp_path, NOT_UTF8, "动作.mp4")
    content = b"\xef\xbb\xbf" + "动作.mp4 1\n".encode() + b"caf\xe9.mp4 2\n"
    assert paths_of(tmp_path, content) == ["动作.mp4", NOT_UTF8]


def test_root_of_a_list(tmp_path):
    touch(tmp_path, "videos/a b.mp4", "videos/c.mp4")
    (tmp_path / "list.txt").write_text(f"a b.mp4 1\n{tmp_path}/videos/c.mp4 1\n")
    listed = list_videos(tmp_path / "list.txt", root=tmp_path / "videos")
    assert [video.path for video in listed] == [str(tmp_path / "videos/a b.mp4"), str(tmp_path / "videos/c.mp4")]


def test_folder_of_any_depth(tmp_path):
    touch(tmp_path, "b.MP4", "a/b/c/d.webm", "a/x.avi/e.mkv", "notes.txt", "a/picture.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "z").symlink_to(tmp_path / "a" / "b")
    listed = list_videos(tmp_path)
    assert [video.line for video in listed] == [b"a/b/c/d.webm\n", b"a/x.avi/e.mkv\n", b"b.MP4\n", b"z/c/d.webm\n"]
    assert listed[2].path == str(tmp_path / "b.MP4")


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
def test_crashes_and_hangs_cost_one_video_each(tmp_path):
    names = ["crash.mp4", "hang.mp4", "spoils.mp4", *(f"{i}.mp4" for i in range(9)), "crash2.mp4", "bug.mp4"]
    touch(tmp_path, *names)
    checks = video_check.check_videos(
        [str(tmp_path / name) for name in names],
        journal=tmp_path / "journal",
        workers=2,
        max_seconds=0.3,
        grace=0.2,
        check=fake_check,
    )
    reasons = {os.path.basename(check.path): check.reason for check in checks}
    assert sorted(reasons) == sorted(names)
    assert {name: reason for name, reason in reasons.items() if reason} == {
        "crash.mp4": "the decoder crashed (Segmentation fault)",
        "crash2.mp4": "the decoder crashed (Segmentation fault)",
        "hang.mp4": "took longer than 0.5 s",
        "bug.mp4": "KeyError: 'two\\nlines'",
    }


def test_no_workers(tmp_path):
    with pytest.raises(ValueError, match="1 or more, got 0"):
        next(video_check.check_videos(["a.mp4"], journal=tmp_path / "journal", workers=0))


@pytest.fixture
def slow_set(tmp_path) -> tuple[Path, list[str]]:
    """A folder that keeps one of two workers busy for a minute, the other for seconds; arguments to scan it."""
    touch(tmp_path / "videos", "000-hang.mp4", *(f"{i:03}.mp4" for i in range(100)))
    return tmp_path, [str(tmp_path / "videos"), "--workers", "2", "--report", str(tmp_path / "report.csv")]


def wait_for_results(folder: Path) -> None:
    """Until both workers are busy and there are ten results or more."""
    journal, videos = folder / "report.journal", folder / "videos"

    def busy() -> bool:
        both = len(list(videos.glob("*.pid"))) == 2
        return both and journal.is_file() and journal.read_text().count("state") >= 10

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

    (folder / "videos" / "000-hang.mp4").unlink()
    before = journal.read_text().count("state")
    assert 10 <= before < 100
    with journal.open("a") as lines:
        lines.write('{"check": {"path": "half a li')
    monkeypatch.setattr(script, "check_videos", partial(video_check.check_videos, check=fake_check))
    assert run_verb(script, arguments) == 0
    assert f"{before} of 100 results taken over" in capsys.readouterr().out
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


def test_all_whole(tmp_path, data_set):
    (tmp_path / "list.txt").write_text("ok.mp4 1\n")
    code, statuses = run(tmp_path, "--videos", str(data_set), source="list.txt", report=tmp_path / "report.csv")
    assert (code, statuses) == (0, {"ok.mp4": "ok"})


BAD_ARGUMENTS = {
    "no source": ([], "name a folder with videos or an annotation list"),
    "gone": (["gone"], "'gone' is neither a folder nor an annotation list"),
    "a video": (["ok.mp4"], "'ok.mp4' is neither"),
    "binary": (["utf16.txt"], "'utf16.txt' is neither"),
    "empty list": (["empty.txt"], "'empty.txt' lists no video"),
    "empty folder": (["nothing"], "'nothing' holds no video; known suffixes: .3gp"),
    "workers": (["list.txt", "--workers", "0"], "--workers must be 1 or more, got 0"),
    "not a number": (["list.txt", "--workers", "two"], "invalid int value: 'two'"),
    "min_frames": (["list.txt", "--min_frames", "0"], "--min_frames must be 1 or more, got 0"),
    "max_seconds": (["list.txt", "--max_seconds", "nan"], "--max_seconds must be above 0, got nan"),
    "unknown": (["list.txt", "--colour", "red"], "there is no option --colour"),
    "suffix": (["list.txt", "--report", "report.txt"], "must end in .csv or .json, got 'report.txt'"),
    "no such folder": (["list.txt", "--report", "gone/r.csv"], "in a folder that exists, got 'gone/r.csv'"),
    "a folder": (["list.txt", "--clean_list", "nothing"], "in a folder that exists, got 'nothing'"),
    "root": (["list.txt", "--videos", "gone"], "no folder 'gone'"),
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
