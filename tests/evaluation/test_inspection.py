"""What pictures are drawn from, against models' own outputs, plain recomputation, and marks painted into videos."""

import json
import threading
import weakref

import av
import numpy as np
import pytest
import torch
from PIL import Image

from support.evaluation_models import make_model
from support.tiny_models import TINY_ILA, TINY_TEXT, TINY_VISION, save_siglip, tiny_config
from support.videos import barcode_frame, encoded, write_video
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from transformers_ila.backbones.siglip import SiglipForVideoClassification
from transformers_ila.backbones.timesformer import (
    AlignedTimesformerConfig,
    AlignedTimesformerForVideoClassification,
)
from transformers_ila.evaluation.frame_information import earth_movers_distance, last_patches, mutual_information
from transformers_ila.evaluation.inspection.inspection import WHAT, inspect_same_frames, inspect_video
from transformers_ila.evaluation.inspection.models import open_model
from transformers_ila.evaluation.inspection.watched import Watched
from transformers_ila.model.pairs_ila import pairs_to_frames


CLIP = torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def shaken(model):
    """A model in which every weight of more than one axis is random, so that points leave the centre."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embedding" not in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5)
    return model.eval()


def pixels_of(model, frames=CLIP):
    return IlaVideoProcessor.for_model(model.config)(frames, return_tensors="pt")["pixel_values"]


def timesformer(**fields):
    return AlignedTimesformerForVideoClassification(AlignedTimesformerConfig(**TINY_VISION, num_frames=4, **fields))


def frozen(**fields):
    sizes = {"vision_config": dict(TINY_VISION), "text_config": dict(TINY_TEXT), **TINY_ILA}
    return FrozenClipForVideoClassification(FrozenClipConfig(**sizes, decoder_num_layers=1, **fields))


# -- what the network computes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"alignment_fusion": "mi_token", "alignment_distance": "euclidean"},
        {"alignment_fusion": "residual", "alignment_pairing": "middle"},
        {"alignment_fusion": "concat", "alignment_pairing": "first", "alignment_layers": [1]},
        {"patch_bias": True, "pre_layer_norm": False, "num_register_tokens": 2},
    ],
)
def test_points_masks_and_features_are_the_models_own(fields):
    model = make_model(**fields)
    found = inspect_video(model, None, CLIP)
    with torch.no_grad():
        output = model(pixels_of(model), output_alignment=True, output_hidden_states=True)
    aligning, pairing = fields.get("alignment_layers", [0, 1]), model.config.vision_config.alignment_pairing
    assert found.layers == (0, 1) and found.grid == (7, 7) and found.indices == [0, 1, 2, 3] and found.times is None
    assert [*found.points] == [*found.masks] == aligning
    for place, layer in enumerate(aligning):
        points, masks = output.interactive_points[place], output.alignment_masks[place]
        torch.testing.assert_close(found.points[layer], pairs_to_frames(points, pairing)[0])
        torch.testing.assert_close(found.masks[layer], pairs_to_frames(masks, pairing)[0])
    for layer in found.layers:
        maps = output.hidden_states[layer + 1][0, :, 1:50].unflatten(1, (7, 7))
        torch.testing.assert_close(found.features[layer], maps.mean(-1))
    norms = inspect_video(model, None, CLIP, what="features", layers=1, reduce="norm")
    torch.testing.assert_close(norms.features[1], maps.square().sum(-1).sqrt())
    best = output.logits.softmax(-1)[0].topk(5)
    assert [name for name, _ in found.labels] == [model.config.id2label[index] for index in best.indices.tolist()]
    torch.testing.assert_close(torch.tensor([score for _, score in found.labels]), best.values)
    views = IlaVideoProcessor.for_model(model.config)(CLIP, do_rescale=False, do_normalize=False, return_tensors="pt")
    torch.testing.assert_close(found.frames, views["pixel_values"][0] / 255)


def test_each_frame_of_a_causal_tower_has_the_point_that_the_tower_uses():
    """The first one is its own pair there, and so knows nothing of the second."""
    model = make_model(alignment_causal=True)
    before = inspect_video(model, None, CLIP, what=("points", "masks"))
    after = inspect_video(model, None, torch.cat([CLIP[:1], CLIP[1:].flip(-1)]), what=("points", "masks"))
    with torch.no_grad():
        of_pairs = model(pixels_of(model), output_alignment=True).interactive_points
    for layer in before.layers:
        torch.testing.assert_close(before.points[layer][1:], of_pairs[layer][0, :, 1])
        torch.testing.assert_close(before.points[layer][0], after.points[layer][0])
        torch.testing.assert_close(before.masks[layer][0], after.masks[layer][0])
        assert (before.points[layer][0] - of_pairs[layer][0, 0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("module", ["ila", "ata"])
def test_timesformer(module):
    model = shaken(timesformer(temporal_module=module, alignment_layers=[1]))
    found = inspect_video(model, None, CLIP)
    with torch.no_grad():
        output = model(pixels_of(model), output_alignment=True, output_hidden_states=True)
    for layer in (0, 1):
        patches = output.hidden_states[layer + 1][0, 1:]  # patch by patch
        by_frame = torch.stack([patches[frame::4] for frame in range(4)])
        torch.testing.assert_close(found.features[layer], by_frame.mean(-1).unflatten(1, (7, 7)))
    assert [*found.points] == ([1] if module == "ila" else [])
    if module == "ila":
        torch.testing.assert_close(found.points[1], pairs_to_frames(output.interactive_points[0], "adjacent")[0])
        assert found.masks[1].shape == (4, 7, 7)


def test_a_decoders_alignment_belongs_to_the_layer_that_it_reads():
    model = shaken(frozen(temporal_module="none", decoder_temporal=["alignment"], alignment_fusion="mi_token"))
    found = inspect_video(model, None, CLIP)
    assert [*found.points] == [1] and found.layers == (0, 1)
    with torch.no_grad():
        states = model(pixels_of(model), output_hidden_states=True).hidden_states
        _, points = model.decoder.layers[0].alignment.pairs(states[2][:, :, 1:].contiguous(), 7, 7)
    torch.testing.assert_close(found.points[1], pairs_to_frames(points, "adjacent")[0])
    torch.testing.assert_close(found.features[1], states[2][0, :, 1:].mean(-1).unflatten(1, (7, 7)))
    assert any("frozen" in note for note in found.notes)


def test_siglip_of_any_aspect(tmp_path):
    save_siglip(tmp_path, "siglip2")
    frames = torch.randint(0, 256, (8, 3, 30, 40), dtype=torch.uint8)
    found = inspect_video(str(tmp_path), None, frames, what=("features", "information"))
    model = SiglipForVideoClassification.from_pretrained(tmp_path, labels=["a", "b"]).eval()
    with torch.no_grad():
        output = model(pixels_of(model, frames), output_hidden_states=True)
        patches = last_patches(model, pixels_of(model, frames))
    assert found.grid == (6, 8) and found.labels == [] and any("no label" in note for note in found.notes)
    for layer in (0, 1):
        maps = output.hidden_states[layer + 1].mean(-1).unflatten(1, (6, 8))
        torch.testing.assert_close(found.features[layer], maps)
    torch.testing.assert_close(found.information[1], mutual_information(patches)[0].float())
    named = inspect_video(model, None, frames)
    assert [name for name, _ in named.labels] == ["b", "a"] or [name for name, _ in named.labels] == ["a", "b"]
    torch.testing.assert_close(named.labels[0][1], output.logits.sigmoid().max().item())


def test_patches_that_stay_on_their_routes_are_put_back():
    """Without its attention over time a layer of ATA only moves patches, and the spatial attention cannot tell."""
    moving, still = (shaken(make_model(temporal_module="ata", ata_dealignment=put)) for put in (False, True))
    for model in (moving, still):
        for layer in model.vision_model.encoder.layers:
            torch.nn.init.zeros_(layer.temporal.attention.projection.weight)
    found, expected = (inspect_video(model, None, CLIP) for model in (moving, still))
    for layer in (0, 1):
        torch.testing.assert_close(found.features[layer], expected.features[layer], atol=1e-4, rtol=0)
    with torch.no_grad():
        raw = moving(pixels_of(moving), output_hidden_states=True).hidden_states[2][0, :, 1:].mean(-1)
    assert (raw.unflatten(1, (7, 7)) - expected.features[1]).abs().max() > 0.1  # they were elsewhere


def test_what_frames_share_in_every_layer(model):
    found = inspect_video(model, None, CLIP, what=("information", "distances"))
    with torch.no_grad():
        states = model(pixels_of(model), output_hidden_states=True).hidden_states
    for layer in (0, 1):
        patches = states[layer + 1][:, :, 1:]
        torch.testing.assert_close(found.information[layer], mutual_information(patches)[0].float())
        torch.testing.assert_close(found.distances[layer], earth_movers_distance(patches)[0].float())
    assert found.points == found.features == {}


def test_what_a_network_does_over_time():
    model = shaken(make_model(temporal_module="gta", gta_groups=4))
    found = inspect_video(
        model, None, CLIP, what=("features", "weights", "query_attention"), query=(1, 2, 3), layers=1
    )
    assert [*found.features] == [*found.temporal.weights] == [1] and found.temporal.query == (1, 2, 3)
    assert {*found.temporal.notes} <= {*found.notes}


def test_one_layers_patches_are_in_memory_at_a_time(model, monkeypatch):
    seen = []

    def see(self, layer, patches):
        assert all(before() is None for before in seen)
        seen.append(weakref.ref(patches))

    monkeypatch.setattr(Watched, "see_patches", see)
    inspect_video(model, None, CLIP)
    assert len(seen) == 2


# -- the model is left alone -----------------------------------------------------------------------------------------


def test_the_model_and_the_caller_notice_nothing(model):
    model = make_model()
    expected = inspect_video(model, None, CLIP)
    model.train()
    model.vision_model.encoder.layers[0].eval()
    modes, state = [part.training for part in model.modules()], torch.get_rng_state()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = inspect_video(model, None, CLIP, what=("points", "features"), seed=3)
    torch.testing.assert_close(found.points[1].shape, expected.points[1].shape)
    assert modes == [part.training for part in model.modules()] and torch.equal(state, torch.get_rng_state())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.vision_model.encoder.modules())
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert not found.features[0].requires_grad and model.config._attn_implementation == "sdpa"


def test_class_names_are_read_once():
    model, read = make_model(), []
    model.text_model.register_forward_hook(lambda *_: read.append(1))
    for _ in range(2):
        inspect_video(model, None, CLIP, what="features")
    assert len(read) == 1


@pytest.mark.slow
def test_threads_do_not_see_each_others_videos(model):
    clips = [CLIP, CLIP.flip(-1)]
    expected = [inspect_video(model, None, clip) for clip in clips]
    wrong = []

    def look(place):
        for _ in range(2):
            found = inspect_video(model, None, clips[place])
            wrong.extend(
                layer for layer in (0, 1) if not torch.equal(found.points[layer], expected[place].points[layer])
            )

    threads = [threading.Thread(target=look, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == [] and not any(thread.is_alive() for thread in threads)


def test_other_precisions_and_snapshots(model):
    expected = inspect_video(model, None, CLIP)
    half = inspect_video(make_model().bfloat16(), None, CLIP)
    torch.testing.assert_close(half.features[1], expected.features[1], atol=0.05, rtol=0)
    assert half.features[1].dtype == half.points[1].dtype == torch.float32 and half.about["dtype"] == "bfloat16"
    torch.testing.assert_close(inspect_video(model.fuse(), None, CLIP).features, expected.features)
    assert half.about["fingerprint"] != expected.about["fingerprint"]


# -- which frames, when, and which part of them ----------------------------------------------------------------------


def marked_video(path, rotation=0, sizes=(64, 48), centre=(39, 17)):
    """A grey video of `sizes` (width, height) as stored, with a white square of 8 pixels around `centre`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = *sizes, "yuv444p"
        if rotation:
            stream.set_display_rotation(rotation)
        image = np.full((sizes[1], sizes[0], 3), 60, np.uint8)
        image[centre[1] - 4 : centre[1] + 4, centre[0] - 4 : centre[0] + 4] = 250
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def centre_of(frame):
    """x and y of the centre of what is bright in a frame (3, H, W), from 0 to 1 of its sides."""
    light = (frame.mean(0) - frame.mean(0).min()).clamp(min=0.5) - 0.5
    across, down = ((torch.arange(size) + 0.5) / size for size in (frame.shape[-1], frame.shape[-2]))
    return float((light.sum(0) * across).sum() / light.sum()), float((light.sum(1) * down).sum() / light.sum())


PROCESSORS = {
    "centre crop": {"size": {"shortest_edge": 32}},
    "squashed": {"size": {"height": 28, "width": 28}, "do_center_crop": False},
    "scaled while decoding": {"size": {"shortest_edge": 32}, "scale_in_decoder": True},
    "padded": {"size": {"shortest_edge": 20}},
    "no resizing": {"do_resize": False, "crop_size": {"height": 28, "width": 28}},
}


TURNED = [("centre crop", 90), ("scaled while decoding", 90), ("squashed", 180)]


@pytest.mark.parametrize("name,rotation", [*((name, 0) for name in PROCESSORS), *TURNED])
def test_what_the_model_saw_lies_where_the_crop_says(model, tmp_path, name, rotation):
    centre = {0: (39, 17), 90: (17, 64 - 39), 180: (64 - 39, 48 - 17)}[rotation]  # turned counter-clockwise
    path = marked_video(tmp_path / "mark.mp4", rotation)
    processor = IlaVideoProcessor(num_frames=4, **{"crop_size": {"height": 28, "width": 28}, **PROCESSORS[name]})
    found = inspect_video(model, processor, path, what="features", layers=0)
    assert found.size == ((48, 64) if rotation == 90 else (64, 48))
    left, top, right, bottom = found.crop
    across, down = centre_of(found.frames[0])
    assert abs(left + across * (right - left) - centre[0]) < 1.5
    assert abs(top + down * (bottom - top) - centre[1]) < 1.5
    if name == "padded":
        assert left < 0 or top < 0


def test_pixels_outside_whole_patches_were_not_seen(tmp_path):
    """A tower of 28 pixels and patches of 8 sees 24 of them."""
    save_siglip(tmp_path, image_size=28, patch_size=8)
    found = inspect_video(tmp_path, None, CLIP.repeat(2, 1, 1, 1))
    assert found.grid == (3, 3) and found.frames.shape == (8, 3, 24, 24) and found.crop == (0, 0, 24, 24)


def test_times_are_when_frames_are_shown(model, processor, tmp_path):
    ticks = [30, 31, 35, 60, 61, 70, 100, 101]  # of 30 a second, from 1 s of the container's clock on
    for format in ("mpegts", "matroska", "mp4"):
        found = inspect_video(model, processor, encoded(ticks, format=format), what="features", layers=0)
        seconds = [(ticks[index] - 30) / 30 for index in found.indices]
        torch.testing.assert_close(found.times, torch.tensor(seconds), atol=2e-3, rtol=0)
    late = inspect_video(model, processor, encoded(ticks), what="features", layers=0, start=1.0, end=2.0)
    assert {*late.indices} <= {3, 4, 5} and late.about["start"] == 1.0 and late.about["end"] == 2.0
    assert any("1 of 4 frames are repeats" in note for note in late.notes)
    path = write_video(tmp_path / "a.mp4", 50)
    assert inspect_video(model, processor, path, what="features", layers=0, end=0.1).indices == [0, 0, 1, 2]
    raw = inspect_video(model, processor, encoded(range(20), format="h264"), what="features", layers=0)
    torch.testing.assert_close(raw.times, torch.tensor(raw.indices) / 25)  # its frames have no times


def test_frames_are_those_that_the_processor_takes(model, processor, tmp_path):
    path = write_video(tmp_path / "a.mp4", 30)
    found = inspect_video(model, processor, path, what="features", layers=0)
    views = processor(path, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(found.frames, views / 255)
    assert found.video == "a.mp4" and found.about["video"] == "a.mp4"
    drawn = [inspect_video(model, processor, path, what="features", seed=seed).indices for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1] and drawn[0] != found.indices
    pictures = [Image.fromarray(barcode_frame(index)) for index in range(9)]
    listed = inspect_video(model, processor, pictures, what="features")
    assert listed.indices == processor.sample_frames(metadata_of(9)).tolist() and listed.video == "9 frames in memory"
    for index, picture in enumerate(pictures):
        picture.save(tmp_path / f"{index}.png")
    (tmp_path / "a.mp4").unlink()
    folder = inspect_video(model, processor, tmp_path, what="features")
    assert folder.indices == listed.indices and folder.times is None
    with pytest.raises(ValueError, match="need a video whose frames have times"):
        inspect_video(model, processor, tmp_path, start=1.0)


def test_a_part_may_be_named_by_the_video(model, processor, tmp_path):
    path = str(write_video(tmp_path / "a.mp4", 30))
    asked = inspect_video(model, processor, path, what="features", start=0.4, end=0.8)
    named = inspect_video(model, processor, {"path": path, "start": 0.4, "end": 0.8}, what="features")
    assert named.indices == asked.indices and named.about["start"] == 0.4
    open_end = inspect_video(model, processor, {"path": path, "start": 0.4}, what="features")
    assert open_end.indices == inspect_video(model, processor, path, what="features", start=0.4).indices
    with pytest.raises(ValueError, match="give one of them"):
        inspect_video(model, processor, {"path": path, "start": 0.4}, what="features", end=0.8)


def test_frames_of_floats_may_have_edges(model, processor):
    """Cubic resizing of floats goes beyond the values beside an edge."""
    frames = torch.zeros(4, 3, 40, 40)
    frames[..., 20:] = 255
    found = inspect_video(model, processor, frames, what="features", layers=0)
    views = processor(frames, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0]
    assert views.max() > 255.5 and found.frames.max() == 1


def metadata_of(frames):
    from transformers.video_utils import VideoMetadata

    return VideoMetadata(total_num_frames=frames)


# -- several models --------------------------------------------------------------------------------------------------


def test_several_models_see_the_very_same_frames(model, processor, tmp_path):
    save_siglip(tmp_path / "siglip")
    path = write_video(tmp_path / "a.mp4", 40)
    siglip = SiglipForVideoClassification.from_pretrained(tmp_path / "siglip", labels=["a", "b"]).eval()
    squashing = IlaVideoProcessor.for_model(siglip.config)
    ours, theirs = inspect_same_frames([(model, processor), (siglip, squashing)], path, start=0.2)
    assert ours.indices == theirs.indices and len(ours.indices) == 4 and torch.equal(ours.times, theirs.times)
    assert max(abs(a - b) for a, b in zip(ours.crop, theirs.crop)) <= 0.5
    assert (ours.frames - theirs.frames).abs().mean() < 0.02
    assert any("stretched" in note for note in theirs.notes) and not any("stretched" in note for note in ours.notes)
    alone = inspect_video(model, processor, path, start=0.2)
    torch.testing.assert_close(alone.features, ours.features)
    first, second = inspect_same_frames([(siglip, squashing), (model, processor)], path)  # one takes any number
    assert first.crop == second.crop == (0, 0, 64, 48) and len(first.indices) == 4
    six = IlaForVideoClassification(tiny_config(num_frames=6)).eval()
    with pytest.raises(ValueError, match=r"other numbers of frames: .*4.*6"):
        inspect_same_frames([(model, processor), (six, None)], path)
    twice = inspect_same_frames([(model, processor), (model, processor)], path, what="points")
    assert len({one.model for one in twice}) == 2
    padded = IlaVideoProcessor(num_frames=4, size={"shortest_edge": 20}, crop_size={"height": 28, "width": 28})
    with pytest.raises(ValueError, match="reaches beyond"):
        inspect_same_frames([(model, padded), (model, processor)], path)


# -- what is said ----------------------------------------------------------------------------------------------------


def notes_of(model, video=CLIP, processor=None, **how):
    return " ".join(inspect_video(model, processor, video, **how).notes)


def test_notes_say_what_the_pictures_do_not_mean(model):
    said = notes_of(model)
    assert "exchange features" in said and "jitter" in said
    assert not any(words in said for words in ("mean of its masks", "centre", "repeats", "seed", "views"))
    assert "mean of its masks" in notes_of(make_model(alignment_fusion="residual"), what="masks")
    of_features = notes_of(model, what="features", reduce="norm")
    assert "points" not in of_features and "has a high norm; the label need not hang on it" in of_features
    assert "pairs with the first frame" in notes_of(make_model(alignment_pairing="first"), what="points")
    fresh = notes_of(IlaForVideoClassification(tiny_config(alignment_fusion="mi_token")).eval(), what="points")
    assert "In layers 0, 1 all points stand in the centre" in fresh and "keeps all of its own patches" in fresh
    assert "No frame sees another" in notes_of(make_model(temporal_module="none"), what="features")
    assert "No frame sees another" not in notes_of(make_model(temporal_module="shift"), what="features")
    views = IlaVideoProcessor.for_model(model.config, num_clips=4, num_crops=3)
    said = notes_of(model, CLIP[:2], processor=views, what="features", seed=7)
    assert all(words in said for words in ("4 x 3 views", "from seed 7", "2 of 4 frames are repeats"))
    plain = shaken(timesformer(temporal_module="none"))
    assert "class token alone" in notes_of(plain) and "class token" not in notes_of(shaken(timesformer()))


def test_untrained_weights_are_named(tmp_path):
    IlaForVideoClassification(tiny_config(temporal_module="none")).save_pretrained(tmp_path)
    model = IlaForVideoClassification.from_pretrained(tmp_path, temporal_module="ila")
    assert "random in part" in notes_of(model.eval())


def test_about_is_plain(model, processor, tmp_path):
    path = write_video(tmp_path / "a.mp4", 30)
    about = inspect_video(model, processor, path, layers=-1).about
    assert json.loads(json.dumps(about, allow_nan=False)) == about
    assert about["layers"] == [1] and about["seed"] is None and len(about["fingerprint"]) == 64
    assert {"model", "transformers_ila", "torch", "transformers", "times", "frames"} <= about.keys()
    assert str(tmp_path) not in json.dumps(about)


def test_what_is_not_there_is_an_error(model, processor, tmp_path):
    plain, gapped = make_model(temporal_module="none"), make_model(alignment_layers=[1])
    still = make_model(num_frames=1)
    cases = [
        ((model, CLIP, {"what": "maps"}), "what must be one or several of points, masks, .*got 'maps'"),
        ((model, CLIP, {"what": ()}), "what must be one or several"),
        ((model, CLIP, {"reduce": "max"}), "reduce must be one of mean, norm"),
        ((model, CLIP, {"what": "points", "reduce": "norm"}), "effect on .features. alone"),
        ((model, CLIP, {"query": (0, 0, 0)}), "effect on .query_attention. alone"),
        ((model, CLIP, {"layers": 2}), "from -2 to 1, got 2"),
        ((model, CLIP, {"layers": []}), "from -2 to 1"),
        ((plain, CLIP, {"what": "masks"}), 'temporal_module=.none.* aligns nothing.*temporal_module="ila"'),
        ((gapped, CLIP, {"what": "points", "layers": [0, 1]}), r"\[0\] align nothing; those that do: \[1\]"),
        ((still, CLIP[:1], {"what": "information"}), "the clip has 1"),
        ((model, CLIP, {"what": "weights"}), 'temporal_module="gta"'),
        ((model, CLIP, {"start": 3, "end": 2}), "end must lie behind start"),
        ((model, CLIP, {"start": -1}), "start must be seconds"),
        ((model, CLIP, {"seed": 1.5}), "seed must be a whole number"),
        ((model, [CLIP, CLIP], {}), "One video is looked at at a time, got 2"),
        ((model, CLIP.float() / 255, {}), "divide them by 255"),
        ((model, write_video(tmp_path / "a.mp4", 10), {"start": 0.4}), "behind the end of a.mp4, which is 0.4 sec"),
        ((torch.nn.Linear(2, 2), CLIP, {}), "Got a Linear to look into; allowed: IlaFor"),
        ((str(tmp_path), CLIP, {}), "no config.json"),
    ]
    for (network, video, how), message in cases:
        with pytest.raises(ValueError, match=message):
            inspect_video(network, processor if network is model else None, video, **how)
    with pytest.raises(ValueError, match="takes clips of 4 frames, and the processor gives 6"):
        inspect_video(model, IlaVideoProcessor.for_model(model.config, num_frames=6), CLIP)
    with pytest.raises(ValueError, match="Got a Linear as processor"):
        inspect_video(model, torch.nn.Linear(2, 2), CLIP)
    with pytest.raises(ValueError, match="one or more"):
        inspect_same_frames([], CLIP)
    broken = make_model()
    torch.nn.init.constant_(broken.vision_model.pre_layrnorm.weight, torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        inspect_video(broken, None, CLIP, what="features")
    assert inspect_video(gapped, None, CLIP, layers=0).points == {} and len(WHAT) == len({*WHAT})


def test_a_folder_opens_with_its_processor(model, tmp_path):
    model.save_pretrained(tmp_path / "mine")
    IlaVideoProcessor.for_model(model.config, frame_sampling="uniform").save_pretrained(tmp_path / "mine")
    opened = open_model(tmp_path / "mine")
    assert (opened.name, opened.processor.frame_sampling) == ("mine", "uniform")
    again = open_model(IlaForVideoClassification.from_pretrained(tmp_path / "mine", num_frames=6))
    assert (again.name, again.processor.frame_sampling, again.processor.num_frames) == ("mine", "uniform", 6)
    torch.testing.assert_close(opened.model.state_dict()["logit_scale"], model.logit_scale.detach())
