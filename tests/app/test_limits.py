"""What a user may ask for, and in which words it is refused."""

import time

import pytest

from support.videos import SHARED, write_video
from transformers_ila.app.limits import AppError, Deadline, check_video, quoted, shown
from transformers_ila.app.options import LimitOptions


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", 30)


def test_facts_are_those_of_the_container(video):
    facts = check_video(video, "my clip.mp4", LimitOptions())
    assert facts.width > 0 and facts.height > 0 and facts.seconds == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"megabytes": 1e-4}, r"“my clip.mp4” has 0.0 megabytes; at most 0.0001 are taken here"),
        ({"pixels": 100}, r"“my clip.mp4” has frames of \d+ x \d+ pixels, .* Scale it down"),
        ({"seconds": 0.2}, r"“my clip.mp4” is .* seconds long; at most 0.2 seconds are taken here"),
    ],
)
def test_limits_are_said_in_words(video, limits, message):
    with pytest.raises(AppError, match=message):
        check_video(video, "some/folder/my clip.mp4", LimitOptions(**limits))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.mp4", b"<html>404</html>"),
        ("list.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"),
        ("play.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
        ("dash.mp4", b"<?xml version='1.0'?><MPD><Period><BaseURL>file:///etc/passwd</BaseURL></Period></MPD>"),
        ("words.mp4", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n"),
    ],
)
def test_what_is_no_video_is_refused_without_a_path(name, content, tmp_path):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(AppError, match=f"“{name}” cannot be read: ") as error:
        check_video(file, name, LimitOptions())
    assert str(tmp_path) not in str(error.value)


def test_empty_and_missing(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(AppError, match="“a.mp4” is empty"):
        check_video(tmp_path / "a.mp4", "a.mp4", LimitOptions())
    with pytest.raises(AppError, match="“b.mp4” is no longer here"):
        check_video(tmp_path / "b.mp4", "b.mp4", LimitOptions())


@pytest.mark.skipif(not (SHARED / "broken").is_dir(), reason="the shared videos are not on this machine")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bomb_8192x8192.mp4", "8192 x 8192 pixels, 67.1 million; at most 9.4 million"),
        ("long_10min_gop250.mp4", "is 10 minutes long; at most 5 minutes"),
        ("ffconcat_script.mp4", "cannot be read"),
        ("audio_only.mp4", "no video stream"),
        ("missing_moov.mp4", "cannot be read"),
    ],
)
def test_shared_videos(name, message):
    with pytest.raises(AppError, match=message):
        check_video(SHARED / "broken" / name, name, LimitOptions(seconds=300))


@pytest.mark.skipif(not (SHARED / "broken").is_dir(), reason="the shared videos are not on this machine")
def test_a_recording_without_a_duration_has_one():
    assert check_video(SHARED / "broken" / "no_count_vp8.webm", "r.webm", LimitOptions()).seconds > 0


def test_deadline():
    late = Deadline(0.001)
    time.sleep(0.002)
    assert late.left == 0 < Deadline(60).left


def test_names_of_users_are_one_short_line():
    assert shown("../../etc/pass\nwd\x1b[31m") == "“pass\N{REPLACEMENT CHARACTER}wd\N{REPLACEMENT CHARACTER}[31m”"
    assert len(quoted("n" * 300)) == 82
