/*
 * The VapourSynth plugin: core.vsneuralstyle.Stylize.
 *
 * A stylized frame depends on every frame since its scene's start, yet VapourSynth asks for frames in any order and
 * from many threads. This file owns that order: whatever is asked, and however often, the frames of a scene go through
 * the Python session (session.py) from the scene's start on, one after the other. A different order of requests
 * changes how long a frame takes, never its pixels.
 *
 * Parts, in this order: planes as Python buffers, calls into Python, the filter, the way from and to YUV and gray, the
 * function that users call.
 *
 * Locks: the filter is fmUnordered, so VapourSynth runs its getFrame once at a time; all that getFrame changes is
 * guarded by that. Python objects are touched with the GIL only, which is taken last and for as short as can be.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "VSConstants4.h"
#include "VSHelper4.h"
#include "VapourSynth4.h"

enum { CHUNK = 8, MESSAGE = 4096 };

static void setMessage(char *message, const char *format, ...) {
    int prefix = snprintf(message, MESSAGE, "Stylize: ");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + prefix, MESSAGE - prefix, format, arguments);
    va_end(arguments);
}

/* ---- Planes as Python buffers ------------------------------------------------------------------------------------ */

/* A plane of a frame, as a 2-D buffer with strides. It owns a reference to the frame: an array that Python keeps, in a
   traceback say, keeps the pixels alive instead of dangling. */
typedef struct {
    PyObject_HEAD
    const VSAPI *vsapi;
    const VSFrame *frame;
    void *pixels;
    const char *format;
    bool readonly;
    int exports;
    Py_ssize_t shape[2], strides[2];
} Plane;

static int planeGetBuffer(PyObject *self, Py_buffer *buffer, int flags) {
    Plane *plane = (Plane *)self;
    buffer->obj = NULL;
    if ((flags & PyBUF_WRITABLE) && plane->readonly) {
        PyErr_SetString(PyExc_BufferError, "a source plane is read-only");
        return -1;
    }
    if ((flags & PyBUF_STRIDES) != PyBUF_STRIDES) {
        PyErr_SetString(PyExc_BufferError, "a plane has padded rows: its consumer must take strides");
        return -1;
    }
    buffer->buf = plane->pixels;
    buffer->obj = Py_NewRef(self);
    buffer->itemsize = plane->strides[1];
    buffer->len = plane->shape[0] * plane->shape[1] * buffer->itemsize;
    buffer->readonly = plane->readonly;
    buffer->ndim = 2;
    buffer->format = (flags & PyBUF_FORMAT) ? (char *)plane->format : NULL;
    buffer->shape = plane->shape;
    buffer->strides = plane->strides;
    buffer->suboffsets = NULL;
    buffer->internal = NULL;
    plane->exports++;
    return 0;
}

static void planeReleaseBuffer(PyObject *self, Py_buffer *buffer) {
    (void)buffer;
    ((Plane *)self)->exports--;
}

static void planeDealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    ((Plane *)self)->vsapi->freeFrame(((Plane *)self)->frame);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyTypeObject *planeType(void) {
    static PyObject *type; /* made once, under the GIL; lives as long as the process */
    static PyType_Slot slots[] = {
        {Py_bf_getbuffer, planeGetBuffer},
        {Py_bf_releasebuffer, planeReleaseBuffer},
        {Py_tp_dealloc, planeDealloc},
        {0, NULL},
    };
    static PyType_Spec spec = {
        .name = "vsneuralstyle.Plane",
        .basicsize = sizeof(Plane),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
        .slots = slots,
    };
    if (!type)
        type = PyType_FromSpec(&spec);
    return (PyTypeObject *)type;
}

/* The three planes of an RGB frame as a list of Plane; NULL with an exception set. `pixels` are the frame's plane
   pointers, got before: asking for a write pointer may copy the plane, which needs no GIL. */
static PyObject *planeList(const VSFrame *frame, void *const pixels[3], bool readonly, const VSAPI *vsapi) {
    const VSVideoFormat *format = vsapi->getVideoFrameFormat(frame);
    PyTypeObject *type = planeType();
    PyObject *list = type ? PyList_New(0) : NULL;
    for (int p = 0; list && p < format->numPlanes; p++) {
        Plane *plane = PyObject_New(Plane, type);
        if (!plane) {
            Py_CLEAR(list);
            break;
        }
        plane->vsapi = vsapi;
        plane->frame = vsapi->addFrameRef(frame);
        plane->pixels = pixels[p];
        plane->format = format->sampleType == stFloat ? (format->bytesPerSample == 2 ? "e" : "f")
                                                      : (format->bytesPerSample == 1 ? "B" : "H");
        plane->readonly = readonly;
        plane->exports = 0;
        plane->shape[0] = vsapi->getFrameHeight(frame, p);
        plane->shape[1] = vsapi->getFrameWidth(frame, p);
        plane->strides[0] = vsapi->getStride(frame, p);
        plane->strides[1] = format->bytesPerSample;
        if (PyList_Append(list, (PyObject *)plane))
            Py_CLEAR(list);
        Py_DECREF((PyObject *)plane);
    }
    return list;
}

static bool anyExported(PyObject *list) {
    for (Py_ssize_t i = 0; i < PyList_Size(list); i++)
        if (((Plane *)PyList_GetItem(list, i))->exports)
            return true;
    return false;
}

/* ---- Calls into Python ------------------------------------------------------------------------------------------- */

/* Takes the raised exception as a message for the user, with the GIL held. The core's own errors say all that a user
   needs; any other one is a defect, here or below, so its type is named and its traceback goes to stderr. */
static void takeException(char *message) {
    PyObject *error = PyErr_GetRaisedException();
    PyObject *errors = PyImport_ImportModule("vsneuralstyle.errors");
    PyObject *expected = errors ? PyObject_GetAttrString(errors, "NeuralStyleError") : NULL;
    bool isExpected = expected && PyObject_IsInstance(error, expected) == 1;
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(error), "__name__");
    PyObject *text = PyObject_Str(error);
    const char *nameUtf8 = name ? PyUnicode_AsUTF8AndSize(name, NULL) : NULL;
    const char *textUtf8 = text ? PyUnicode_AsUTF8AndSize(text, NULL) : NULL;
    if (!textUtf8)
        textUtf8 = "an error that can't be shown";
    PyErr_Clear();
    if (isExpected) {
        setMessage(message, "%s", textUtf8);
    } else {
        setMessage(message, "%s: %s", nameUtf8 ? nameUtf8 : "unknown error", textUtf8);
        PyErr_DisplayException(error);
    }
    Py_XDECREF(text);
    Py_XDECREF(name);
    Py_XDECREF(expected);
    Py_XDECREF(errors);
    Py_XDECREF(error);
}

/* The arguments that were given, as keywords for Stylizer, which has the defaults; NULL: an exception is set. */
static PyObject *keywordArguments(const VSMap *in, const VSAPI *vsapi) {
    static const char *const texts[] = {"style", "net", "device", "precision", "model_dir"};
    static const char *const numbers[] = {"strength", "coherence", "scene_cut"};
    PyObject *keywords = Py_BuildValue("{ss}", "style", "candy");
    int absent;
    for (size_t i = 0; keywords && i < sizeof texts / sizeof *texts; i++) {
        const char *text = vsapi->mapGetData(in, texts[i], 0, &absent);
        if (absent)
            continue;
        PyObject *value = PyUnicode_FromStringAndSize(text, vsapi->mapGetDataSize(in, texts[i], 0, NULL));
        if (!value || PyDict_SetItemString(keywords, texts[i], value))
            Py_CLEAR(keywords);
        Py_XDECREF(value);
    }
    for (size_t i = 0; keywords && i < sizeof numbers / sizeof *numbers; i++) {
        double number = vsapi->mapGetFloat(in, numbers[i], 0, &absent);
        if (absent)
            continue;
        PyObject *value = PyFloat_FromDouble(number);
        if (!value || PyDict_SetItemString(keywords, numbers[i], value))
            Py_CLEAR(keywords);
        Py_XDECREF(value);
    }
    bool preserveColor = vsapi->mapGetInt(in, "preserve_color", 0, &absent) != 0;
    if (keywords && !absent && PyDict_SetItemString(keywords, "preserve_color", preserveColor ? Py_True : Py_False))
        Py_CLEAR(keywords);
    return keywords;
}

/* A new session for frames of this size and RGB format; NULL with a message. Called without the GIL. */
static PyObject *openSession(const VSMap *in, const VSVideoInfo *vi, char *message, const VSAPI *vsapi) {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *session = NULL;
    PyObject *module = PyImport_ImportModule("vsneuralstyle.vs_plugin.session");
    PyObject *class = module ? PyObject_GetAttrString(module, "Session") : NULL;
    PyObject *keywords = class ? keywordArguments(in, vsapi) : NULL;
    PyObject *arguments = NULL;
    if (keywords)
        arguments = vi->format.sampleType == stInteger
                        ? Py_BuildValue("(iii)", vi->width, vi->height, vi->format.bitsPerSample)
                        : Py_BuildValue("(iiO)", vi->width, vi->height, Py_None);
    if (arguments)
        session = PyObject_Call(class, arguments, keywords);
    if (!session)
        takeException(message);
    Py_XDECREF(arguments);
    Py_XDECREF(keywords);
    Py_XDECREF(class);
    Py_XDECREF(module);
    PyGILState_Release(gil);
    return session;
}

/* Called without the GIL. After the interpreter's end the session is gone already. */
static void closeSession(PyObject *session) {
    if (!Py_IsInitialized())
        return;
    PyGILState_STATE gil = PyGILState_Ensure();
    Py_DECREF(session);
    PyGILState_Release(gil);
}

typedef enum { SCENE_GOES_ON, SCENE_STARTS, SCENE_UNKNOWN } Scene;

/* session.process: fills dst from src. Returns whether src starts a scene, or SCENE_UNKNOWN with a message: it failed.
   Called without the GIL. */
static Scene process(PyObject *session, Scene scene, const VSFrame *src, VSFrame *dst, char *message,
                     const VSAPI *vsapi) {
    void *from[3], *to[3];
    for (int p = 0; p < 3; p++) {
        from[p] = (void *)vsapi->getReadPtr(src, p);
        to[p] = vsapi->getWritePtr(dst, p);
    }
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *starts = scene == SCENE_UNKNOWN ? Py_None : scene == SCENE_STARTS ? Py_True : Py_False;
    PyObject *source = planeList(src, from, true, vsapi);
    PyObject *target = source ? planeList(dst, to, false, vsapi) : NULL;
    PyObject *answer = target ? PyObject_CallMethod(session, "process", "OOO", starts, source, target) : NULL;
    int started = answer ? PyObject_IsTrue(answer) : -1;
    Scene result = started < 0 ? SCENE_UNKNOWN : started ? SCENE_STARTS : SCENE_GOES_ON;
    if (started < 0) {
        takeException(message);
    } else if (anyExported(source) || anyExported(target)) {
        /* Who still holds dst could write into a frame that VapourSynth has handed on. */
        setMessage(message, "the session kept a reference to a frame's memory");
        result = SCENE_UNKNOWN;
    }
    Py_XDECREF(answer);
    Py_XDECREF(target);
    Py_XDECREF(source);
    PyGILState_Release(gil);
    return result;
}

/* ---- The filter: RGB in, RGB out, in order ----------------------------------------------------------------------- */

/* A request that is under way. */
typedef struct Waiter {
    int n;
    const VSFrame *ready; /* frame n, once another request's walk has passed it; owned */
    struct Waiter *next;
} Waiter;

typedef struct {
    VSNode *source;       /* owned */
    VSVideoInfo vi;
    PyObject *session;    /* owned; touched with the GIL only */
    bool detects;         /* the built-in scene detector is on */
    int next;             /* the frame that the session's state stands before; -1: it stands nowhere */
    char *starts;         /* for each frame: known to start a scene, so the session can begin there */
    Waiter *waiters;
    struct { const VSFrame *frame; int n; } *recent; /* the last outputs, at n % recentSize; frames owned. VapourSynth's
                                                        cache can't be read back by the filter that fills it. */
    int recentSize;
} Filter;

/* Where the walk that delivers frame n starts: at the live state where it stands at or before n, else at the last known
   start of a scene. All of them give the same pixels, so the choice is one of speed alone. */
static int walkStart(const Filter *filter, int n, const Waiter *self) {
    bool live = filter->next >= 0 && filter->next <= n;
    int first = live ? filter->next : 0;
    int start = n;
    while (start > first && !filter->starts[start])
        start--;
    /* Skipping ahead to a scene would leave those who wait in between to walk the skipped part later, from its start.
       (So a source that fails in between fails this request as well; asked again, it gets its frame.) */
    for (const Waiter *w = live && start > first ? filter->waiters : NULL; w; w = w->next)
        if (w != self && !w->ready && w->n >= first && w->n < start)
            return first;
    return start;
}

static const VSFrame *recall(const Filter *filter, int n, const VSAPI *vsapi) {
    int slot = n % filter->recentSize;
    const VSFrame *frame = filter->recent[slot].frame;
    return frame && filter->recent[slot].n == n ? vsapi->addFrameRef(frame) : NULL;
}

/* Keeps an output, and gives it to every other request that waits for it: the same frame can be asked for twice. */
static void remember(Filter *filter, int n, const VSFrame *frame, const Waiter *self, const VSAPI *vsapi) {
    int slot = n % filter->recentSize;
    vsapi->freeFrame(filter->recent[slot].frame);
    filter->recent[slot].frame = vsapi->addFrameRef(frame);
    filter->recent[slot].n = n;
    for (Waiter *w = filter->waiters; w; w = w->next)
        if (w != self && w->n == n && !w->ready)
            w->ready = vsapi->addFrameRef(frame);
}

static void leave(Filter *filter, Waiter *self, const VSAPI *vsapi) {
    Waiter **link = &filter->waiters;
    while (*link != self)
        link = &(*link)->next;
    *link = self->next;
    vsapi->freeFrame(self->ready);
    free(self);
}

static Scene tagOf(const VSFrame *frame, const VSAPI *vsapi) {
    int absent;
    int64_t tag = vsapi->mapGetInt(vsapi->getFramePropertiesRO(frame), "_SceneChangePrev", 0, &absent);
    return absent ? SCENE_UNKNOWN : tag ? SCENE_STARTS : SCENE_GOES_ON;
}

/* Frame k, stylized, when the state stands before k or k starts a scene. NULL: a message is set. */
static VSFrame *step(Filter *filter, int k, const VSFrame *src, char *message, VSCore *core, const VSAPI *vsapi) {
    Scene tag = tagOf(src, vsapi);
    Scene scene = filter->starts[k] ? SCENE_STARTS : tag;
    VSFrame *dst = vsapi->newVideoFrame(&filter->vi.format, filter->vi.width, filter->vi.height, src, core);
    scene = process(filter->session, scene, src, dst, message, vsapi);
    if (scene == SCENE_UNKNOWN) { /* the state may be half changed: the next walk starts from a scene's start */
        filter->next = -1;
        vsapi->freeFrame(dst);
        return NULL;
    }
    filter->next = k + 1;
    if (scene == SCENE_STARTS)
        filter->starts[k] = 1;
    if (tag == SCENE_UNKNOWN && filter->detects)
        vsapi->mapSetInt(vsapi->getFramePropertiesRW(dst), "_SceneChangePrev", scene == SCENE_STARTS, maReplace);
    return dst;
}

static const VSFrame *VS_CC stylizeGetFrame(int n, int reason, void *instance, void **frameData,
                                            VSFrameContext *context, VSCore *core, const VSAPI *vsapi) {
    Filter *filter = instance;
    Waiter *self = *frameData;
    const VSFrame *result = NULL;
    char message[MESSAGE];

    if (reason == arInitial) {
        if ((result = recall(filter, n, vsapi)))
            return result;
        if (!(*frameData = self = calloc(1, sizeof *self))) {
            vsapi->setFilterError("Stylize: out of memory", context);
            return NULL;
        }
        self->n = n;
        self->next = filter->waiters;
        filter->waiters = self;
        vsapi->requestFrameFilter(n, filter->source, context); /* so that sources work ahead, in parallel */
        return NULL;
    }
    if (reason == arAllFramesReady) {
        const VSFrame *own = vsapi->getFrameFilter(n, filter->source, context);
        if (tagOf(own, vsapi) == SCENE_STARTS)
            filter->starts[n] = 1;
        vsapi->freeFrame(own);
        result = self->ready ? vsapi->addFrameRef(self->ready) : recall(filter, n, vsapi);
        /* Asking for a frame again to wait for another request's walk would starve that walk: VapourSynth serves the
           oldest request first. So this request walks itself, and serves all it passes. */
        for (int k = result ? n + 1 : walkStart(filter, n, self); k <= n; k++) {
            const VSFrame *src = vsapi->getFrameFilter(k, filter->source, context);
            if (!src) { /* in chunks, so that a long walk holds few sources at a time */
                for (int i = k; i <= n && i < k + CHUNK; i++)
                    vsapi->requestFrameFilter(i, filter->source, context);
                return NULL; /* called again, as the same waiter, when they are here */
            }
            VSFrame *dst = step(filter, k, src, message, core, vsapi);
            vsapi->freeFrame(src);
            vsapi->releaseFrameEarly(filter->source, k, context);
            if (!dst) {
                vsapi->setFilterError(message, context);
                break;
            }
            remember(filter, k, dst, self, vsapi);
            if (k == n) {
                result = dst;
            } else {
                vsapi->cacheFrame(dst, k, context);
                vsapi->freeFrame(dst);
            }
        }
    }
    /* Done, or a source failed (arError; VapourSynth passes its message on, and the state is untouched). */
    leave(filter, self, vsapi);
    *frameData = NULL;
    return result;
}

static void VS_CC stylizeFree(void *instance, VSCore *core, const VSAPI *vsapi) {
    (void)core;
    Filter *filter = instance;
    closeSession(filter->session);
    for (int i = 0; i < filter->recentSize; i++)
        vsapi->freeFrame(filter->recent[i].frame);
    vsapi->freeNode(filter->source);
    free(filter->recent);
    free(filter->starts);
    free(filter);
}

/* Takes over `source` and `session`, whether or not it succeeds. NULL: it failed. */
static VSNode *createFilter(VSNode *source, PyObject *session, bool detects, VSCore *core, const VSAPI *vsapi) {
    Filter *filter = calloc(1, sizeof *filter);
    if (!filter) {
        closeSession(session);
        vsapi->freeNode(source);
        return NULL;
    }
    filter->source = source;
    filter->vi = *vsapi->getVideoInfo(source);
    filter->session = session;
    filter->detects = detects;
    filter->next = 0; /* a new session stands before frame 0 */
    filter->starts = calloc(filter->vi.numFrames, 1);
    VSNode *node = NULL;
    if (filter->starts) {
        filter->starts[0] = 1;
        VSFilterDependency dependencies[] = {{source, rpGeneral}};
        node = vsapi->createVideoFilter2("Stylize", &filter->vi, stylizeGetFrame, stylizeFree, fmUnordered,
                                         dependencies, 1, filter, core);
    }
    if (!node) {
        stylizeFree(filter, core, vsapi);
        return NULL;
    }
    int recentSize = vsapi->setLinearFilter(node);
    recentSize = recentSize < CHUNK ? CHUNK : recentSize;
    if (!(filter->recent = calloc(recentSize, sizeof *filter->recent))) {
        vsapi->freeNode(node); /* frees the filter */
        return NULL;
    }
    filter->recentSize = recentSize;
    return node;
}

/* ---- YUV and gray: through the core's resizer, there and back ---------------------------------------------------- */

static int64_t intProperty(const VSFrame *frame, const char *key, int64_t missing, const VSAPI *vsapi) {
    int absent;
    int64_t value = vsapi->mapGetInt(vsapi->getFramePropertiesRO(frame), key, 0, &absent);
    return absent ? missing : value;
}

/* A filter of the core. Takes over `arguments`. NULL: it failed, with a message. */
static VSNode *invoke(const char *plugin, const char *function, VSMap *arguments, char *message, VSCore *core,
                      const VSAPI *vsapi) {
    VSMap *out = vsapi->invoke(vsapi->getPluginByID(plugin, core), function, arguments);
    vsapi->freeMap(arguments);
    if (vsapi->mapGetError(out))
        setMessage(message, "%s", vsapi->mapGetError(out));
    VSNode *node = vsapi->mapGetError(out) ? NULL : vsapi->mapGetNode(out, "clip", 0, NULL);
    vsapi->freeMap(out);
    return node;
}

/* Lanczos, for the chroma: a 4:2:0 picture that goes to RGB and back unchanged loses half of what Bicubic loses. */
static VSNode *resize(VSMap *arguments, char *message, VSCore *core, const VSAPI *vsapi) {
    return invoke(VSH_RESIZE_PLUGIN_ID, "Lanczos", arguments, message, core, vsapi);
}

static VSMap *clipArgument(VSNode *clip, const VSAPI *vsapi) {
    VSMap *arguments = vsapi->createMap();
    vsapi->mapSetNode(arguments, "clip", clip, maReplace);
    return arguments;
}

/* Tagger: gives frames without a usable _Matrix the usual guess, without which the resizer knows no way to RGB. */
static const VSFrame *VS_CC taggerGetFrame(int n, int reason, void *instance, void **frameData, VSFrameContext *context,
                                           VSCore *core, const VSAPI *vsapi) {
    (void)frameData;
    VSNode *clip = instance;
    if (reason == arInitial)
        vsapi->requestFrameFilter(n, clip, context);
    if (reason != arAllFramesReady)
        return NULL;
    const VSFrame *src = vsapi->getFrameFilter(n, clip, context);
    int64_t matrix = intProperty(src, "_Matrix", VSC_MATRIX_UNSPECIFIED, vsapi);
    /* A gray clip made of an RGB clip's plane still says RGB. */
    if (matrix != VSC_MATRIX_UNSPECIFIED && matrix != VSC_MATRIX_RGB)
        return src;
    VSFrame *dst = vsapi->copyFrame(src, core);
    bool high = vsapi->getFrameHeight(src, 0) >= 720;
    vsapi->mapSetInt(vsapi->getFramePropertiesRW(dst), "_Matrix", high ? VSC_MATRIX_BT709 : VSC_MATRIX_ST170_M,
                     maReplace);
    vsapi->freeFrame(src);
    return dst;
}

static void VS_CC taggerFree(void *instance, VSCore *core, const VSAPI *vsapi) {
    (void)core;
    vsapi->freeNode(instance);
}

/* NULL: it failed. */
static VSNode *createTagger(VSNode *clip, VSCore *core, const VSAPI *vsapi) {
    VSFilterDependency dependencies[] = {{clip, rpStrictSpatial}};
    VSNode *node = vsapi->createVideoFilter2("StylizeTagger", vsapi->getVideoInfo(clip), taggerGetFrame, taggerFree,
                                             fmParallel, dependencies, 1, vsapi->addNodeRef(clip), core);
    if (!node)
        vsapi->freeNode(clip); /* the reference that the filter would own */
    return node;
}

/* The way back. A resizer goes to one matrix, range and chroma location, but each frame may have its own: std.FrameEval
   picks the resizer for the frame, and there are as many as different frames have come by. */
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

/* FrameEval's function: (n, f: the source frame) -> val: the node to take frame n from. FrameEval, fmParallelRequests
   where it has a prop_src, calls it once at a time. */
static void VS_CC returnerCall(const VSMap *in, VSMap *out, void *userData, VSCore *core, const VSAPI *vsapi) {
    Returner *returner = userData;
    const VSFrame *frame = vsapi->mapGetFrame(in, "f", 0, NULL);
    int64_t matrix = intProperty(frame, "_Matrix", -1, vsapi);
    int64_t colorRange = intProperty(frame, "_ColorRange", -1, vsapi); /* deprecated, the inverse of _Range */
    int64_t range = intProperty(frame, "_Range", colorRange < 0 ? -1 : !colorRange, vsapi);
    int64_t chromaLocation = returner->subsampled ? intProperty(frame, "_ChromaLocation", -1, vsapi) : -1;
    vsapi->freeFrame(frame);

    Return *found = returner->returns;
    while (found && (found->matrix != matrix || found->range != range || found->chromaLocation != chromaLocation))
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

/* clip -> tagged -> RGB, in single precision. NULL: it failed, with a message. */
static VSNode *toRgb(VSNode *tagged, char *message, VSCore *core, const VSAPI *vsapi) {
    VSMap *arguments = clipArgument(tagged, vsapi);
    vsapi->mapSetInt(arguments, "format", pfRGBS, maReplace);
    return resize(arguments, message, core, vsapi);
}

/* stylized -> the format of `clip`, with exactly the properties of `clip`, plus the scene changes that were found
   here. NULL: it failed, with a message. */
static VSNode *fromRgb(VSNode *stylized, VSNode *tagged, VSNode *clip, char *message, VSCore *core,
                       const VSAPI *vsapi) {
    const VSVideoFormat *f = &vsapi->getVideoInfo(clip)->format;
    Returner *returner = calloc(1, sizeof *returner);
    if (!returner) {
        setMessage(message, "out of memory");
        return NULL;
    }
    returner->vsapi = vsapi;
    returner->stylized = vsapi->addNodeRef(stylized);
    returner->format = vsapi->queryVideoFormatID(f->colorFamily, f->sampleType, f->bitsPerSample, f->subSamplingW,
                                                 f->subSamplingH, core);
    returner->subsampled = f->subSamplingW || f->subSamplingH;
    VSFunction *function = vsapi->createFunction(returnerCall, returner, returnerFree, core);

    VSMap *arguments = clipArgument(clip, vsapi); /* for the format alone */
    vsapi->mapConsumeFunction(arguments, "eval", function, maReplace);
    vsapi->mapSetNode(arguments, "prop_src", tagged, maReplace);
    vsapi->mapSetNode(arguments, "clip_src", stylized, maReplace);
    VSNode *converted = invoke(VSH_STD_PLUGIN_ID, "FrameEval", arguments, message, core, vsapi);
    if (!converted)
        return NULL;

    arguments = vsapi->createMap();
    vsapi->mapConsumeNode(arguments, "clip", converted, maReplace);
    vsapi->mapSetNode(arguments, "prop_src", clip, maReplace);
    VSNode *restored = invoke(VSH_STD_PLUGIN_ID, "CopyFrameProps", arguments, message, core, vsapi);
    if (!restored)
        return NULL;

    arguments = vsapi->createMap();
    vsapi->mapConsumeNode(arguments, "clip", restored, maReplace);
    vsapi->mapSetNode(arguments, "prop_src", stylized, maReplace);
    vsapi->mapSetData(arguments, "props", "_SceneChangePrev", -1, dtUtf8, maReplace);
    return invoke(VSH_STD_PLUGIN_ID, "CopyFrameProps", arguments, message, core, vsapi);
}

/* ---- What users call --------------------------------------------------------------------------------------------- */

/* Whether a clip of this kind can be taken; else a message. */
static bool checkClip(const VSVideoInfo *vi, char *message, const VSAPI *vsapi) {
    const VSVideoFormat *f = &vi->format;
    if (!vsh_isConstantVideoFormat(vi)) {
        setMessage(message, "the clip's format or size varies; only a constant one can be stylized: "
                            "give it one with core.resize first");
        return false;
    }
    bool known = f->sampleType == stFloat ? f->bitsPerSample == 16 || f->bitsPerSample == 32
                                          : f->bitsPerSample >= 8 && f->bitsPerSample <= 16;
    if (!known || f->subSamplingW > 2 || f->subSamplingH > 2) {
        char name[32] = "?";
        vsapi->getVideoFormatName(f, name);
        setMessage(message,
                   "the clip's format is %s; expected RGB, YUV or gray with integer samples of 8 to 16 bits or half or "
                   "single precision, and chroma subsampled by 4 at most: convert with core.resize first", name);
        return false;
    }
    return true;
}

static bool checkFlag(const VSMap *in, const char *name, char *message, const VSAPI *vsapi) {
    int absent;
    int64_t value = vsapi->mapGetInt(in, name, 0, &absent);
    if (absent || value == 0 || value == 1)
        return true;
    setMessage(message, "%s is %lld; expected 0 or 1", name, (long long)value);
    return false;
}

static void VS_CC stylizeCreate(const VSMap *in, VSMap *out, void *userData, VSCore *core, const VSAPI *vsapi) {
    (void)userData;
    char message[MESSAGE] = "Stylize: could not create the filter";
    VSNode *clip = vsapi->mapGetNode(in, "clip", 0, NULL);
    VSNode *tagged = NULL, *source = NULL, *stylized = NULL, *result = NULL;
    PyObject *session = NULL;
    VSVideoInfo vi = *vsapi->getVideoInfo(clip);
    bool isRgb = vi.format.colorFamily == cfRGB;
    int absent;
    bool detects = vsapi->mapGetFloat(in, "scene_cut", 0, &absent) > 0 || absent;

    if (!checkClip(&vi, message, vsapi) || !checkFlag(in, "preserve_color", message, vsapi))
        goto done;
    if (!isRgb) {
        tagged = createTagger(clip, core, vsapi);
        source = tagged ? toRgb(tagged, message, core, vsapi) : NULL;
    } else {
        source = vsapi->addNodeRef(clip);
    }
    if (!source)
        goto done;
    session = openSession(in, vsapi->getVideoInfo(source), message, vsapi);
    if (!session)
        goto done;
    stylized = createFilter(source, session, detects, core, vsapi);
    source = NULL; /* createFilter has taken it over, and the session */
    if (stylized)
        result = isRgb ? vsapi->addNodeRef(stylized) : fromRgb(stylized, tagged, clip, message, core, vsapi);
done:
    if (result)
        vsapi->mapConsumeNode(out, "clip", result, maReplace);
    else
        vsapi->mapSetError(out, message);
    vsapi->freeNode(stylized);
    vsapi->freeNode(source);
    vsapi->freeNode(tagged);
    vsapi->freeNode(clip);
}

VS_EXTERNAL_API(void) VapourSynthPluginInit2(VSPlugin *plugin, const VSPLUGINAPI *vspapi) {
    vspapi->configPlugin("io.github.vsneuralstyle", "vsneuralstyle", "Coherent neural style transfer", PLUGIN_VERSION,
                         VAPOURSYNTH_API_VERSION, 0, plugin);
    vspapi->registerFunction("Stylize",
                             "clip:vnode;"
                             "style:data:opt;"
                             "net:data:opt;"
                             "device:data:opt;"
                             "precision:data:opt;"
                             "strength:float:opt;"
                             "coherence:float:opt;"
                             "preserve_color:int:opt;"
                             "scene_cut:float:opt;"
                             "model_dir:data:opt;",
                             "clip:vnode;", stylizeCreate, NULL, plugin);
}
