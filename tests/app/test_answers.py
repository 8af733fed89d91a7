"""What the page answers, without the page and without Gradio."""

import re
from types import SimpleNamespace

import av
import pytest
import torch

from support.evaluation_models import make_model
from support.tiny_models import save_clip, save_siglip
from support.videos import write_video
from transformers_ila import IlaVideoProcessor, load_zero_shot
from transformers_ila.app import answers
from transformers_ila.app.limits import VideoFacts
from transformers_ila.app.uploads import Video
from transformers_ila.search.indexing import describe_frames, describe_tower
from transformers_ila.search.search import Hit, VideoIndex
from transformers_ila.visualization.files import read_about


FRAMES = 30  # of the video, at 25 a second


def opened(model, processor, name="a model"):
    return SimpleNamespace(model=model, processor=processor, name=name)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", FRAMES)
    return Video(path, "a clip.mp4", VideoFacts(64, 48, FRAMES / 25))


@pytest.fixture(scope="module")
def trained():
    model = make_model(classification_head="linear")
    return opened(model, IlaVideoProcessor.for_model(model.config))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return opened(*load_zero_shot(save_clip(tmp_path_factory.mktemp("clip"))), "a CLIP")


def broken(tmp_path):
    path = tmp_path / "secret_folder.mp4"
    path.write_bytes(b"no video")
    return Video(path, "a <b>.mp4", VideoFacts(0, 0, 0.0))


def test_labels_are_those_of_the_model(trained, video):
    answer = answers.label(trained, video)
    pixels = trained.processor(str(video.path), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        chances = trained.model(pixel_values=pixels).logits.softmax(-1)[0]
    best = chances.argsort(descending=True)[:5].tolist()
    assert [name for name, _ in answer.labels] == [trained.model.config.class_names[index] for index in best]
    assert [score for _, score in answer.labels] == pytest.approx(chances[best].tolist(), abs=1e-5)
    assert answer.asked == "its own 8 labels" and answer.labels[0][0] in answer.about and "a model" in answer.about
    assert answer.as_json()["labels"][0] == {"label": answer.labels[0][0], "score": answer.labels[0][1]}


def test_words_are_asked_without_a_trace_in_the_shared_model(clip, video):
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    names, config = clip.model.config.class_names, clip.model.config.to_dict()
    words = answers.read_words("a dog, somebody's cat\n\n bird ,")
    assert words == ["a dog", "somebody's cat", "bird"]
    one, other = answers.label(clip, video, words), answers.label(clip, video, ["a dog", "fish"])
    assert {name for name, _ in one.labels} == set(words) and {name for name, _ in other.labels} == {"a dog", "fish"}
    assert sum(score for _, score in one.labels) == pytest.approx(1) and one.asked == "your 3 words"
    assert clip.model.config.class_names == names and clip.model.config.to_dict() == config
    assert all(torch.equal(before[name], tensor) for name, tensor in clip.model.state_dict().items())


def test_words_that_are_cut_are_named(clip, video):
    assert "reads 32 tokens" in answers.label(clip, video, ["a dog", "long " * 50]).notes[1]
    assert len(answers.label(clip, video, ["a dog", "a cat"]).notes) == 1


def test_none_of_these_where_words_have_probabilities_of_their_own(tmp_path, video):
    save_siglip(tmp_path, "siglip2")
    answer = answers.label(opened(*load_zero_shot(tmp_path)), video, ["a dog", "a cat"])
    assert {name for name, _ in answer.labels} == {"a dog", "a cat", "none of these"}
    assert sum(score for _, score in answer.labels) != pytest.approx(1) and "own" in answer.notes[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("waving, waving", "twice: waving"),
        (", ".join(map(str, range(401))), "401 words; allowed are 400"),
        ("x" * 301, "301 letters; allowed are 300"),
    ],
)
def test_words_that_are_refused(text, says):
    with pytest.raises(ValueError, match=says):
        answers.read_words(text)


def test_what_a_model_cannot_do_is_said_in_words(trained, clip, video, tmp_path):
    with pytest.raises(ValueError, match="reads no words.*its own 8 labels"):
        answers.label(trained, video, ["a dog"])
    mute = opened(make_model(), trained.processor)
    with pytest.raises(ValueError, match="no tokenizer beside it"):
        answers.label(mute, video, ["a dog"])
    with pytest.raises(ValueError, match="no labels of its own"):
        answers.label(clip, video)
    with pytest.raises(ValueError, match="needs words"):
        answers.label(trained, video, template="a video of {}.")
    with pytest.raises(ValueError, match="picture must be one of masks, features, got 'heat'"):
        answers.look(trained, video, tmp_path / "x.mp4", picture="heat", layer=0)
    with pytest.raises(ValueError, match="Layer 9 is none that has masks; allowed: 0, 1"):
        answers.look(trained, video, tmp_path / "x.mp4", picture="masks", layer=9)


def test_errors_of_the_reader_name_the_video_and_no_path(trained, clip, tmp_path):
    bad = broken(tmp_path)
    index = VideoIndex.create(tmp_path / "index", **describe_tower(clip.model), **describe_frames(clip.processor))
    for ask in (
        lambda: answers.label(trained, bad),
        lambda: answers.look(trained, bad, tmp_path / "x.mp4", picture="masks", layer=0),
        lambda: answers.timeline(trained, bad),
        lambda: answers.search(index, clip, bad),
    ):
        with pytest.raises(ValueError, match="a <b>.mp4") as caught:
            ask()
        assert "secret_folder" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_facts_of_models(trained, clip):
    facts, of_clip = answers.describe(trained), answers.describe(clip)
    assert (facts.classes, facts.lacks_for_words, facts.aligning, facts.layers) == (8, "no text tower", (0, 1), 2)
    assert (of_clip.classes, of_clip.lacks_for_words, of_clip.aligning) == (0, "", ())
    assert "no labels of its own" in " ".join(of_clip.sentences()) and "cpu in float32" in of_clip.sentences()[0]


@pytest.mark.parametrize("picture", ["masks", "features"])
def test_overlays_are_videos_with_their_facts(trained, video, tmp_path, picture):
    file, seen = tmp_path / "overlay.mp4", []
    answer = answers.look(
        trained, video, file, picture=picture, layer=answers.LAST, progress=lambda *at: seen.append(at)
    )
    assert (answer.picture, answer.layer, answer.file) == (picture, 1, file) and answer.notes
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 384, 288)  # six times as large
        times = [float(frame.pts * frame.time_base) for frame in container.decode(stream)]
    assert len(times) == len(seen) == 18 and times[-1] == pytest.approx(29 / 25, abs=0.01)  # 15 of 25 a second
    assert read_about(file)["layers"] == [1]


def test_overlays_lie_where_the_model_saw_padding_too(trained, video, tmp_path, monkeypatch):
    sizes = {"size": {"shortest_edge": 20}, "crop_size": {"height": 28, "width": 28}}
    padding, crops = IlaVideoProcessor(num_frames=4, **sizes), []

    def draw(panel, image, index, **how):
        crops.append(how["crop"])
        return image

    monkeypatch.setattr("transformers_ila.evaluation.animation.Panel.draw", draw)
    answers.look(opened(trained.model, padding), video, tmp_path / "x.mp4", picture="features", layer=0)
    expected = [6 * side for side in padding.crop_of(48, 64)]  # the image is six times as large
    assert crops[0] == pytest.approx(expected) and expected[0] < 0 and expected[1] < 0


def test_a_model_without_masks_shows_its_feature_maps_and_says_so(clip, video, tmp_path):
    answer = answers.look(clip, video, tmp_path / "overlay.mp4", picture="masks", layer=0)
    assert answer.picture == "features" and "no masks" in answer.notes[0]


def test_recordings_of_a_browser(trained, tmp_path):
    """VP8 in WebM as it is written live: no duration, and no index."""
    path = write_video(tmp_path / "recording.webm", 12, codec="libvpx", container_options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    recorded = Video(path, "recording.webm", VideoFacts(64, 48, 0.48))
    assert len(answers.label(trained, recorded).labels) == 5
    answers.look(trained, recorded, tmp_path / "overlay.mp4", picture="masks", layer=0)
    assert answers.timeline(trained, recorded, rate=5).timeline.duration == pytest.approx(0.48, abs=0.05)


def test_timelines_are_complete_or_say_why_not(trained, video, tmp_path):
    answer = answers.timeline(trained, video, rate=10)
    assert answer.timeline.complete and answer.timeline.video == "a clip.mp4" and len(answer.timeline.times) == 12
    assert {file.name for file in answer.write(tmp_path)} == {f"timeline{suffix}" for suffix in answers.FILES}
    assert "10 frames a second (as asked)" in answer.notes[0]
    seen = []

    def stop(done, duration):
        seen.append(done)
        if len(seen) == 3:
            raise answers.Stopped("its user stopped it")

    stopped = answers.timeline(trained, video, rate=10, progress=stop)
    assert len(stopped.timeline.times) == 3 and stopped.as_json()["stopped"] == "its user stopped it"
    assert "ends early" in stopped.about and stopped.timeline.duration < answer.timeline.duration


def test_interruption_of_the_server_is_no_answer(trained, video):
    def interrupt(done, duration):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answers.timeline(trained, video, progress=interrupt)


def test_search_by_words_and_by_an_example(clip, trained, video, tmp_path):
    index = VideoIndex.create(tmp_path, **describe_tower(clip.model), **describe_frames(clip.processor))
    features = clip.model.encode_texts(["a dog", "a bird"])
    index.add(["dog.mp4", "bird.mp4"], features, windows=[(0.0, 1.0), (2.0, 3.0)], paths=["/secret/dog.mp4", "x"])
    answer = answers.search(index, clip, " a \n bird", top_k=1)
    assert [(hit.video, hit.start) for hit in answer.hits] == [("bird.mp4", 2.0)] and answer.query == "a bird"
    assert "secret" not in str(answers.search(index, clip, "a dog").as_json())
    limited = IlaVideoProcessor.from_dict({**clip.processor.to_dict(), "read_limits": {"max_pixels": 10**6}})
    assert len(answers.search(index, opened(clip.model, limited), video).hits) == 2
    with pytest.raises(ValueError, match="Say in words"):
        answers.search(index, clip, " ")
    with pytest.raises(ValueError, match="has 301 letters; allowed are 300"):
        answers.search(index, clip, 301 * "a")
    with pytest.raises(ValueError, match="no text tower"):
        answers.search(index, trained, "a dog")


@pytest.mark.parametrize(("start", "end"), [(None, None), (0.4, 0.8), (1.18, 1.2)])
def test_what_was_found_is_shown(video, tmp_path, start, end):
    hit = Hit("clip", str(video.path), start, end, 0.5)
    limits = answers.ReadLimits()
    first, last = answers.preview(hit, tmp_path / "found.mp4", limits)
    assert first == pytest.approx(start or 0.0, abs=0.05) and last <= (end or 1.2)
    with av.open(str(tmp_path / "found.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 1
    assert answers.thumbnail(hit, limits).shape == (48, 64, 3)  # which is smaller than its limit
    gone = hit._replace(path=str(tmp_path / "gone.mp4"))
    assert answers.thumbnail(gone, limits) is None
    with pytest.raises(ValueError, match=re.escape("gone.mp4")):
        answers.preview(gone, tmp_path / "found.mp4", limits)
