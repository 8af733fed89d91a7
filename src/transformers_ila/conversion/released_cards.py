"""Cards of converted files and of the ten published checkpoints: what the paper states of them, as facts."""

from dataclasses import replace

from huggingface_hub import ModelCard

from ..data.class_names import DATA_SETS
from ..hub.cards import RELEASE, model_card
from ..hub.facts import OFFICIAL_RELEASE, ModelFacts, Result, describe_views
from ..model.configuration_ila import IlaConfig
from .published import PUBLISHED_VIEWS, PublishedCheckpoint, published_like, released_processor


COUNTED_AS_PUBLISHED = 0.03  # share of the published multiply-accumulates within which a count is called the same
SAME_SHAPES = "Shapes and classes say which variant this is, not that it is the same training."


def published_card(checkpoint: PublishedCheckpoint) -> ModelCard:
    """Make the card of a published checkpoint, for those who convert it."""
    config, facts = checkpoint.config(), published_facts(checkpoint)
    command = f"ila convert --checkpoint FILE --output {checkpoint.name}"
    usage = f"`{checkpoint.name}` is the folder that `{command}` writes from the release's file."
    facts = replace(facts, origin=OFFICIAL_RELEASE, model_id=checkpoint.name, usage_note=usage)
    return model_card(config, released_processor(config), facts)


def published_facts(checkpoint: PublishedCheckpoint) -> ModelFacts:
    """Collect the accuracies, the cost and the data set that the paper states; it states neither split nor videos."""
    data_set = DATA_SETS[checkpoint.data_set]
    clips, crops = map(int, PUBLISHED_VIEWS.split("x"))

    def result(metric: str, percent: float, note: str = "") -> Result:
        return Result(
            metric,  # type: ignore[arg-type]
            percent,
            data_set=data_set.title,
            protocol=describe_views(clips, crops, checkpoint.num_frames),
            counts="not stated",
            origin="published",
            source=f"the paper's Table {checkpoint.table}",
            source_url=RELEASE,
            note=note,
        )

    cost = (
        f"Beside these accuracies the paper states {checkpoint.gmacs} G multiply-accumulates per view (published). "
        f"The network of its equations costs {checkpoint.counted_gmacs} G (counted)"
    )
    ratio = checkpoint.counted_gmacs / checkpoint.gmacs
    if abs(ratio - 1) < COUNTED_AS_PUBLISHED:
        cost += "."
    else:
        cost += f", {ratio:.2f} times that; what else the paper counts or leaves out here is not in its text."
    return ModelFacts(
        title=checkpoint.title,
        results=[result("top1", checkpoint.top1, cost), result("top5", checkpoint.top5)],
        data_note=f"Trained and evaluated by its authors on {data_set.title}; the paper states neither split nor "
        "numbers of videos.",
    )


def released_facts(config: IlaConfig, max_accuracy: float | None, *, own_weights: bool) -> ModelFacts:
    """Collect the facts of a file that the release's code trained.

    Args:
        config: of the converted model; its shapes and classes say which published checkpoint it may be.
        max_accuracy: the best validation accuracy in percent that the file records.
        own_weights: the user trained it: then it is no published checkpoint, whatever its shapes.
    """
    published = None if own_weights else published_like(config)
    facts = ModelFacts() if published is None else published_facts(published)
    facts = replace(facts, origin=None if own_weights else OFFICIAL_RELEASE, recorded_accuracy=max_accuracy)
    if published is None:
        return facts
    first, *others = facts.results
    return replace(facts, results=[replace(first, note=f"{SAME_SHAPES} {first.note}"), *others])
