/* Draws of the tabulated sanitizer.
 *
 * Implements: NMX-R13.
 */

#include <stddef.h>
#include <stdint.h>

/* What replaces each entry: the member of its part with as many limits below its word as stand before it.
 *
 * limits [entries, columns] are cumulative weights less one, filled up with words that nothing exceeds. Rows are
 * far apart in memory: those of entries to come are asked for ahead. */
void veil_draw(
    const int64_t *entries, size_t count, const uint64_t *words, const uint64_t *limits, int columns,
    const int64_t *starts, const int64_t *members, int64_t *outputs) {
    enum { AHEAD = 8 };
    for (size_t i = 0; i < count; i++) {
        if (i + AHEAD < count) {
            const uint64_t *coming = limits + (size_t)entries[i + AHEAD] * columns;
            for (int c = 0; c < columns; c += 8) __builtin_prefetch(coming + c);
            __builtin_prefetch(starts + entries[i + AHEAD]);
        }
        const uint64_t *row = limits + (size_t)entries[i] * columns;
        int64_t below = 0;
        for (int c = 0; c < columns; c++) below += row[c] < words[i];
        outputs[i] = members[starts[entries[i]] + below];
    }
}
