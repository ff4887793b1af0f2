"""The demonstration: a clip through both hosts, with its stability measured against the per-frame
baseline.
"""
