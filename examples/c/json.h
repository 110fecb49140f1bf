/* What veil.c needs of the plug-in protocol (spec/wire.md): one JSON request a line from standard input, its
 * fields in the forms that the page gives to values, and one response a line to standard output. A line that
 * is no request of this form ends the program with one line on standard error and status 2. Nothing here
 * knows what an operation means.
 */
#ifndef VEIL_JSON_H
#define VEIL_JSON_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
_Static_assert(SIZE_MAX >= UINT64_MAX, "sizes are counted in 64 bits");

enum { LINE_LIMIT = 1 << 26, DEPTH_LIMIT = 8, NUMBER_LENGTH = 16 };
static const int64_t INTEGER_LIMIT = INT64_C(1) << 53;

static char line[LINE_LIMIT + 1];
static size_t line_number;
static int64_t id;
static jmp_buf refused;

/* One line on standard error and status 2. */
static _Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "veil: line %zu: ", line_number);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(2);
}

static void require(bool holds, const char *name, const char *form) {
    if (!holds)
        fail("%s must be %s", name, form);
}

/* Answer with the name of a reason and leave the operation, which has written nothing yet. */
static _Noreturn void refuse(const char *name) {
    printf("{\"id\": %" PRId64 ", \"refusal\": \"%s\"}\n", id, name);
    longjmp(refused, 1);
}

/* Answer with an output, or with its beginning. */
static void answer(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("{\"id\": %" PRId64 ", \"output\": ", id);
    vprintf(format, arguments);
    va_end(arguments);
}

/* Memory is taken in zeroed blocks, and given back up to an earlier block. */
static struct block {
    struct block *next;
    max_align_t data[];
} *blocks;

static void *take(size_t count, size_t size) {
    struct block *block = calloc(1, sizeof *block + count * size);
    require(block != NULL, "the line", "short enough for memory");
    block->next = blocks;
    blocks = block;
    return block->data;
}

static void give_back(const struct block *until) {
    for (struct block *block; (block = blocks) != until; free(block))
        blocks = block->next;
}

/* A JSON value is a place in the line, which ends with a zero byte that no rule accepts. */
static const char *after_spaces(const char *at) {
    return at + strspn(at, " \t\r\n");
}

static const char *after_byte(const char *at, char byte) {
    if (*at != byte)
        fail("no %c at byte %td", byte, at - line);
    return after_spaces(at + 1);
}

static const char *after_text(const char *at) {
    require(*at == '"', "a name", "a string");
    return after_byte(at + 1 + strcspn(at + 1, "\"\\\t\r\n"), '"');
}

static const char *after_value(const char *at, int depth) {
    static const char *const LITERALS[] = {"null", "true", "false"};
    require(depth > 0, "arrays and objects", "at most 8 in one another");
    if (*at == '"')
        return after_text(at);
    if (*at == '[' || *at == '{') {
        bool object = *at == '{';
        char close = object ? '}' : ']';
        at = after_spaces(at + 1);
        for (bool more = *at != close; more; at = more ? after_byte(at, ',') : at) {
            at = after_value(object ? after_byte(after_text(at), ':') : at, depth - 1);
            more = *at == ',';
        }
        return after_byte(at, close);
    }
    for (size_t i = 0; i < COUNT(LITERALS); i++)
        if (strncmp(at, LITERALS[i], strlen(LITERALS[i])) == 0)
            return after_spaces(at + strlen(LITERALS[i]));
    at += *at == '-';
    size_t length = strspn(at, "0123456789");
    if (length < 1 || length > NUMBER_LENGTH || (*at == '0' && length > 1))
        fail("no value at byte %td", at - line);
    return after_spaces(at + length);
}

/* Items of an array, or fields of an object; NULL after the last. */
static const char *first_item(const char *value) {
    const char *at = after_spaces(value + 1);
    return *at == ']' || *at == '}' ? NULL : at;
}

static const char *field_value(const char *item) {
    return after_byte(after_text(item), ':');
}

static const char *next_item(const char *value) {
    const char *at = after_value(value, DEPTH_LIMIT);
    return *at == ',' ? after_byte(at, ',') : NULL;
}

static size_t count_items(const char *value) {
    bool object = *value == '{';
    size_t count = 0;
    for (const char *item = first_item(value); item != NULL; count++)
        item = next_item(object ? field_value(item) : item);
    return count;
}

static const char *field_or_null(const char *object, const char *name) {
    size_t length = strlen(name);
    for (const char *item = first_item(object); item != NULL; item = next_item(field_value(item)))
        if (strncmp(item + 1, name, length) == 0 && item[1 + length] == '"')
            return field_value(item);
    return NULL;
}

static const char *field(const char *object, const char *name) {
    const char *value = field_or_null(object, name);
    require(value != NULL, name, "among the fields");
    return value;
}

/* As each field of an object is looked up, the right number of them excludes others and repeated ones. */
static const char *object_of(const char *value, const char *name, size_t count) {
    require(*value == '{' && count_items(value) == count, name, "an object of exactly the stated fields");
    return value;
}

static int64_t integer_of(const char *value, const char *name) {
    require(*value == '-' || (*value >= '0' && *value <= '9'), name, "an integer");
    int64_t integer = strtoll(value, NULL, 10);
    require(llabs(integer) < INTEGER_LIMIT, name, "between -2^53 and 2^53");
    return integer;
}

static int64_t integer_field(const char *object, const char *name) {
    return integer_of(field(object, name), name);
}

static int64_t count_field(const char *object, const char *name, int64_t limit) {
    int64_t count = integer_field(object, name);
    require(count >= 0 && count < limit, name, "0 or more, and few enough for a line");
    return count;
}

static const char *text_field(const char *object, const char *name) {
    const char *value = field(object, name);
    require(*value == '"', name, "a string");
    size_t length = strcspn(value + 1, "\"");
    return memcpy(take(length + 1, 1), value + 1, length);
}

static const char *domain_field(const char *object) {
    static const char *const DOMAINS[] = {
        "nmx.noise",     "nmx.draw",       "rmo.pad",       "rmo.rank.basis", "rmo.rank.mask",
        "rmo.lwe.basis", "rmo.lwe.secret", "rmo.lwe.noise", "rmo.ratchet",    "int.challenge",
        "mdl.sampling",  "test"};
    const char *domain = text_field(object, "domain");
    size_t i = 0;
    while (i < COUNT(DOMAINS) && strcmp(DOMAINS[i], domain) != 0)
        i++;
    require(i < COUNT(DOMAINS), "domain", "the name of a tape's domain");
    return domain;
}

struct bytes {
    size_t count;
    uint8_t *at;
};

/* Two digits a byte, of `count` bytes, or of any number of them where that is 0. */
static struct bytes bytes_field(const char *object, const char *name, size_t count) {
    static const char DIGITS[] = "0123456789abcdef";
    const char *digits = text_field(object, name);
    size_t length = strlen(digits);
    require(length % 2 == 0 && strspn(digits, DIGITS) == length, name, "pairs of lower-case digits");
    require(count == 0 || length / 2 == count, name, "of the stated number of digits");
    struct bytes bytes = {length / 2, take(length / 2, 1)};
    for (size_t i = 0; i < length; i++)
        bytes.at[i / 2] = (uint8_t)(bytes.at[i / 2] << 4 | (strchr(DIGITS, digits[i]) - DIGITS));
    return bytes;
}

static uint64_t little_endian(const uint8_t *bytes, size_t count) {
    uint64_t integer = 0;
    require(count <= sizeof integer, "an integer", "of 8 bytes at most");
    while (count-- > 0)
        integer = integer << 8 | bytes[count];
    return integer;
}

static void write_digits(uint64_t integer, size_t count) {
    for (; count > 0; count--, integer >>= 8)
        printf("%02x", (unsigned)(integer & 0xff));
}

/* A modulus; what is none of 64 bits is given as 1, which is no prime either. */
static uint64_t modulus_field(const char *object) {
    uint64_t modulus = 1;
    if (*field(object, "modulus") != '"') {
        int64_t integer = integer_field(object, "modulus");
        modulus = integer > 0 ? (uint64_t)integer : 1;
    } else {
        struct bytes bytes = bytes_field(object, "modulus", 0);
        modulus = bytes.count <= sizeof modulus ? little_endian(bytes.at, bytes.count) : 1;
    }
    return modulus > 0 ? modulus : 1;
}

/* What is beyond 64 bits is given as their largest integer, and is beyond every limit. */
static void alpha_field(const char *object, int64_t *numerator, int64_t *denominator) {
    const char *text = text_field(object, "alpha");
    char *end;
    *numerator = strtoll(text, &end, 10);
    require(*end == '/' && strspn(text, "-0123456789/") == strlen(text), "alpha", "num/den");
    *denominator = strtoll(end + 1, &end, 10);
    require(*end == '\0', "alpha", "num/den");
}

/* Integers, as the 64 bits of their two's complement, or elements. An empty or ragged one has no columns. */
struct matrix {
    size_t rows, columns;
    uint64_t *cell;
};

static struct matrix row_of(const char *value, const char *name) {
    require(*value == '[', name, "an array of integers");
    size_t count = count_items(value), i = 0;
    struct matrix row = {1, count, take(count, sizeof *row.cell)};
    for (const char *item = first_item(value); item != NULL; item = next_item(item))
        row.cell[i++] = (uint64_t)integer_of(item, name);
    return row;
}

static struct matrix rows_field(const char *object, const char *name) {
    const char *array = field(object, name);
    require(*array == '[', name, "an array of rows");
    struct matrix matrix = {count_items(array), 0, NULL};
    size_t i = 0;
    for (const char *item = first_item(array); item != NULL; item = next_item(item)) {
        struct matrix row = row_of(item, name);
        if (i == 0)
            matrix = (struct matrix){matrix.rows, row.columns,
                                     take(matrix.rows, row.columns * sizeof *row.cell)};
        if (row.columns != matrix.columns)
            return (struct matrix){matrix.rows, 0, NULL};
        memcpy(matrix.cell + i++ * row.columns, row.cell, row.columns * sizeof *row.cell);
    }
    return matrix;
}

static size_t element_bytes(uint64_t modulus) {
    size_t count = 0;
    for (; modulus > 0; modulus >>= 8)
        count++;
    return count;
}

static struct matrix elements_field(const char *object, const char *name, uint64_t modulus) {
    const char *value = object_of(field(object, name), name, 2);
    struct matrix shape = row_of(field(value, "shape"), "shape");
    struct bytes bytes = bytes_field(value, "words", 0);
    require(shape.columns == 2 && shape.cell[0] < LINE_LIMIT && shape.cell[1] < LINE_LIMIT, "shape",
            "two lengths");
    size_t count = shape.cell[0] * shape.cell[1], width = element_bytes(modulus);
    require(count * width == bytes.count, name, "of the stated shape");
    struct matrix matrix = {shape.cell[0], shape.cell[1], take(count, sizeof *matrix.cell)};
    for (size_t i = 0; i < count; i++)
        matrix.cell[i] = little_endian(bytes.at + i * width, width);
    return matrix;
}

static void answer_elements(struct matrix matrix, uint64_t modulus) {
    answer("{\"shape\": [%zu, %zu], \"words\": \"", matrix.rows, matrix.columns);
    for (size_t i = 0; i < matrix.rows * matrix.columns; i++)
        write_digits(matrix.cell[i], element_bytes(modulus));
    printf("\"}");
}

/* The next line's object, or NULL where the input ends. */
static const char *next_request(void) {
    line_number++;
    if (fgets(line, sizeof line, stdin) == NULL)
        return NULL;
    size_t length = strlen(line);
    require(length > 0 && line[length - 1] == '\n', "a line", "at most 2^26 bytes, the last a line feed");
    const char *request = after_spaces(line);
    require(*after_value(request, DEPTH_LIMIT) == '\0', "a line", "one JSON object");
    id = integer_field(object_of(request, "a line", 3), "id");
    return request;
}

#endif
