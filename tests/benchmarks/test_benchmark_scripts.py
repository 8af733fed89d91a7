"""The smaller benchmarks print what they say, on models and videos small enough for a test."""

import re
from dataclasses import replace
from functools import partial

import adapters
import pipeline_speed
import planning
import pytest
import quantisation
import scale
import search
import streaming
import timeline
import torch
import training_loader
from transformers import TimesformerConfig, VideoMAEConfig

from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.model import configuration_ila
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.model.configuration_ila import CLIP_SIZES
from transformers_ila.motionbench.sequences import BACKGROUND, SEQUENCE_SIZES
from transformers_ila.motionbench.tasks import MOTIONS, make_videos, write_folder, write_mp4
from transformers_ila.timeline.calibration import GRIDS


WIDTHS = {"hidden_size": 32, "intermediate_size": 8192, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def sizes_stay():
    """The programs add a tiny tower to the four that there are; other tests count them."""
    yield
    CLIP_SIZES.pop("tiny", None)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    vision = {**WIDTHS, "patch_size": 16, "image_size": 224}
    monkeypatch.setattr(configuration_ila, "CLIP_SIZES", {"B/16": (vision, WIDTHS, 32)})
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # of the process, which other tests share


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, video in enumerate(make_videos(2, seed=0)):
        write_mp4(folder / f"{number}.mp4", video.frames)
    return folder


def rows(printed):
    """First column -> the other columns, of all tables."""
    lines = (line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("| "))
    return {name: values for name, *values in lines}


def test_pipeline_speed(monkeypatch, videos, capsys):
    for name, kind in {"TimesformerConfig": TimesformerConfig, "VideoMAEConfig": VideoMAEConfig}.items():
        monkeypatch.setattr(pipeline_speed, name, partial(kind, **WIDTHS))
    pipeline_speed.main(pipeline_speed.Arguments(str(videos / "0.mp4"), rounds=1))
    printed = capsys.readouterr().out
    found = rows(printed)
    assert found["ILA, pipeline"][1] == "1.00x"
    assert all(float(found[f"{name}, pipeline, first frames"][0]) > 0 for name in ("VideoMAE", "TimeSformer"))
    whole, reading, model = (float(found[f"ILA, {part}"][0]) for part in ("pipeline", "reading alone", "model alone"))
    share = float(re.search(r"takes ([\d.]+) of the sum", printed)[1])
    assert share == pytest.approx(whole / (reading + model), rel=0.2)  # of rounded milliseconds


@pytest.mark.parametrize("source", planning.SOURCES)
def test_planning(tmp_path, source):
    written = planning.write_source(tmp_path, source, 20)
    done = 10 if source == "resumed" else 0
    planned, *figures = planning.plan(written, tmp_path / "plan", done)
    assert planned == 20 - done and min(figures) >= 0


def test_quantisation(tmp_path, capsys):
    write_folder(tmp_path / "bench", 16, seed=1)
    labels = sorted(folder.name for folder in (tmp_path / "bench").iterdir())
    model = IlaForVideoClassification(tiny_config(classification_head="linear", num_labels=len(labels)))
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: index for index, label in enumerate(labels)}
    model.save_pretrained(tmp_path / "model")
    IlaVideoProcessor.for_model(model.config).save_pretrained(tmp_path / "model")
    arguments = quantisation.Arguments(str(tmp_path / "model"), str(tmp_path / "bench"), rounds=1)
    quantisation.main(arguments)
    found = rows(capsys.readouterr().out)
    assert {"float32", *quantisation.WAYS} < found.keys()
    whole, merged, fused, *small = (
        float(values[0]) for name, values in found.items() if name.startswith(("as", "text"))
    )
    assert whole > merged > max(small) and fused >= merged and len(small) == len(quantisation.WAYS)
    model.config.update(label_fields(["another", *labels[1:]]))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit, match="another"):
        quantisation.main(arguments)


def test_search(tmp_path, capsys):
    search.main(search.Arguments(rows=300, dimension=16, windows=[1, 10], rounds=1, folder=str(tmp_path)))
    printed = capsys.readouterr().out
    times = re.findall(r"^\| (1|16) \| [\d.]+ s \(least .* \| .* \| .* \|$", printed, re.MULTILINE)
    assert times == ["1", "16"] * 2 and "300 rows of 16 float32 numbers" in printed


def test_streaming(capsys):
    streaming.main(["--sizes", "B/16", "--threads", "1", "--rounds", "1"])
    printed = capsys.readouterr().out
    lines = [line.split(" | ") for line in printed.splitlines() if line.startswith("| B/16")]
    assert [line[4] for line in lines[:4]] == ["interaction", "mi_token"] * 2
    assert [line[3] for line in lines[4:]] == [*streaming.HEADS]
    kept = [float(line[7].split()[0]) for line in lines[4:]]
    assert kept == [round(14 * 14 * 128 * 4 / 1e6, 3)] * 3  # one layer, 14 x 14 patches, float32
    missed = sum("MISSED" in cell for line in lines for cell in line)
    assert printed.rstrip().endswith(f"{missed or 'no'} bar{'' if missed == 1 else 's'} missed")


def test_streaming_judges():
    assert streaming.judged(1.2, 1.25) == "1.200 (at most 1.25)"
    assert streaming.judged(1.3, 1.25) == "1.300 (at most 1.25: MISSED)"
    assert streaming.judged(6.9, 7, least=True) == "6.900 (at least 7: MISSED)"
    assert streaming.judged(3.0, None) == "3.000"


def test_timeline(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(SEQUENCE_SIZES, "tiny", {"train": 1, "val": 1, "test": 1, "seconds": 6})
    monkeypatch.setattr(timeline, "CHOSEN", {"thresholds chosen": ("threshold",)})
    monkeypatch.setitem(GRIDS, "threshold", (0.01, 0.5))
    options = timeline.DemoOptions()
    for name in timeline.MODELS:  # which are there, so none is trained
        config = timeline.small_config(options, [BACKGROUND, *MOTIONS])
        config.vision_config.alignment_causal, config.frame_rate = name == "causal", 4.0
        IlaForVideoClassification(config).save_pretrained(tmp_path / "models" / name)
        processor = IlaVideoProcessor.for_model(config, size={"shortest_edge": 32})
        processor.save_pretrained(tmp_path / "models" / name)
    timeline.main(timeline.Arguments(folder=str(tmp_path), size="tiny"))
    printed = capsys.readouterr().out
    ways = [line.split(" | ")[:2] for line in printed.splitlines() if line.startswith(("| causal", "| two-sided"))]
    names = ["| causal, stream", "| causal, windows", "| two-sided, windows"]
    assert ways == [[name, rules] for name in names for rules in ("defaults", "thresholds chosen")]
    assert printed.count("mean F1 on the validation split from") == 3


def test_training_loader(videos, tmp_path, capsys):
    training_loader.main(training_loader.Arguments(str(videos), workers=[0, 1], batches=1, rounds=1))
    printed = capsys.readouterr().out
    lines = re.findall(r"^\| (\d) \| (\w+) \| ([\d.]+) \| (\d+)% \|$", printed, re.MULTILINE)
    assert [line[:2] for line in lines] == [(w, kind) for w in "01" for kind in ("uint8", "float32")]
    assert all(float(rate) > 0 for _, _, rate, _ in lines)
    with pytest.raises(SystemExit, match="No videos"):
        training_loader.main(training_loader.Arguments(str(tmp_path)))


def test_adapters():
    found = {way: adapters.step_memory(way, 1, False) for way in adapters.WAYS}
    ways = ("everything", "adapter, MLP too", "adapter", "new layers alone", "adapter and head", "head alone")
    trained = [found[way]["trained"] for way in ways]
    assert trained == sorted(trained, reverse=True) and len(set(trained)) == len(ways)
    assert found["adapter"]["saved"] < found["everything"]["saved"] == found["new layers alone"]["saved"]


ROUND = scale.Rates(
    model_rate=100.0,
    read_rate=10.0,
    video_bytes=1e6,
    clip_bytes=4e6,
    row_bytes=100.0,
    batch_size=10.0,
    block_rate=1e3,
    write_rate=2e4,
    plan_rate=1e5,
    name_bytes=100.0,
    driver_memory=1e9,
    replica_cores=20.0,
    machine_replicas=4.0,
    machine_link=4e9,
    store_rate=1e10,
)


def test_estimate_adds_up():
    found = scale.estimate(3_600_000, 8, ROUND)
    assert (found.rate, found.first) == (800.0, "replicas")
    assert found.hours == pytest.approx(1.25 + 36 / 3600) and found.gpu_hours == 10.0 and found.readers == 10.0
    assert (found.read_bytes, found.moved_bytes, found.result_bytes) == (3.6e12, 14.4e12, 3.6e8)
    assert (found.plan_seconds, found.plan_memory) == (36.0, 3.6e8)


@pytest.mark.parametrize(
    "changed, first, rate",
    [
        ({"replica_cores": 5.0}, "cores that read", 400.0),
        ({"machine_link": 1e9}, "network into the machines", 400.0),
        ({"store_rate": 1e8}, "store", 100.0),
        ({"block_rate": 20.0}, "blocks through the driver", 200.0),
        ({"write_rate": 50.0}, "rows that are written", 50.0),
    ],
)
def test_estimate_names_what_gives_out_first(changed, first, rate):
    found = scale.estimate(1000, 8, replace(ROUND, **changed))
    assert (found.first, found.rate) == (first, rate)


def test_estimate_refuses():
    with pytest.raises(ValueError, match="the driver has 1.00e\\+09"):
        scale.estimate(100_000_000, 8, ROUND)
    with pytest.raises(ValueError, match="got 0 and 8"):
        scale.estimate(0, 8, ROUND)
    with pytest.raises(ValueError, match="store_rate must be above 0, got 0"):
        replace(ROUND, store_rate=0.0)


def test_scale_prints_rates_and_estimates(videos, capsys):
    scale.main(["rates", "--videos", str(videos), "--count", "2", "--rows", "16", "--blocks", "0"])
    found = rows(capsys.readouterr().out)
    assert found["clip_bytes"] == [f"{8 * 3 * 224 * 224:,}"]
    scale.main(["estimate", "--count", "1000", "--replicas", "2", "--write_rate", "1"])
    assert rows(capsys.readouterr().out)["gives out first"] == ["rows that are written"]
    with pytest.raises(SystemExit, match="throughput, rates, estimate"):
        scale.main(["else"])
