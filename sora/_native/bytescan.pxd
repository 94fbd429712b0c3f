# Inline helpers shared by the extensions: numbers as text, and words of bitmaps.

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef SORA_BYTESCAN
    #define SORA_BYTESCAN
    #include <stdint.h>
    #include <string.h>

    /* Bitmaps travel as PostgreSQL writes bit(n): the first bit is the highest of the first byte. Loading words as
       big-endian numbers keeps that order, so that counting leading zeros finds the first bit. */
    static inline uint64_t load64be(const unsigned char *p)
    {
        uint64_t v;
        memcpy(&v, p, 8);
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        v = __builtin_bswap64(v);
    #endif
        return v;
    }

    static inline uint32_t load32be(const unsigned char *p)
    {
        return ((uint32_t)p[0] << 24) | ((uint32_t)p[1] << 16) | ((uint32_t)p[2] << 8) | p[3];
    }

    /* Undefined for 0, as the builtins are. */
    static inline int clz64(uint64_t v) { return __builtin_clzll(v); }
    static inline int popcount64(uint64_t v) { return __builtin_popcountll(v); }

    static const char SORA_DIGITS[201] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748"
        "49505152535455565758596061626364656667686970717273747576777879808182838485868788899091929394959697"
        "9899";

    /* At most 10 bytes; gives how many. */
    static inline int write_u32(char *out, uint32_t v)
    {
        char b[10];
        int n = 10;
        while (v >= 100) {
            uint32_t q = v / 100, r = (v - q * 100) * 2;
            v = q;
            b[--n] = SORA_DIGITS[r + 1];
            b[--n] = SORA_DIGITS[r];
        }
        if (v >= 10) {
            b[--n] = SORA_DIGITS[v * 2 + 1];
            b[--n] = SORA_DIGITS[v * 2];
        } else {
            b[--n] = (char)('0' + v);
        }
        memcpy(out, b + n, 10 - n);
        return 10 - n;
    }
    #endif
    """
    uint64_t load64be(const unsigned char *p) noexcept nogil
    uint32_t load32be(const unsigned char *p) noexcept nogil
    int clz64(uint64_t v) noexcept nogil
    int popcount64(uint64_t v) noexcept nogil
    int write_u32(char *out, uint32_t v) noexcept nogil


cdef inline bint is_digit(unsigned char c) noexcept nogil:
    return 48 <= c <= 57


cdef inline unsigned char upper(unsigned char c) noexcept nogil:
    return c - 32 if 97 <= c <= 122 else c


# Digits from p up to end: how many there are; the number in value, saturated at 2^64 - 1.
cdef inline Py_ssize_t scan_number(const unsigned char *p, const unsigned char *end, uint64_t *value) noexcept nogil:
    cdef const unsigned char *start = p
    cdef uint64_t v = 0, limit = ~(<uint64_t>0), digit
    while p < end and is_digit(p[0]):
        digit = p[0] - 48
        if v > (limit - digit) // 10:
            v = limit
        else:
            v = v * 10 + digit
        p += 1
    value[0] = v
    return p - start
