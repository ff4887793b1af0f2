/*
 * The filter: RGB in, RGB out.
 *
 * A stylized frame depends on every frame since its scene's start, yet VapourSynth asks for frames
 * in any order and from many threads. This file owns that order: whatever is asked, and however
 * often, the frames of a scene go through the session from the scene's start on, one after the
 * other. A different order of requests changes how long a frame takes, never its pixels.
 *
 * A request walks to its frame from the nearest place at or before it where a state can be had:
 * where the live state stands, at a checkpoint, or at a scene's start, which needs none. Where
 * scenes start is known of the frames that were looked at so far; the others between that place and
 * the frame are looked at first, backwards, since that costs their decoding alone. Whether a frame
 * starts a scene is decided from it and the one before, so it comes out the same as in a walk.
 *
 * One request walks at a time. Where several are made at a time, the others wait for it, once they
 * have had the session encode their frames ahead, which needs no state and goes on meanwhile.
 *
 * What a walk makes is an Output: the session has it, on a GPU before it is even computed. A
 * request for it fills a VSFrame from it, beside the next walks and other fills. What nobody asks
 * for is never filled.
 */

#define _GNU_SOURCE /* strdup, strverscmp */

#include "plugin.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GLIBC__
#include <gnu/libc-version.h>
#include <malloc.h>
#endif

enum {
    CHUNK = 8,      /* sources that are asked for at a time */
    LOOK_MOST = 64, /* the same, at most, where scenes' starts are looked for */
    REACH = 16, /* frames. What is nearer is walked to without a look for something nearer still,
                   and one checkpoint is made for as many. */
    RECENT = 8, /* outputs that are kept, and as many more as there are threads */
    CROWD = 16, /* frames that are encoded after requests came several at a time */
};
static const int64_t LOOK_BYTES = 256 << 20; /* sources that are held for a look, at most */
static const int64_t TRIM_BYTES = 256 << 20; /* of frames, between two trims of the heap */
static const int64_t SPARE_BYTES =
    512 << 20; /* of outputs that nobody asks for, at most, unless of a single one */

/* A frame that was made. */
typedef struct {
    int n;
    int holders;       /* `recent`, and the requests that deliver it */
    PyObject *pending; /* what the session has of it, until a thread takes it to fill a frame;
                          owned; touched with the GIL only */
    bool filling;      /* that thread is at it, without the lock; `changed` tells when it is done */
    VSMap *properties; /* the frame's; owned */
    const VSFrame *frame; /* filled; owned */
    char *failure;        /* why it could not be filled; owned */
} Output;

/* A request that is under way. */
typedef struct Waiter {
    int n;
    int look;          /* sources that it looks at next */
    bool here;         /* its source is, and a thread that works for it or waits */
    Output *output;    /* of frame n, once a walk has come to it; held */
    PyObject *encoded; /* what the session has begun of frame n, or NULL; owned; touched with the
                           GIL only */
    struct Waiter *next;
} Waiter;

/* A state that a walk can be resumed from. */
typedef struct {
    int n;           /* the frame that it stands before */
    int64_t used;    /* filter->clock when it was made or resumed from */
    PyObject *state; /* owned; touched with the GIL only */
} Checkpoint;

/* Where outputs are kept. */
typedef struct {
    Output *output;  /* held; NULL: none */
    VSFrame *memory; /* owned, and never given away: the frame that was filled here last shares its
                        planes. Once nobody else has them any more, they are written to anew, which
                        saves an allocation (see `trimHeap`). NULL: none, or a thread fills it. */
} Slot;

typedef struct {
    VSNode *source; /* owned */
    VSVideoInfo vi;
    PyObject *session; /* owned; touched with the GIL only */
    FilterOptions options;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    bool walking; /* a request walks, with or without the lock */
    int crowd;    /* frames that are still to be encoded */
    int next;     /* the frame that the session's state, the live one, stands before; -1: it stands
                     nowhere */
    int failures; /* fills that failed: what the device computed by then is not trusted any more */
    int settled;  /* with a preroll: frames below are made to bring the state there, and are not for
                     delivery */
    int lookMost;
    bool careful; /* a source has failed: ask for none that the request at hand doesn't depend on */
    unsigned char *scenes;               /* for each frame: the Scene, as far as known */
    Checkpoint *checkpoints;             /* in the order of their frames */
    int checkpointCount, checkpointMost; /* Most is known with the first state; -1 before */
    int64_t clock;
    int64_t untrimmed; /* bytes of frames since the heap was trimmed */
    Waiter *waiters;
    Slot *recent; /* the last outputs, at n % recentSize. VapourSynth's cache can't be read back by
                     the filter that fills it. */
    int recentSize;
    int spareMost; /* of them, those that nobody has asked for */
} Filter;

static int64_t frameBytes(const Filter *filter) {
    const VSVideoFormat *format = &filter->vi.format;
    return (int64_t)filter->vi.width * filter->vi.height * format->numPlanes *
           format->bytesPerSample;
}

/* ---- What is known of scenes
 * ------------------------------------------------------------------------------------- */

static Scene tagOf(const VSFrame *frame, const VSAPI *vsapi) {
    int absent;
    int64_t tag =
        vsapi->mapGetInt(vsapi->getFramePropertiesRO(frame), "_SceneChangePrev", 0, &absent);
    return absent ? SCENE_UNKNOWN : tag ? SCENE_STARTS : SCENE_GOES_ON;
}

/* Notes what a source frame says by itself. */
static void noteTag(Filter *filter, int k, const VSFrame *src, const VSAPI *vsapi) {
    if (filter->scenes[k] != SCENE_UNKNOWN)
        return;
    Scene tag = tagOf(src, vsapi);
    filter->scenes[k] = tag == SCENE_UNKNOWN && !filter->options.detects ? SCENE_GOES_ON : tag;
}

/* ---- Checkpoints
 * -------------------------------------------------------------------------------------------------
 */

/* The index of the first checkpoint after frame n. */
static int checkpointAfter(const Filter *filter, int n) {
    int i = filter->checkpointCount;
    while (i > 0 && filter->checkpoints[i - 1].n > n)
        i--;
    return i;
}

static Checkpoint *checkpointAt(const Filter *filter, int n) {
    int i = checkpointAfter(filter, n);
    return i > 0 && filter->checkpoints[i - 1].n == n ? &filter->checkpoints[i - 1] : NULL;
}

/* The nearest frame at or before n where a state can be had. */
static int nearest(const Filter *filter, int n) {
    int lowest = filter->next <= n && filter->next > 0 ? filter->next : 0;
    int i = checkpointAfter(filter, n);
    if (i > 0 && filter->checkpoints[i - 1].n > lowest)
        lowest = filter->checkpoints[i - 1].n;
    while (n > lowest && filter->scenes[n] != SCENE_STARTS)
        n--;
    return n;
}

/* A request that is under way would walk from checkpoint i. */
static bool isNeeded(const Filter *filter, int i) {
    int n = filter->checkpoints[i].n;
    for (const Waiter *w = filter->waiters; w; w = w->next)
        if (!w->output && w->n >= n && nearest(filter, w->n) == n)
            return true;
    return false;
}

/* How far apart the places around checkpoint i are where a state can be had: without it, a walk
 * gets as long. */
static int gapAround(const Filter *filter, int i) {
    const Checkpoint *c = filter->checkpoints;
    int before = i > 0 ? c[i - 1].n : 0;
    int after = i + 1 < filter->checkpointCount ? c[i + 1].n : filter->vi.numFrames;
    int from = c[i].n - 1, to = c[i].n + 1;
    while (from > before && filter->scenes[from] != SCENE_STARTS)
        from--;
    while (to < after && filter->scenes[to] != SCENE_STARTS)
        to++;
    return to - from;
}

static void dropCheckpoint(Filter *filter, int i) {
    release(filter->checkpoints[i].state);
    filter->checkpointCount--;
    memmove(&filter->checkpoints[i], &filter->checkpoints[i + 1],
            (filter->checkpointCount - i) * sizeof *filter->checkpoints);
}

/* Makes room for one more checkpoint, at the cost of the one that was used the longest ago, weighed
   by the gap that it leaves: what lies further back stays covered, by fewer. False: all of them are
   needed. */
static bool makeRoom(Filter *filter) {
    if (filter->checkpointCount < filter->checkpointMost)
        return true;
    int worst = -1;
    double least = 0;
    for (int i = 0; i < filter->checkpointCount; i++) {
        double worth =
            (double)gapAround(filter, i) / (filter->clock - filter->checkpoints[i].used + 1);
        if ((worst < 0 || worth < least) && !isNeeded(filter, i)) {
            worst = i;
            least = worth;
        }
    }
    if (worst < 0)
        return false;
    dropCheckpoint(filter, worst);
    return true;
}

/* Sees to it that a state can be had where the live state stands. False: there is no room for it.
 */
static bool keepLive(Filter *filter) {
    int n = filter->next;
    if (n >= filter->vi.numFrames || filter->scenes[n] == SCENE_STARTS || checkpointAt(filter, n))
        return true;
    if (!filter->options.checkpoint || (filter->checkpointMost >= 0 && !makeRoom(filter)))
        return false;
    int64_t bytes;
    PyObject *state = saveState(filter->session, &bytes);
    if (!state)
        return false;
    if (filter->checkpointMost < 0) {
        int64_t most = filter->options.checkpoint / bytes;
        most = most < filter->vi.numFrames ? most : filter->vi.numFrames;
        filter->checkpoints = most ? calloc(most, sizeof *filter->checkpoints) : NULL;
        filter->checkpointMost = filter->checkpoints ? most : 0;
    }
    if (filter->checkpointCount == filter->checkpointMost) {
        release(state);
        return false;
    }
    int i = checkpointAfter(filter, n);
    memmove(&filter->checkpoints[i + 1], &filter->checkpoints[i],
            (filter->checkpointCount - i) * sizeof *filter->checkpoints);
    filter->checkpoints[i] = (Checkpoint){n, ++filter->clock, state};
    filter->checkpointCount++;
    return true;
}

/* Nothing that a walk could start from lies within reach before frame n. */
static bool isRemote(const Filter *filter, int n) {
    int i = checkpointAfter(filter, n);
    if (i > 0 && filter->checkpoints[i - 1].n > n - REACH)
        return false;
    for (int k = n < filter->vi.numFrames ? n : n - 1; k >= 0 && k > n - REACH; k--)
        if (filter->scenes[k] == SCENE_STARTS)
            return false;
    return true;
}

/* ---- Where a walk starts
 * ----------------------------------------------------------------------------------------- */

/* The lowest frame that the walk to self's frame serves: requests close below one another are
   served by one walk. (So a source that fails among them can fail this request as well; from then
   on the filter is careful.) */
static int lowestServed(const Filter *filter, const Waiter *self) {
    int lowest = self->n;
    for (bool lowered = !filter->careful; lowered;) {
        lowered = false;
        for (const Waiter *w = filter->waiters; w; w = w->next)
            if (!w->output && w->n < lowest && w->n >= lowest - REACH) {
                lowest = w->n;
                lowered = true;
            }
    }
    return lowest;
}

/* Another request waits for one of the frames from `first` up to `last`, without it. */
static bool isAwaited(const Filter *filter, int first, int last, const Waiter *self) {
    for (const Waiter *w = filter->waiters; w; w = w->next)
        if (w != self && !w->output && w->n >= first && w->n < last)
            return true;
    return false;
}

typedef enum { FAILED, REQUESTED, DONE } Progress;

/* Looks for scenes' starts from frame `last`, of which nothing is known, down towards `first`,
   where a state can be had. DONE: more is known than before. */
static Progress look(Filter *filter, Waiter *self, int first, int last, char *message,
                     VSFrameContext *context, const VSAPI *vsapi) {
    const VSFrame *frames[LOOK_MOST + 1];
    bool cuts[LOOK_MOST];
    int size = self->look;
    if (filter->careful) { /* `last` alone first: where it is tagged, nothing depends on the one
                              before */
        const VSFrame *alone = vsapi->getFrameFilter(last, filter->source, context);
        if (alone)
            noteTag(filter, last, alone, vsapi);
        vsapi->freeFrame(alone);
        if (filter->scenes[last] != SCENE_UNKNOWN)
            return DONE;
        size = alone ? 1 : 0;
    }
    int low = last;
    while (low > first && low > last - size && filter->scenes[low] == SCENE_UNKNOWN)
        low--;
    int count = last - low + 1;
    Progress progress = DONE;
    for (int i = 0; i < count; i++)
        if (!(frames[i] = vsapi->getFrameFilter(low + i, filter->source, context))) {
            vsapi->requestFrameFilter(low + i, filter->source, context);
            progress = REQUESTED;
        }
    if (progress == DONE) {
        bool allTold = true;
        for (int i = 1; i < count; i++) {
            noteTag(filter, low + i, frames[i], vsapi);
            allTold = allTold && filter->scenes[low + i] != SCENE_UNKNOWN;
        }
        pthread_mutex_unlock(&filter->lock);
        bool found = allTold || findCuts(filter->session, frames, count, cuts, message, vsapi);
        pthread_mutex_lock(&filter->lock);
        if (!found)
            progress = FAILED;
        else
            self->look = 2 * size < filter->lookMost ? 2 * size : filter->lookMost;
    }
    if (progress == DONE) {
        int start = -1;
        for (int i = 1; i < count; i++) {
            if (filter->scenes[low + i] == SCENE_UNKNOWN)
                filter->scenes[low + i] = cuts[i - 1] ? SCENE_STARTS : SCENE_GOES_ON;
            if (filter->scenes[low + i] == SCENE_STARTS)
                start = low + i;
        }
        /* Those that the walk comes to now stay; so does the lowest, for the next look. */
        for (int k = low; k <= last; k++)
            if (start >= 0 ? k < start : low > first && k > low)
                vsapi->releaseFrameEarly(filter->source, k, context);
    }
    for (int i = 0; i < count; i++)
        vsapi->freeFrame(frames[i]);
    return progress;
}

/* Finds where the walk to self's frame starts, and the lowest frame that it is made for. */
static Progress findStart(Filter *filter, Waiter *self, int *start, int *lowest, char *message,
                          VSFrameContext *context, const VSAPI *vsapi) {
    for (;;) {
        *lowest = lowestServed(filter, self);
        *start = nearest(filter, *lowest);
        if (filter->options.preroll) {
            if (*lowest - *start > filter->options.preroll)
                *start = *lowest - filter->options.preroll;
            break;
        }
        if (*lowest - *start <= (filter->careful ? 0 : REACH))
            break;
        int unknown = *lowest;
        while (unknown > *start && filter->scenes[unknown] != SCENE_UNKNOWN)
            unknown--;
        if (unknown == *start)
            break;
        Progress progress = look(filter, self, *start, unknown, message, context, vsapi);
        if (progress != DONE)
            return progress;
    }
    /* Skipping ahead drops the live state. Where it can't be kept, those who wait in between would
       have to walk that part again, and two walks that drop each other's state would never end. So
       the walk goes on past those. */
    if (filter->next >= 0 && *start != filter->next && !keepLive(filter) && *start > filter->next &&
        isAwaited(filter, filter->next, *start, self))
        *start = filter->next;
    return DONE;
}

/* ---- Outputs
 * -----------------------------------------------------------------------------------------------------
 */

static Output *hold(Output *output) {
    output->holders++;
    return output;
}

static void drop(Output *output, const VSAPI *vsapi) {
    if (!output || --output->holders > 0)
        return;
    if (output->pending)
        release(output->pending);
    vsapi->freeMap(output->properties);
    vsapi->freeFrame(output->frame);
    free(output->failure);
    free(output);
}

static void empty(Slot *slot, const VSAPI *vsapi) {
    drop(slot->output, vsapi);
    slot->output = NULL;
}

static Slot *slotOf(const Filter *filter, int n) {
    return &filter->recent[n % filter->recentSize];
}

/* The output of frame n, which the caller then holds; NULL: not kept. */
static Output *recall(const Filter *filter, int n) {
    Output *output = slotOf(filter, n)->output;
    return output && output->n == n ? hold(output) : NULL;
}

/* Keeps an output, and gives it to every other request that waits for it: the same frame can be
 * asked for twice. */
static void remember(Filter *filter, Output *output, const Waiter *self, const VSAPI *vsapi) {
    Slot *slot = slotOf(filter, output->n);
    empty(slot, vsapi);
    slot->output = hold(output);
    for (Waiter *w = filter->waiters; w; w = w->next)
        if (w != self && w->n == output->n && !w->output)
            w->output = hold(output);
}

/* Forgets outputs that nobody has asked for, those the farthest from frame n first, where they are
   too many: they take the device's memory. */
static void limitSpare(Filter *filter, int n, const VSAPI *vsapi) {
    for (;;) {
        Slot *farthest = NULL;
        int count = 0;
        for (Slot *slot = filter->recent; slot < filter->recent + filter->recentSize; slot++)
            if (slot->output && slot->output->pending && slot->output->holders == 1) {
                count++;
                if (!farthest || abs(slot->output->n - n) > abs(farthest->output->n - n))
                    farthest = slot;
            }
        if (count <= filter->spareMost)
            return;
        empty(farthest, vsapi);
    }
}

/* Whether it is time to trim the heap. */
static bool isTrimDue(Filter *filter) {
    bool due = filter->untrimmed >= TRIM_BYTES;
    if (due)
        filter->untrimmed = 0;
    return due;
}

/* Gives what is free in the heap back to the system, in some milliseconds: not under the lock.
   glibc before 2.38 doesn't find the hole that an aligned plane left when it needs one for another
   (its bug 14581), and its heap grows for as long as a clip plays. */
static void trimHeap(void) {
#ifdef __GLIBC__
    if (strverscmp(gnu_get_libc_version(), "2.38") < 0)
        malloc_trim(0);
#endif
}

/* Fills a frame from an output, unless that was done, or another thread is at it, which is waited
   for: beside a walk, and mostly without the lock. True: the caller owns *result. False: it failed,
   with a message, for all who ask for this output. */
static bool deliver(Filter *filter, Output *output, const VSFrame **result, char *message,
                    VSCore *core, const VSAPI *vsapi) {
    while (output->filling)
        pthread_cond_wait(&filter->changed, &filter->lock);
    if (output->pending) {
        Slot *slot = slotOf(filter, output->n);
        VSFrame *memory = slot->memory;
        PyObject *pending = output->pending;
        slot->memory = NULL;
        output->pending = NULL;
        output->filling = true;
        pthread_mutex_unlock(&filter->lock);
        if (!memory)
            memory = vsapi->newVideoFrame(&filter->vi.format, filter->vi.width, filter->vi.height,
                                          NULL, core);
        VSFrame *dst = NULL;
        if (fillFrame(filter->session, pending, memory, message, vsapi)) {
            dst = vsapi->copyFrame(memory, core);
            vsapi->copyMap(output->properties, vsapi->getFramePropertiesRW(dst));
        }
        pthread_mutex_lock(&filter->lock);
        if (dst && !slot->memory)
            slot->memory = memory;
        else /* another frame was filled here meanwhile; or somebody may still write to this one */
            vsapi->freeFrame(memory);
        if (!dst) {
            output->failure = strdup(message);
            if (slot->output == output)
                empty(slot, vsapi);
            filter->next = -1;
            filter->failures++;
        }
        output->frame = dst;
        output->filling = false;
        pthread_cond_broadcast(&filter->changed);
    }
    if (output->frame)
        *result = vsapi->addFrameRef(output->frame);
    else if (output->failure)
        snprintf(message, MESSAGE, "%s", output->failure);
    else
        setMessage(message, "out of memory");
    return output->frame;
}

/* ---- The walk
 * ----------------------------------------------------------------------------------------------------
 */

static void leave(Filter *filter, Waiter *self, const VSAPI *vsapi) {
    Waiter **link = &filter->waiters;
    while (*link != self)
        link = &(*link)->next;
    *link = self->next;
    drop(self->output, vsapi);
    if (self->encoded)
        release(self->encoded);
    free(self);
}

/* What the session has begun of frame n, for one of the requests for it; NULL: nothing. The caller
 * owns it. */
static PyObject *takeEncoded(Filter *filter, int n) {
    for (Waiter *w = filter->waiters; w; w = w->next)
        if (w->n == n && w->encoded) {
            PyObject *encoded = w->encoded;
            w->encoded = NULL;
            return encoded;
        }
    return NULL;
}

/* Makes frame k the next, where `nearest` says that a state can be had, or where a preroll starts.
   False: it failed, with a message. */
static bool standBefore(Filter *filter, int k, int lowest, char *message) {
    Checkpoint *checkpoint = checkpointAt(filter, k);
    filter->next = -1;
    filter->settled = 0;
    if (filter->scenes[k] != SCENE_STARTS) {
        if (!checkpoint) { /* a preroll */
            filter->settled = lowest;
            return true;
        }
        if (!resumeState(filter->session, checkpoint->state, message))
            return false;
        checkpoint->used = ++filter->clock;
    }
    filter->next = k;
    return true;
}

/* Frame k, stylized, which the caller then holds; where the state does not stand before it, it is
   taken for a scene's start. NULL: a message is set. */
static Output *step(Filter *filter, int k, const VSFrame *src, char *message, const VSAPI *vsapi) {
    Output *output = calloc(1, sizeof *output);
    if (!output) {
        setMessage(message, "out of memory");
        return NULL;
    }
    output->n = k;
    output->holders = 1;
    noteTag(filter, k, src, vsapi);
    bool stands = filter->next == k;
    int failures = filter->failures;
    Scene scene = stands ? filter->scenes[k] : SCENE_STARTS;
    PyObject *encoded = takeEncoded(filter, k);
    pthread_mutex_unlock(&filter->lock);
    scene = process(filter->session, scene, src, encoded, &output->pending, message, vsapi);
    if (encoded)
        release(encoded);
    output->properties = vsapi->createMap();
    vsapi->copyMap(vsapi->getFramePropertiesRO(src), output->properties);
    pthread_mutex_lock(&filter->lock);
    if (scene != SCENE_UNKNOWN && filter->failures != failures) {
        setMessage(message, "a frame before this one failed while it was made; ask again");
        scene = SCENE_UNKNOWN;
    }
    if (scene == SCENE_UNKNOWN) { /* the state may be half changed */
        filter->next = -1;
        drop(output, vsapi);
        return NULL;
    }
    filter->next = k + 1;
    if (stands)
        filter->scenes[k] = scene;
    if (filter->options.detects && tagOf(src, vsapi) == SCENE_UNKNOWN)
        vsapi->mapSetInt(output->properties, "_SceneChangePrev", scene == SCENE_STARTS, maReplace);
    if (isRemote(filter, k + 1))
        keepLive(filter);
    filter->untrimmed += frameBytes(filter);
    return output;
}

/* Walks to self's frame. DONE: self has its output. */
static Progress walk(Filter *filter, Waiter *self, char *message, VSFrameContext *context,
                     const VSAPI *vsapi) {
    int n = self->n, start, lowest;
    Progress progress = findStart(filter, self, &start, &lowest, message, context, vsapi);
    for (int k = start; progress == DONE && k <= n; k++) {
        const VSFrame *src = vsapi->getFrameFilter(k, filter->source, context);
        if (!src) { /* in chunks, so that a long walk holds few sources at a time */
            for (int i = k; i <= n && i < k + CHUNK; i++)
                vsapi->requestFrameFilter(i, filter->source, context);
            return REQUESTED;
        }
        bool stands = filter->next == k || standBefore(filter, k, lowest, message);
        Output *output = stands ? step(filter, k, src, message, vsapi) : NULL;
        vsapi->freeFrame(src);
        vsapi->releaseFrameEarly(filter->source, k, context);
        if (!output)
            return FAILED;
        if (k == n)
            self->output = hold(output);
        if (k >= filter->settled) {
            remember(filter, output, self, vsapi);
            pthread_cond_broadcast(&filter->changed);
        }
        drop(output, vsapi);
        limitSpare(filter, k, vsapi);
    }
    return progress;
}

/* ---- Requests
 * ----------------------------------------------------------------------------------------------------
 */

/* Notes that a request's source is here. Whether its frame should be encoded: the next ones are
 * asked for already. */
static bool arrive(Filter *filter, Waiter *self) {
    self->here = true;
    bool alone = true, begun = self->encoded;
    for (const Waiter *w = filter->waiters; w; w = w->next) {
        alone = alone && (w == self || !w->here);
        begun = begun || (w->n == self->n && w->encoded);
    }
    if (!alone)
        filter->crowd = CROWD;
    else if (filter->crowd > 0)
        filter->crowd--;
    return filter->crowd > 0 && !begun;
}

/* It isn't self's turn to walk: another request does, or one that is here needs an earlier frame.
 */
static bool mustWait(const Filter *filter, const Waiter *self) {
    for (const Waiter *w = filter->waiters; w; w = w->next)
        if (w->here && !w->output && w->n < self->n)
            return true;
    return filter->walking;
}

/* Makes self's frame, or has it made. DONE: the caller owns *result. */
static Progress serve(Filter *filter, Waiter *self, const VSFrame *own, const VSFrame **result,
                      char *message, VSFrameContext *context, VSCore *core, const VSAPI *vsapi) {
    if (arrive(filter, self) && own && !self->output) { /* a look may have let go of it */
        PyObject *encoded;
        pthread_mutex_unlock(&filter->lock);
        bool begun = encodeAhead(filter->session, own, &encoded, message, vsapi);
        pthread_mutex_lock(&filter->lock);
        if (!begun)
            return FAILED;
        self->encoded = encoded;
    }
    while (!self->output && mustWait(filter, self))
        pthread_cond_wait(&filter->changed, &filter->lock);
    if (!self->output)
        self->output = recall(filter, self->n);
    if (!self->output) {
        /* Asking for a frame again to wait for another request's walk would starve that walk:
           VapourSynth serves the oldest request first. So this request walks itself, and serves all
           it passes. */
        filter->walking = true;
        Progress progress = walk(filter, self, message, context, vsapi);
        filter->walking = false;
        if (progress != DONE)
            return progress;
        pthread_cond_broadcast(
            &filter->changed); /* the next one may walk, while this frame is waited for */
    }
    return deliver(filter, self->output, result, message, core, vsapi) ? DONE : FAILED;
}

static const VSFrame *VS_CC stylizeGetFrame(int n, int reason, void *instance, void **frameData,
                                            VSFrameContext *context, VSCore *core,
                                            const VSAPI *vsapi) {
    Filter *filter = instance;
    Waiter *self = *frameData;
    const VSFrame *result = NULL;
    char message[MESSAGE];
    Progress progress = DONE;

    pthread_mutex_lock(&filter->lock);
    if (reason == arInitial) {
        Output *output = recall(filter, n);
        if (output) {
            if (!deliver(filter, output, &result, message, core, vsapi))
                vsapi->setFilterError(message, context);
            drop(output, vsapi);
        } else if ((*frameData = self = calloc(1, sizeof *self))) {
            self->n = n;
            self->look = CHUNK;
            self->next = filter->waiters;
            filter->waiters = self;
            vsapi->requestFrameFilter(n, filter->source,
                                      context); /* so that sources work ahead, in parallel */
        } else {
            vsapi->setFilterError("Stylize: out of memory", context);
        }
        pthread_mutex_unlock(&filter->lock);
        return result;
    }
    if (reason == arAllFramesReady) {
        const VSFrame *own = vsapi->getFrameFilter(n, filter->source, context);
        if (own)
            noteTag(filter, n, own, vsapi);
        progress = serve(filter, self, own, &result, message, context, core, vsapi);
        vsapi->freeFrame(own);
        if (progress == FAILED)
            vsapi->setFilterError(message, context);
    } else { /* arError: a source failed. VapourSynth passes its message on, and the state is
                untouched. */
        filter->careful = true;
    }
    self->here = false;
    if (progress !=
        REQUESTED) { /* else this is called again, as the same waiter, when they are here */
        leave(filter, self, vsapi);
        *frameData = NULL;
    }
    bool trim = isTrimDue(filter);
    pthread_cond_broadcast(&filter->changed);
    pthread_mutex_unlock(&filter->lock);
    if (trim)
        trimHeap();
    return result;
}

/* ---- Its life
 * ----------------------------------------------------------------------------------------------------
 */

static void VS_CC stylizeFree(void *instance, VSCore *core, const VSAPI *vsapi) {
    (void)core;
    Filter *filter = instance;
    for (int i = 0; i < filter->checkpointCount; i++)
        release(filter->checkpoints[i].state);
    for (int i = 0; filter->recent && i < filter->recentSize; i++) {
        empty(&filter->recent[i], vsapi);
        vsapi->freeFrame(filter->recent[i].memory);
    }
    release(filter->session);
    vsapi->freeNode(filter->source);
    pthread_cond_destroy(&filter->changed);
    pthread_mutex_destroy(&filter->lock);
    free(filter->checkpoints);
    free(filter->recent);
    free(filter->scenes);
    free(filter);
}

VSNode *createFilter(VSNode *source, PyObject *session, FilterOptions options, VSCore *core,
                     const VSAPI *vsapi) {
    Filter *filter = calloc(1, sizeof *filter);
    if (!filter) {
        release(session);
        vsapi->freeNode(source);
        return NULL;
    }
    pthread_mutex_init(&filter->lock, NULL);
    pthread_cond_init(&filter->changed, NULL);
    filter->source = source;
    filter->vi = *vsapi->getVideoInfo(source);
    filter->session = session;
    filter->options = options;
    filter->checkpointMost = -1;
    filter->next = 0; /* a new session stands before frame 0 */
    int64_t bytes = frameBytes(filter), most = LOOK_BYTES / bytes;
    filter->lookMost = most < CHUNK ? CHUNK : most < LOOK_MOST ? (int)most : LOOK_MOST;
    filter->scenes = calloc(filter->vi.numFrames, 1);
    VSCoreInfo info;
    vsapi->getCoreInfo(core, &info);
    filter->recentSize = RECENT + info.numThreads; /* so many requests may overtake another */
    filter->recent = calloc(filter->recentSize, sizeof *filter->recent);
    most = SPARE_BYTES / bytes;
    filter->spareMost = most < 1 ? 1 : most < filter->recentSize ? (int)most : filter->recentSize;
    VSNode *node = NULL;
    if (filter->scenes && filter->recent) {
        filter->scenes[0] = SCENE_STARTS;
        VSFilterDependency dependencies[] = {{source, rpGeneral}};
        node = vsapi->createVideoFilter2("Stylize", &filter->vi, stylizeGetFrame, stylizeFree,
                                         fmParallel, dependencies, 1, filter, core);
    }
    if (!node) {
        stylizeFree(filter, core, vsapi);
        return NULL;
    }
    vsapi->setCacheMode(node, cmForceDisable); /* `recent` is in its place */
    return node;
}
