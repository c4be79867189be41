/* Vectors of WIDTH floats, 16 or 8, under one set of names; included once for each width.
 *
 * VEC is a vector of FLOATS floats, TILE_ROWS how many rows of two of them the registers hold, and
 * the function NAME(f) is compiled for a processor that has them. What is summed is summed in an
 * order that does not depend on the width, by fused operations that IEEE 754 rounds once: all
 * widths give equal bits.
 */
#include <immintrin.h>

#define ALWAYS __attribute__((always_inline)) inline

#undef FLOATS
#undef TILE_ROWS
#undef VEC
#undef TARGET
#undef NAME
#undef LOAD
#undef STORE
#undef SET1
#undef ADD
#undef SUB
#undef MUL
#undef FMA
#undef SMALLER
#undef LARGER
#undef POWER_OF_TWO
#undef UNLESS_BELOW

#if WIDTH == 16
#define FLOATS 16
#define TILE_ROWS 8
#define VEC __m512
#define TARGET __attribute__((target("avx512f")))
#define NAME(name) name##_avx512
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#define SET1 _mm512_set1_ps
#define ADD _mm512_add_ps
#define SUB _mm512_sub_ps
#define MUL _mm512_mul_ps
#define FMA _mm512_fmadd_ps
#define SMALLER _mm512_min_ps
#define LARGER _mm512_max_ps
#define POWER_OF_TWO(shifted)                                                                      \
    _mm512_castsi512_ps(_mm512_add_epi32(                                                          \
        _mm512_slli_epi32(_mm512_castps_si512(shifted), 23), _mm512_set1_epi32(0x3f800000)))
#define UNLESS_BELOW(x, limit, value)                                                              \
    _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), value)
#else
#define FLOATS 8
#define TILE_ROWS 4
#define VEC __m256
#define TARGET __attribute__((target("avx2,fma")))
#define NAME(name) name##_avx2
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#define SET1 _mm256_set1_ps
#define ADD _mm256_add_ps
#define SUB _mm256_sub_ps
#define MUL _mm256_mul_ps
#define FMA _mm256_fmadd_ps
#define SMALLER _mm256_min_ps
#define LARGER _mm256_max_ps
#define POWER_OF_TWO(shifted)                                                                      \
    _mm256_castsi256_ps(_mm256_add_epi32(                                                          \
        _mm256_slli_epi32(_mm256_castps_si256(shifted), 23), _mm256_set1_epi32(0x3f800000)))
#define UNLESS_BELOW(x, limit, value) _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), value)
#endif
#undef TILE
#define TILE (2 * FLOATS)

/* acc[r] += sum over t < n of a[r, t] b[t], two vectors of b; `rows` is a constant. */
ALWAYS TARGET static void NAME(tile)(const int rows, const float *a, size_t a_row, size_t a_step,
                                     const float *b, size_t b_step, size_t n, VEC acc[TILE_ROWS][2])
{
    for (size_t t = 0; t < n; t++, a += a_step, b += b_step) {
        const VEC left = LOAD(b), right = LOAD(b + FLOATS);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const VEC x = SET1(a[r * a_row]);
            acc[r][0] = FMA(x, left, acc[r][0]);
            acc[r][1] = FMA(x, right, acc[r][1]);
        }
    }
}

/* exp(x) for x of at most 80; 0 below -87. Cephes' expf (Moshier, 1992), with fused operations.
 *
 * x = n log 2 + r with |r| < 0.35. Adding `magic` rounds to whole numbers, n in the lowest bits.
 * The error is at most 0.9 units in the last place for every float from -87 to 30: all were tried.
 * What is not a number stays one, by the order of operands in SMALLER.
 */
ALWAYS TARGET static VEC NAME(exponential)(VEC x)
{
    const VEC magic = SET1(12582912.0f);
    x = SMALLER(SET1(80.0f), x);
    const VEC shifted = FMA(x, SET1(1.44269504088896341f), magic);
    const VEC n = SUB(shifted, magic);
    const VEC r = FMA(n, SET1(2.12194440e-4f), FMA(n, SET1(-0.693359375f), x));
    VEC p = SET1(1.9875691500e-4f);
    p = FMA(p, r, SET1(1.3981999507e-3f));
    p = FMA(p, r, SET1(8.3334519073e-3f));
    p = FMA(p, r, SET1(4.1665795894e-2f));
    p = FMA(p, r, SET1(1.6666665459e-1f));
    p = FMA(p, r, SET1(5.0000001201e-1f));
    p = FMA(p, r, SET1(1.0f));
    p = FMA(p, r, SET1(1.0f));
    return UNLESS_BELOW(x, SET1(-87.0f), MUL(p, POWER_OF_TWO(shifted)));
}

#ifndef FOR_TILES
/* Does STEP(rows) at each i below n: with as many rows as there may be, then two, then one. */
#define FOR_TILES(n, STEP)                                                                         \
    do {                                                                                           \
        size_t i = 0;                                                                              \
        for (; i + TILE_ROWS <= (n); i += TILE_ROWS)                                               \
            STEP(TILE_ROWS);                                                                       \
        for (; i + 2 <= (n); i += 2)                                                               \
            STEP(2);                                                                               \
        if (i < (n))                                                                               \
            STEP(1);                                                                               \
    } while (0)
#endif

/* The sum of a vector's floats: each half to the other, again and again. */
TARGET static inline float NAME(in_a_tree)(VEC v)
{
#if WIDTH == 16
    const __m256 upper = _mm512_castps512_ps256(_mm512_shuffle_f32x4(v, v, 0xee));
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), upper);
#else
    const __m256 eight = v;
#endif
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

/* The sum of 32 lanes, in the same order for all widths. */
TARGET static inline float NAME(sum_of)(VEC lanes[32 / FLOATS])
{
#pragma GCC unroll 8
    for (int half = 32 / FLOATS / 2; half; half /= 2)
        for (int v = 0; v < half; v++)
            lanes[v] = ADD(lanes[v], lanes[v + half]);
    return NAME(in_a_tree)(lanes[0]);
}
