"""Retrieval: ranks beside a plain loop, what counts as one text, several processes, and the command."""

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPTokenizer

from support.evaluation_models import TOLERANCE, views_of
from support.tiny_models import byte_tokenizer, save_clip, tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.backbones.zero_shot import load_zero_shot
from transformers_ila.cli import evaluate_retrieval as script
from transformers_ila.cli.main import run_verb
from transformers_ila.data.annotations import read_annotations
from transformers_ila.data.captions import read_captions
from transformers_ila.distributed import Rank
from transformers_ila.evaluation.options import RetrievalOptions
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.search import retrieval
from transformers_ila.search.retrieval import Scores, best_ranks, evaluate_retrieval, ranks_in_chunks, recalls


# -- ranks -----------------------------------------------------------------------------------------------------------


def plain_rank(scores: list[float], own: list[int]) -> int:
    """One query: items one after the other, wrong ones first among equals; the place of the first that belongs."""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item in own))
    return 1 + next(place for place, item in enumerate(order) if item in own)


@pytest.mark.parametrize(("videos", "texts", "most"), [(1, 1, 1), (7, 23, 3), (40, 11, 11), (30, 30, 1)])
def test_ranks_and_recalls_equal_a_plain_loop(videos, texts, most):
    """Several texts a video, several videos a text, ties, any size of chunks."""
    draw = random.Random(videos)
    features = torch.randint(-1, 2, (videos + texts, 4), generator=torch.Generator().manual_seed(videos)).float()
    features[:, 0] += 0.5  # none is 0
    unit = F.normalize(features, dim=-1)  # with many ties
    of_video = [sorted(draw.sample(range(texts), draw.randint(1, most))) for _ in range(videos)]
    for text in set(range(texts)) - {text for own in of_video for text in own}:
        of_video[draw.randrange(videos)].append(text)
    of_text = [[video for video, own in enumerate(of_video) if text in own] for text in range(texts)]
    scores = Scores(unit[:videos], unit[videos:])
    table = [[float((a.double() @ b.double()).float()) for b in unit[:videos]] for a in unit[videos:]]
    for rows, belongs, items, lists in (
        (scores.of_texts, of_text, videos, table),
        (scores.of_videos, of_video, texts, [*map(list, zip(*table))]),
    ):
        wanted = [plain_rank(row, own) for row, own in zip(lists, belongs)]
        for chunk in (1, 3 * items, 2**24):
            ranks = ranks_in_chunks(rows, belongs, items, chunk=chunk)
            assert ranks.tolist() == wanted
        found = recalls(ranks, belongs, items)
        for k in (1, 5, 10):
            assert found[f"recall_at_{k}"] == pytest.approx(sum(rank <= k for rank in wanted) / len(wanted))
        middle = sorted(wanted)
        assert found["median_rank"] == (middle[(len(middle) - 1) // 2] + middle[len(middle) // 2]) / 2
        assert found["mean_rank"] == pytest.approx(sum(wanted) / len(wanted))
        assert (found["queries"], found["gallery"]) == (len(wanted), items)


def test_a_model_that_says_the_same_of_everything_finds_everything_last():
    same = torch.ones(3, 8)
    scores = Scores(F.normalize(torch.ones(5, 8), dim=-1), F.normalize(same, dim=-1))
    assert ranks_in_chunks(scores.of_texts, [[0], [1, 2], [3, 4]], 5).tolist() == [5, 4, 4]


def test_chance_is_what_random_orders_give():
    belongs, items = [[0], [1, 2, 3], [4]], 12
    orders = torch.stack(
        [torch.randperm(items, generator=torch.Generator().manual_seed(seed)) for seed in range(3000)]
    )
    ranks = torch.stack([orders[:, own].amin(1) + 1 for own in belongs])
    chance = recalls(ranks[:, 0], belongs, items)["chance"]
    for k in (1, 5, 10):
        assert chance[f"recall_at_{k}"] == pytest.approx(float((ranks <= k).double().mean()), abs=0.02)
    assert recalls(torch.tensor([1, 1]), [[0], [1]], 2)["chance"]["recall_at_5"] == 1


def test_what_cannot_be_ranked_is_an_error():
    one = torch.ones(1, 2)
    for scores, correct, words in (
        (one, one, "the second of bool"),
        (one, torch.zeros(1, 2, dtype=torch.bool), "1 queries have no item"),
        (one * math.nan, one.bool(), "scores of 1 queries are no numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            best_ranks(scores, correct)
    assert recalls(torch.empty(0), [], 3)["recall_at_1"] is None


# -- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A CLIP, an ILA with prompt, eight videos, captions of them, and two files that cannot be read."""
    root = tmp_path_factory.mktemp("retrieval")
    torch.manual_seed(0)
    save_clip(root / "clip")
    tokenizer = byte_tokenizer(root / "ila")
    text = {"vocab_size": 192, "bos_token_id": 188, "eos_token_id": 189, "max_position_embeddings": 32}
    config = tiny_config(text_config={**tiny_config().text_config.to_dict(), **text})
    model = IlaForVideoClassification(config)
    for module in model.prompts_generator.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.2)
    model.set_labels(["one", "two"], tokenizer)
    model.save_pretrained(root / "ila")
    IlaVideoProcessor.for_model(config).save_pretrained(root / "ila")
    write_folder(root / "videos", 8, seed=0, num_frames=6)
    for folder in [*(root / "videos").iterdir()]:
        folder.rename(folder.with_name(folder.name.replace(" ", "_")))
    rows = [{"path": str(path.relative_to(root)), "caption": text} for path, text in captions(root)]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"path": "x.mp4", "caption": "lost"}])))
    return root


def captions(root: Path) -> list[tuple[Path, str]]:
    paths = sorted((root / "videos").rglob("*.mp4"))
    texts = ["a dot", "A  DOT", "it moves", "it turns", "up", "down", "left"]
    return [*zip(paths, texts), (paths[7], "it moves"), (paths[0], "second text")]


def plain_scores(model, processor, tokenizer, paths, texts):
    """Of every pair alone, by the model's own forward."""
    table = torch.empty(len(paths), len(texts))
    for row, path in enumerate(paths):
        views = views_of(processor, path)
        for column, text in enumerate(texts):
            ids = tokenizer([text], return_tensors="pt")["input_ids"]
            with torch.no_grad():
                outputs = model.get_video_features(views)
                logits, _, _ = model.match(outputs, model.get_text_features(ids).pooler_output)
            table[row, column] = logits[0, 0]
    return table


@pytest.mark.parametrize("name", ["clip", "ila"])
def test_a_model_is_asked_as_its_forward_answers(place, name):
    """With the video-specific prompt, too; one text for two videos, two for one, letters and blanks, a lost video."""
    model, processor = load_zero_shot(place / name)
    samples = read_captions(place / "captions.jsonl")
    options = RetrievalOptions(batch_size=3, data_set="dots")
    found = evaluate_retrieval(model, processor, samples, options, templates="{}")
    paths = [path for path, _ in captions(place)[:8]]
    texts = ["a dot", "it moves", "it turns", "up", "down", "left", "second text"]
    assert found.texts == texts and [sample.video for sample in found.samples] == [*map(str, paths)]
    scores = plain_scores(model, processor, CLIPTokenizer.from_pretrained(place / name), paths, texts)
    own = [[0, 6], [0], [1], [2], [3], [4], [5], [1]]
    assert [list(sample.labels) for sample in found.samples] == own
    assert found.video_ranks.tolist() == [plain_rank(row, labels) for row, labels in zip(scores.tolist(), own)]
    of_text = [[video for video, labels in enumerate(own) if text in labels] for text in range(7)]
    assert found.text_ranks.tolist() == [plain_rank(row, v) for row, v in zip(scores.T.tolist(), of_text)]
    scale = float(model.logit_scale.detach().exp()) if name == "clip" else 1
    torch.testing.assert_close(scale * found.scores.of_videos(0, 8), scores, atol=TOLERANCE, rtol=0)
    report = found.report
    assert report["counts"] == {
        "listed": 9, "evaluated": 8, "unreadable": 1, "frames_lost": 0, "texts": 8, "texts_evaluated": 7
    }  # fmt: skip
    assert [Path(row["path"]).name for row in report["unreadable"]] == ["x.mp4"]
    assert report["texts"]["scores"].startswith("cosine of each pair" if name == "ila" else "cosine of the video's")
    assert report["text_to_video"]["queries"] == 7 and report["video_to_text"]["gallery"] == 7
    json.dumps(report, allow_nan=False)


def test_views_and_templates_and_folders(place):
    """The names of folders are texts, with blanks for underscores; several templates; several views."""
    model, processor = load_zero_shot(place / "clip")
    samples = read_annotations(place / "videos")
    assert any("_" in name for name in samples.class_names)
    templates = ["a video of {}.", "{}"]
    found = evaluate_retrieval(model, processor, samples, RetrievalOptions(protocol="1x3"), templates=templates)
    assert found.texts == [name.replace("_", " ") for name in samples.class_names]
    torch.testing.assert_close(found.scores.texts, model.encode_texts(found.texts, templates), atol=1e-6, rtol=0)
    for sample, feature in zip(found.samples, found.scores.videos):
        with torch.no_grad():
            features = model.get_video_features(views_of(processor, sample.video, "1x3")).pooler_output
        wanted = F.normalize(F.normalize(features, dim=-1).mean(0), dim=-1)
        torch.testing.assert_close(feature, wanted, atol=TOLERANCE, rtol=0)
    assert found.report["texts"]["templates"] == templates and found.report["protocol"]["crops"] == 3


# -- the command -----------------------------------------------------------------------------------------------------


def words(place, output, *more, model="clip"):
    start = ["--model", str(place / model), "--videos", str(place), "--output", str(output)]
    return [*start, "--list", str(place / "captions.jsonl"), *more]


def test_the_command(place, tmp_path, capsys):
    assert run_verb(script, words(place, tmp_path / "new" / "r.json")) == 1  # one video could not be read
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "new" / "r.json").read_text())
    value = report["text_to_video"]["recall_at_5"]
    assert f"{value:.1%}" in printed.split("text to video")[1].splitlines()[0]
    assert "by chance" in printed and "8 of 9, 1 unreadable" in printed and "read as: {}" in printed
    assert report["texts"]["templates"] == ["{}"]
    folder = ["--model", str(place / "clip"), "--videos", str(place / "videos"), "--output", str(tmp_path / "f.json")]
    assert run_verb(script, folder) == 0
    assert json.loads((tmp_path / "f.json").read_text())["texts"]["templates"] == ["a video of {}."]


@pytest.mark.parametrize(
    ("more", "words_of_error"),
    [
        (["--labels", "a, b"], "--labels would have no effect"),
        (["--read_split", "val"], "--read_split would have no effect"),
        (["--output", "r.txt"], "ends in .json"),
        (["--seed", "3"], "seed is 3 and would have no effect"),
        (["--template", "no place"], "no place"),
    ],
)
def test_what_has_no_effect_is_refused(place, tmp_path, capsys, more, words_of_error):
    assert run_verb(script, words(place, tmp_path / "r.json", *more)) == 2
    assert words_of_error in capsys.readouterr().err


def test_numbers_are_no_texts(place, tmp_path, capsys):
    path = captions(place)[0][0]
    (tmp_path / "list.txt").write_text(f"{path.relative_to(place)} 0\n")
    given = ["--model", str(place / "clip"), "--videos", str(place), "--list", str(tmp_path / "list.txt")]
    given += ["--output", str(tmp_path / "r.json")]
    assert run_verb(script, given) == 2
    assert "numbers, which are no texts: say by --labels" in capsys.readouterr().err
    assert run_verb(script, [*given, "--labels", "a dot, a line"]) == 0


@pytest.mark.parametrize("name", ["clip", "ila"])
def test_several_processes_say_the_same(place, monkeypatch, name):
    """Three threads stand for them."""
    model, processor = load_zero_shot(place / name)
    samples = read_annotations(place / "videos")
    options = RetrievalOptions(batch_size=1)
    alone = evaluate_retrieval(model, processor, samples, options)
    barrier, slots = Barrier(3), [None] * 3

    def gather(work, rank):
        slots[rank.rank] = work()
        barrier.wait(60)
        found = list(slots)
        barrier.wait(60)
        return found

    monkeypatch.setattr(retrieval, "all_gather", gather)
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(evaluate_retrieval, model, processor, samples, options, rank=Rank(i, 3)) for i in range(3)]
        for found in [run.result(60) for run in runs]:
            assert found.report["text_to_video"] == alone.report["text_to_video"]
            assert torch.equal(found.video_ranks, alone.video_ranks) and found.report["processes"] == 3
