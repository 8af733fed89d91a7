"""Scores over time, against each clip through the processor and the model by itself."""

import numpy as np
import pytest
import torch

from support.evaluation_models import make_model
from transformers_ila import IlaVideoProcessor
from transformers_ila.evaluation.inference import evaluating, probabilities
from transformers_ila.evaluation.options import InferenceOptions
from transformers_ila.timeline.scores import (
    RESTART,
    Cost,
    Sampling,
    Score,
    prepare_frames,
    stream_scores,
    window_scores,
)
from transformers_ila.timeline.sources import SourceNote, TimedFrame


TOLERANCE = 1e-5  # of probabilities


def frames_at(times, *, seed=0, size=(40, 52)):
    random = np.random.default_rng(seed)
    return [
        TimedFrame(time, random.integers(0, 256, (*size, 3), dtype=np.uint8), index, 0.0)
        for index, time in enumerate(times)
    ]


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor(model):
    return IlaVideoProcessor.for_model(model.config)


def brute_force(model, processor, images):
    """(K,) of one clip, shorter ones with their first frame repeated in front."""
    clip = [images[0]] * (processor.num_frames - len(images)) + list(images)
    with torch.no_grad():
        logits = model(processor([np.stack(clip)], return_tensors="pt")["pixel_values"]).logits
    return probabilities(logits, multi_label=model.config.problem_type == "multi_label_classification")[0].numpy()


@pytest.mark.parametrize("seed", range(4))
def test_windows_are_each_clip_by_itself(model, processor, seed):
    random = np.random.default_rng(seed)
    count, rate, per_score = int(random.integers(1, 30)), float(random.choice([0.5, 2.0, 12.5])), random.uniform(1, 6)
    gap = int(random.integers(1, 30))  # before this frame, if there are so many
    times = np.arange(count) / rate + (np.arange(count) >= gap) * 100
    source = frames_at(times.tolist(), seed=seed)
    sampling = Sampling(rate=rate, num_frames=4, stride=per_score / rate, batch_size=int(random.integers(1, 6)))
    cost = Cost()
    with evaluating(model, InferenceOptions()) as network:
        items = list(window_scores(network, processor, source, sampling, cost))
    scores = [item for item in items if isinstance(item, Score)]
    runs = [run for run in (source[:gap], source[gap:]) if run] if gap > 1 else [source]
    expected = []
    for run in runs:
        whole = range(4, len(run) + 1)
        ends = {4 + int(np.ceil(k * per_score - 1e-6)) for k in range(-4, len(run))} & {*range(1, 4), *whole}
        for end in sorted(ends & {*range(1, len(run) + 1)} | {len(run)}):
            clip = run[max(0, end - 4) : end]
            probability = brute_force(model, processor, [frame.image for frame in clip])
            expected.append(((clip[0].time + clip[-1].time) / 2, probability, end < 4, clip[0].time))
    assert len(scores) == len(expected) and cost.frames == count
    for score, (time, probability, warming_up, start) in zip(scores, expected):
        assert (score.time, score.warming_up, score.start) == (time, warming_up, start)
        np.testing.assert_allclose(score.probabilities, probability, atol=TOLERANCE)
    assert [item.kind for item in items if isinstance(item, SourceNote)] == [RESTART] * (len(runs) - 1)


@pytest.mark.parametrize("scores", [stream_scores, window_scores])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("broke off")])
def test_what_came_before_an_interruption_is_scored(scores, error):
    """Though they were no whole batch, and so are notes among them."""
    model = make_model(alignment_causal=scores is stream_scores)
    stall = SourceNote(1.5, "stall", "nothing more came")

    def source():
        yield from [*frames_at([0, 0.5, 1, 1.5]), stall]
        raise error

    found = []
    with evaluating(model, InferenceOptions()) as network, pytest.raises(type(error)):
        for item in scores(
            network, IlaVideoProcessor.for_model(model.config), source(), Sampling(rate=2.0, num_frames=4)
        ):
            found.append(item)
    assert [item.start for item in found[:-1]] == [0.0] * 4 and found[-1] == stall


def test_frames_are_prepared_as_a_clip_is(processor):
    images = [frame.image for frame in frames_at([0, 1, 2, 3])]
    together = processor([np.stack(images)], do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    one_by_one = torch.cat([prepare_frames(processor, [image]) for image in images])
    assert torch.equal(together[0], one_by_one) and torch.equal(prepare_frames(processor, images), one_by_one)


@pytest.mark.parametrize(("count", "stride"), [(1, None), (7, None), (9, 0.9)])
@pytest.mark.parametrize(
    "fields",
    [
        {"alignment_causal": True},
        {"alignment_fusion": "mi_token"},  # which holds its first frame back
        {"temporal_module": "none"},
    ],
    ids=["causal", "mi_token", "none"],
)
def test_a_stream_gives_what_push_gives(fields, count, stride):
    model = make_model(**fields)
    processor = IlaVideoProcessor.for_model(model.config)
    source, each = frames_at(np.arange(count) / 2), {}
    with evaluating(model, InferenceOptions()) as network:
        for size in (1, 8):
            sampling = Sampling(rate=2.0, num_frames=4, stride=stride, batch_size=size)
            each[size] = list(stream_scores(network, processor, source, sampling))
        windows = list(window_scores(network, processor, source, sampling))
        pixels = processor.normalize_on("cpu", prepare_frames(processor, [frame.image for frame in source]))
        logits = network.module.push(pixels[None], network.module.start_stream()).logits[0]
    scores, expected = each[8], probabilities(logits, multi_label=False).numpy()
    for size in each:
        assert [score[2:] for score in each[size]] == [score[2:] for score in scores]
        found, same = ([score.probabilities for score in some] for some in (each[size], scores))
        np.testing.assert_allclose(found, same, atol=TOLERANCE)
    assert [score.start for score in windows] == [score.start for score in scores]
    assert scores[-1].time == (count - 1) / 2
    if count > 1:  # one frame alone of a stream that waits for a second has no answer of `push`
        last = [score.probabilities for score in scores]
        np.testing.assert_allclose(last, expected[[round(2 * score.time) for score in scores]], atol=TOLERANCE)
    if model.config.vision_config.temporal_module == "none":
        same = [score.probabilities for score in windows]
        np.testing.assert_allclose([score.probabilities for score in scores], same, atol=TOLERANCE)
