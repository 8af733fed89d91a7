"""What an ablation found: tables as Markdown and CSV with paired tests, and pictures of accuracy."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..cost import cost
from ..files import atomic_write
from ..markup import csv_text, markdown_table
from ..motionbench.tasks import TASKS
from ..visualization.words import legible
from .ablation import Ablation, config_for_cost, own_gmacs
from .results import in_turns, read_results, write_json
from .runs import mean_accuracy
from .significance import DRAWS, holm, paired_differences, sign_flip_test


COSTS = "costs.json"


# -- numbers ---------------------------------------------------------------------------------------------------------


def measure_costs(
    ablation: Ablation, folder: str | Path, *, rounds: int = 5, progress: Callable[[str], object] = lambda text: None
) -> dict[str, dict[str, float]]:
    """Measure what each variant costs on the recipe's `cost_tower`; earlier measurements are read, not repeated.

    Each variant's latency is measured in turns with plain frames. Nothing else should run meanwhile.

    Returns:
        variant -> the fields of `cost.Cost`, "device", and "own_gmacs" of the small tower.
    """
    file = Path(folder) / COSTS
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with in_turns(folder, "costs"):
        costs = json.loads(file.read_text()) if file.is_file() else {}
        for variant in ablation.variants:
            key = _cost_key(ablation, variant)
            if costs.get(variant, {}).get("of") == key:
                continue
            found = cost(config_for_cost(ablation, variant), rounds=rounds, device=device)
            own = {} if ablation.clip else {"own_gmacs": own_gmacs(ablation, variant)}
            costs[variant] = {"of": key, "device": device, **found._asdict(), **own}
            write_json(file, costs)
            progress(f"{variant}: {found.gmacs:.1f} GMACs, {found.times_plain:.2f} x plain frames' time")
    return costs


def _cost_key(ablation: Ablation, variant: str) -> str:
    return json.dumps([ablation.cost_tower, ablation.model, ablation.variants[variant]], sort_keys=True)


def summary_rows(ablation: Ablation, folder: str | Path) -> list[dict[str, Any]]:
    """Return a row for each variant that has a finished run.

    A row holds means and standard deviations (n - 1) over the variant's seeds, its costs where they were measured, and
    beside the reference's the difference in accuracy with its p-value (`significance`), corrected by Holm's method.
    """
    results = read_results(ablation, folder)
    file = Path(folder) / COSTS
    costs = json.loads(file.read_text()) if file.is_file() else {}
    rows = []
    for variant in ablation.variants:
        own = [result for result in results if result["variant"] == variant]
        if own:
            known = costs.get(variant, {})
            if known.pop("of", None) != _cost_key(ablation, variant):  # of another tower or of other fields
                known = {}
            rows.append({"variant": variant, "seeds": len(own), **_statistics(own), **known})
    return _with_comparisons(rows, results, reference_of(ablation))


def reference_of(ablation: Ablation) -> str:
    """Return the name of the variant that the others are compared with."""
    return ablation.reference or next(iter(ablation.variants))


def _with_comparisons(
    rows: list[dict[str, Any]], results: Sequence[Mapping[str, Any]], reference: str
) -> list[dict[str, Any]]:
    runs = {row["variant"]: [result for result in results if result["variant"] == row["variant"]] for row in rows}
    found = {
        variant: paired_differences(own, runs.get(reference, []))
        for variant, own in runs.items()
        if variant != reference
    }
    compared = {variant: differences for variant, differences in found.items() if differences is not None}
    p_values = dict(zip(compared, holm([sign_flip_test(differences) for differences in compared.values()])))
    for row in rows:
        if (variant := row["variant"]) in compared:
            row |= {"difference": float(compared[variant].sum()), "p_value": p_values[variant]}
    return rows


def _statistics(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    values = {"accuracy": [mean_accuracy(result) for result in results]}
    for order in list(results[0]["accuracy"])[1:]:
        values[f"accuracy_{order}"] = [mean_accuracy(result, order) for result in results]
    for task in results[0]["accuracy"]["as_is"]:
        values[f"accuracy, {task}"] = [result["accuracy"]["as_is"][task] for result in results]
    for name in ("transport_distance", "shared_information"):
        values[name] = [result[name] for result in results]
    row = {}
    for name, of_seeds in values.items():
        row[name] = statistics.mean(of_seeds)
        row[f"{name}_std"] = statistics.stdev(of_seeds) if len(of_seeds) > 1 else float("nan")
    return row


# -- tables ----------------------------------------------------------------------------------------------------------


def write_report(ablation: Ablation, folder: str | Path) -> list[Path]:
    """Write tables and pictures of the finished runs, one process at a time, and return the files.

    Raises:
        ValueError: nothing is finished, or a result of another ablation.
    """
    folder = Path(folder)
    with in_turns(folder, "report"):
        rows = summary_rows(ablation, folder)
        if not rows:
            raise ValueError(f"{str(folder)!r} holds no finished run.")
        files = [folder / name for name in ("ablation.md", "ablation.csv", "ablation_runs.csv")]
        with atomic_write(files[0]) as stream:
            stream.write(markdown(ablation, rows))
        _write_csv(files[1], rows)
        _write_csv(files[2], [_run_row(result) for result in read_results(ablation, folder)])
        if len(ablation.task_names) > 1:
            files.append(folder / "accuracy_per_task.png")
            draw_tasks(ablation, rows, files[-1])
        if all("gmacs" in row for row in rows):
            files.append(folder / "accuracy_over_gmacs.png")
            draw_costs(ablation, rows, files[-1])
    return files


def markdown(ablation: Ablation, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the tables: accuracy, significance and cost of each variant, and accuracy of each task."""
    columns = {
        "variant": lambda row: row["variant"],
        "accuracy": lambda row: _share(row, "accuracy"),
        **_comparison_columns(ablation, rows),
        "shuffled": lambda row: f"{row['accuracy_shuffled']:.1%}",
        "reversed": lambda row: f"{row['accuracy_reversed']:.1%}",
        "single frame": lambda row: f"{row['accuracy_single_frame']:.1%}",
        "earth mover's distance": lambda row: f"{row['transport_distance']:.3f}",
        "information, nats": lambda row: f"{row['shared_information']:.3f}",
        **_cost_columns(ablation, rows),
    }
    table = markdown_table(list(columns), [[cell(row) for cell in columns.values()] for row in rows])
    parts = [_head(ablation, rows), table]
    tasks = ablation.task_names
    if len(tasks) > 1:
        lines = [[row["variant"], *(_share(row, f"accuracy, {task}") for task in tasks)] for row in rows]
        lines.append(["chance", *(f"{1 / len(TASKS[task].classes):.0%}" for task in tasks)])
        parts.append(markdown_table(["variant", *tasks], lines))
    return "\n\n".join(parts) + "\n"


def _head(ablation: Ablation, rows: Sequence[Mapping[str, Any]]) -> str:
    seeds = {row["seeds"] for row in rows}
    runs = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else str(seeds.pop())
    if ablation.lists is None:
        chance = statistics.mean(1 / len(TASKS[task].classes) for task in ablation.tasks)
        tasks = f"{len(ablation.tasks)} tasks, each counting once"
        data = f"MotionBench of size {ablation.bench}, {tasks} (chance {chance:.1%})"
    else:
        training, test = (part.samples for part in ablation.lists)
        largest = Counter(sample.labels[0] for sample in test).most_common(1)[0][1] / len(test)
        counts = f"{len(training)} training and {len(test)} test videos of {len(ablation.class_names)} classes"
        data = f"{counts} (the largest class has {largest:.1%} of the test videos)"
    text = f"{data}; {runs} seeds, mean ± standard deviation."
    if any("p_value" in row for row in rows):
        text += (
            " p: two-sided permutation test, paired over the test videos and averaged over the seeds "
            f"({DRAWS:,} draws), corrected for the number of variants by Holm's method."
        )
    return text


Columns = dict[str, Callable[[Mapping[str, Any]], str]]


def _comparison_columns(ablation: Ablation, rows: Sequence[Mapping[str, Any]]) -> Columns:
    if not any("p_value" in row for row in rows):
        return {}
    return {
        f"over {reference_of(ablation)}": lambda row: f"{row['difference'] * 100:+.1f}" if "difference" in row else "",
        "p": lambda row: f"{row['p_value']:.4f}" if "p_value" in row else "",
    }


def _cost_columns(ablation: Ablation, rows: Sequence[Mapping[str, Any]]) -> Columns:
    if not all("gmacs" in row for row in rows):
        return {}
    device = ", ".join(sorted({row["device"] for row in rows}))
    columns: Columns = {
        f"GMACs, {ablation.cost_tower}": lambda row: f"{row['gmacs']:.1f}",
        "parameters, M": lambda row: f"{row['parameters']:.1f}",
        f"ms a clip, {device}": lambda row: f"{row['milliseconds']:.0f}",
        "x plain": lambda row: f"{row['times_plain']:.2f}",
        "MiB for backward": lambda row: f"{row['memory']:.0f}",
    }
    if all("own_gmacs" in row for row in rows):
        columns["GMACs as trained"] = lambda row: f"{row['own_gmacs']:.4f}"
    return columns


def _share(row: Mapping[str, Any], name: str) -> str:
    if row["seeds"] == 1:
        return f"{row[name]:.1%}"
    return f"{row[name] * 100:.1f} ± {row[f'{name}_std'] * 100:.1f} %"


def _run_row(result: Mapping[str, Any]) -> dict[str, Any]:
    names = ("variant", "seed", "train_loss", "transport_distance", "shared_information")
    row = {name: result[name] for name in names}
    for order, of_tasks in result["accuracy"].items():
        row |= {f"{order}, {task}": value for task, value in of_tasks.items()}
    return row


def _write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = csv_text([names, *([row.get(name, "") for name in names] for row in rows)])
    with atomic_write(file, "wb") as stream:
        stream.write(table.encode("utf-8", "backslashreplace"))


# -- pictures --------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # here, as most who import this draw nothing

    return Figure(figsize=(width, height), layout="constrained")


def draw_costs(ablation: Ablation, rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw accuracy over GMACs of the cost tower, as the paper's Figure 1; bars are standard deviations."""
    from matplotlib import colormaps

    figure = _figure(10, 6.5)
    axes, colours = figure.add_subplot(), colormaps["tab20"]  # of 20 colours, by index
    markers = "osD^vP*X<>"
    for index, row in enumerate(rows):
        spread = row["accuracy_std"] * 100 if row["seeds"] > 1 else None
        style = {"marker": markers[index % len(markers)], "color": colours(index % colours.N), "linestyle": "none"}
        axes.errorbar(row["gmacs"], row["accuracy"] * 100, spread, capsize=3, label=f"variant {index}", **style)
    axes.set_xscale("log")
    low, high = 0.93 * min(row["gmacs"] for row in rows), 1.07 * max(row["gmacs"] for row in rows)
    ticks = [tick for tick in (30, 35, 40, 45, 50, 60, 80, 100, 150, 300, 700) if low <= tick <= high]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"GMACs of the variant on {ablation.cost_tower}, {ablation.model.get('num_frames', 8)} frames")
    axes.set_ylabel("accuracy, % (mean of tasks)")
    axes.grid(alpha=0.3)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, frameon=False)
    for index, text in enumerate(legend.get_texts()):  # as a label, `_a` would be left out and `$a$` be a formula
        text.set(text=legible(rows[index]["variant"], f"variant {index}"), parse_math=False)
    figure.savefig(file, dpi=110)


def draw_tasks(ablation: Ablation, rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw for each task of MotionBench the variants' accuracy as bars, and its chance as a line."""
    columns = min(5, len(ablation.tasks))
    lines = -(-len(ablation.tasks) // columns)
    height = 0.8 + 0.2 * len(rows)
    figure = _figure(2.6 + 2.2 * columns, height * lines)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(ablation.tasks):
            axes.axis("off")
            continue
        task = ablation.tasks[place]
        values = [row[f"accuracy, {task}"] * 100 for row in rows]
        spread = [row[f"accuracy, {task}_std"] * 100 if row["seeds"] > 1 else 0.0 for row in rows]
        axes.barh(range(len(rows)), values, xerr=spread, color="tab:blue", error_kw={"elinewidth": 1})
        axes.axvline(100 / len(TASKS[task].classes), color="tab:red", linewidth=1)
        axes.set_title(f"{task} ({'*' * TASKS[task].grade})", fontsize=10)
        axes.set_xlim(0, 100)
        names = [legible(row["variant"], f"variant {index}") for index, row in enumerate(rows)]
        axes.set_yticks(range(len(rows)), names, fontsize=8, parse_math=False)
    grid[0, 0].invert_yaxis()  # shared: the first variant on top everywhere
    figure.suptitle("Accuracy, %; red: chance; stars: grade of the task", fontsize=10)
    figure.savefig(file, dpi=100)
