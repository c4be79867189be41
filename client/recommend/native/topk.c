/* The items with the highest scores of each of many customers, without a table of scores.
 *
 * Scores of 32 customers (a panel) and 256 items (a block) are made in registers, compared with
 * what each customer's k-th best is so far, and forgotten; of n items about k log(n / k) are
 * remembered for a while. A customer is a lane: what is found for her depends on no other.
 *
 * Items come in the order of their reach, the most that weight times product can be for a customer
 * of length 1. Once a block's reach is below the k-th best of all customers of a panel, so is all
 * that follows, and the panel is done.
 *
 * Scores are in single precision, and choose candidates; the products of the candidates are summed
 * anew in double precision, factor by factor, so that the caller can rank them, and tell by a bound
 * on the error whether anything else might belong among them (client/recommend/topk.py).
 *
 * Needs AVX2 or AVX-512; elsewhere client/recommend/topk.py does it with NumPy.
 */
#include <stddef.h>
#include <stdint.h>

#define LANES 32
#define BLOCK 256
#define TABLES 3
#define MOST_PANELS 8
/* Candidates at a time whose products are summed side by side. */
#define TOGETHER 16

/* Items, the farthest reach first. */
struct items {
    const float *factors;         /* [n][rank] */
    const float *weights;         /* [n], not below 0 */
    const int32_t *numbers;       /* [n]: what the caller calls each */
    const int32_t *places;        /* [largest number + 1]: where each is in these arrays */
    const float *reach;           /* [blocks]: of no item in a block, or after it, is it more */
    const int32_t *codes[TABLES]; /* [n] each */
    int64_t n_codes[TABLES];
    int64_t n, rank, tables;
    int32_t positive; /* whether scores of 0 and below count for nothing */
};

/* Customers, and by what each one's scores of items with a code are multiplied: of codes that she
 * has no number for, by her usual one. Excluded items ascend for each customer.
 */
struct customers {
    const double *hidden; /* [n][rank] */
    const float *lengths; /* [n]: at least the norm of hidden times her largest tilts */
    const int64_t *excluded_starts;
    const int32_t *excluded;
    const float *usual[TABLES];
    const int64_t *tilt_starts[TABLES];
    const int32_t *tilt_codes[TABLES];
    const float *tilts[TABLES];
    int64_t n;
};

/* [n][k] each, the best first; of counts[n] places the content is defined. */
struct candidates {
    float *scores;
    int32_t *numbers;
    double *products;
    int32_t *counts;
    int64_t k;
};

#if defined(__x86_64__) && defined(__GNUC__)
#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

struct panel {
    float *hidden;        /* [rank][LANES] */
    float *tilts[TABLES]; /* [n_codes][LANES] */
    float least[LANES], lengths[LANES];
    size_t first, customers;
    int done;
    const struct customers *all;
    struct candidates *found;
};

static int is_worse(float score, int32_t number, float other, int32_t other_number)
{
    return score < other || (score == other && number > other_number);
}

/* Lets the entry at `at` sink in a heap of n whose worst is the first. */
static void sink(float *scores, int32_t *numbers, size_t n, size_t at)
{
    const float score = scores[at];
    const int32_t number = numbers[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n &&
            is_worse(scores[child + 1], numbers[child + 1], scores[child], numbers[child]))
            child++;
        if (!is_worse(scores[child], numbers[child], score, number))
            break;
        scores[at] = scores[child];
        numbers[at] = numbers[child];
    }
    scores[at] = score;
    numbers[at] = number;
}

static int is_excluded(const struct customers *all, size_t customer, int32_t number)
{
    int64_t low = all->excluded_starts[customer], high = all->excluded_starts[customer + 1];
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (all->excluded[middle] == number)
            return 1;
        if (all->excluded[middle] < number)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* A score that is not below the customer's k-th best so far. */
static void offer(struct panel *panel, size_t lane, float score, int32_t number)
{
    const size_t customer = panel->first + lane, k = (size_t)panel->found->k;
    float *scores = panel->found->scores + customer * k;
    int32_t *numbers = panel->found->numbers + customer * k, *count = panel->found->counts + customer;
    if ((size_t)*count == k && !is_worse(scores[0], numbers[0], score, number))
        return;
    if (is_excluded(panel->all, customer, number))
        return;
    if ((size_t)*count < k) {
        size_t at = (size_t)(*count)++;
        for (; at && is_worse(score, number, scores[(at - 1) / 2], numbers[(at - 1) / 2]);
             at = (at - 1) / 2) {
            scores[at] = scores[(at - 1) / 2];
            numbers[at] = numbers[(at - 1) / 2];
        }
        scores[at] = score;
        numbers[at] = number;
    } else {
        scores[0] = score;
        numbers[0] = number;
        sink(scores, numbers, k, 0);
    }
    if ((size_t)*count == k)
        panel->least[lane] = scores[0];
}

#define WIDTH 16
#include "../../training/native/vectors.h"
#include "topk_passes.h"
#undef WIDTH
#define WIDTH 8
#include "../../training/native/vectors.h"
#include "topk_passes.h"

static void fill_tilts(const struct items *items, struct panel *panel)
{
    const struct customers *all = panel->all;
    for (int64_t t = 0; t < items->tables; t++) {
        float usual[LANES] = {0.0f};
        for (size_t lane = 0; lane < panel->customers; lane++)
            usual[lane] = all->usual[t][panel->first + lane];
        for (int64_t code = 0; code < items->n_codes[t]; code++)
            memcpy(panel->tilts[t] + code * LANES, usual, sizeof usual);
        for (size_t lane = 0; lane < panel->customers; lane++) {
            const int64_t *starts = all->tilt_starts[t] + panel->first + lane;
            for (int64_t at = starts[0]; at < starts[1]; at++)
                panel->tilts[t][(size_t)all->tilt_codes[t][at] * LANES + lane] = all->tilts[t][at];
        }
    }
}

static void begin(const struct items *items, struct panel *panel, float *scratch)
{
    const size_t rank = (size_t)items->rank;
    panel->done = 0;
    panel->hidden = scratch;
    scratch += rank * LANES;
    for (int64_t t = 0; t < items->tables; t++) {
        panel->tilts[t] = scratch;
        scratch += items->n_codes[t] * LANES;
    }
    for (size_t lane = 0; lane < LANES; lane++) {
        const int there = lane < panel->customers;
        const size_t customer = panel->first + lane;
        /* Nothing is as high as what nobody waits for. */
        panel->least[lane] = !there ? INFINITY : items->positive ? FLT_TRUE_MIN : -INFINITY;
        panel->lengths[lane] = there ? panel->all->lengths[customer] : 0.0f;
        for (size_t k = 0; k < rank; k++)
            panel->hidden[k * LANES + lane] =
                there ? (float)panel->all->hidden[customer * rank + k] : 0.0f;
        if (there)
            panel->found->counts[customer] = 0;
    }
    fill_tilts(items, panel);
}

/* Whether an item of this reach may still be among a customer's best. */
static int may_reach(const struct panel *panel, float reach)
{
    for (size_t lane = 0; lane < panel->customers; lane++)
        if (panel->lengths[lane] * reach >= panel->least[lane])
            return 1;
    return 0;
}

/* The products of a customer's candidates: factor by factor, in double precision. */
static void sum_products(const struct items *items, const double *hidden, const int32_t *numbers,
                         size_t count, double *products)
{
    const size_t rank = (size_t)items->rank;
    for (size_t from = 0; from < count; from += TOGETHER) {
        const size_t here = count - from < TOGETHER ? count - from : TOGETHER;
        const float *rows[TOGETHER];
        for (size_t j = 0; j < here; j++) {
            rows[j] = items->factors + (size_t)items->places[numbers[from + j]] * rank;
            products[from + j] = 0.0;
        }
        for (size_t k = 0; k < rank; k++)
            for (size_t j = 0; j < here; j++)
                products[from + j] += hidden[k] * (double)rows[j][k];
    }
}

/* The best first, with their products. */
static void finish(const struct items *items, struct panel *panel)
{
    for (size_t lane = 0; lane < panel->customers; lane++) {
        const size_t customer = panel->first + lane, k = (size_t)panel->found->k;
        const size_t count = (size_t)panel->found->counts[customer];
        float *scores = panel->found->scores + customer * k;
        int32_t *numbers = panel->found->numbers + customer * k;
        for (size_t last = count; last > 1; last--) {
            const float score = scores[0];
            const int32_t number = numbers[0];
            scores[0] = scores[last - 1];
            numbers[0] = numbers[last - 1];
            sink(scores, numbers, last - 1, 0);
            scores[last - 1] = score;
            numbers[last - 1] = number;
        }
        sum_products(items, panel->all->hidden + customer * (size_t)items->rank, numbers, count,
                     panel->found->products + customer * k);
    }
}

/* The widest vectors that this processor has and this file knows: 16 or 8 floats, or 0. */
int fedpref_topk_width(void)
{
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma"))
        return 16;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 8 : 0;
}

/* The candidates of customers in panels of 32, from first_panel to before last_panel.
 *
 * `group` panels at a time, 8 at most, share each block while it is in the cache; scratch:
 * float[group][(rank + all n_codes) * 32].
 */
void fedpref_topk_candidates(int width, const struct items *items, const struct customers *customers,
                             struct candidates *found, float *scratch, size_t group,
                             size_t first_panel, size_t last_panel)
{
    const size_t n = (size_t)customers->n, n_items = (size_t)items->n;
    size_t stride = (size_t)items->rank;
    for (int64_t t = 0; t < items->tables; t++)
        stride += (size_t)items->n_codes[t];
    for (size_t number = first_panel; number < last_panel; number += group) {
        struct panel panels[MOST_PANELS];
        const size_t here = last_panel - number < group ? last_panel - number : group;
        for (size_t p = 0; p < here; p++) {
            const size_t first = (number + p) * LANES, left = n - first;
            panels[p].first = first;
            panels[p].customers = left < LANES ? left : LANES;
            panels[p].all = customers;
            panels[p].found = found;
            begin(items, &panels[p], scratch + p * stride * LANES);
        }
        for (size_t start = 0; start < n_items; start += BLOCK) {
            const size_t stop = n_items - start < BLOCK ? n_items : start + BLOCK;
            for (size_t p = 0; p < here; p++) {
                struct panel *panel = &panels[p];
                panel->done = panel->done || !may_reach(panel, items->reach[start / BLOCK]);
                if (panel->done)
                    continue;
                if (width == 16)
                    block_avx512(items, panel, start, stop);
                else
                    block_avx2(items, panel, start, stop);
            }
        }
        for (size_t p = 0; p < here; p++)
            finish(items, &panels[p]);
    }
}
#else
int fedpref_topk_width(void)
{
    return 0;
}
#endif
