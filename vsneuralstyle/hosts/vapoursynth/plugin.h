/*
 * What the parts of the VapourSynth plugin share.
 *
 *   plugin.c   the functions that users call, and their arguments
 *   filter.c   the filter itself, RGB in and RGB out: which frame is made when, and from which
 * state formats.c  around it: YUV and gray, there and back, and the mask python.c   calls into
 * session.py, which has the pixels and the state
 *
 * Locks: the filter is fmParallel; what its getFrame changes is guarded by a lock of its own, which
 * is let go of while the session works. Python objects are touched with the GIL only, which
 * python.c takes last and for as short as can be.
 */

#ifndef PLUGIN_H
#define PLUGIN_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>

#include "VSConstants4.h"
#include "VSHelper4.h"
#include "VapourSynth4.h"

/* Buffers for messages to the user have this size. */
enum { MESSAGE = 4096 };

/* ---- Arguments: arguments.h, which is generated, has them all
 * ---------------------------------------------------- */

typedef enum { CLIP, TEXT, NUMBER, INTEGER, FLAG } ArgumentKind;

typedef struct {
    const char *name;
    ArgumentKind kind;
    bool ofFilter;           /* session.py doesn't know it */
    int64_t least, greatest; /* of an INTEGER or a FLAG */
    const char *expected;    /* the same, as errors say it */
} Argument;

/* Writes "Stylize: " and the rest as printf does. */
void setMessage(char *message, const char *format, ...);

/* ---- python.c: each of these is called without the GIL
 * ----------------------------------------------------------- */

/* What is known of a frame. */
typedef enum { SCENE_UNKNOWN, SCENE_GOES_ON, SCENE_STARTS } Scene;

/* A new session for frames of this size and RGB format, with the user's arguments; NULL with a
 * message. */
PyObject *openSession(const VSMap *in, const VSVideoInfo *vi, char *message, const VSAPI *vsapi);

/* Lets go of an object. After the interpreter's end both are gone already. */
void release(PyObject *object);

/* session.encode_ahead: begins the work on a frame that needs no state. False: it failed, with a
 * message. */
bool encodeAhead(PyObject *session, const VSFrame *src, PyObject **encoded, char *message,
                 const VSAPI *vsapi);

/* session.process: makes the next frame from src, and from what was encoded of it, if it isn't
   NULL. Returns whether src starts a scene, with what fillFrame takes in *pending; or SCENE_UNKNOWN
   with a message: it failed, and the state may be half changed. */
Scene process(PyObject *session, Scene scene, const VSFrame *src, PyObject *encoded,
              PyObject **pending, char *message, const VSAPI *vsapi);

/* session.fill: fills dst with what process gave, once that is done, and lets go of it. For several
   frames at a time, also during process. False: it failed, with a message. */
bool fillFrame(PyObject *session, PyObject *pending, VSFrame *dst, char *message,
               const VSAPI *vsapi);

/* session.cuts: starts[i] tells whether frames[i + 1] starts a scene, for count consecutive frames.
   False: it failed, with a message. */
bool findCuts(PyObject *session, const VSFrame *const *frames, int count, bool *starts,
              char *message, const VSAPI *vsapi);

/* session.checkpoint: the state, on the device, and its size. NULL: it could not be had, and stderr
 * says why. */
PyObject *saveState(PyObject *session, int64_t *bytes);

/* session.resume. False: it failed, with a message. */
bool resumeState(PyObject *session, PyObject *state, char *message);

/* session.versions, into `out`. False: it failed, with a message. */
bool putVersions(VSMap *out, char *message, const VSAPI *vsapi);

/* ---- filter.c
 * ----------------------------------------------------------------------------------------------------
 */

typedef struct {
    bool detects;       /* the built-in scene detector is on */
    int64_t checkpoint; /* bytes for checkpoints */
    int preroll;        /* frames; 0: exact */
} FilterOptions;

/* Takes over `source` and `session`, whether or not it succeeds. NULL: it failed. */
VSNode *createFilter(VSNode *source, PyObject *session, FilterOptions options, VSCore *core,
                     const VSAPI *vsapi);

/* ---- formats.c: each returns a new reference, or NULL with a message
 * --------------------------------------------- */

/* `clip` with the usual matrix where its frames don't say which one they have. */
VSNode *createTagger(VSNode *clip, char *message, VSCore *core, const VSAPI *vsapi);

/* A tagged clip -> RGB in single precision. */
VSNode *toRgb(VSNode *tagged, char *message, VSCore *core, const VSAPI *vsapi);

/* stylized -> the format of `clip`, with exactly the properties of `clip`, plus the scene changes
   that were found here. */
VSNode *fromRgb(VSNode *stylized, VSNode *tagged, VSNode *clip, char *message, VSCore *core,
                const VSAPI *vsapi);

/* `clip` where `mask`, a gray clip of the same size, is 0; `stylized` where it is at its highest;
   in between, the blend of both. */
VSNode *merge(VSNode *clip, VSNode *stylized, VSNode *mask, char *message, VSCore *core,
              const VSAPI *vsapi);

#endif
