"""Matched patches and routes: which lines are drawn, from where to where, and whether all words can be read."""

import math

import pytest
import torch

from support.figures import assert_legible
from transformers_ila.visualization.matches import plot_matches, plot_routes


def lines_of(figure) -> list[list[tuple[float, float]]]:
    """The coloured lines of the canvas, below which lies a light one each."""
    return [[*map(tuple, line.get_xydata().tolist())] for line in figure.axes[0].lines if line.get_color() != "white"]


def example(frames=3, grid=(2, 4)):
    """Patch 0 goes right by a patch from frame to frame, patch 7 changes places with it; the others stay."""
    count = grid[0] * grid[1]
    routes = torch.arange(count).repeat(frames, 1)
    for frame in range(frames):
        step = frame % grid[1]
        routes[frame, 0], routes[frame, step] = step, 0
    return torch.rand(frames, 3, 8, 16), routes, grid


def centre(figure, image, patch, grid):
    left, right, bottom, top = figure.axes[0].images[image].get_extent()
    row, column = divmod(patch, grid[1])
    return left + (column + 0.5) / grid[1] * (right - left), top + (row + 0.5) / grid[0] * (bottom - top)


def test_lines_join_the_patches_that_moved():
    frames, routes, grid = example()
    figure = plot_matches(frames, routes, grid, times=[0, 0.5, 1], title="matches of $a$")
    drawn = lines_of(figure)
    wanted = []
    for pair in range(2):
        moved = [n for n in range(8) if routes[pair, n] != routes[pair + 1, n]]
        moved.sort(key=lambda n: -math.dist(divmod(int(routes[pair, n]), 4), divmod(int(routes[pair + 1, n]), 4)))
        for n in moved:
            ends = (2 * pair, routes[pair, n]), (2 * pair + 1, routes[pair + 1, n])
            wanted.append([centre(figure, image, int(patch), grid) for image, patch in ends])
    assert len(drawn) == len(wanted) == 5
    for line, points in zip(drawn, wanted):
        assert all(math.dist(one, other) < 1e-6 for one, other in zip(line, points))
    words = [text.get_text() for text in figure.texts]
    assert "0.00 s \N{RIGHTWARDS ARROW} 0.50 s\n2 moved, 2 drawn" in words and "matches of $a$" in words


def test_the_most_similar_first_and_the_others_are_counted():
    frames, routes, grid = example(2, (3, 4))
    routes[1] = routes[1].roll(1)
    similarities = torch.linspace(0, 1, 12)[None]
    figure = plot_matches(frames, routes, grid, similarities=similarities, most=2)
    moved = [n for n in range(12) if routes[0, n] != routes[1, n]]
    best = sorted(moved, key=lambda n: -float(similarities[0, n]))[:2]
    starts = [line[0] for line in lines_of(figure)]
    assert starts == [pytest.approx(centre(figure, 0, int(routes[0, n]), grid)) for n in best]
    assert any(f"{len(moved)} moved, 2 drawn" in text.get_text() for text in figure.texts)
    still = plot_matches(frames, torch.arange(12).repeat(2, 1), grid)
    assert not lines_of(still) and any("no patch moved" in text.get_text() for text in still.texts)


def test_chosen_routes_go_through_all_frames():
    frames, routes, grid = example(4)
    figure = plot_routes(frames, routes, grid, patches=[(2, 0, 2), (0, 1, 1)])
    lines = [line for line in lines_of(figure) if len(line) == 4]
    for route, drawn in ((0, lines[0]), (5, lines[2])):
        wanted = [centre(figure, frame, int(routes[frame, route]), grid) for frame in range(4)]
        assert all(math.dist(one, other) < 1e-6 for one, other in zip(drawn, wanted))
    words = [text.get_text() for text in figure.texts]
    assert "from row 0, column 0; moves 3.0 patches in all" in words
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines if len(line.get_xdata()) == 4}
    assert len({style for _, style in styles}) >= 2


def test_which_routes_are_chosen():
    frames, routes, grid = example(4)
    lengths = [sum(math.dist(divmod(a, 4), divmod(b, 4)) for a, b in zip(own, own[1:])) for own in routes.T.tolist()]
    words = " ".join(text.get_text() for text in plot_routes(frames, routes, grid, most=1).texts)
    assert f"from row 0, column {lengths.index(max(lengths))}; moves {max(lengths):.1f} patches" in words
    assert "Drawn: 1 of the 4 routes that move, those that move farthest in all. The other 4 stay in place." in words
    similarities = torch.zeros(3, 8)
    similarities[:, 2] = 1
    chosen = plot_routes(frames, routes, grid, similarities=similarities, by="similarity", most=1)
    assert "from row 0, column 2" in " ".join(text.get_text() for text in chosen.texts)
    still = plot_routes(frames, torch.arange(8).repeat(4, 1), grid)
    assert "The other 8 stay in place" in " ".join(text.get_text() for text in still.texts)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "grid", "size"), [(2, (10, 6), (80, 48)), (10, (7, 16), (14, 32))])
def test_words_can_be_read(count, grid, size):
    routes = torch.stack([torch.randperm(grid[0] * grid[1]) for _ in range(count)])
    options = {
        "title": "a long title with $dollars$ " * 9,
        "notes": ["a note " * 40],
        "times": 1000 + torch.arange(count),
    }
    frames = torch.rand(count, 3, *size)
    assert_legible(plot_matches(frames, routes, grid, **options))
    assert_legible(plot_routes(frames, routes, grid, most=12, **options))


def test_what_does_not_fit():
    frames, routes, grid = example()
    for call, message in (
        (lambda: plot_matches(frames, routes[:2], grid), r"`routes` must be \(3, 8\): frames by patches of a 2 x 4"),
        (lambda: plot_matches(frames[:1], routes[:1], grid), "2 frames or more, got 1"),
        (lambda: plot_matches(frames, routes, grid, most=0), "`most` is 0; allowed: 1 or more"),
        (lambda: plot_matches(frames, routes, grid, by="similarity"), "needs `similarities`"),
        (lambda: plot_matches(frames, routes, grid, by="far"), "`by` is 'far'"),
        (lambda: plot_matches(frames, routes, grid, times=[0.0]), "as many as frames, 3; got 1"),
        (lambda: plot_matches(frames, routes, grid, similarities=routes.float()), r"must be \(2, 8\), got \(3, 8\)"),
        (lambda: plot_matches(frames[0], routes, grid), r"`frames` must be .*got \(3, 8, 16\)"),
        (lambda: plot_matches((255 * frames).byte(), routes, grid), "floats from 0 to 1; got .*torch.uint8"),
        (lambda: plot_routes(frames, routes, grid, patches=[(0, 2, 0)]), "row 0 to 1, column 0 to 3"),
        (lambda: plot_routes(frames, routes, grid, patches=[]), "0 routes are asked for; allowed: 1 to 12"),
        (lambda: plot_routes(frames, routes, grid, most=13), "13 routes are asked for"),
        (lambda: plot_routes(frames, routes, grid, patches=[(0, 0, 0)], most=2), "`most`=2 .* no effect"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
