/*
 * Around the filter: YUV and gray through the core's own resizer to RGB and back, and the mask.
 */

#include "plugin.h"

#include <stdlib.h>

static int64_t intProperty(const VSFrame *frame, const char *key, int64_t missing,
                           const VSAPI *vsapi) {
    int absent;
    int64_t value = vsapi->mapGetInt(vsapi->getFramePropertiesRO(frame), key, 0, &absent);
    return absent ? missing : value;
}

/* A filter of the core. Takes over `arguments`. NULL: it failed, with a message. */
static VSNode *invoke(const char *plugin, const char *function, VSMap *arguments, char *message,
                      VSCore *core, const VSAPI *vsapi) {
    VSMap *out = vsapi->invoke(vsapi->getPluginByID(plugin, core), function, arguments);
    vsapi->freeMap(arguments);
    if (vsapi->mapGetError(out))
        setMessage(message, "%s", vsapi->mapGetError(out));
    VSNode *node = vsapi->mapGetError(out) ? NULL : vsapi->mapGetNode(out, "clip", 0, NULL);
    vsapi->freeMap(out);
    return node;
}

/* Lanczos, for the chroma: a 4:2:0 picture that goes to RGB and back unchanged loses half of what
 * Bicubic loses. */
static VSNode *resize(VSMap *arguments, char *message, VSCore *core, const VSAPI *vsapi) {
    return invoke(VSH_RESIZE_PLUGIN_ID, "Lanczos", arguments, message, core, vsapi);
}

static VSMap *clipArgument(VSNode *clip, const VSAPI *vsapi) {
    VSMap *arguments = vsapi->createMap();
    vsapi->mapSetNode(arguments, "clip", clip, maReplace);
    return arguments;
}

/* `clip` with the properties of `source`: with just these, or with the one that is named beside its
   own. Takes over `clip`; where that is NULL, the message is set already. */
static VSNode *copyProperties(VSNode *clip, VSNode *source, const char *name, char *message,
                              VSCore *core, const VSAPI *vsapi) {
    if (!clip)
        return NULL;
    VSMap *arguments = vsapi->createMap();
    vsapi->mapConsumeNode(arguments, "clip", clip, maReplace);
    vsapi->mapSetNode(arguments, "prop_src", source, maReplace);
    if (name)
        vsapi->mapSetData(arguments, "props", name, -1, dtUtf8, maReplace);
    return invoke(VSH_STD_PLUGIN_ID, "CopyFrameProps", arguments, message, core, vsapi);
}

/* What a frame says of its samples, where that is a number; else it says nothing. False: an error
   is set, since the resizer would have one of its own, which doesn't tell whose frame it is. */
static bool checkProperties(int n, const VSFrame *frame, VSFrameContext *context,
                            const VSAPI *vsapi) {
    static const struct {
        const char *key, *expected;
        uint32_t known;
    } properties[] = {
        {"_Matrix", "0 to 2, 4 to 10, or 12 to 14", 0x77f7},
        {"_Range", "0 or 1", 0x3},
        {"_ColorRange", "0 or 1", 0x3},
        {"_ChromaLocation", "0 to 5", 0x3f},
        {"_FieldBased", "0 to 2", 0x7},
        {"_Field", "0 or 1", 0x3},
    };
    char message[MESSAGE];
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++) {
        int64_t value = intProperty(frame, properties[i].key, 0, vsapi);
        if (value < 0 || value > 31 || !(properties[i].known >> value & 1)) {
            setMessage(message,
                       "frame %d has %s %lld; expected %s: correct it with std.SetFrameProps first",
                       n, properties[i].key, (long long)value, properties[i].expected);
            vsapi->setFilterError(message, context);
            return false;
        }
    }
    /* The resizer takes the fields of an interlaced frame apart. */
    bool interlaced = intProperty(frame, "_FieldBased", 0, vsapi);
    const char *by = interlaced                                     ? "_FieldBased"
                     : intProperty(frame, "_Field", -1, vsapi) >= 0 ? "_Field"
                                                                    : NULL;
    int subsampling = vsapi->getVideoFrameFormat(frame)->subSamplingH,
        height = vsapi->getFrameHeight(frame, 0);
    if (by && (subsampling > 1 || (subsampling == 1 && interlaced && height % 4))) {
        setMessage(
            message,
            "frame %d of %d lines is interlaced, by its %s; expected chroma of half height at "
            "most, and "
            "a height that 4 divides: deinterlace it, or std.RemoveFrameProps %s where it is "
            "progressive",
            n, height, by, by);
        vsapi->setFilterError(message, context);
        return false;
    }
    return true;
}

/* Tagger: leaves frames with what the resizer needs for the way to RGB and back, and gives those
   without a usable _Matrix the usual guess. */
static const VSFrame *VS_CC taggerGetFrame(int n, int reason, void *instance, void **frameData,
                                           VSFrameContext *context, VSCore *core,
                                           const VSAPI *vsapi) {
    (void)frameData;
    VSNode *clip = instance;
    if (reason == arInitial)
        vsapi->requestFrameFilter(n, clip, context);
    if (reason != arAllFramesReady)
        return NULL;
    const VSFrame *src = vsapi->getFrameFilter(n, clip, context);
    if (!checkProperties(n, src, context, vsapi)) {
        vsapi->freeFrame(src);
        return NULL;
    }
    VSFrame *dst = vsapi->copyFrame(src, core);
    VSMap *properties = vsapi->getFramePropertiesRW(dst);
    int64_t matrix = intProperty(src, "_Matrix", VSC_MATRIX_UNSPECIFIED, vsapi);
    /* A gray clip made of an RGB clip's plane still says RGB. */
    if (matrix == VSC_MATRIX_UNSPECIFIED || matrix == VSC_MATRIX_RGB) {
        bool high = vsapi->getFrameHeight(src, 0) >= 720;
        matrix = high ? VSC_MATRIX_BT709 : VSC_MATRIX_ST170_M;
        vsapi->mapSetInt(properties, "_Matrix", matrix, maReplace);
    }
    /* These matrices need no transfer and no primaries, whatever a frame says of them. */
    if (matrix <= VSC_MATRIX_BT2020_NCL) {
        vsapi->mapDeleteKey(properties, "_Transfer");
        vsapi->mapDeleteKey(properties, "_Primaries");
    }
    vsapi->freeFrame(src);
    return dst;
}

static void VS_CC taggerFree(void *instance, VSCore *core, const VSAPI *vsapi) {
    (void)core;
    vsapi->freeNode(instance);
}

VSNode *createTagger(VSNode *clip, char *message, VSCore *core, const VSAPI *vsapi) {
    VSFilterDependency dependencies[] = {{clip, rpStrictSpatial}};
    VSNode *node = vsapi->createVideoFilter2("StylizeTagger", vsapi->getVideoInfo(clip),
                                             taggerGetFrame, taggerFree, fmParallel, dependencies,
                                             1, vsapi->addNodeRef(clip), core);
    if (!node) {
        setMessage(message, "could not create the filter");
        vsapi->freeNode(clip); /* the reference that the filter would own */
    }
    return node;
}

/* The way back. A resizer goes to one matrix, range and chroma location, but each frame may have
   its own: std.FrameEval picks the resizer for the frame, and there are as many as different frames
   have come by. */
typedef struct Return {
    int64_t matrix, range, chromaLocation; /* -1: not said */
    VSNode *node;                          /* owned */
    struct Return *next;
} Return;

typedef struct {
    const VSAPI *vsapi; /* returnerFree is given nothing else */
    VSNode *stylized;   /* owned */
    uint32_t format;    /* to go back to */
    bool subsampled;
    Return *returns;
} Returner;

/* FrameEval's function: (n, f: the source frame) -> val: the node to take frame n from. FrameEval,
   fmParallelRequests where it has a prop_src, calls it once at a time. */
static void VS_CC returnerCall(const VSMap *in, VSMap *out, void *userData, VSCore *core,
                               const VSAPI *vsapi) {
    Returner *returner = userData;
    const VSFrame *frame = vsapi->mapGetFrame(in, "f", 0, NULL);
    int64_t matrix = intProperty(frame, "_Matrix", -1, vsapi);
    int64_t colorRange =
        intProperty(frame, "_ColorRange", -1, vsapi); /* deprecated, the inverse of _Range */
    int64_t range = intProperty(frame, "_Range", colorRange < 0 ? -1 : !colorRange, vsapi);
    int64_t chromaLocation =
        returner->subsampled ? intProperty(frame, "_ChromaLocation", -1, vsapi) : -1;
    vsapi->freeFrame(frame);

    Return *found = returner->returns;
    while (found && (found->matrix != matrix || found->range != range ||
                     found->chromaLocation != chromaLocation))
        found = found->next;
    if (!found) {
        char message[MESSAGE] = "Stylize: out of memory";
        VSMap *arguments = clipArgument(returner->stylized, vsapi);
        vsapi->mapSetInt(arguments, "format", returner->format, maReplace);
        vsapi->mapSetInt(arguments, "matrix", matrix, maReplace);
        if (range >= 0)
            vsapi->mapSetInt(arguments, "range", range, maReplace);
        if (chromaLocation >= 0)
            vsapi->mapSetInt(arguments, "chromaloc", chromaLocation, maReplace);
        VSNode *node = resize(arguments, message, core, vsapi);
        found = node ? calloc(1, sizeof *found) : NULL;
        if (!found) {
            vsapi->freeNode(node);
            vsapi->mapSetError(out, message);
            return;
        }
        *found = (Return){matrix, range, chromaLocation, node, returner->returns};
        returner->returns = found;
    }
    vsapi->mapSetNode(out, "val", found->node, maReplace);
}

static void VS_CC returnerFree(void *userData) {
    Returner *returner = userData;
    const VSAPI *vsapi = returner->vsapi;
    while (returner->returns) {
        Return *first = returner->returns;
        returner->returns = first->next;
        vsapi->freeNode(first->node);
        free(first);
    }
    vsapi->freeNode(returner->stylized);
    free(returner);
}

VSNode *toRgb(VSNode *tagged, char *message, VSCore *core, const VSAPI *vsapi) {
    VSMap *arguments = clipArgument(tagged, vsapi);
    vsapi->mapSetInt(arguments, "format", pfRGBS, maReplace);
    return resize(arguments, message, core, vsapi);
}

VSNode *fromRgb(VSNode *stylized, VSNode *tagged, VSNode *clip, char *message, VSCore *core,
                const VSAPI *vsapi) {
    const VSVideoFormat *f = &vsapi->getVideoInfo(clip)->format;
    Returner *returner = calloc(1, sizeof *returner);
    if (!returner) {
        setMessage(message, "out of memory");
        return NULL;
    }
    returner->vsapi = vsapi;
    returner->stylized = vsapi->addNodeRef(stylized);
    returner->format = vsapi->queryVideoFormatID(f->colorFamily, f->sampleType, f->bitsPerSample,
                                                 f->subSamplingW, f->subSamplingH, core);
    returner->subsampled = f->subSamplingW || f->subSamplingH;
    VSFunction *function = vsapi->createFunction(returnerCall, returner, returnerFree, core);

    VSMap *arguments = clipArgument(clip, vsapi); /* for the format alone */
    vsapi->mapConsumeFunction(arguments, "eval", function, maReplace);
    vsapi->mapSetNode(arguments, "prop_src", tagged, maReplace);
    vsapi->mapSetNode(arguments, "clip_src", stylized, maReplace);
    VSNode *converted = invoke(VSH_STD_PLUGIN_ID, "FrameEval", arguments, message, core, vsapi);
    VSNode *restored = copyProperties(converted, clip, NULL, message, core, vsapi);
    return copyProperties(restored, stylized, "_SceneChangePrev", message, core, vsapi);
}

/* ---- The mask
 * ----------------------------------------------------------------------------------------------------
 */

/* The mask as a full-range gray clip of the given samples, whatever its frames say of their range.
 */
static VSNode *toMask(VSNode *mask, const VSVideoFormat *samples, char *message, VSCore *core,
                      const VSAPI *vsapi) {
    VSNode *plain = invoke(VSH_STD_PLUGIN_ID, "RemoveFrameProps", clipArgument(mask, vsapi),
                           message, core, vsapi);
    if (!plain)
        return NULL;
    VSMap *arguments = vsapi->createMap();
    vsapi->mapConsumeNode(arguments, "clip", plain, maReplace);
    vsapi->mapSetInt(
        arguments, "format",
        vsapi->queryVideoFormatID(cfGray, samples->sampleType, samples->bitsPerSample, 0, 0, core),
        maReplace);
    vsapi->mapSetInt(arguments, "range_in", 1,
                     maReplace); /* full; VSC_RANGE_FULL is 0 or 1, by version */
    vsapi->mapSetInt(arguments, "range", 1, maReplace);
    return invoke(VSH_RESIZE_PLUGIN_ID, "Point", arguments, message, core, vsapi);
}

VSNode *merge(VSNode *clip, VSNode *stylized, VSNode *mask, char *message, VSCore *core,
              const VSAPI *vsapi) {
    VSNode *weights = toMask(mask, &vsapi->getVideoInfo(clip)->format, message, core, vsapi);
    if (!weights)
        return NULL;
    VSMap *arguments = vsapi->createMap();
    vsapi->mapSetNode(arguments, "clipa", clip, maReplace);
    vsapi->mapSetNode(arguments, "clipb", stylized, maReplace);
    vsapi->mapConsumeNode(arguments, "mask", weights, maReplace);
    VSNode *merged = invoke(VSH_STD_PLUGIN_ID, "MaskedMerge", arguments, message, core, vsapi);
    return copyProperties(merged, stylized, NULL, message, core, vsapi);
}
