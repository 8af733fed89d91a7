"""Reads the facts of cards that were written before they had the key `ila`, from their text.

Such cards have names from outside in their text as they were. So a mark is believed only where those cards have it,
and nothing of a card that has a section twice.
"""

import re
from collections.abc import Mapping
from typing import Any


SECTIONS = ("Use it", "Results", "Data, decoder and preprocessing")  # that are read
FINGERPRINT = re.compile(r"<!-- results of the weights (\w+) -->")
USAGE = re.compile(r'^classify = pipeline\("video-classification", model="([^"]*)"(?:, revision="([^"]*)")?', re.M)
RECORDED = re.compile(  # the last of the notes
    r"The converted file itself records a best validation accuracy of ([\d.]+) %, "
    r"measured by the code that trained it\.$"
)
CLIP = "The towers are OpenAI's CLIP; every other weight is new and untrained"
COST = ", which is what the network of its equations costs."  # not true of every row: today's cards count
NOT_MEASURED = "Published for this variant by its authors; nobody has measured it with this package."
RELEASE = "https://github.com/Francis-Rings/ILA"


def read_earlier_card(text: str, metadata: Mapping[str, Any], metrics: Mapping[str, str]) -> dict[str, Any]:
    """Collect the fields of `ModelFacts` that a card's text has.

    Args:
        text: the card without its metadata.
        metadata: of the card; the measured values stand there with two digits, in the text with one.
        metrics: title of a metric -> our name.
    """
    text = text.replace("\r\n", "\n")
    if any(text.count(f"\n## {title}\n") > 1 for title in SECTIONS):
        return {}
    usage, lines = USAGE.search("\n".join(_section(text, "Use it"))), _section(text, "Results")
    marked = lines or text.splitlines()  # a card that somebody wrote may have no such section
    fingerprints = [found[1] for line in marked if (found := FINGERPRINT.fullmatch(line))]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    results = [_result(row, metadata, metrics) for row in rows if len(row) == 6 and row[1] in metrics]
    prose = " ".join(" ".join(line for line in lines if not line.startswith(("|", "<!--"))).split())
    recorded = RECORDED.search(prose)
    if results:
        results[0]["note"] = RECORDED.sub("", prose).replace(NOT_MEASURED, "").replace(COST, ".").strip()
    published = any(result["origin"] == "published" for result in results)
    return {
        "model_id": usage[1] if usage else None,
        "revision": usage[2] if usage else None,
        "title": _title(text) if published else None,
        "origin": "clip" if CLIP in _summary(text) else None,
        "results": results,
        "recorded_accuracy": float(recorded[1]) if recorded else None,
        "data_note": _data_note(text) if published else "",
        "fingerprint": fingerprints[-1] if fingerprints else None,
    }


def _section(text: str, title: str) -> list[str]:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0].splitlines()


def _summary(text: str) -> str:
    """Return the paragraph below the title that every card has, in one line."""
    found = re.search(r"^ILA: .*?(?=\n\n|\Z)", text.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    return " ".join(found[0].split()) if found else ""


def _title(text: str) -> str | None:
    found = re.search(r"^# (.+?)\s*$", text, re.MULTILINE)
    return found[1] if found else None


def _data_note(text: str) -> str:
    """Find the sentence in front of what every card says of its classes."""
    lines = [line for line in _section(text, "Data, decoder and preprocessing") if line.startswith("- ")]
    return lines[0].removeprefix("- ") if lines and not lines[0].startswith("- Classes: ") else ""


def _result(row: list[str], metadata: Mapping[str, Any], metrics: Mapping[str, str]) -> dict[str, Any]:
    data_set, title, value, protocol, counts, whence = row
    origin, _, source = whence.partition(": ")
    percent = float(value.removesuffix(" %"))
    return {
        "metric": metrics[title],
        "percent": next((exact for exact in _values(metadata, title, origin) if round(exact, 1) == percent), percent),
        "data_set": data_set if origin == "published" else data_set.rpartition(", ")[0] or data_set,
        "split": None if origin == "published" or ", " not in data_set else data_set.rpartition(", ")[2],
        "protocol": protocol,
        "counts": counts,
        "origin": origin,
        "source": source,
        "source_url": RELEASE if origin == "published" else None,
    }


def _values(metadata: Mapping[str, Any], title: str, origin: str) -> list[float]:
    """List the values that the metadata have for a metric; they have one digit more than the text."""
    results = [result for model in metadata.get("model-index", []) for result in model.get("results", [])]
    metrics = [metric for result in results for metric in result.get("metrics", [])]
    return [metric["value"] for metric in metrics if str(metric.get("name", "")).startswith(f"{title} ({origin})")]
