/* Generated from vsneuralstyle/arguments.py by scripts/generate.py: change it there. */

#ifndef ARGUMENTS_H
#define ARGUMENTS_H

#include "plugin.h"

static const char SIGNATURE[] = "clip:vnode;"
                                "style:data:opt;"
                                "net:data:opt;"
                                "device:data:opt;"
                                "precision:data:opt;"
                                "strength:float:opt;"
                                "coherence:float:opt;"
                                "preserve_color:int:opt;"
                                "scene_cut:float:opt;"
                                "model_dir:data:opt;"
                                "device_index:int:opt;"
                                "fp16:int:opt;"
                                "mask:vnode:opt;"
                                "checkpoint_mb:int:opt;"
                                "preroll:int:opt;";

#define DEFAULT_STYLE "candy"
#define DEFAULT_CHECKPOINT_MB 512
#define DEFAULT_PREROLL 0

static const Argument ARGUMENTS[] = {
    {"clip", CLIP, true, 0, 0, ""},
    {"style", TEXT, false, 0, 0, ""},
    {"net", TEXT, false, 0, 0, ""},
    {"device", TEXT, false, 0, 0, ""},
    {"precision", TEXT, false, 0, 0, ""},
    {"strength", NUMBER, false, 0, 0, ""},
    {"coherence", NUMBER, false, 0, 0, ""},
    {"preserve_color", FLAG, false, 0, 1, "0 or 1"},
    {"scene_cut", NUMBER, false, 0, 0, ""},
    {"model_dir", TEXT, false, 0, 0, ""},
    {"device_index", INTEGER, false, 0, INT64_MAX, "0 or more"},
    {"fp16", FLAG, false, 0, 1, "0 or 1"},
    {"mask", CLIP, true, 0, 0, ""},
    {"checkpoint_mb", INTEGER, true, 0, 2147483647, "0 to 2147483647"},
    {"preroll", INTEGER, true, 0, 2147483647, "0 to 2147483647"},
};

enum { ARGUMENT_COUNT = sizeof ARGUMENTS / sizeof *ARGUMENTS };

#endif
