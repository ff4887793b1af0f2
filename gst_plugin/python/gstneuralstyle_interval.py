"""How far apart a stream's frames are: by its caps, and by its timestamps. Times are integers in ns.

This imports nothing but what Python has, as the element does while GStreamer scans for plugins.
"""

import statistics
from collections import deque

FIRST_GUESS = 100_000_000  # what a live sink waits for while nothing is known: few cameras are slower
RECENT = 16  # frames whose distances are looked at
STALL = 4  # a distance of more than so many usual ones is a pause or a jump, and no rate
TOLERANCE = 1.1  # timestamps jitter, and each change of the latency moves what a sink shows


class FrameInterval:
    """The time from a frame to the next, and what a latency query is told of it.

    told: in ns, never 0. It grows with what is expected. It shrinks once, when enough frames have been
    seen.
    """

    def __init__(self):
        self.nominal, self.told = 0, FIRST_GUESS
        self.restart()

    def restart(self):
        """Another stream begins, whose timestamps say nothing about those before."""
        self.pause()
        self._recent, self._settled = deque(maxlen=RECENT), False

    def pause(self):
        """The next frame's distance from the one before is none: a seek, or a gap that was told of."""
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
        settles, self._settled = not self._settled, len(self._recent) == RECENT
        interval = self.expected or self.told
        grows = interval > TOLERANCE * self.told
        if grows or (settles and self._settled and interval < self.told / TOLERANCE):
            self.told = interval
            return True
        return False

    @property
    def expected(self) -> int:
        """In ns; 0 where neither the caps nor the timestamps say.

        The longest of the recent distances that is no stall, since who waits for the next frame may have
        to wait for that; and no less than what the caps say.
        """
        if len(self._recent) < 2:  # one alone may be a stall
            return self.nominal
        longest = STALL * statistics.median_low(self._recent)
        return max(self.nominal, max(distance for distance in self._recent if distance <= longest))
