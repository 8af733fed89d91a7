"""Transformers' own ways to the Hub, on our classes: pushed by model and by processor, loaded again by id."""

import json

import pytest

from support.hub_stand_in import HubStandIn
from support.paths import ROOT
from support.tiny_models import save_clip


CODE = """
import json, sys, torch
sys.path.insert(0, {tests!r})
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaProcessor, IlaVideoProcessor

model = IlaForVideoClassification.from_pretrained({clip!r}, labels=["walking", "running"], num_frames=2).eval()
processor = IlaVideoProcessor.for_model(model.config)
pixels = torch.randn(1, 2, 3, 28, 28)
model.push_to_hub("me/one")
processor.push_to_hub("me/one")
model.save_pretrained({folder!r}, push_to_hub=True, repo_id="me/two", private=True)
out = []
for name in ("me/one", "me/two"):
    loaded = IlaForVideoClassification.from_pretrained(name).eval()
    out.append(torch.equal(loaded(pixels).logits, model(pixels).logits))
    loaded.set_labels(["jumping", "sitting", "running"])  # by the tokenizer from the Hub
    out.append(tuple(loaded(pixels).logits.shape))
out.append(IlaVideoProcessor.from_pretrained("me/one").num_frames)
print(json.dumps(out))
"""


@pytest.mark.slow
def test_push_and_load_by_id(tmp_path):
    clip = str(save_clip(tmp_path / "clip"))
    code = CODE.format(tests=str(ROOT / "tests"), clip=clip, folder=str(tmp_path / "saved"))
    with HubStandIn(users={"token-me": "me"}) as hub:
        printed = hub.run(tmp_path / "home", code)
        assert json.loads(printed.strip().splitlines()[-1]) == [True, [1, 3], True, [1, 3], 2]
        one, two = hub.repositories["me/one"], hub.repositories["me/two"]
        assert not one.private and two.private
        for repository in (one, two):
            assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(repository.files("main"))
