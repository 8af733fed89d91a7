"""Which room imports which: none a higher floor, no circles, and the shape of the house in figures (`pytest -s`)."""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import transformers_ila


PACKAGE = Path(transformers_ila.__file__).parent
NAME = PACKAGE.name
FLOORS = {  # room -> floor; a room imports only rooms of lower floors
    **dict.fromkeys(("version", "files", "distributed", "markup", "video_writing", "model"), 0),
    "stores": 1,
    **dict.fromkeys(("backbones", "data", "cost", "visualization"), 2),
    **dict.fromkeys(("evaluation", "motionbench", "pipelines"), 3),
    **dict.fromkeys(("training", "hub", "search", "timeline"), 4),
    **dict.fromkeys(("conversion", "ablation", "scale", "app"), 5),
    "cli": 6,
}
ENTRIES = {"__init__", "__main__"}  # of the package: above all rooms
NO_ROOM = "moved"  # every face takes its old names from there, and nothing else does
THIRD_PARTIES_OF_MODEL = {"torch", "torchvision", "transformers", "huggingface_hub", "av", "numpy", "PIL", "scipy"}
MOST_FILES = 25  # of one folder


def module_of(path: Path) -> str:
    """The dotted name below the package: `data.lists`, and `data.__init__` for a room's face."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What a file imports of this package: the dotted name below it, and the names taken from there."""
    parts = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == NAME:
                    yield alias.name.removeprefix(NAME).lstrip("."), ()
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = list(parts[: len(parts) - node.level])
            elif (node.module or "").split(".")[0] == NAME:
                base = []
            else:
                continue
            inside = (node.module or "").split(".") if node.level else (node.module or "").split(".")[1:]
            yield ".".join([*base, *(part for part in inside if part)]), tuple(alias.name for alias in node.names)


def targets(path: Path) -> Iterator[str]:
    """The modules that a file imports, `data.lists`; a face is `data.__init__`, the package's is `__init__`."""
    for module, names in imports_of(path):
        place = PACKAGE.joinpath(*module.split(".")) if module else PACKAGE
        if place.with_suffix(".py").is_file() and module:
            yield module
            continue
        assert place.is_dir(), f"{path} imports {module!r}, which is no file and no room."
        for name in names or ("__init__",):
            inside = f"{module}.{name}" if module else name
            is_module = (place / f"{name}.py").is_file() or (place / name).is_dir()
            yield inside if is_module else f"{module}.__init__".lstrip(".")


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
ARROWS = {module: sorted(set(targets(path))) for module, path in FILES.items()}


def room_of(module: str) -> str:
    return module.split(".")[0]


def arrows_between_rooms() -> set[tuple[str, str]]:
    pairs = {(room_of(module), room_of(other)) for module, others in ARROWS.items() for other in others}
    return {(room, other) for room, other in pairs if room not in {other, NO_ROOM, *ENTRIES} and other != NO_ROOM}


def circle_in(graph: dict[str, Iterable[str]]) -> list[str] | None:
    """A path that comes back to where it began, if there is one."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        found = next((circle for other in graph.get(node, ()) if (circle := visit(other, [*path, node]))), None)
        done.add(node)
        return found

    return next((circle for node in graph if (circle := visit(node, []))), None)


def test_every_room_has_a_floor():
    assert {room_of(module) for module in FILES} - {NO_ROOM, *ENTRIES} <= FLOORS.keys()


def test_no_room_imports_a_room_of_its_own_floor_or_a_higher_one():
    arrows = arrows_between_rooms()
    assert not {(room, other) for room, other in arrows if other in ENTRIES or FLOORS[other] >= FLOORS[room]}


def test_only_faces_hand_on_old_names():
    users = {module for module, others in ARROWS.items() if NO_ROOM in others}
    assert all(module.endswith("__init__") for module in users) and not ARROWS[NO_ROOM]


def test_no_circle():
    assert circle_in(ARROWS) is None
    rooms: dict[str, list[str]] = {}
    for room, other in sorted(arrows_between_rooms()):
        rooms.setdefault(room, []).append(other)
    assert circle_in(rooms) is None


def test_circles_are_found():
    assert circle_in({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert circle_in({"a": ["b", "c"], "b": ["c"]}) is None


def test_files_import_from_files_and_never_from_a_face():
    assert not {f"{one} -> {other}" for one, others in ARROWS.items() for other in others if "__init__" in other}


@pytest.mark.parametrize("module", [module for module in FILES if module.startswith("model.") and "__" not in module])
def test_what_ships_to_the_hub_imports_siblings_by_name_only(module):
    assert module.endswith("_ila")
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module and node.module.endswith("_ila"), ast.unparse(node)
            assert f"model.{node.module}" in FILES
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in modules:
                root = name.split(".")[0]
                known = root in THIRD_PARTIES_OF_MODEL or root in sys.stdlib_module_names
                assert known, f"{module} imports {name}"


@pytest.mark.parametrize("root", [PACKAGE, Path(__file__).parent], ids=["package", "tests"])
def test_no_folder_holds_too_many_files(root):
    folders = [folder for folder in (root, *root.rglob("*")) if folder.is_dir() and folder.name != "__pycache__"]
    counts = {str(folder): sum(path.is_file() for path in folder.iterdir()) for folder in folders}
    assert not {folder: count for folder, count in counts.items() if count > MOST_FILES}


def test_the_house_in_figures():
    """The longest way down through the rooms; all figures are printed with `pytest -s`."""
    arrows, levels = arrows_between_rooms(), dict.fromkeys(FLOORS, 1)
    for room in sorted(FLOORS, key=lambda room: FLOORS[room]):
        levels[room] += max((levels[other] for one, other in arrows if one == room), default=0)
    between_files = sum(map(len, ARROWS.values()))
    print(f"\n{len(FLOORS)} rooms on {max(levels.values())} levels, {len(arrows)} arrows between them")
    print(f"{len(FILES)} files, {between_files} arrows between them")
    assert max(levels.values()) <= 7
