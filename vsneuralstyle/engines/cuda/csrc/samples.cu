/* Hosts' samples to RGB and back. */

#include "common.cuh"

/* Integers of one or two bytes. Four pixels of a row are a thread's, which reads and writes them at
 * once where they lie as such a word does: rows and planes start anywhere. */

enum { PIXELS_PER_THREAD = 4 };

typedef unsigned char Byte;
typedef unsigned short Short;

template <typename Sample> struct Word4; /* what is as large as four samples */
template <> struct Word4<Byte> {
    typedef unsigned int Word;
};
template <> struct Word4<Short> {
    typedef unsigned long long Word;
};

template <typename Word> __device__ static bool is_word_aligned(const void *address, int count) {
    return count >= PIXELS_PER_THREAD && (unsigned long long)address % sizeof(Word) == 0;
}

/* Four from an address on, of which there are `count`, at least one; beyond, the last one again. */
template <typename Sample> __device__ static Float4 load4(const Sample *from, int count) {
    typedef typename Word4<Sample>::Word Word;
    Float4 floats;
    if (is_word_aligned<Word>(from, count)) {
        const Word word = *(const Word *)from;
        for (int n = 0; n < PIXELS_PER_THREAD; n++)
            floats.values[n] = (float)(Sample)(word >> 8 * sizeof(Sample) * n);
    } else {
        for (int n = 0; n < PIXELS_PER_THREAD; n++)
            floats.values[n] = (float)from[clamp(n, count - 1)];
    }
    return floats;
}

__device__ static Float4 load4(const float *from, int count) {
    if (is_word_aligned<Float4>(from, count))
        return *(const Float4 *)from;
    Float4 floats;
    for (int n = 0; n < PIXELS_PER_THREAD; n++)
        floats.values[n] = from[clamp(n, count - 1)];
    return floats;
}

__device__ static void store4(float *to, const Float4 &floats, int count) {
    if (is_word_aligned<Float4>(to, count))
        *(Float4 *)to = floats;
    else
        for (int n = 0; n < PIXELS_PER_THREAD && n < count; n++)
            to[n] = floats.values[n];
}

struct Levels {
    float last; /* the highest code value */
    int unit;   /* what a sample is of its code value */
};

/* To nearest, of two as near to the even one, as PyTorch rounds; what is no number to 0. */
template <typename Sample> __device__ static Sample quantize(float code, const Levels &levels) {
    return (Sample)((int)clamp_float(rintf(code), 0, levels.last) * levels.unit);
}

template <typename Sample>
__device__ static void store4(Sample *to, const Float4 &codes, int count, const Levels &levels) {
    typedef typename Word4<Sample>::Word Word;
    if (is_word_aligned<Word>(to, count)) {
        Word word = 0;
        for (int n = 0; n < PIXELS_PER_THREAD; n++)
            word |= (Word)quantize<Sample>(codes.values[n], levels) << 8 * sizeof(Sample) * n;
        *(Word *)to = word;
    } else {
        for (int n = 0; n < PIXELS_PER_THREAD && n < count; n++)
            to[n] = quantize<Sample>(codes.values[n], levels);
    }
}

struct SamplesToRgb {
    const void *samples; /* (count,) */
    float *out;          /* (count,): sample / top * scale + offset, limited to 0..1 */
    int count;
    float top, scale, offset;
};

template <typename Sample> __device__ static void samples_to_rgb(const SamplesToRgb &job) {
    const int first = (blockIdx.x * blockDim.x + threadIdx.x) * PIXELS_PER_THREAD,
              left = job.count - first;
    if (left <= 0)
        return;
    Float4 floats = load4((const Sample *)job.samples + first, left);
    for (int n = 0; n < PIXELS_PER_THREAD; n++) {
        /* A quotient, not a product with what is nearly the inverse: the very number that a host
         * would have given. */
        floats.values[n] = clamp_float(floats.values[n] / job.top * job.scale + job.offset, 0, 1);
    }
    store4(job.out + first, floats, left);
}

KERNEL(samples_to_rgb_8, SamplesToRgb) {
    samples_to_rgb<Byte>(job);
}

KERNEL(samples_to_rgb_16, SamplesToRgb) {
    samples_to_rgb<Short>(job);
}

struct RgbToSamples {
    const float *numbers; /* (count,) */
    void *out;            /* (count,): of code values number * scale + offset */
    int count;
    float scale, offset;
    Levels levels;
};

template <typename Sample> __device__ static void rgb_to_samples(const RgbToSamples &job) {
    const int first = (blockIdx.x * blockDim.x + threadIdx.x) * PIXELS_PER_THREAD,
              left = job.count - first;
    if (left <= 0)
        return;
    Float4 floats = load4(job.numbers + first, left);
    for (int n = 0; n < PIXELS_PER_THREAD; n++)
        floats.values[n] = floats.values[n] * job.scale + job.offset;
    store4((Sample *)job.out + first, floats, left, job.levels);
}

KERNEL(rgb_to_samples_8, RgbToSamples) {
    rgb_to_samples<Byte>(job);
}

KERNEL(rgb_to_samples_16, RgbToSamples) {
    rgb_to_samples<Short>(job);
}

/* A row of R, G or B by Y, Cb and Cr, or the other way: what each of them weighs, and what is
 * added. */
struct Affine {
    float weights[3], offset;
};

__device__ static float apply(const Affine &row, float first, float second, float third) {
    return row.weights[0] * first + row.weights[1] * second + row.weights[2] * third + row.offset;
}

struct PlanesToRgb {
    const void *samples; /* (height, width) of Y, and (2, rows, columns) of Cb and Cr: as many, or
                            half as many, rounded up */
    float *out;          /* (3, height, width), limited to 0..1 */
    int height, width, rows, columns;
    int cosited_rows, cosited_columns; /* whether a sample of chroma lies on the first of its two of
                                          luma, else midway */
    Affine map[3];
};

/* Where a pixel lies between samples of chroma along an axis. */
struct ChromaTaps {
    int first, second;
    float weight; /* the second's */
};

__device__ static ChromaTaps chroma_taps(int place, int full, int count, int cosited) {
    if (count == full)
        return {place, place, 0};
    const int at = place / 2, odd = place % 2;
    return {clamp(at, count - 1),
            clamp(odd       ? at + 1
                  : cosited ? at
                            : at - 1,
                  count - 1),
            cosited ? 0.5f : 0.25f};
}

__device__ static float lerp(float first, float second, float weight) {
    return first + weight * (second - first);
}

/* A thread four pixels of a row. */
template <typename Sample> __device__ static void planes_to_rgb(const PlanesToRgb &job) {
    const int x = (blockIdx.x * blockDim.x + threadIdx.x) * PIXELS_PER_THREAD,
              y = blockIdx.y * blockDim.y + threadIdx.y, left = job.width - x;
    if (left <= 0 || y >= job.height)
        return;
    const Long plane = (Long)job.height * job.width, line = (Long)y * job.width + x;
    const Sample *luma = (const Sample *)job.samples, *chroma = luma + plane;
    const ChromaTaps down = chroma_taps(y, job.height, job.rows, job.cosited_rows);
    const Float4 light = load4(luma + line, left);
    Float4 rgb[3];
    for (int n = 0; n < PIXELS_PER_THREAD; n++) {
        const ChromaTaps across =
            chroma_taps(clamp(x + n, job.width - 1), job.width, job.columns, job.cosited_columns);
        float color[2];
        for (int i = 0; i < 2; i++) {
            const Sample *upper = chroma + ((Long)i * job.rows + down.first) * job.columns;
            const Sample *lower = chroma + ((Long)i * job.rows + down.second) * job.columns;
            color[i] =
                lerp(lerp(upper[across.first], upper[across.second], across.weight),
                     lerp(lower[across.first], lower[across.second], across.weight), down.weight);
        }
        for (int i = 0; i < 3; i++)
            rgb[i].values[n] =
                clamp_float(apply(job.map[i], light.values[n], color[0], color[1]), 0, 1);
    }
    for (int i = 0; i < 3; i++)
        store4(job.out + i * plane + line, rgb[i], left);
}

KERNEL(planes_to_rgb_8, PlanesToRgb) {
    planes_to_rgb<Byte>(job);
}

KERNEL(planes_to_rgb_16, PlanesToRgb) {
    planes_to_rgb<Short>(job);
}

struct RgbToPlanes {
    const float *rgb; /* (3, height, width) */
    void *out;        /* as FromComponents has its samples */
    int height, width, rows, columns;
    int cosited_rows, cosited_columns;
    Affine map[3]; /* to code values */
    Levels levels;
};

/* What a sample of chroma is the mean of along an axis: a pixel's place is the middle one, or its
 * two are the middle and the last one. */
struct ChromaWeights {
    float weights[3];
};

__device__ static ChromaWeights chroma_weights(int half, int cosited) {
    if (!half)
        return {{0, 1, 0}};
    if (cosited)
        return {{0.25f, 0.5f, 0.25f}};
    return {{0, 0.5f, 0.5f}};
}

/* A thread four columns of the one or two rows that belong to one of chroma; a sample of chroma is
 * of ACROSS columns. */
template <typename Sample, int ACROSS>
__device__ static void rgb_to_planes(const RgbToPlanes &job) {
    const int x = (blockIdx.x * blockDim.x + threadIdx.x) * PIXELS_PER_THREAD,
              row = blockIdx.y * blockDim.y + threadIdx.y, left = job.width - x;
    if (left <= 0 || row >= job.rows)
        return;
    const int half = job.rows != job.height, top = half ? 2 * row : row;
    const Long plane = (Long)job.height * job.width;
    Sample *luma = (Sample *)job.out, *chroma = luma + plane;
    const ChromaWeights down = chroma_weights(half, job.cosited_rows),
                        across = chroma_weights(ACROSS == 2, job.cosited_columns);
    float means[3][1 + PIXELS_PER_THREAD + 1] = {}; /* of the rows, from the column before on */
    for (int tap = 0; tap < 3; tap++) {
        const float weight = down.weights[tap];
        const int y = top + tap - 1;
        if (weight == 0)
            continue;
        const Long line = (Long)clamp(y, job.height - 1) * job.width + x;
        Float4 rgb[3];
        for (int i = 0; i < 3; i++) {
            const float *from = job.rgb + i * plane + line;
            rgb[i] = load4(from, left);
            means[i][0] += weight * from[x ? -1 : 0];
            for (int n = 0; n < PIXELS_PER_THREAD; n++)
                means[i][1 + n] += weight * rgb[i].values[n];
        }
        if (tap && y < job.height) {
            Float4 codes;
            for (int n = 0; n < PIXELS_PER_THREAD; n++)
                codes.values[n] =
                    apply(job.map[0], rgb[0].values[n], rgb[1].values[n], rgb[2].values[n]);
            store4(luma + line, codes, left, job.levels);
        }
    }
    for (int n = 0; n < PIXELS_PER_THREAD / ACROSS; n++) {
        const int column = x / ACROSS + n;
        if (column >= job.columns)
            break;
        float rgb[3];
        for (int i = 0; i < 3; i++) {
            const float *means_of_rows = means[i] + n * ACROSS;
            rgb[i] = across.weights[0] * means_of_rows[0] + across.weights[1] * means_of_rows[1] +
                     across.weights[2] * means_of_rows[2];
        }
        for (int i = 0; i < 2; i++)
            chroma[((Long)i * job.rows + row) * job.columns + column] =
                quantize<Sample>(apply(job.map[1 + i], rgb[0], rgb[1], rgb[2]), job.levels);
    }
}

template <typename Sample> __device__ static void rgb_to_planes(const RgbToPlanes &job) {
    if (job.columns == job.width)
        rgb_to_planes<Sample, 1>(job);
    else
        rgb_to_planes<Sample, 2>(job);
}

KERNEL(rgb_to_planes_8, RgbToPlanes) {
    rgb_to_planes<Byte>(job);
}

KERNEL(rgb_to_planes_16, RgbToPlanes) {
    rgb_to_planes<Short>(job);
}
