/* What the compiled kernels share. */

#ifndef VEIL_KERNEL_H
#define VEIL_KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Overwrite what may be secret, in a way that no compiler leaves out. */
static inline void wipe(void *memory, size_t bytes) {
    memset(memory, 0, bytes);
    __asm__ volatile("" : : "r"(memory) : "memory");
}

/* Return total mod p, p = 2^bits - c with a small c: 2^bits counts as c. */
static inline uint64_t residue(__int128 total, int bits, uint64_t modulus) {
    int below = total < 0;
    unsigned __int128 rest = below ? -(unsigned __int128)total : (unsigned __int128)total;
    uint64_t mask = bits == 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1, fold = mask - modulus + 1;
    while (rest >> bits) rest = (rest & mask) + (rest >> bits) * fold;
    uint64_t result = (uint64_t)rest;
    if (result >= modulus) result -= modulus;
    return below && result ? modulus - result : result;
}

#endif
