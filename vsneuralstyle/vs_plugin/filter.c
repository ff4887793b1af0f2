/*
 * The filter: RGB in, RGB out.
 *
 * A stylized frame depends on every frame since its scene's start, yet VapourSynth asks for frames in any order and
 * from many threads. This file owns that order: whatever is asked, and however often, the frames of a scene go through
 * the session from the scene's start on, one after the other. A different order of requests changes how long a frame
 * takes, never its pixels.
 *
 * A request walks to its frame from the nearest place at or before it where a state can be had: where the live state
 * stands, at a checkpoint, or at a scene's start, which needs none. Where scenes start is known of the frames that were
 * looked at so far; the others between that place and the frame are looked at first, backwards, since that costs their
 * decoding alone. Whether a frame starts a scene is decided from it and the one before, so it comes out the same as in
 * a walk.
 *
 * One request walks at a time. Where several are made at a time, the others wait for it, once they have had the session
 * prepare their frames, which needs no state and goes on meanwhile.
 */

#define _GNU_SOURCE /* strverscmp */

#include "plugin.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GLIBC__
#include <gnu/libc-version.h>
#include <malloc.h>
#endif

enum {
    CHUNK = 8,      /* sources that are asked for at a time */
    LOOK_MOST = 64, /* the same, at most, where scenes' starts are looked for */
    REACH = 16,     /* frames. What is nearer is walked to without a look for something nearer still, and one
                       checkpoint is made for as many. */
    RECENT = 8,     /* outputs that are kept, and as many more as there are threads */
    CROWD = 16,     /* frames that are prepared after requests came several at a time */
};
static const int64_t LOOK_BYTES = 256 << 20; /* sources that are held for a look, at most */
static const int64_t TRIM_BYTES = 256 << 20; /* of frames, between two trims of the heap */

/* A request that is under way. */
typedef struct Waiter {
    int n;
    int look;             /* sources that it looks at next */
    bool here;            /* its source is, and a thread that works for it or waits */
    const VSFrame *ready; /* frame n, once another request's walk has passed it; owned */
    PyObject *prepared;   /* what the session has begun of frame n, or NULL; owned; touched with the GIL only */
    struct Waiter *next;
} Waiter;

/* A state that a walk can be resumed from. */
typedef struct {
    int n;           /* the frame that it stands before */
    int64_t used;    /* filter->clock when it was made or resumed from */
    PyObject *state; /* owned; touched with the GIL only */
} Checkpoint;

/* A frame that was made. */
typedef struct {
    int n;
    const VSFrame *frame; /* owned; NULL: none */
    VSFrame *memory;      /* owned, and never given away: `frame` shares its planes. Once nobody else has them any more,
                             they are written to anew, which saves an allocation (see `trimHeap`). */
} Output;

typedef struct {
    VSNode *source; /* owned */
    VSVideoInfo vi;
    PyObject *session; /* owned; touched with the GIL only */
    FilterOptions options;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    bool walking; /* a request walks, with or without the lock */
    int crowd;    /* frames that are still to be prepared */
    int next;     /* the frame that the session's state, the live one, stands before; -1: it stands nowhere */
    int settled;  /* with a preroll: frames below are made to bring the state there, and are not for delivery */
    int lookMost;
    bool careful; /* a source has failed: ask for none that the request at hand doesn't depend on */
    unsigned char *scenes;   /* for each frame: the Scene, as far as known */
    Checkpoint *checkpoints; /* in the order of their frames */
    int checkpointCount, checkpointMost; /* Most is known with the first state; -1 before */
    int64_t clock;
    int64_t untrimmed; /* bytes of frames since the heap was trimmed */
    Waiter *waiters;
    Output *recent; /* the last outputs, at n % recentSize. VapourSynth's cache can't be read back by the filter that
                       fills it. */
    int recentSize;
} Filter;

/* ---- What is known of scenes ------------------------------------------------------------------------------------- */

static Scene tagOf(const VSFrame *frame, const VSAPI *vsapi) {
    int absent;
    int64_t tag = vsapi->mapGetInt(vsapi->getFramePropertiesRO(frame), "_SceneChangePrev", 0, &absent);
    return absent ? SCENE_UNKNOWN : tag ? SCENE_STARTS : SCENE_GOES_ON;
}

/* Notes what a source frame says by itself. */
static void noteTag(Filter *filter, int k, const VSFrame *src, const VSAPI *vsapi) {
    if (filter->scenes[k] != SCENE_UNKNOWN)
        return;
    Scene tag = tagOf(src, vsapi);
    filter->scenes[k] = tag == SCENE_UNKNOWN && !filter->options.detects ? SCENE_GOES_ON : tag;
}

/* ---- Checkpoints ------------------------------------------------------------------------------------------------- */

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
        if (!w->ready && w->n >= n && nearest(filter, w->n) == n)
            return true;
    return false;
}

/* How far apart the places around checkpoint i are where a state can be had: without it, a walk gets as long. */
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

/* Makes room for one more checkpoint, at the cost of the one that was used the longest ago, weighed by the gap that it
   leaves: what lies further back stays covered, by fewer. False: all of them are needed. */
static bool makeRoom(Filter *filter) {
    if (filter->checkpointCount < filter->checkpointMost)
        return true;
    int worst = -1;
    double least = 0;
    for (int i = 0; i < filter->checkpointCount; i++) {
        double worth = (double)gapAround(filter, i) / (filter->clock - filter->checkpoints[i].used + 1);
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

/* Sees to it that a state can be had where the live state stands. False: there is no room for it. */
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

/* ---- Where a walk starts ----------------------------------------------------------------------------------------- */

/* The lowest frame that the walk to self's frame serves: requests close below one another are served by one walk. (So a
   source that fails among them can fail this request as well; from then on the filter is careful.) */
static int lowestServed(const Filter *filter, const Waiter *self) {
    int lowest = self->n;
    for (bool lowered = !filter->careful; lowered;) {
        lowered = false;
        for (const Waiter *w = filter->waiters; w; w = w->next)
            if (!w->ready && w->n < lowest && w->n >= lowest - REACH) {
                lowest = w->n;
                lowered = true;
            }
    }
    return lowest;
}

/* Another request waits for one of the frames from `first` up to `last`, without it. */
static bool isAwaited(const Filter *filter, int first, int last, const Waiter *self) {
    for (const Waiter *w = filter->waiters; w; w = w->next)
        if (w != self && !w->ready && w->n >= first && w->n < last)
            return true;
    return false;
}

typedef enum { FAILED, REQUESTED, DONE } Progress;

/* Looks for scenes' starts from frame `last`, of which nothing is known, down towards `first`, where a state can be
   had. DONE: more is known than before. */
static Progress look(Filter *filter, Waiter *self, int first, int last, char *message, VSFrameContext *context,
                     const VSAPI *vsapi) {
    const VSFrame *frames[LOOK_MOST + 1];
    bool cuts[LOOK_MOST];
    int size = self->look;
    if (filter->careful) { /* `last` alone first: where it is tagged, nothing depends on the one before */
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
    /* Skipping ahead drops the live state. Where it can't be kept, those who wait in between would have to walk that
       part again, and two walks that drop each other's state would never end. So the walk goes on past those. */
    if (filter->next >= 0 && *start != filter->next && !keepLive(filter) && *start > filter->next &&
        isAwaited(filter, filter->next, *start, self))
        *start = filter->next;
    return DONE;
}

/* Gives what is free in the heap back to the system, now and then. glibc before 2.38 doesn't find the hole that an
   aligned plane left when it needs one for another (its bug 14581), and its heap grows for as long as a clip plays. */
static void trimHeap(Filter *filter) {
#ifdef __GLIBC__
    filter->untrimmed +=
        (int64_t)filter->vi.width * filter->vi.height * filter->vi.format.numPlanes * filter->vi.format.bytesPerSample;
    if (filter->untrimmed < TRIM_BYTES || strverscmp(gnu_get_libc_version(), "2.38") >= 0)
        return;
    filter->untrimmed = 0;
    malloc_trim(0);
#else
    (void)filter;
#endif
}

/* ---- The walk ---------------------------------------------------------------------------------------------------- */

static const VSFrame *recall(const Filter *filter, int n, const VSAPI *vsapi) {
    const Output *output = &filter->recent[n % filter->recentSize];
    return output->frame && output->n == n ? vsapi->addFrameRef(output->frame) : NULL;
}

/* Where frame n is to be made; what was there is forgotten. */
static Output *outputFor(Filter *filter, int n, VSCore *core, const VSAPI *vsapi) {
    Output *output = &filter->recent[n % filter->recentSize];
    vsapi->freeFrame(output->frame);
    output->frame = NULL;
    output->n = n;
    if (!output->memory)
        output->memory = vsapi->newVideoFrame(&filter->vi.format, filter->vi.width, filter->vi.height, NULL, core);
    return output;
}

/* Keeps an output, and gives it to every other request that waits for it: the same frame can be asked for twice. */
static void remember(Filter *filter, int n, const VSFrame *frame, const Waiter *self, const VSAPI *vsapi) {
    filter->recent[n % filter->recentSize].frame = vsapi->addFrameRef(frame);
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
    if (self->prepared)
        release(self->prepared);
    free(self);
}

/* What the session has begun of frame n, for one of the requests for it; NULL: nothing. The caller owns it. */
static PyObject *takePrepared(Filter *filter, int n) {
    for (Waiter *w = filter->waiters; w; w = w->next)
        if (w->n == n && w->prepared) {
            PyObject *prepared = w->prepared;
            w->prepared = NULL;
            return prepared;
        }
    return NULL;
}

/* Makes frame k the next, where `nearest` says that a state can be had, or where a preroll starts. False: it failed,
   with a message. */
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

/* Frame k, stylized; where the state does not stand before it, it is taken for a scene's start. NULL: a message is
   set. */
static VSFrame *step(Filter *filter, int k, const VSFrame *src, char *message, VSCore *core, const VSAPI *vsapi) {
    noteTag(filter, k, src, vsapi);
    bool stands = filter->next == k;
    Output *output = outputFor(filter, k, core, vsapi);
    Scene scene = stands ? filter->scenes[k] : SCENE_STARTS;
    PyObject *prepared = takePrepared(filter, k);
    pthread_mutex_unlock(&filter->lock);
    scene = process(filter->session, scene, src, prepared, output->memory, message, vsapi);
    if (prepared)
        release(prepared);
    pthread_mutex_lock(&filter->lock);
    if (scene == SCENE_UNKNOWN) { /* the state may be half changed */
        filter->next = -1;
        return NULL;
    }
    VSFrame *dst = vsapi->copyFrame(output->memory, core);
    vsapi->copyMap(vsapi->getFramePropertiesRO(src), vsapi->getFramePropertiesRW(dst));
    filter->next = k + 1;
    if (stands)
        filter->scenes[k] = scene;
    if (filter->options.detects && tagOf(src, vsapi) == SCENE_UNKNOWN)
        vsapi->mapSetInt(vsapi->getFramePropertiesRW(dst), "_SceneChangePrev", scene == SCENE_STARTS, maReplace);
    if (isRemote(filter, k + 1))
        keepLive(filter);
    trimHeap(filter);
    return dst;
}

/* Walks to self's frame. DONE: it is in *result. */
static Progress walk(Filter *filter, Waiter *self, const VSFrame **result, char *message, VSFrameContext *context,
                     VSCore *core, const VSAPI *vsapi) {
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
        VSFrame *dst = stands ? step(filter, k, src, message, core, vsapi) : NULL;
        vsapi->freeFrame(src);
        vsapi->releaseFrameEarly(filter->source, k, context);
        if (!dst)
            return FAILED;
        if (k >= filter->settled) {
            remember(filter, k, dst, self, vsapi);
            pthread_cond_broadcast(&filter->changed);
        }
        if (k == n)
            *result = dst;
        else
            vsapi->freeFrame(dst);
    }
    return progress;
}

/* ---- Requests ---------------------------------------------------------------------------------------------------- */

/* Notes that a request's source is here. Whether its frame should be prepared: the next ones are asked for already. */
static bool arrive(Filter *filter, Waiter *self) {
    self->here = true;
    bool alone = true, begun = self->prepared;
    for (const Waiter *w = filter->waiters; w; w = w->next) {
        alone = alone && (w == self || !w->here);
        begun = begun || (w->n == self->n && w->prepared);
    }
    if (!alone)
        filter->crowd = CROWD;
    else if (filter->crowd > 0)
        filter->crowd--;
    return filter->crowd > 0 && !begun;
}

/* It isn't self's turn to walk: another request does, or one that is here needs an earlier frame. */
static bool mustWait(const Filter *filter, const Waiter *self) {
    for (const Waiter *w = filter->waiters; w; w = w->next)
        if (w->here && !w->ready && w->n < self->n)
            return true;
    return filter->walking;
}

/* Makes self's frame, or has it made: DONE, with the frame in *result, when another request's walk has passed it. */
static Progress serve(Filter *filter, Waiter *self, const VSFrame *own, const VSFrame **result, char *message,
                      VSFrameContext *context, VSCore *core, const VSAPI *vsapi) {
    if (arrive(filter, self) && own && !self->ready) { /* a look may have let go of it */
        PyObject *prepared;
        pthread_mutex_unlock(&filter->lock);
        bool begun = prepare(filter->session, own, &prepared, message, vsapi);
        pthread_mutex_lock(&filter->lock);
        if (!begun)
            return FAILED;
        self->prepared = prepared;
    }
    while (!self->ready && mustWait(filter, self))
        pthread_cond_wait(&filter->changed, &filter->lock);
    *result = self->ready ? vsapi->addFrameRef(self->ready) : recall(filter, self->n, vsapi);
    if (*result)
        return DONE;
    /* Asking for a frame again to wait for another request's walk would starve that walk: VapourSynth serves the oldest
       request first. So this request walks itself, and serves all it passes. */
    filter->walking = true;
    Progress progress = walk(filter, self, result, message, context, core, vsapi);
    filter->walking = false;
    return progress;
}

static const VSFrame *VS_CC stylizeGetFrame(int n, int reason, void *instance, void **frameData,
                                            VSFrameContext *context, VSCore *core, const VSAPI *vsapi) {
    Filter *filter = instance;
    Waiter *self = *frameData;
    const VSFrame *result = NULL;
    char message[MESSAGE];
    Progress progress = DONE;

    pthread_mutex_lock(&filter->lock);
    if (reason == arInitial) {
        if (!(result = recall(filter, n, vsapi))) {
            if ((*frameData = self = calloc(1, sizeof *self))) {
                self->n = n;
                self->look = CHUNK;
                self->next = filter->waiters;
                filter->waiters = self;
                vsapi->requestFrameFilter(n, filter->source, context); /* so that sources work ahead, in parallel */
            } else {
                vsapi->setFilterError("Stylize: out of memory", context);
            }
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
    } else { /* arError: a source failed. VapourSynth passes its message on, and the state is untouched. */
        filter->careful = true;
    }
    self->here = false;
    if (progress != REQUESTED) { /* else this is called again, as the same waiter, when they are here */
        leave(filter, self, vsapi);
        *frameData = NULL;
    }
    pthread_cond_broadcast(&filter->changed);
    pthread_mutex_unlock(&filter->lock);
    return result;
}

/* ---- Its life ---------------------------------------------------------------------------------------------------- */

static void VS_CC stylizeFree(void *instance, VSCore *core, const VSAPI *vsapi) {
    (void)core;
    Filter *filter = instance;
    for (int i = 0; i < filter->checkpointCount; i++)
        release(filter->checkpoints[i].state);
    release(filter->session);
    for (int i = 0; filter->recent && i < filter->recentSize; i++) {
        vsapi->freeFrame(filter->recent[i].frame);
        vsapi->freeFrame(filter->recent[i].memory);
    }
    vsapi->freeNode(filter->source);
    pthread_cond_destroy(&filter->changed);
    pthread_mutex_destroy(&filter->lock);
    free(filter->checkpoints);
    free(filter->recent);
    free(filter->scenes);
    free(filter);
}

VSNode *createFilter(VSNode *source, PyObject *session, FilterOptions options, VSCore *core, const VSAPI *vsapi) {
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
    int64_t most = LOOK_BYTES / ((int64_t)filter->vi.width * filter->vi.height * 3 * filter->vi.format.bytesPerSample);
    filter->lookMost = most < CHUNK ? CHUNK : most < LOOK_MOST ? (int)most : LOOK_MOST;
    filter->scenes = calloc(filter->vi.numFrames, 1);
    VSCoreInfo info;
    vsapi->getCoreInfo(core, &info);
    filter->recentSize = RECENT + info.numThreads; /* so many requests may overtake another */
    filter->recent = calloc(filter->recentSize, sizeof *filter->recent);
    VSNode *node = NULL;
    if (filter->scenes && filter->recent) {
        filter->scenes[0] = SCENE_STARTS;
        VSFilterDependency dependencies[] = {{source, rpGeneral}};
        node = vsapi->createVideoFilter2("Stylize", &filter->vi, stylizeGetFrame, stylizeFree, fmParallel,
                                         dependencies, 1, filter, core);
    }
    if (!node) {
        stylizeFree(filter, core, vsapi);
        return NULL;
    }
    vsapi->setCacheMode(node, cmForceDisable); /* `recent` is in its place */
    return node;
}
