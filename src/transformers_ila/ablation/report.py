"""What an ablation found: tables as Markdown and CSV, accuracy over cost, and bars for every task."""

import csv
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..cost import cost
from ..motionbench.tasks import TASKS
from .ablation import Ablation, config_for_cost, file_lock, mean_accuracy, own_gmacs, read_results, write_json


COSTS = "costs.json"


# -- numbers ---------------------------------------------------------------------------------------------------------


def measure_costs(
    ablation: Ablation, folder: str | Path, *, rounds: int = 5, progress: Callable[[str], object] = lambda text: None
) -> dict[str, dict[str, float]]:
    """Costs of each variant on the recipe's `cost_tower`; those measured before are read.

    Each variant's latency is measured in turns with plain frames. Nothing else should run meanwhile.
    """
    file = Path(folder) / COSTS
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with file_lock(folder, "costs"):
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
    """One per variant that has a finished run: means and standard deviations (n - 1) over its seeds, and costs."""
    results = read_results(ablation, folder)
    file = Path(folder) / COSTS
    costs = json.loads(file.read_text()) if file.is_file() else {}
    rows = []
    for variant in ablation.variants:
        own = [result for result in results if result["variant"] == variant]
        if own:
            known = costs.get(variant, {})
            of_variant = {name: value for name, value in known.items() if name != "of"}
            if known.get("of") != _cost_key(ablation, variant):  # of another tower or of other fields
                of_variant = {}
            rows.append({"variant": variant, "seeds": len(own), **_statistics(own), **of_variant})
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
    """Write tables and pictures of what is finished, one process at a time; returns the files.

    Raises:
        ValueError: nothing is finished, or a result of another ablation.
    """
    with file_lock(folder, "report"):
        return _write_report(ablation, Path(folder))


def _write_report(ablation: Ablation, folder: Path) -> list[Path]:
    rows = summary_rows(ablation, folder)
    if not rows:
        raise ValueError(f"{str(folder)!r} holds no finished run.")
    files = [folder / name for name in ("ablation.md", "ablation.csv", "ablation_runs.csv")]
    files[0].write_text(markdown(ablation, rows), encoding="utf-8")
    _write_csv(files[1], rows)
    _write_csv(files[2], [_run_row(result) for result in read_results(ablation, folder)])
    pictures = [folder / name for name in ("accuracy_per_task.png", "accuracy_over_gmacs.png")]
    draw_tasks(ablation, rows, pictures[0])
    if not all("gmacs" in row for row in rows):
        return [*files, pictures[0]]
    draw_costs(ablation, rows, pictures[1])
    return [*files, *pictures]


def markdown(ablation: Ablation, rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables: accuracy and cost of each variant, and accuracy of each task."""
    seeds = {row["seeds"] for row in rows}
    runs = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else str(seeds.pop())
    chance = statistics.mean(1 / len(TASKS[task].classes) for task in ablation.tasks)
    head = (
        f"MotionBench of size {ablation.bench}, {len(ablation.tasks)} tasks, each counting once "
        f"(chance {chance:.1%}); {runs} seeds, mean ± standard deviation.\n"
    )
    titles = ["variant", "accuracy", "shuffled", "reversed", "single frame", "transport distance", "information, nats"]
    costs = all("gmacs" in row for row in rows)
    if costs:
        tower = ablation.cost_tower
        device = ", ".join(sorted({row["device"] for row in rows}))
        titles += [f"GMACs, {tower}", "parameters, M", f"ms a clip, {device}", "x plain", "MiB for backward"]
        titles += ["GMACs as trained"] if all("own_gmacs" in row for row in rows) else []
    lines = [_line(titles), _line(["---"] * len(titles))]
    for row in rows:
        cells = [row["variant"], _share(row, "accuracy")]
        cells += [f"{row[f'accuracy_{order}']:.1%}" for order in ("shuffled", "reversed", "single_frame")]
        cells += [f"{row['transport_distance']:.3f}", f"{row['shared_information']:.3f}"]
        if costs:
            cells += [f"{row['gmacs']:.1f}", f"{row['parameters']:.1f}", f"{row['milliseconds']:.0f}"]
            cells += [f"{row['times_plain']:.2f}", f"{row['memory']:.0f}"]
        if "GMACs as trained" in titles:
            cells.append(f"{row['own_gmacs']:.4f}")
        lines.append(_line(cells))
    tasks = [_line(["variant", *ablation.tasks]), _line(["---"] * (1 + len(ablation.tasks)))]
    chances = [f"{1 / len(TASKS[task].classes):.0%}" for task in ablation.tasks]
    tasks += [_line([row["variant"], *(_share(row, f"accuracy, {t}") for t in ablation.tasks)]) for row in rows]
    return "\n".join([head, *lines, "", *tasks, _line(["chance", *chances]), ""])


def _share(row: Mapping[str, Any], name: str) -> str:
    if row["seeds"] == 1:
        return f"{row[name]:.1%}"
    return f"{row[name] * 100:.1f} ± {row[f'{name}_std'] * 100:.1f} %"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _run_row(result: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: result[name] for name in ("variant", "seed", "train_loss")}
    row |= {name: result[name] for name in ("transport_distance", "shared_information")}
    for order, of_tasks in result["accuracy"].items():
        row |= {f"{order}, {task}": value for task, value in of_tasks.items()}
    return row


def _write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)


# -- pictures --------------------------------------------------------------------------------------------------------


def _plots() -> Any:
    """matplotlib without a screen; it is only needed here."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("Pictures of an ablation need matplotlib: `pip install matplotlib`.") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_costs(ablation: Ablation, rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Accuracy over GMACs of the cost tower, as the paper's Figure 1; bars are standard deviations."""
    plots = _plots()
    figure, axes = plots.subplots(figsize=(10, 6.5), layout="constrained")
    colours = plots.get_cmap("tab20").colors
    markers = "osD^vP*X<>"
    for index, row in enumerate(rows):
        spread = row["accuracy_std"] * 100 if row["seeds"] > 1 else None
        style = {"marker": markers[index % len(markers)], "color": colours[index % len(colours)], "linestyle": "none"}
        axes.errorbar(row["gmacs"], row["accuracy"] * 100, spread, capsize=3, label=row["variant"], **style)
    axes.set_xscale("log")
    ticks = [tick for tick in (30, 35, 40, 45, 50, 60, 80, 100, 150, 300, 700) if _within(tick, rows)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"GMACs of the variant on {ablation.cost_tower}, {ablation.model.get('num_frames', 8)} frames")
    axes.set_ylabel("accuracy on MotionBench, % (mean of tasks)")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, frameon=False)
    figure.savefig(file, dpi=110)
    plots.close(figure)


def _within(tick: float, rows: Sequence[Mapping[str, Any]]) -> bool:
    costs = [row["gmacs"] for row in rows]
    return 0.93 * min(costs) <= tick <= 1.07 * max(costs)


def draw_tasks(ablation: Ablation, rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """For each task the variants' accuracy as bars, and its chance as a line."""
    plots = _plots()
    columns = min(5, len(ablation.tasks))
    lines = -(-len(ablation.tasks) // columns)
    height = 0.8 + 0.2 * len(rows)
    figure, grid = plots.subplots(
        lines, columns, figsize=(2.6 + 2.2 * columns, height * lines), sharey=True, squeeze=False, layout="constrained"
    )
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
        axes.set_yticks(range(len(rows)), [row["variant"] for row in rows], fontsize=8)
    grid[0, 0].invert_yaxis()  # shared: the first variant on top everywhere
    figure.suptitle("Accuracy, %; red: chance; stars: grade of the task", fontsize=10)
    figure.savefig(file, dpi=100)
    plots.close(figure)
