/* A host that runs a script through VSScript, as editors and players do.
 *
 *   host SCRIPT          prints a hash of each frame of output 0, asked for from the last to the
 * first host SCRIPT leave    asks for all frames at once and lets go of the clip while they are
 * under way
 */

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <threads.h>

#include "VSScript4.h"
#include "VapourSynth4.h"

static uint64_t hash(const VSFrame *frame, const VSAPI *vsapi) {
    const VSVideoFormat *format = vsapi->getVideoFrameFormat(frame);
    uint64_t value = 14695981039346656037u; /* FNV-1a */
    for (int p = 0; p < format->numPlanes; p++)
        for (int y = 0; y < vsapi->getFrameHeight(frame, p); y++) {
            const uint8_t *row = vsapi->getReadPtr(frame, p) + y * vsapi->getStride(frame, p);
            for (int x = 0; x < vsapi->getFrameWidth(frame, p) * format->bytesPerSample; x++)
                value = (value ^ row[x]) * 1099511628211u;
        }
    return value;
}

static atomic_int pending, failed;

static void VS_CC done(void *userData, const VSFrame *frame, int n, VSNode *node,
                       const char *error) {
    (void)n;
    (void)node;
    (void)error;
    failed += !frame;
    ((const VSAPI *)userData)->freeFrame(frame);
    pending--;
}

int main(int argc, char **argv) {
    const VSSCRIPTAPI *vssapi = getVSScriptAPI(VSSCRIPT_API_VERSION);
    if (argc < 2 || !vssapi) {
        fputs("no VSScript here\n", stderr);
        return 2;
    }
    const VSAPI *vsapi = vssapi->getVSAPI(VAPOURSYNTH_API_VERSION);
    VSScript *script = vssapi->createScript(NULL);
    if (vssapi->evaluateFile(script, argv[1])) {
        fprintf(stderr, "%s\n", vssapi->getError(script));
        vssapi->freeScript(script);
        return 1;
    }
    VSNode *node = vssapi->getOutputNode(script, 0);
    int count = vsapi->getVideoInfo(node)->numFrames, result = 0;
    if (argc > 2 && !strcmp(argv[2], "leave")) {
        pending = count;
        for (int n = 0; n < count; n++)
            vsapi->getFrameAsync(n, node, done, (void *)vsapi);
        vsapi->freeNode(node);
        node = NULL;
        /* VapourSynth wants a core freed after its last frame has come. */
        while (pending)
            thrd_sleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        result = failed != 0;
    } else {
        char message[1024];
        for (int n = count - 1; n >= 0 && !result; n--) {
            const VSFrame *frame = vsapi->getFrame(n, node, message, sizeof message);
            if (frame) {
                printf("%d %016" PRIx64 "\n", n, hash(frame, vsapi));
            } else {
                fprintf(stderr, "%s\n", message);
                result = 1;
            }
            vsapi->freeFrame(frame);
        }
    }
    vsapi->freeNode(node);
    vssapi->freeScript(script);
    return result;
}
