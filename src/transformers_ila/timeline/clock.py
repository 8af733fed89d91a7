"""Timestamps as a source gives them to seconds after its first frame, which never go back.

what the timestamps do                           what the time does
nothing unusual                                  follows them
stay away for a while                            follows them; noted as a gap, no frames are invented
run over at 33 bits, as those of MPEG do         goes on
go back                                          goes on from the last frame by the usual interval: a jump
go on more than an hour later (MPEG)             the same: another clock was spliced in
stand still, or are missing                      goes on by the usual interval
one is far ahead, and the next is not            goes on: that one was wrong
one is out of turn by an interval or two         stands still for that frame
"""

import statistics
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple


MPEG_TICKS = 2**33  # timestamps of MPEG transport and program streams have 33 bits of 1/90000 s
MPEG_SPLICE = 3600.0  # seconds ahead in one step, which only another clock is
GAP = 1.0  # seconds without a frame that are noted
GAP_INTERVALS = 4  # ... if they are so many usual intervals
DOUBTFUL = 10.0  # seconds ahead: believed when the next timestamp agrees
AHEAD_OF_ARRIVAL = 10.0  # seconds that a live source's timestamps may be ahead of the frames' arrival
OUT_OF_TURN = 2  # intervals back: a wrong order, not another clock
STANDSTILL = 5  # equal timestamps in a row, after which they say nothing
INTERVALS = 15  # the usual interval is the median of so many


class Stamped(NamedTuple):
    """Hold a frame, its timestamp in ticks (None: it has none) and `time.monotonic()` when it arrived."""

    frame: Any
    ticks: int | None
    arrived: float


class Timed(NamedTuple):
    """Hold a frame, its seconds after the first, when it arrived, and what is to be noted: kind and text, or None."""

    frame: Any
    seconds: float
    arrived: float
    note: tuple[str, str] | None


class SourceClock:
    """Turn timestamps into seconds after the first frame, as the table above says.

    Args:
        tick: seconds of one tick of the timestamps.
        nominal: seconds from frame to frame while no two timestamps have told it.
        wraps: whether timestamps run over at 33 bits.
        live: whether frames arrive as they are recorded, so that their arrival says whether a step ahead is true.
    """

    def __init__(self, tick: Fraction, *, nominal: float, wraps: bool = False, live: bool = False) -> None:
        self.tick, self.nominal, self.wraps, self.live = tick, nominal, wraps, live
        self.now: int | None = None  # ticks from the first frame to the last one
        self.offset: int | None = None  # the timestamp that stands for the first frame's time
        self.last: int | None = None  # the last frame's timestamp
        self.arrived = 0.0
        self.equal = 0  # timestamps in a row that are the one before
        self.steps: deque[int] = deque(maxlen=INTERVALS)

    @property
    def interval(self) -> float:
        """Return the usual seconds from frame to frame."""
        return float(statistics.median_low(self.steps) * self.tick) if self.steps else self.nominal

    @property
    def ticks(self) -> int:
        """Return the usual ticks from frame to frame, at least one."""
        return max(1, round(self.interval / self.tick))

    def times(self, frames: Iterable[Stamped]) -> Iterator[Timed]:
        """Yield the frames with their times; one whose timestamp is far ahead is held until the next one is there."""
        held: Stamped | None = None
        for stamped in frames:
            if held is not None:
                # The next one is not far ahead: this one was wrong.
                yield self._timed(held, wrong=not self._is_doubtful(stamped))
            held = stamped if self._is_doubtful(stamped) else None
            if held is None:
                yield self._timed(stamped)
        if held is not None:
            yield self._timed(held)

    def _is_doubtful(self, stamped: Stamped) -> bool:
        step = self._step(stamped.ticks)
        return step is not None and step * self.tick > DOUBTFUL

    def _step(self, ticks: int | None) -> int | None:
        """Return how far a timestamp is ahead of the last frame, in ticks; None where either is unknown."""
        if ticks is None or self.offset is None or self.now is None:
            return None
        step = ticks - self.offset - self.now
        return (step + MPEG_TICKS // 2) % MPEG_TICKS - MPEG_TICKS // 2 if self.wraps else step

    def _timed(self, stamped: Stamped, *, wrong: bool = False) -> Timed:
        """Take the next frame's timestamp, and set the time at which it is shown."""
        ticks = None if wrong else stamped.ticks
        note = self._advance(ticks, stamped.arrived - self.arrived)
        if wrong:
            note = ("jump", f"one timestamp is {self._shown(self._step(stamped.ticks))} ahead of its neighbours")
        self.arrived = stamped.arrived
        if not wrong:
            self.last = ticks
        return Timed(stamped.frame, float((self.now or 0) * self.tick), stamped.arrived, note)

    def _advance(self, ticks: int | None, waited: float) -> tuple[str, str] | None:
        """Move on to the next frame, which came `waited` seconds after the one before; return what is to be noted."""
        usual = self.ticks
        goes_on = f"time goes on by {self._shown(usual)} a frame"
        if self.now is None:
            self.now, self.offset = 0, ticks
            return ("untimed", f"frames have no timestamps; {goes_on}") if ticks is None else None
        step = self._step(ticks)
        self.equal = self.equal + 1 if ticks is not None and ticks == self.last else 0
        if step is None or self.equal >= STANDSTILL:
            self.now += usual
            if ticks is None:
                return None if self.last is None else ("untimed", f"timestamps are missing; {goes_on}")
            if step is None:  # the first timestamp there is
                self.offset = ticks - self.now
            return ("untimed", f"timestamps stand still; {goes_on}") if self.equal == STANDSTILL else None
        if -OUT_OF_TURN * usual <= step <= 0:
            return ("jump", "a timestamp repeats" if step == 0 else f"a timestamp is {self._shown(step)} out of turn")
        seconds = float(step * self.tick)
        spliced = self.wraps and seconds > MPEG_SPLICE
        if step < 0 or spliced or (self.live and seconds - waited > AHEAD_OF_ARRIVAL):
            self.now += usual
            self.offset = ticks - self.now  # type: ignore[operator]
            where = "back" if step < 0 else "ahead"
            return ("jump", f"timestamps jump {self._shown(step)} {where}; time goes on by {self._shown(usual)}")
        self.now += step
        self.steps.append(step)
        return ("gap", f"no frame for {seconds:.3f} s") if seconds > GAP and step > GAP_INTERVALS * usual else None

    def _shown(self, ticks: int | None) -> str:
        return f"{float(abs(ticks or 0) * self.tick):.3f} s"
