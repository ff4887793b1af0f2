"""The VapourSynth plugin: `plugin.c` owns the namespace, the requests and their order; `session.py` the pixels."""
