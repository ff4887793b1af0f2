"""The VapourSynth plugin: the C files own the namespace, the requests and their order; `session.py`
the pixels.
"""
