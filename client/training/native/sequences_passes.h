/* The passes of sequences.c for one width of vectors (vectors.h); included once for each. */

/* to[r] = sum over t < n of a[r, t] b[t], a tile of `rows` rows; `to` has a stride. */
ALWAYS TARGET static void NAME(product)(const int rows, const float *a, size_t a_row, size_t a_step,
                                        const float *b, size_t b_step, size_t n, float *to,
                                        size_t to_row)
{
    VEC acc[TILE_ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = SET1(0.0f);
    NAME(tile)(rows, a, a_row, a_step, b, b_step, n, acc);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        STORE(to + r * to_row, acc[r][0]);
        STORE(to + r * to_row + FLOATS, acc[r][1]);
    }
}

/* Scores of queries and keys: rows[i, j] = left[i] . right[j] for j up to i, at least. */
TARGET static void NAME(scores)(const struct shape *shape, size_t length, const float *left,
                                size_t left_row, const float *turned, float *rows)
{
#define STEP(count)                                                                                \
    for (size_t j = 0; j < i / LANES * LANES + LANES; j += TILE)                                   \
    NAME(product)(count, left + i * left_row, left_row, 1, turned + j, shape->padded,              \
                  shape->size, rows + i * shape->padded + j, shape->padded)
    FOR_TILES(length, STEP);
#undef STEP
}

/* to[i] = sum over j up to i, at least, of rows[i, j] right[j]: what is further is zero. */
TARGET static void NAME(mix)(const struct shape *shape, size_t length, const float *rows,
                             const float *right, size_t right_row, float *to, size_t to_row)
{
#define STEP(count)                                                                                \
    for (size_t k = 0; k < shape->size; k += TILE)                                                 \
    NAME(product)(count, rows + i * shape->padded, shape->padded, 1, right + k, right_row,         \
                  i + count, to + i * to_row + k, to_row)
    FOR_TILES(length, STEP);
#undef STEP
}

/* to[j] = sum over i from j on of rows[i, j] right[i]. */
TARGET static void NAME(mix_back)(const struct shape *shape, size_t length, const float *rows,
                                  const float *right, size_t right_row, float *to, size_t to_row)
{
#define STEP(count)                                                                                \
    for (size_t k = 0; k < shape->size; k += TILE)                                                 \
    NAME(product)(count, rows + i * shape->padded + i, 1, shape->padded,                           \
                  right + i * right_row + k, right_row, length - i, to + i * to_row + k, to_row)
    FOR_TILES(length, STEP);
#undef STEP
}

/* Scores to shares, row by row; what is later than i gets none. The 32 columns of a group are
 * summed lane by lane, and the lanes in a tree. */
TARGET static void NAME(shares)(const struct shape *shape, size_t length, float *rows)
{
    const VEC scale = SET1(shape->scale);
    for (size_t i = 0; i < length; i++, rows += shape->padded) {
        const float *hidden = shape->later + shape->padded - 1 - i;
        const size_t n = i / LANES * LANES + LANES;
        VEC most = SET1(-INFINITY), sums[LANES / FLOATS];
        for (size_t j = 0; j < n; j += FLOATS) {
            const VEC score = FMA(LOAD(rows + j), scale, LOAD(hidden + j));
            most = LARGER(most, score);
            STORE(rows + j, score);
        }
        float all[FLOATS], highest = -INFINITY;
        STORE(all, most);
        for (int l = 0; l < FLOATS; l++)
            highest = all[l] > highest ? all[l] : highest;
        most = SET1(highest);
        for (int l = 0; l < LANES / FLOATS; l++)
            sums[l] = SET1(0.0f);
        for (size_t j = 0; j < n; j += LANES)
            for (int l = 0; l < LANES / FLOATS; l++) {
                const VEC found = NAME(exponential)(SUB(LOAD(rows + j + l * FLOATS), most));
                sums[l] = ADD(sums[l], found);
                STORE(rows + j + l * FLOATS, found);
            }
        const VEC share = SET1(1.0f / NAME(sum_of)(sums));
        for (size_t j = 0; j < n; j += FLOATS)
            STORE(rows + j, MUL(LOAD(rows + j), share));
    }
}

/* The gradient by the scores, from that by the shares, in its place. */
TARGET static void NAME(by_scores)(const struct shape *shape, size_t length, const float *shares,
                                   float *rows)
{
    const VEC scale = SET1(shape->scale);
    for (size_t i = 0; i < length; i++, rows += shape->padded, shares += shape->padded) {
        const size_t n = i / LANES * LANES + LANES;
        VEC sums[LANES / FLOATS];
        for (int l = 0; l < LANES / FLOATS; l++)
            sums[l] = SET1(0.0f);
        for (size_t j = 0; j < n; j += LANES)
            for (int l = 0; l < LANES / FLOATS; l++)
                sums[l] = FMA(LOAD(shares + j + l * FLOATS), LOAD(rows + j + l * FLOATS), sums[l]);
        const VEC mean = SET1(NAME(sum_of)(sums));
        for (size_t j = 0; j < n; j += FLOATS) {
            const VEC share = MUL(LOAD(shares + j), scale);
            STORE(rows + j, MUL(share, SUB(LOAD(rows + j), mean)));
        }
    }
}

/* One customer's and head's attention: shares and mixed values. */
TARGET static void NAME(attend)(const struct shape *shape, size_t length, const float *query,
                                float *shares, float *mixed, float *scratch)
{
    const size_t width = shape->heads * shape->size;
    turn(shape, query + width, length, scratch);
    NAME(scores)(shape, length, query, 3 * width, scratch, shares);
    NAME(shares)(shape, length, shares);
    NAME(mix)(shape, length, shares, query + 2 * width, 3 * width, mixed, width);
}

/* The gradients by query, key and value, from that by the mixed values. */
TARGET static void NAME(attend_back)(const struct shape *shape, size_t length, const float *query,
                                     const float *shares, const float *by_mixed, float *by_query,
                                     float *scratch)
{
    const size_t width = shape->heads * shape->size, row = 3 * width;
    float *rows = scratch + shape->size * shape->padded;
    turn(shape, query + 2 * width, length, scratch);
    NAME(scores)(shape, length, by_mixed, width, scratch, rows);
    NAME(by_scores)(shape, length, shares, rows);
    NAME(mix)(shape, length, rows, query + width, row, by_query, row);
    NAME(mix_back)(shape, length, rows, query, row, by_query + width, row);
    NAME(mix_back)(shape, length, shares, by_mixed, width, by_query + 2 * width, row);
}

/* One customer's sum over t of x[t] times g[t], kept, and its squared norm. */
TARGET static double NAME(squared)(const struct outer *outer, size_t length, const float *x,
                                   const float *g, float *kept)
{
    double found = 0.0, lanes[LANES] = {0.0};
    for (size_t k = 0; k < outer->columns; k += TILE) {
        VEC left = SET1(0.0f), right = SET1(0.0f);
        float each[TILE];
#define STEP(count)                                                                                \
    do {                                                                                           \
        VEC acc[TILE_ROWS][2];                                                                     \
        for (int r = 0; r < count; r++)                                                            \
            acc[r][0] = acc[r][1] = SET1(0.0f);                                                    \
        NAME(tile)(count, x + i, 1, outer->x_row, g + k, outer->g_row, length, acc);               \
        for (int r = 0; r < count; r++) {                                                          \
            float *to = kept + (i + r) * outer->columns + k;                                       \
            STORE(to, acc[r][0]);                                                                  \
            STORE(to + FLOATS, acc[r][1]);                                                         \
            left = FMA(acc[r][0], acc[r][0], left);                                                \
            right = FMA(acc[r][1], acc[r][1], right);                                              \
        }                                                                                          \
    } while (0)
        FOR_TILES(outer->rows, STEP);
#undef STEP
        STORE(each, left);
        STORE(each + FLOATS, right);
        for (size_t l = 0; l < TILE; l++)
            lanes[(k + l) % LANES] += each[l];
    }
    for (int l = 0; l < LANES; l++)
        found += lanes[l];
    return found;
}

/* into += the sum over customers of their factor times what was kept of them; n floats each. */
TARGET static void NAME(add_kept)(const float *kept, size_t apart, const float *factors,
                                  size_t customers, float *into, size_t n)
{
    for (size_t u = 0; u < customers; u++, kept += apart) {
        const VEC scale = SET1(factors[u]);
        for (size_t j = 0; j < n; j += FLOATS)
            STORE(into + j, FMA(scale, LOAD(kept + j), LOAD(into + j)));
    }
}

/* sums = sum over t of g[t], or of x[t] times it, column by column. */
TARGET static void NAME(places)(const float *x, const float *g, size_t length, size_t columns,
                                float *sums)
{
    for (size_t k = 0; k < columns; k += TILE) {
        VEC left = SET1(0.0f), right = SET1(0.0f);
        for (size_t t = 0; t < length; t++) {
            const float *from = g + t * columns + k;
            const VEC one = LOAD(from), other = LOAD(from + FLOATS);
            left = x ? FMA(LOAD(x + t * columns + k), one, left) : ADD(left, one);
            right = x ? FMA(LOAD(x + t * columns + k + FLOATS), other, right) : ADD(right, other);
        }
        STORE(sums + k, left);
        STORE(sums + k + FLOATS, right);
    }
}
