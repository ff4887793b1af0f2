"""The arguments that the element has as properties, and when each may change.

Generated from vsneuralstyle/arguments.py by scripts/generate.py: change it there.
"""

# name: (type, nick, blurb, [minimum, maximum,] default, when it may change)
PROPERTIES = {
    "style": (
        str,
        "Style",
        "Name of the style, or with net stylebank a mix such as candy:0.6+muse:0.4; an unknown "
        "one is an error that lists those that exist; a new one begins afresh, with the next "
        "frame",
        "candy",
        "PLAYING",
    ),
    "net": (
        str,
        "Net",
        "Family of style networks: johnson (a network a style) or stylebank (one for all, whose "
        "styles mix)",
        "johnson",
        "READY",
    ),
    "device": (
        str,
        "Device",
        "Where the networks run: auto, cpu, cuda or cuda:N; one that is not there is an error",
        "auto",
        "READY",
    ),
    "precision": (
        str,
        "Precision",
        "What the networks compute in: auto (float16 on a GPU, bfloat16 on a CPU that is faster "
        "in it, else float32), float32, bfloat16 or float16",
        "auto",
        "READY",
    ),
    "strength": (
        float,
        "Strength",
        "How much style: 0 is the source, 1 the stylized frame",
        0.0,
        1.0,
        1.0,
        "CONTROLLABLE",
    ),
    "coherence": (
        float,
        "Coherence",
        "How much of the frames before: 0 stylizes each frame by itself, which is faster and "
        "flickers",
        0.0,
        1.0,
        1.0,
        "CONTROLLABLE",
    ),
    "preserve-color": (
        bool,
        "Preserve color",
        "Keep the source's chroma, and take luma alone from the style",
        False,
        "CONTROLLABLE",
    ),
    "scene-cut": (
        float,
        "Scene cut",
        "Threshold of the detector of scene cuts, after which the style starts afresh; 0 switches "
        "it off",
        0.0,
        1.0,
        0.15,
        "CONTROLLABLE",
    ),
    "model-dir": (
        str,
        "Model dir",
        "Folder to look for models in first, before NEURALSTYLE_MODEL_PATH and the installed ones",
        None,
        "READY",
    ),
    "lookahead": (
        int,
        "Lookahead",
        "Frames held back while those after them are begun, so that a CPU works at two at a time, "
        "and a GPU while the host does, which is faster (3 are enough); each adds a frame to the "
        "latency",
        0,
        64,
        0,
        "READY",
    ),
}

# A further name of a property: the property
ALIASES = {"model-path": "model-dir"}
