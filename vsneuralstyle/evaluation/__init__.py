"""Measuring stability and sharpness: optical flow of real clips, traceable pixels, Eq. 8 of the
paper, reports.
"""

INTERVALS = (1, 10)
"""Frames between the two of a pair whose stability is measured."""
