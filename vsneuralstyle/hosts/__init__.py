"""VapourSynth's and GStreamer's Python halves, and `neuralstyle render`."""
