"""Measuring stability and sharpness: optical flow of real clips, traceable pixels, Eq. 8 of the paper, reports."""
