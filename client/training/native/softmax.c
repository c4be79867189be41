/* What a tied autoencoder does with customers x items, without three passes over memory for each.
 *
 * The logits of 32 customers (a panel) and 256 items (a block) are made, exponentiated, summed and
 * multiplied with the items' factors while they are in a core's second cache; the exponentials are
 * kept, [panel][item][customer], for the gradient by the factors, which needs the clip factors and
 * so all of a customer's sums before. In that layout none of the three products has to rearrange
 * anything, and what belongs to a customer is a lane: nothing is summed across lanes but biases.
 *
 * The exponentials are of logit - shift, where the shift is the largest logit of the first block.
 * Floats are as exact 30 away from the largest of all; who has a logit further above gets the
 * largest for a shift, and her panel is done again. Others' lanes keep theirs: what is found for a
 * customer depends on no other, in no bit.
 *
 * Needs AVX2 or AVX-512; elsewhere client/training/models/softmax_passes.py does it with PyTorch.
 */
#include <stddef.h>
#include <stdint.h>

#define LANES 32
#define BLOCK 256
/* Customers at a time whose weights, 64 floats each, stay in the first cache. */
#define WEIGHTED 64
/* Beyond this, exponentials of squares could overflow. */
#define FURTHEST 30.0f

struct model {
    const float *factors, *bias;
    size_t n_items, rank;
};

/* Customers' entries, in rows: the items ascend, and what they get is written to `taken`. */
struct entries {
    const int64_t *starts, *items;
    float *taken;
    int64_t n;
};

struct panel {
    double sums[LANES], squares[LANES];
    float shift[LANES], highest[LANES];
    int64_t next[LANES], end[LANES];
    size_t customers;
    const struct entries *entries;
    float *hidden, *slope; /* [rank][LANES] */
};

struct sums {
    const float *e, *weights, *shares;
    size_t n, n_items, rank, stride;
    float *factors, *bias;
};

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

/* A customer's own items: their logits are put by, and what stays has the exponential 0. */
static void take_entries(struct panel *panel, float *e, size_t stop)
{
    for (size_t lane = 0; lane < panel->customers; lane++) {
        int64_t at = panel->next[lane];
        for (; at < panel->end[lane] && (size_t)panel->entries->items[at] < stop; at++) {
            float *place = e + (size_t)panel->entries->items[at] * LANES + lane;
            panel->entries->taken[at] = *place;
            *place = -INFINITY;
        }
        panel->next[lane] = at;
    }
}

#define WIDTH 16
#include "vectors.h"
#include "softmax_passes.h"
#undef WIDTH
#define WIDTH 8
#include "vectors.h"
#include "softmax_passes.h"

static void do_block(int width, const struct model *model, struct panel *panel, float *e,
                     size_t start, int find_shift, int squares)
{
    const size_t left = model->n_items - start, stop = start + (left < BLOCK ? left : BLOCK);
    if (width == 16)
        block_avx512(model, panel, e, start, stop, find_shift, squares);
    else
        block_avx2(model, panel, e, start, stop, find_shift, squares);
}

static void begin(const struct model *model, struct panel *panel, size_t first, size_t n)
{
    for (size_t lane = 0; lane < LANES; lane++) {
        panel->sums[lane] = panel->squares[lane] = 0.0;
        panel->highest[lane] = -INFINITY;
    }
    for (size_t lane = 0; lane < panel->customers; lane++) {
        panel->next[lane] = panel->entries->starts[first + lane];
        panel->end[lane] = first + lane + 1 < n ? panel->entries->starts[first + lane + 1]
                                                : panel->entries->n;
    }
    memset(panel->slope, 0, model->rank * LANES * sizeof(float));
}

/* Whether somebody's logits are too far above her shift; she then gets another. */
static int must_repeat(struct panel *panel)
{
    int again = 0;
    for (size_t lane = 0; lane < panel->customers; lane++)
        if (panel->highest[lane] - panel->shift[lane] > FURTHEST &&
            panel->highest[lane] < INFINITY) {
            panel->shift[lane] = panel->highest[lane];
            again = 1;
        }
    return again;
}

static void add_panel(int width, const struct model *model, struct panel *panel, float *e,
                      size_t first, size_t n, int squares)
{
    for (int again = 0, find_shift = 1; find_shift || again; find_shift = 0) {
        begin(model, panel, first, n);
        for (size_t start = 0; start < model->n_items; start += BLOCK)
            do_block(width, model, panel, e, start, find_shift && !start, squares);
        again = must_repeat(panel);
    }
}

/* The widest vectors that this processor has and this file knows: 16 or 8 floats, or 0. */
int fedpref_softmax_width(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma"))
        return 16;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 8 : 0;
}

/* Exponentials of customers' logits, and what is summed of them, for panels of 32 customers.
 *
 * hidden: float[n, rank]. starts: where each customer's entries begin, among n_entries items, which
 * ascend within a row. e: float[panels, n_items, 32], written. scratch: float[panels, 2, rank, 32]. sums: of each
 * customer's exponentials, all of them. squares: the sum of their squares, without those of her
 * entries; may be null. slopes: float[n, rank], the sum of e times factors, likewise without.
 * taken: the exponentials of the entries. A customer whose logits are not finite has sums that are
 * not a number.
 */
void fedpref_softmax_exponentials(int width, const float *hidden, size_t n, const float *factors,
                                  const float *bias, size_t n_items, size_t rank,
                                  const int64_t *starts, const int64_t *items, int64_t n_entries,
                                  float *e, float *scratch, double *sums, double *squares, float *slopes,
                                  float *taken, size_t first_panel, size_t last_panel)
{
    const struct model model = {factors, bias, n_items, rank};
    const struct entries entries = {starts, items, taken, n_entries};
    for (size_t number = first_panel; number < last_panel; number++) {
        const size_t first = number * LANES, left = n - first;
        struct panel panel = {.customers = left < LANES ? left : LANES, .entries = &entries};
        panel.hidden = scratch + number * 2 * rank * LANES;
        panel.slope = panel.hidden + rank * LANES;
        for (size_t k = 0; k < rank; k++)
            for (size_t lane = 0; lane < LANES; lane++)
                panel.hidden[k * LANES + lane] =
                    lane < panel.customers ? hidden[(first + lane) * rank + k] : 0.0f;
        add_panel(width, &model, &panel, e + first * n_items, first, n, squares != NULL);
        for (size_t lane = 0; lane < panel.customers; lane++) {
            const int finite = panel.highest[lane] < INFINITY && panel.highest[lane] > -INFINITY;
            sums[first + lane] = finite ? panel.sums[lane] : NAN;
            if (squares)
                squares[first + lane] = panel.squares[lane];
            for (size_t k = 0; k < rank; k++)
                slopes[(first + lane) * rank + k] = panel.slope[k * LANES + lane];
        }
    }
}

/* Adds sum_u e[u, i] weights[u] to factors[i], and sum_u e[u, i] shares[u] to bias[i], for items
 * from `start` to before `stop`. weights: float[n, stride], where stride is a multiple of 32 and
 * zeros fill a row. shares: float[panels * 32], zeros behind n.
 */
void fedpref_softmax_gradients(int width, const float *e, size_t n, size_t n_items, size_t rank,
                               const float *weights, size_t stride, const float *shares,
                               float *factors, float *bias, size_t start, size_t stop)
{
    const struct sums sums = {e, weights, shares, n, n_items, rank, stride, factors, bias};
    for (; start < stop; start += BLOCK) {
        const size_t end = stop - start < BLOCK ? stop : start + BLOCK;
        if (width == 16)
            gradients_avx512(&sums, start, end);
        else
            gradients_avx2(&sums, start, end);
    }
}

/* The exponential alone, of n floats, n a multiple of 16: for its test. */
void fedpref_softmax_exp(int width, const float *from, float *to, size_t n)
{
    if (width == 16)
        exponentials_of_avx512(from, to, n);
    else
        exponentials_of_avx2(from, to, n);
}
#else
int fedpref_softmax_width(void)
{
    return 0;
}
#endif

/* Adds, for each entry of customer u: x first[u] + y second[u] to factors[item], and y shares[u] to
 * bias[item].
 */
void fedpref_softmax_entries(const int64_t *owners, const int64_t *items, size_t n_entries,
                             const float *x, const float *y, const float *first,
                             const float *second, const float *shares, size_t rank, float *factors,
                             float *bias)
{
    for (size_t at = 0; at < n_entries; at++) {
        const float *one = first + (size_t)owners[at] * rank;
        const float *other = second + (size_t)owners[at] * rank;
        float *to = factors + (size_t)items[at] * rank;
        const float of_one = x[at], of_other = y[at];
        for (size_t k = 0; k < rank; k++)
            to[k] += of_one * one[k] + of_other * other[k];
        bias[items[at]] += of_other * shares[owners[at]];
    }
}
