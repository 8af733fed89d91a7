"""Code run in a process of its own, without the package on its path."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import (
    CLIPTokenizer,
)

from support.paths import ROOT
from support.tiny_models import TINY_ILA, save_clip, save_vit, tiny_config
from transformers_ila import IlaForVideoClassification, IlaProcessor, IlaVideoProcessor
from transformers_ila.hub.exporting import export
from transformers_ila.motionbench.tasks import make_videos
from transformers_ila.video_writing import write_mp4


LABELS = ["jumping", "walking slowly", "clapping"]
MODEL = ROOT / "src" / "transformers_ila" / "model"  # whose files ship

# One process that has no package loads every folder in all ways, computes, names classes anew, and saves.
ELSEWHERE = """
import builtins, json, sys
import torch

torch.set_num_threads(1)
sys.modules["transformers_ila"] = None
asked = []
builtins.input = lambda text: asked.append(text) or "n"
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoProcessor, AutoVideoProcessor
from transformers import pipeline

place, labels, *folders = sys.argv[1:]
pixels = torch.load(f"{place}/pixels.pt")
for folder in folders:
    autos = (AutoConfig, AutoModel, AutoModelForVideoClassification, AutoVideoProcessor, AutoProcessor)
    parts = [auto.from_pretrained(folder, trust_remote_code=True) for auto in autos]
    config, model, classifier, video_processor, processor = parts
    classify = pipeline("video-classification", model=folder, trust_remote_code=True)
    parts += [classify.model, getattr(processor, "video_processor", processor), classify.video_processor]
    assert all(type(part).__module__.startswith("transformers_modules.") for part in parts), parts
    assert not classifier.training and type(config).__name__ == "IlaConfig"
    video = f"{place}/clip.mp4"
    with torch.no_grad():
        got = {
            "logits": classifier(pixels).logits,
            "logits of the pipeline's model": classify.model(pixels).logits,
            "video features": model.get_video_features(pixels).pooler_output,
            "pixels": video_processor(video, return_tensors="pt")["pixel_values"],
            "pixels of the processor": processor(videos=video, return_tensors="pt")["pixel_values"],
            "answers": classify(video, top_k=9),
        }
        if hasattr(processor, "tokenizer"):
            got["ids"] = processor(text=["walking"], return_tensors="pt")["input_ids"]
        classifier.set_labels(json.loads(labels), ignore_mismatched_sizes=True)
        if config.classification_head == "text":
            got["logits of other classes"] = classifier(pixels).logits
    got["asked"] = list(asked)
    got["labels"] = [classifier.config.id2label[index] for index in range(4)]
    torch.save(got, f"{folder}.pt")
    kept = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True)
    for part in (kept, processor):
        part.save_pretrained(f"{folder}-again")
assert not [name for name in sys.modules if name.startswith("transformers_ila.")]
"""


def run_elsewhere(place: Path, *arguments: object, code: str = ELSEWHERE) -> None:
    """Run code in a process with empty caches that is offline."""
    caches = {"HF_HOME": place / "home", "HF_MODULES_CACHE": place / "modules", "PYTHONPATH": ROOT / "src"}
    environment = {**os.environ, **{name: str(path) for name, path in caches.items()}, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=place, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr


def stirred(model: IlaForVideoClassification) -> IlaForVideoClassification:
    """No weight is zero: what starts as zero would hide what it is multiplied with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


class Exports:
    """Models in memory by name, their processors, and the folder where `<name>/` are the exports."""

    def __init__(self, root: Path) -> None:
        self.root = root
        clip = save_clip(root / "clip")
        save_vit(root / "vit-folder")
        torch.manual_seed(0)
        self.pixels = torch.randn(2, 4, 3, 28, 28)
        torch.save(self.pixels, root / "pixels.pt")
        write_mp4(root / "clip.mp4", next(make_videos(1, seed=3)).frames)
        names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
        config = tiny_config(classification_head="linear", **names)
        IlaForVideoClassification(config).save_pretrained(root / "plain")
        load = IlaForVideoClassification.from_pretrained
        self.models = {
            "text": stirred(load(clip, labels=LABELS, **TINY_ILA)),
            "residual": stirred(load(clip, labels=LABELS, alignment_fusion="residual", **TINY_ILA)),
            "clip alone": stirred(load(clip, labels=LABELS, zero_shot=True, num_frames=4)),
            "linear": stirred(load(root / "plain")),
            "vit": stirred(load(root / "vit-folder", labels=LABELS, **TINY_ILA)),
        }
        configs = {name: model.config for name, model in self.models.items()}
        self.processors = {
            "text": IlaProcessor(IlaVideoProcessor.for_model(configs["text"]), CLIPTokenizer.from_pretrained(clip)),
            "residual": IlaVideoProcessor.for_model(configs["residual"], frame_sampling="uniform"),
            "clip alone": IlaVideoProcessor.for_model(configs["clip alone"]),
            "linear": IlaVideoProcessor.for_model(configs["linear"], image_mean=[0.1, 0.2, 0.3]),
            "vit": IlaVideoProcessor.for_model(configs["vit"]),
        }
        self.models["clip alone"].set_labels(LABELS, templates=["a video of {}.", "{}, filmed"])
        for name, model in self.models.items():
            export(model, self.processors[name], root / name)

    @property
    def folders(self) -> list[Path]:
        return [self.root / name for name in self.models]

    def model(self, name: str) -> IlaForVideoClassification:
        """One to change."""
        return copy.deepcopy(self.models[name])
