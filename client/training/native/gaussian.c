/* Normal values from random bits: the transform of Box and Muller (1958) in single precision.
 *
 * Every operation is one that IEEE 754 rounds correctly (conversion, +, -, *, square root), written
 * in a fixed order, and the file is compiled without contraction into fused operations. So all
 * machines, all vector widths and the same steps in NumPy (client/training/normals.py) give equal
 * bits for equal input: that is how this file is checked when it is loaded, and in the tests.
 *
 * No secret decides a branch or an address but in `refine`, for one pair of 65,536, and what that
 * tells in time is that one of the values is in the tail.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WIDE
#endif

#define BLOCK 256
/* Below this a radius of 31 bits is too coarse, and 64 bits more are taken. */
#define REFINED_BELOW (1u << 15)

static inline float natural_log(float u)
{
    /* Cephes' logf (Moshier, 1992): u = m 2^e, m within sqrt(1/2) and sqrt(2). */
    uint32_t bits;
    memcpy(&bits, &u, 4);
    int32_t exponent = (int32_t)((bits - 0x3f3504f3u) >> 23);
    /* What is below sqrt(1/2) has wrapped around: sign-extend nine bits. */
    exponent = (exponent ^ 0x100) - 0x100;
    uint32_t mantissa = bits - ((uint32_t)exponent << 23);
    float m;
    memcpy(&m, &mantissa, 4);
    float x = m - 1.0f, square = x * x, e = (float)exponent;
    float p = 7.0376836292e-2f;
    p = p * x + -1.1514610310e-1f;
    p = p * x + 1.1676998740e-1f;
    p = p * x + -1.2420140846e-1f;
    p = p * x + 1.4249322787e-1f;
    p = p * x + -1.6668057665e-1f;
    p = p * x + 2.0000714765e-1f;
    p = p * x + -2.4999993993e-1f;
    p = p * x + 3.3333331174e-1f;
    float tail = (p * x) * square;
    tail = tail + e * -2.12194440e-4f;
    tail = tail - 0.5f * square;
    return (x + tail) + e * 0.693359375f;
}

static inline void sine_cosine(int32_t turn, float *sine, float *cosine)
{
    /* The angle is turn * pi / 2^31. The nearest quarter turn is taken off exactly. */
    uint32_t quarter = ((uint32_t)turn + 0x20000000u) >> 30;
    int32_t rest = (int32_t)((uint32_t)turn - (quarter << 30));
    float y = (float)rest * 1.4629180792671596e-9f; /* pi / 2^31 */
    float z = y * y;
    float s = -1.9515295891e-4f;
    s = s * z + 8.3321608736e-3f;
    s = s * z + -1.6666654611e-1f;
    s = (s * z) * y + y;
    float c = 2.443315711809948e-5f;
    c = c * z + -1.388731625493765e-3f;
    c = c * z + 4.166664568298827e-2f;
    c = ((c * z) * z - 0.5f * z) + 1.0f;
    uint32_t swap = 0u - (quarter & 1u), sbits, cbits;
    memcpy(&sbits, &s, 4);
    memcpy(&cbits, &c, 4);
    uint32_t sine_bits = (sbits & ~swap) | (cbits & swap);
    uint32_t cosine_bits = (cbits & ~swap) | (sbits & swap);
    sine_bits ^= (quarter & 2u) << 30;
    cosine_bits ^= ((quarter + 1u) & 2u) << 30;
    memcpy(sine, &sine_bits, 4);
    memcpy(cosine, &cosine_bits, 4);
}

WIDE static void transform(const uint32_t *radius, const uint32_t *angle, float *first,
                           float *second, size_t pairs, float scale)
{
    for (size_t i = 0; i < pairs; i++) {
        float u = ((float)(int32_t)(radius[i] >> 1) + 0.5f) * 4.656612873077393e-10f;
        float doubled = natural_log(u) * -2.0f;
        doubled = doubled > 0.0f ? doubled : 0.0f;
        float r = sqrtf(doubled) * scale, sine, cosine;
        sine_cosine((int32_t)angle[i], &sine, &cosine);
        first[i] = r * cosine;
        second[i] = r * sine;
    }
}

WIDE static uint32_t any_coarse(const uint32_t *radius, size_t pairs)
{
    uint32_t any = 0;
    for (size_t i = 0; i < pairs; i++)
        any |= (radius[i] >> 1) < REFINED_BELOW;
    return any;
}

/* Writes 2 * pairs values of N(0, scale^2), the cosines' before the sines'.
 *
 * radius, angle: 32 random bits for each pair. extra: n_extra times 64 random bits, of which each
 * coarse radius takes one. Gives how many it took, or -1 if there were not enough.
 */
int64_t fedpref_normals(const uint32_t *radius, const uint32_t *angle, const uint64_t *extra,
                        int64_t n_extra, float *out, size_t pairs, float scale)
{
    int64_t taken = 0;
    float *first = out, *second = out + pairs;
    transform(radius, angle, first, second, pairs, scale);
    for (size_t start = 0; start < pairs; start += BLOCK) {
        size_t length = pairs - start < BLOCK ? pairs - start : BLOCK;
        if (!any_coarse(radius + start, length))
            continue;
        for (size_t i = start; i < start + length; i++) {
            uint32_t coarse = radius[i] >> 1;
            if (coarse >= REFINED_BELOW)
                continue;
            if (taken == n_extra)
                return -1;
            /* 31 and 64 bits of u: the tail ends beyond 11 standard deviations. */
            double u = ((double)coarse + ((double)(extra[taken++] >> 11) + 0.5) * 0x1p-53) * 0x1p-31;
            float r = (float)sqrt(-2.0 * log(u)) * scale, sine, cosine;
            sine_cosine((int32_t)angle[i], &sine, &cosine);
            first[i] = r * cosine;
            second[i] = r * sine;
        }
    }
    return taken;
}
