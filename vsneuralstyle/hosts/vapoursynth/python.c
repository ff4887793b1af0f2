/* Frames as Python buffers, and calls into session.py. */

#include "arguments.h"
#include "plugin.h"

#include <string.h>

/* ---- Planes as Python buffers
 * ------------------------------------------------------------------------------------ */

/* A plane of a frame, as a 2-D buffer with strides. It owns a reference to the frame: an array that
   Python keeps, in a traceback say, keeps the pixels alive instead of dangling. */
typedef struct {
    PyObject_HEAD const VSAPI *vsapi;
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
        PyErr_SetString(PyExc_BufferError,
                        "a plane has padded rows: its consumer must take strides");
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

/* The three planes of an RGB frame as a list of Plane; NULL with an exception set. `pixels` are the
   frame's plane pointers, got before: asking for a write pointer may copy the plane, which needs no
   GIL. */
static PyObject *planeList(const VSFrame *frame, void *const pixels[3], bool readonly,
                           const VSAPI *vsapi) {
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

/* The const goes: Plane is read-only where this is used. */
static void readPointers(const VSFrame *frame, void *pixels[3], const VSAPI *vsapi) {
    for (int p = 0; p < 3; p++)
        pixels[p] = (void *)vsapi->getReadPtr(frame, p);
}

static bool anyExported(PyObject *list) {
    for (Py_ssize_t i = 0; i < PyList_Size(list); i++)
        if (((Plane *)PyList_GetItem(list, i))->exports)
            return true;
    return false;
}

/* ---- Calls into Python
 * ------------------------------------------------------------------------------------------- */

static const char KEPT[] = "the session kept a reference to a frame's memory";

/* A text as UTF-8, with escapes for what that can't hold: the odd bytes of a file's name. A new
 * reference to bytes. */
static PyObject *toUtf8(PyObject *text) {
    return text ? PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace") : NULL;
}

/* Takes the raised exception as a message for the user, with the GIL held. The core's own errors
   say all that a user needs; any other one is a defect, here or below, so its type is named and its
   traceback goes to stderr. */
static void takeException(char *message) {
    PyObject *error = PyErr_GetRaisedException();
    PyObject *errors = PyImport_ImportModule("vsneuralstyle.errors");
    PyObject *expected = errors ? PyObject_GetAttrString(errors, "NeuralStyleError") : NULL;
    bool isExpected = expected && PyObject_IsInstance(error, expected) == 1;
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(error), "__name__");
    PyObject *text = PyObject_Str(error);
    PyObject *nameBytes = toUtf8(name), *textBytes = toUtf8(text);
    const char *nameUtf8 = nameBytes ? PyBytes_AsString(nameBytes) : "unknown error";
    const char *textUtf8 = textBytes ? PyBytes_AsString(textBytes) : "an error that can't be shown";
    PyErr_Clear();
    if (isExpected) {
        setMessage(message, "%s", textUtf8);
    } else {
        setMessage(message, "%s: %s", nameUtf8, textUtf8);
        PyErr_DisplayException(error);
    }
    Py_XDECREF(textBytes);
    Py_XDECREF(nameBytes);
    Py_XDECREF(text);
    Py_XDECREF(name);
    Py_XDECREF(expected);
    Py_XDECREF(errors);
    Py_XDECREF(error);
}

/* Adds `value` under `name` and lets go of it. False: an exception is set, here or by who made the
 * value. */
static bool addKeyword(PyObject *keywords, const char *name, PyObject *value) {
    bool added = value && !PyDict_SetItemString(keywords, name, value);
    Py_XDECREF(value);
    return added;
}

/* What was given for an argument; NULL: an exception is set. */
static PyObject *argumentValue(const Argument *argument, const VSMap *in, const VSAPI *vsapi) {
    const char *name = argument->name;
    switch (argument->kind) {
    case TEXT: /* Any bytes can name a file; this is how Python's own calls take them. */
        return PyUnicode_DecodeUTF8(vsapi->mapGetData(in, name, 0, NULL),
                                    vsapi->mapGetDataSize(in, name, 0, NULL), "surrogateescape");
    case NUMBER:
        return PyFloat_FromDouble(vsapi->mapGetFloat(in, name, 0, NULL));
    case INTEGER:
        return PyLong_FromLongLong(vsapi->mapGetInt(in, name, 0, NULL));
    case FLAG:
        return PyBool_FromLong(vsapi->mapGetInt(in, name, 0, NULL) != 0);
    case CLIP:
        break;
    }
    PyErr_Format(PyExc_SystemError, "%s is a clip, which session.py doesn't take", name);
    return NULL;
}

/* The arguments that were given, as keywords for Session, which has the other defaults; NULL: an
 * exception is set. */
static PyObject *keywordArguments(const VSMap *in, const VSAPI *vsapi) {
    PyObject *keywords = Py_BuildValue("{ss}", "style", DEFAULT_STYLE);
    for (int i = 0; keywords && i < ARGUMENT_COUNT; i++) {
        const Argument *argument = &ARGUMENTS[i];
        if (!argument->ofFilter && vsapi->mapNumElements(in, argument->name) > 0 &&
            !addKeyword(keywords, argument->name, argumentValue(argument, in, vsapi)))
            Py_CLEAR(keywords);
    }
    return keywords;
}

static PyObject *fromSessionModule(const char *name) {
    PyObject *module = PyImport_ImportModule("vsneuralstyle.hosts.vapoursynth.session");
    PyObject *object = module ? PyObject_GetAttrString(module, name) : NULL;
    Py_XDECREF(module);
    return object;
}

PyObject *openSession(const VSMap *in, const VSVideoInfo *vi, char *message, const VSAPI *vsapi) {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *session = NULL;
    PyObject *class = fromSessionModule("Session");
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
    PyGILState_Release(gil);
    return session;
}

void release(PyObject *object) {
    if (!Py_IsInitialized())
        return;
    PyGILState_STATE gil = PyGILState_Ensure();
    Py_DECREF(object);
    PyGILState_Release(gil);
}

bool encodeAhead(PyObject *session, const VSFrame *src, PyObject **encoded, char *message,
                 const VSAPI *vsapi) {
    void *from[3];
    readPointers(src, from, vsapi);
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *source = planeList(src, from, true, vsapi);
    PyObject *answer = source ? PyObject_CallMethod(session, "encode_ahead", "O", source) : NULL;
    bool begun = answer != NULL;
    if (!begun)
        takeException(message);
    Py_XDECREF(source);
    PyGILState_Release(gil);
    *encoded = answer;
    return begun;
}

Scene process(PyObject *session, Scene scene, const VSFrame *src, PyObject *encoded,
              PyObject **pending, char *message, const VSAPI *vsapi) {
    void *from[3];
    readPointers(src, from, vsapi);
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *starts = scene == SCENE_UNKNOWN  ? Py_None
                       : scene == SCENE_STARTS ? Py_True
                                               : Py_False;
    PyObject *source = planeList(src, from, true, vsapi);
    PyObject *answer = source ? PyObject_CallMethod(session, "process", "OOO", starts, source,
                                                    encoded ? encoded : Py_None)
                              : NULL;
    int started;
    PyObject *made;
    Scene result = SCENE_UNKNOWN;
    if (!answer || !PyArg_ParseTuple(answer, "pO", &started, &made)) {
        takeException(message);
    } else if (anyExported(source)) {
        setMessage(message, "%s", KEPT);
    } else {
        *pending = Py_NewRef(made);
        result = started ? SCENE_STARTS : SCENE_GOES_ON;
    }
    Py_XDECREF(answer);
    Py_XDECREF(source);
    PyGILState_Release(gil);
    return result;
}

bool fillFrame(PyObject *session, PyObject *pending, VSFrame *dst, char *message,
               const VSAPI *vsapi) {
    void *to[3];
    for (int p = 0; p < 3; p++)
        to[p] = vsapi->getWritePtr(dst, p);
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *target = planeList(dst, to, false, vsapi);
    PyObject *answer = target ? PyObject_CallMethod(session, "fill", "OO", pending, target) : NULL;
    bool filled = answer != NULL;
    if (!filled) {
        takeException(message);
    } else if (anyExported(target)) { /* who holds it could write into a frame that VapourSynth has
                                         handed on */
        setMessage(message, "%s", KEPT);
        filled = false;
    }
    Py_XDECREF(answer);
    Py_XDECREF(target);
    Py_DECREF(pending);
    PyGILState_Release(gil);
    return filled;
}

bool findCuts(PyObject *session, const VSFrame *const *frames, int count, bool *starts,
              char *message, const VSAPI *vsapi) {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *run = PyList_New(0);
    for (int i = 0; run && i < count; i++) {
        void *pixels[3];
        readPointers(frames[i], pixels, vsapi);
        PyObject *planes = planeList(frames[i], pixels, true, vsapi);
        if (!planes || PyList_Append(run, planes))
            Py_CLEAR(run);
        Py_XDECREF(planes);
    }
    PyObject *answer = run ? PyObject_CallMethod(session, "cuts", "O", run) : NULL;
    for (int i = 0; answer && i < count - 1; i++)
        starts[i] = PyObject_IsTrue(PyList_GetItem(answer, i)) == 1;
    bool found = answer != NULL;
    if (!found)
        takeException(message);
    Py_XDECREF(answer);
    Py_XDECREF(run);
    PyGILState_Release(gil);
    return found;
}

PyObject *saveState(PyObject *session, int64_t *bytes) {
    PyGILState_STATE gil = PyGILState_Ensure();
    long long size = 0;
    PyObject *state = PyObject_CallMethod(session, "checkpoint", NULL);
    PyObject *nbytes = state ? PyObject_GetAttrString(state, "nbytes") : NULL;
    if (nbytes)
        size = PyLong_AsLongLong(nbytes);
    if (PyErr_Occurred()) {
        PyErr_Print();
        Py_CLEAR(state);
    }
    Py_XDECREF(nbytes);
    PyGILState_Release(gil);
    *bytes = size;
    return state;
}

bool resumeState(PyObject *session, PyObject *state, char *message) {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *answer = PyObject_CallMethod(session, "resume", "O", state);
    if (!answer)
        takeException(message);
    bool resumed = answer != NULL;
    Py_XDECREF(answer);
    PyGILState_Release(gil);
    return resumed;
}

bool putVersions(VSMap *out, char *message, const VSAPI *vsapi) {
    PyGILState_STATE gil = PyGILState_Ensure();
    PyObject *function = fromSessionModule("versions");
    PyObject *versions = function ? PyObject_CallNoArgs(function) : NULL;
    PyObject *key, *value;
    Py_ssize_t position = 0;
    bool put = versions != NULL;
    while (put && PyDict_Next(versions, &position, &key, &value)) {
        PyObject *name = toUtf8(key), *text = name ? toUtf8(value) : NULL;
        put = text != NULL;
        if (put)
            vsapi->mapSetData(out, PyBytes_AsString(name), PyBytes_AsString(text), -1, dtUtf8,
                              maReplace);
        Py_XDECREF(text);
        Py_XDECREF(name);
    }
    if (!put)
        takeException(message);
    Py_XDECREF(versions);
    Py_XDECREF(function);
    PyGILState_Release(gil);
    return put;
}
