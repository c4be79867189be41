/* What SASRec does with one customer at a time: causal attention, and sums of outer products.
 *
 * PyTorch has both as batched products of small matrices, for which it calls a library built for
 * large ones. Here a customer's attention stays in the first caches, half of it is not computed
 * because it is masked, and the gradients are written to one array; the norms of her gradients by
 * weights are taken while these are in registers.
 *
 * Places behind a sequence's end are not looked at, and get zeros. Needs AVX2 or AVX-512, and
 * columns by 32; elsewhere client/training/models/sequence_kernel.py does it with PyTorch.
 */
#include <stddef.h>
#include <stdint.h>

#define LANES 32
/* So many floats of a sum stay in the first cache while customers are added to them. */
#define CACHED 4096

/* Attention of heads of `size` columns; rows of `padded` scores, a multiple of 32. */
struct shape {
    size_t heads, size, padded;
    float scale;
    const float *later; /* padded zeros, then as many of minus infinity */
};

/* Sums of x[t, rows] times g[t, columns], with the distances from one t to the next. */
struct outer {
    size_t rows, columns, x_row, g_row;
};

#if defined(__x86_64__) && defined(__GNUC__)
#include <math.h>
#include <string.h>

/* A customer's keys or values with places side by side: scratch[column, place]. */
static void turn(const struct shape *shape, const float *from, size_t length, float *scratch)
{
    const size_t row = 3 * shape->heads * shape->size;
    for (size_t j = 0; j < length; j++)
        for (size_t k = 0; k < shape->size; k++)
            scratch[k * shape->padded + j] = from[j * row + k];
}

/* Asks for what the next customer's rows are: read by columns, they are not foreseen. */
static void ask_for(const float *from, size_t floats)
{
    for (size_t i = 0; i < floats; i += 16)
        __builtin_prefetch(from + i, 0, 2);
}

#define WIDTH 16
#include "vectors.h"
#include "sequences_passes.h"
#undef WIDTH
#define WIDTH 8
#include "vectors.h"
#include "sequences_passes.h"

/* The widest vectors that this processor has and this file knows: 16 or 8 floats, or 0. */
int fedpref_sequences_width(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma"))
        return 16;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 8 : 0;
}

/* Floats of scratch for `attention` and `attention_back`, one thread. */
size_t fedpref_sequences_scratch(size_t longest, size_t size)
{
    const size_t padded = (longest + LANES - 1) / LANES * LANES;
    return (size + longest + 2) * padded;
}

static struct shape shape_of(size_t longest, size_t heads, size_t size, float *scratch)
{
    struct shape shape = {.heads = heads, .size = size};
    shape.padded = (longest + LANES - 1) / LANES * LANES;
    shape.scale = 1.0f / sqrtf((float)size);
    float *later = scratch + (size + longest) * shape.padded;
    for (size_t j = 0; j < shape.padded; j++) {
        later[j] = 0.0f;
        later[shape.padded + j] = -INFINITY;
    }
    shape.later = later;
    /* Columns behind a sequence's end must be numbers: they are multiplied by zero. */
    memset(scratch, 0, size * shape.padded * sizeof(float));
    return shape;
}

/* Attention for customers from `first` to before `last`.
 *
 * three: float[n, longest, 3 * heads * size], queries, keys and values side by side. lengths: of
 * each sequence. shares: float[n, heads, longest, longest by 32], written and kept for the way back.
 * mixed: float[n, longest, heads * size], written.
 */
void fedpref_sequences_attention(int width, const float *three, const int64_t *lengths,
                                 size_t longest, size_t heads, size_t size, float *shares,
                                 float *mixed, float *scratch, size_t first, size_t last)
{
    const struct shape shape = shape_of(longest, heads, size, scratch);
    const size_t row = heads * size;
    for (size_t u = first; u < last; u++) {
        const size_t length = (size_t)lengths[u];
        if (u + 1 < last)
            ask_for(three + (u + 1) * longest * 3 * row, (size_t)lengths[u + 1] * 3 * row);
        for (size_t h = 0; h < heads; h++) {
            const float *query = three + u * longest * 3 * row + h * size;
            float *own = shares + (u * heads + h) * longest * shape.padded;
            float *to = mixed + u * longest * row + h * size;
            if (width == 16)
                attend_avx512(&shape, length, query, own, to, scratch);
            else
                attend_avx2(&shape, length, query, own, to, scratch);
        }
        memset(mixed + (u * longest + length) * row, 0, (longest - length) * row * sizeof(float));
    }
}

/* The way back: by_three of three's shape, written, from by_mixed of mixed's. */
void fedpref_sequences_attention_back(int width, const float *three, const int64_t *lengths,
                                      size_t longest, size_t heads, size_t size,
                                      const float *shares, const float *by_mixed, float *by_three,
                                      float *scratch, size_t first, size_t last)
{
    const struct shape shape = shape_of(longest, heads, size, scratch);
    const size_t row = heads * size;
    for (size_t u = first; u < last; u++) {
        const size_t length = (size_t)lengths[u];
        if (u + 1 < last) {
            const size_t next = (u + 1) * longest, places = (size_t)lengths[u + 1];
            ask_for(three + next * 3 * row, places * 3 * row);
            ask_for(by_mixed + next * row, places * row);
            ask_for(shares + next * heads * shape.padded, places * shape.padded);
        }
        for (size_t h = 0; h < heads; h++) {
            const size_t at = u * longest * 3 * row + h * size;
            const float *own = shares + (u * heads + h) * longest * shape.padded;
            const float *from = by_mixed + u * longest * row + h * size;
            if (width == 16)
                attend_back_avx512(&shape, length, three + at, own, from, by_three + at, scratch);
            else
                attend_back_avx2(&shape, length, three + at, own, from, by_three + at, scratch);
        }
        memset(by_three + (u * longest + length) * 3 * row, 0,
               (longest - length) * 3 * row * sizeof(float));
    }
}

/* kept[u] = sum over t < lengths[u] of x[u, t] times g[u, t], and squares[u] = its squared norm.
 *
 * x: floats [n, longest, rows], x_row apart from place to place; g: [n, longest, columns] likewise.
 */
void fedpref_sequences_outer(int width, const float *x, size_t x_row, const float *g, size_t g_row,
                             const int64_t *lengths, size_t longest, size_t rows, size_t columns,
                             float *kept, double *squares, size_t first, size_t last)
{
    const struct outer outer = {rows, columns, x_row, g_row};
    for (size_t u = first; u < last; u++) {
        const float *left = x + u * longest * x_row, *right = g + u * longest * g_row;
        const size_t length = (size_t)lengths[u];
        float *own = kept + u * rows * columns;
        if (u + 1 < last) {
            ask_for(left + longest * x_row, (size_t)lengths[u + 1] * x_row);
            ask_for(right + longest * g_row, (size_t)lengths[u + 1] * g_row);
        }
        squares[u] = width == 16 ? squared_avx512(&outer, length, left, right, own)
                                 : squared_avx2(&outer, length, left, right, own);
    }
}

/* sums[u] = sum over t < lengths[u] of g[u, t], or of x[u, t] times it where x is not null. */
void fedpref_sequences_places(int width, const float *x, const float *g, const int64_t *lengths,
                              size_t longest, size_t columns, float *sums, size_t first,
                              size_t last)
{
    for (size_t u = first; u < last; u++) {
        const size_t at = u * longest * columns, length = (size_t)lengths[u];
        if (width == 16)
            places_avx512(x ? x + at : NULL, g + at, length, columns, sums + u * columns);
        else
            places_avx2(x ? x + at : NULL, g + at, length, columns, sums + u * columns);
    }
}

/* into += the sum over n customers of factors[u] times kept[u]; floats from `start` to `stop` of
 * them, both multiples of 32.
 */
void fedpref_sequences_add(int width, const float *kept, size_t n, size_t floats,
                           const float *factors, float *into, size_t start, size_t stop)
{
    for (; start < stop; start += CACHED) {
        const size_t here = stop - start < CACHED ? stop - start : CACHED;
        if (width == 16)
            add_kept_avx512(kept + start, floats, factors, n, into + start, here);
        else
            add_kept_avx2(kept + start, floats, factors, n, into + start, here);
    }
}
#else
int fedpref_sequences_width(void)
{
    return 0;
}
#endif
