"""How far apart a stream's frames are: by its caps, and by its timestamps. All times are in ns.

This imports nothing but what Python has, as the element does while GStreamer scans for plugins.
"""

import statistics
from collections import deque

FIRST_GUESS = 100_000_000  # what is told while nothing is known: few cameras are slower
RECENT = 16  # frames whose distances are looked at
STALL = 4  # a distance of more than so many usual ones is a pause or a jump, and no rate
GROWTH, SHRINKAGE = 1.1, 2  # timestamps jitter, and each change moves what a sink shows


class FrameInterval:
    """The time from a frame to the next, and what a latency query is told of it.

    told: never 0. It is what the caps say: longer distances are frames dropped before these, for
    which no sink need wait. Where the caps say nothing, it follows what the timestamps say, up by
    more than GROWTH, and down by more than SHRINKAGE.
    """

    def __init__(self):
        self.nominal, self.told = 0, FIRST_GUESS
        self.restart()

    def restart(self):
        """Another stream begins, whose timestamps say nothing about those before."""
        self.pause()
        self._recent = deque(maxlen=RECENT)

    def pause(self):
        """The next frame's distance from the one before says nothing: a seek, or a GAP event."""
        self._before = None

    def set_nominal(self, nominal: int) -> bool:
        """What the caps say, 0: nothing. Returns whether what is to be told has changed."""
        if nominal == self.nominal:
            return False
        self.nominal, told = nominal, self.told
        self.told = nominal or FIRST_GUESS
        self.restart()
        return self.told != told

    def add(self, timestamp: int) -> bool:
        """A frame's timestamp. Returns whether what is to be told has changed."""
        before, self._before = self._before, timestamp
        if before is None or before == timestamp:
            return False
        self._recent.append(abs(timestamp - before))  # played backwards, they fall
        interval = self.expected
        if self.nominal or not interval:
            return False
        grows = interval > GROWTH * self.told
        shrinks = interval * SHRINKAGE < self.told and len(self._recent) == RECENT
        if grows or shrinks:
            self.told = interval
        return grows or shrinks

    @property
    def expected(self) -> int:
        """0 where neither the caps nor the timestamps say.

        Else what three quarters of the recent distances don't exceed, stalls left out: of an uneven
        rate the long ones, and no single one. And no less than what the caps say.
        """
        if len(self._recent) < 2:  # one alone may be a stall
            return self.nominal
        longest = STALL * statistics.median_low(self._recent)
        steady = sorted(distance for distance in self._recent if distance <= longest)
        return max(self.nominal, steady[3 * len(steady) // 4])
