/*
 * The VapourSynth plugin: core.vsneuralstyle.Stylize and core.vsneuralstyle.Version.
 */

#include "arguments.h"
#include "plugin.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void setMessage(char *message, const char *format, ...) {
    int prefix = snprintf(message, MESSAGE, "Stylize: ");
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(message + prefix, MESSAGE - prefix, format, arguments);
    va_end(arguments);
    if (length >= MESSAGE - prefix) { /* cut off: between characters of UTF-8, not within one */
        char *end = message + MESSAGE - sizeof "...";
        while ((*end & 0xc0) == 0x80)
            end--;
        strcpy(end, "...");
    }
}

/* ---- Arguments: each check returns false with a message
 * ---------------------------------------------------------- */

/* A kind of clip that can be taken. `name` is the argument's; `expected` says what its format has
 * to be. */
static bool checkClip(const char *name, const VSVideoInfo *vi, bool grayAlone, char *message,
                      const VSAPI *vsapi) {
    const VSVideoFormat *f = &vi->format;
    if (!vsh_isConstantVideoFormat(vi)) {
        setMessage(message,
                   "the %s's format or size varies; expected constant ones: give it those with "
                   "core.resize "
                   "first",
                   name);
        return false;
    }
    bool known = f->sampleType == stFloat ? f->bitsPerSample == 16 || f->bitsPerSample == 32
                                          : f->bitsPerSample >= 8 && f->bitsPerSample <= 16;
    if (!known || f->subSamplingW > 2 || f->subSamplingH > 2 ||
        (grayAlone && f->colorFamily != cfGray)) {
        char format[32] = "?";
        vsapi->getVideoFormatName(f, format);
        setMessage(message,
                   "the %s's format is %s; expected %s with integer samples of 8 to 16 bits or "
                   "half or single precision"
                   "%s: convert with core.resize first",
                   name, format, grayAlone ? "gray" : "RGB, YUV or gray",
                   grayAlone ? "" : ", and chroma subsampled by 4 at most");
        return false;
    }
    return true;
}

static bool checkMask(const VSVideoInfo *mask, const VSVideoInfo *clip, char *message,
                      const VSAPI *vsapi) {
    if (!checkClip("mask", mask, true, message, vsapi))
        return false;
    if (mask->width != clip->width || mask->height != clip->height) {
        setMessage(message, "the mask is %dx%d; expected the clip's %dx%d", mask->width,
                   mask->height, clip->width, clip->height);
        return false;
    }
    if (mask->numFrames != clip->numFrames) {
        setMessage(message,
                   "the mask has %d frames; expected the clip's %d: std.Loop or std.Trim it to "
                   "that length",
                   mask->numFrames, clip->numFrames);
        return false;
    }
    return true;
}

/* Whole numbers and flags. session.py sees to the others: Python can say 0.1 as it was given. */
static bool checkRanges(const VSMap *in, char *message, const VSAPI *vsapi) {
    for (int i = 0; i < ARGUMENT_COUNT; i++) {
        const Argument *argument = &ARGUMENTS[i];
        if (argument->kind != INTEGER && argument->kind != FLAG)
            continue;
        int absent;
        int64_t value = vsapi->mapGetInt(in, argument->name, 0, &absent);
        if (!absent && (value < argument->least || value > argument->greatest)) {
            setMessage(message, "%s is %lld; expected %s", argument->name, (long long)value,
                       argument->expected);
            return false;
        }
    }
    return true;
}

/* An argument that checkRanges has seen; `missing` where it isn't given. */
static int getInteger(const VSMap *in, const char *name, int missing, const VSAPI *vsapi) {
    int absent;
    int64_t value = vsapi->mapGetInt(in, name, 0, &absent);
    return absent ? missing : (int)value;
}

/* ---- What users call
 * --------------------------------------------------------------------------------------------- */

static void VS_CC stylizeCreate(const VSMap *in, VSMap *out, void *userData, VSCore *core,
                                const VSAPI *vsapi) {
    (void)userData;
    char message[MESSAGE] = "Stylize: could not create the filter";
    VSNode *clip = vsapi->mapGetNode(in, "clip", 0, NULL);
    int noMask, absent;
    VSNode *mask = vsapi->mapGetNode(in, "mask", 0, &noMask);
    VSNode *tagged = NULL, *source = NULL, *stylized = NULL, *result = NULL;
    PyObject *session = NULL;
    VSVideoInfo vi = *vsapi->getVideoInfo(clip);
    bool isRgb = vi.format.colorFamily == cfRGB;
    FilterOptions options;

    if (!checkClip("clip", &vi, false, message, vsapi) ||
        (mask && !checkMask(vsapi->getVideoInfo(mask), &vi, message, vsapi)) ||
        !checkRanges(in, message, vsapi))
        goto done;
    options.detects = vsapi->mapGetFloat(in, "scene_cut", 0, &absent) > 0 || absent;
    options.preroll = getInteger(in, "preroll", DEFAULT_PREROLL, vsapi);
    int checkpointMb = getInteger(in, "checkpoint_mb", DEFAULT_CHECKPOINT_MB, vsapi);
    options.checkpoint = (int64_t)checkpointMb << 20;

    if (!isRgb) {
        tagged = createTagger(clip, message, core, vsapi);
        source = tagged ? toRgb(tagged, message, core, vsapi) : NULL;
    } else {
        source = vsapi->addNodeRef(clip);
    }
    if (!source)
        goto done;
    session = openSession(in, vsapi->getVideoInfo(source), message, vsapi);
    if (!session)
        goto done;
    stylized = createFilter(source, session, options, core, vsapi);
    source = NULL; /* createFilter has taken it over, and the session */
    if (!stylized)
        goto done;
    result =
        isRgb ? vsapi->addNodeRef(stylized) : fromRgb(stylized, tagged, clip, message, core, vsapi);
    if (result && mask) {
        VSNode *whole = result;
        result = merge(clip, whole, mask, message, core, vsapi);
        vsapi->freeNode(whole);
    }
done:
    if (result)
        vsapi->mapConsumeNode(out, "clip", result, maReplace);
    else
        vsapi->mapSetError(out, message);
    vsapi->freeNode(stylized);
    vsapi->freeNode(source);
    vsapi->freeNode(tagged);
    vsapi->freeNode(mask);
    vsapi->freeNode(clip);
}

static void VS_CC version(const VSMap *in, VSMap *out, void *userData, VSCore *core,
                          const VSAPI *vsapi) {
    (void)in;
    (void)userData;
    (void)core;
    char message[MESSAGE], api[32];
    snprintf(api, sizeof api, "%d.%d", vsapi->getAPIVersion() >> 16,
             vsapi->getAPIVersion() & 0xffff);
    vsapi->mapSetData(out, "vapoursynth_api", api, -1, dtUtf8, maReplace);
    if (!putVersions(out, message, vsapi))
        vsapi->mapSetError(out, message);
}

VS_EXTERNAL_API(void) VapourSynthPluginInit2(VSPlugin *plugin, const VSPLUGINAPI *vspapi) {
    vspapi->configPlugin("io.github.vsneuralstyle", "vsneuralstyle",
                         "Coherent neural style transfer", PLUGIN_VERSION, VAPOURSYNTH_API_VERSION,
                         0, plugin);
    vspapi->registerFunction("Stylize", SIGNATURE, "clip:vnode;", stylizeCreate, NULL, plugin);
    vspapi->registerFunction("Version", "",
                             "package:data;"
                             "torch:data;"
                             "vapoursynth_api:data;"
                             "device:data;"
                             "precision:data;"
                             "styles:data;",
                             version, NULL, plugin);
}
