/* The passes of softmax.c for one width of vectors (vectors.h); included once for each. */

/* e[i] = bias[i] + factors[i] . hidden, of a panel's customers, for items of a block. */
ALWAYS TARGET static void NAME(logits)(const int rows, const struct model *model,
                                       const float *hidden, float *e, size_t i)
{
    for (size_t lane = 0; lane < LANES; lane += TILE) {
        VEC acc[TILE_ROWS][2];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            acc[r][0] = acc[r][1] = SET1(model->bias[i + r]);
        NAME(tile)(rows, model->factors + i * model->rank, model->rank, 1, hidden + lane, LANES,
                   model->rank, acc);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            STORE(e + r * LANES + lane, acc[r][0]);
            STORE(e + r * LANES + lane + FLOATS, acc[r][1]);
        }
    }
}

/* The largest logit of each customer in a block. */
TARGET static void NAME(find_shift)(const float *e, size_t n, float *shift)
{
    for (size_t lane = 0; lane < LANES; lane += FLOATS) {
        VEC most = LOAD(e + lane);
        for (size_t i = 1; i < n; i++)
            most = LARGER(most, LOAD(e + i * LANES + lane));
        STORE(shift + lane, most);
    }
}

/* Logits to exponentials, in place; adds to the customers' sums, and keeps their largest logits. */
ALWAYS TARGET static void NAME(exponentials)(const int squares, float *e, size_t n,
                                             struct panel *panel)
{
    for (size_t lane = 0; lane < LANES; lane += FLOATS) {
        const VEC shift = LOAD(panel->shift + lane);
        VEC most = LOAD(panel->highest + lane), sum = SET1(0.0f), square = SET1(0.0f);
        float sums[FLOATS];
        for (size_t i = 0; i < n; i++) {
            const VEC logit = LOAD(e + i * LANES + lane);
            const VEC found = NAME(exponential)(SUB(logit, shift));
            most = LARGER(most, logit);
            sum = ADD(sum, found);
            if (squares)
                square = FMA(found, found, square);
            STORE(e + i * LANES + lane, found);
        }
        STORE(panel->highest + lane, most);
        STORE(sums, sum);
        for (size_t l = 0; l < FLOATS; l++)
            panel->sums[lane + l] += sums[l];
        if (squares) {
            STORE(sums, square);
            for (size_t l = 0; l < FLOATS; l++)
                panel->squares[lane + l] += sums[l];
        }
    }
}

/* The exponentials of the entries that were put by; they count in a customer's sum. */
TARGET static void NAME(add_taken)(struct panel *panel, const int64_t *from)
{
    for (size_t lane = 0; lane < panel->customers; lane++)
        for (int64_t at = from[lane]; at < panel->next[lane]; at++) {
            float *taken = panel->entries->taken + at, found[FLOATS];
            if (*taken > panel->highest[lane])
                panel->highest[lane] = *taken;
            STORE(found, NAME(exponential)(SET1(*taken - panel->shift[lane])));
            *taken = found[0];
            panel->sums[lane] += found[0];
        }
}

/* slope[k] += sum over a block's items of factors[i, k] e[i]. */
ALWAYS TARGET static void NAME(slopes)(const int rows, const struct model *model,
                                       const float *factors, const float *e, size_t n, float *slope)
{
    for (size_t lane = 0; lane < LANES; lane += TILE) {
        VEC acc[TILE_ROWS][2];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            acc[r][0] = acc[r][1] = SET1(0.0f);
        NAME(tile)(rows, factors, 1, model->rank, e + lane, LANES, n, acc);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            float *to = slope + r * LANES + lane;
            STORE(to, ADD(LOAD(to), acc[r][0]));
            STORE(to + FLOATS, ADD(LOAD(to + FLOATS), acc[r][1]));
        }
    }
}

/* All that is done with one block of items for one panel of customers. */
TARGET static void NAME(block)(const struct model *model, struct panel *panel, float *e,
                               size_t start, size_t stop, int find_shift, int squares)
{
    const size_t n = stop - start, rank = model->rank;
    float *block = e + start * LANES;
    size_t i = start;
    for (; i + TILE_ROWS <= stop; i += TILE_ROWS)
        NAME(logits)(TILE_ROWS, model, panel->hidden, e + i * LANES, i);
    for (; i < stop; i++)
        NAME(logits)(1, model, panel->hidden, e + i * LANES, i);
    if (find_shift)
        NAME(find_shift)(block, n, panel->shift);
    int64_t from[LANES];
    memcpy(from, panel->next, sizeof from);
    take_entries(panel, e, stop);
    if (squares)
        NAME(exponentials)(1, block, n, panel);
    else
        NAME(exponentials)(0, block, n, panel);
    NAME(add_taken)(panel, from);
    const float *factors = model->factors + start * rank;
    size_t k = 0;
    for (; k + TILE_ROWS <= rank; k += TILE_ROWS)
        NAME(slopes)(TILE_ROWS, model, factors + k, block, n, panel->slope + k * LANES);
    for (; k < rank; k++)
        NAME(slopes)(1, model, factors + k, block, n, panel->slope + k * LANES);
}

/* into[i] += the sum over customers from `from` to `to` of e[i] times their row of weights. */
ALWAYS TARGET static void NAME(outer)(const int rows, const struct sums *sums, size_t i,
                                      size_t from, size_t to)
{
    const size_t rank = sums->rank;
    for (size_t k = 0; k < rank; k += TILE) {
        VEC acc[TILE_ROWS][2];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            acc[r][0] = acc[r][1] = SET1(0.0f);
        for (size_t first = from; first < to; first += LANES) {
            const size_t here = to - first < LANES ? to - first : LANES;
            const float *e = sums->e + (first * sums->n_items + i * LANES);
            /* The next rows; each panel has its own, too many for the processor to foresee. */
            for (int line = 0; k == 0 && line < rows * LANES; line += 16)
                __builtin_prefetch(e + rows * LANES + line);
            NAME(tile)(rows, e, LANES, 1, sums->weights + first * sums->stride + k, sums->stride,
                       here, acc);
        }
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            float *row = sums->factors + (i + r) * rank + k;
            if (k + TILE <= rank) {
                STORE(row, ADD(LOAD(row), acc[r][0]));
                STORE(row + FLOATS, ADD(LOAD(row + FLOATS), acc[r][1]));
            } else {
                float rest[TILE];
                STORE(rest, acc[r][0]);
                STORE(rest + FLOATS, acc[r][1]);
                for (size_t l = 0; l < rank - k; l++)
                    row[l] += rest[l];
            }
        }
    }
}

/* bias[i] += the sum over all customers of e[i] times their weight: by lanes, then in a tree. */
TARGET static void NAME(add_bias)(const struct sums *sums, size_t i)
{
    VEC acc[LANES / FLOATS];
#pragma GCC unroll 8
    for (int v = 0; v < LANES / FLOATS; v++)
        acc[v] = SET1(0.0f);
    for (size_t first = 0; first < sums->n; first += LANES) {
        const float *e = sums->e + (first * sums->n_items + i * LANES);
#pragma GCC unroll 8
        for (int v = 0; v < LANES / FLOATS; v++)
            acc[v] = FMA(LOAD(e + v * FLOATS), LOAD(sums->shares + first + v * FLOATS), acc[v]);
    }
    sums->bias[i] += NAME(sum_of)(acc);
}

TARGET static void NAME(gradients)(const struct sums *sums, size_t start, size_t stop)
{
    for (size_t from = 0; from < sums->n; from += WEIGHTED) {
        const size_t to = sums->n - from < WEIGHTED ? sums->n : from + WEIGHTED;
        size_t i = start;
        for (; i + TILE_ROWS <= stop; i += TILE_ROWS)
            NAME(outer)(TILE_ROWS, sums, i, from, to);
        for (; i < stop; i++)
            NAME(outer)(1, sums, i, from, to);
    }
    for (size_t i = start; i < stop; i++)
        NAME(add_bias)(sums, i);
}

TARGET static void NAME(exponentials_of)(const float *from, float *to, size_t n)
{
    for (size_t i = 0; i < n; i += FLOATS)
        STORE(to + i, NAME(exponential)(LOAD(from + i)));
}
