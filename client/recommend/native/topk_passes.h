/* The passes of topk.c for one width of vectors (vectors.h); included once for each. */

#undef NOT_BELOW
#if WIDTH == 16
#define NOT_BELOW(x, limit) _mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ)
#else
#define NOT_BELOW(x, limit) _mm256_movemask_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ))
#endif

/* What of a vector of customers' scores of one item may be among their best. */
ALWAYS TARGET static void NAME(keep)(struct panel *panel, size_t lane, VEC score, int32_t number)
{
    unsigned high = (unsigned)NOT_BELOW(score, LOAD(panel->least + lane));
    if (__builtin_expect(!high, 1))
        return;
    float scores[FLOATS];
    STORE(scores, score);
    for (; high; high &= high - 1) {
        const size_t which = (size_t)__builtin_ctz(high);
        offer(panel, lane + which, scores[which], number);
    }
}

/* The scores of items i to i + rows, of a panel's customers; `rows` and `tables` are constants. */
ALWAYS TARGET static void NAME(scores)(const int rows, const int tables, const int positive,
                                       const struct items *items, struct panel *panel, size_t i)
{
    const size_t rank = (size_t)items->rank;
    for (size_t lane = 0; lane < LANES; lane += TILE) {
        VEC acc[TILE_ROWS][2];
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++)
            acc[r][0] = acc[r][1] = SET1(0.0f);
        NAME(tile)(rows, items->factors + i * rank, rank, 1, panel->hidden + lane, LANES, rank, acc);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const VEC weight = SET1(items->weights[i + r]);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const size_t at = lane + half * FLOATS;
                VEC score = acc[r][half];
                if (positive)
                    score = LARGER(score, SET1(0.0f));
                score = MUL(score, weight);
#pragma GCC unroll 3
                for (int t = 0; t < tables; t++)
                    score = MUL(score, LOAD(panel->tilts[t] +
                                            (size_t)items->codes[t][i + r] * LANES + at));
                NAME(keep)(panel, at, score, items->numbers[i + r]);
            }
        }
    }
}

#define SCORE_WITH(tables, positive)                                                               \
    do {                                                                                           \
        size_t i = start;                                                                          \
        for (; i + TILE_ROWS <= stop; i += TILE_ROWS)                                              \
            NAME(scores)(TILE_ROWS, tables, positive, items, panel, i);                            \
        for (; i < stop; i++)                                                                      \
            NAME(scores)(1, tables, positive, items, panel, i);                                    \
    } while (0)

/* All that is done with one block of items for one panel of customers. */
TARGET static void NAME(block)(const struct items *items, struct panel *panel, size_t start,
                               size_t stop)
{
    if (items->tables == 3 && items->positive)
        SCORE_WITH(3, 1);
    else if (items->tables == 2 && items->positive)
        SCORE_WITH(2, 1);
    else if (items->tables == 1 && items->positive)
        SCORE_WITH(1, 1);
    else if (items->tables == 0 && items->positive)
        SCORE_WITH(0, 1);
    else
        SCORE_WITH(0, 0);
}
#undef SCORE_WITH
