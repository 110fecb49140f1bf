/* What veil.c needs of the plug-in protocol (spec/wire.md): one JSON request a line from standard input, its
 * fields in the forms that the page gives to values, and one response a line to standard output. A line that
 * is no request of this form ends the program with one line on standard error and status 2. Nothing here
 * knows what an operation means.
 */
#ifndef VEIL_JSON_H
#define VEIL_JSON_H

#include <inttypes.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUTPUT "{\"output\": "
#define COUNT(array) (sizeof(array) / sizeof *(array))
_Static_assert(SIZE_MAX >= UINT64_MAX, "sizes are counted in 64 bits");

enum { LINE_LIMIT = 1 << 26, DEPTH_LIMIT = 8, NUMBER_LENGTH = 16 };
static const int64_t INTEGER_LIMIT = INT64_C(1) << 53;
static const char SPACES[] = " \t\r\n", DIGITS[] = "0123456789abcdef";
static char line[LINE_LIMIT + 1], *at; /* the next byte to read; a zero byte ends the line */
static size_t line_number;
static jmp_buf refused;

/* Ends the program, with one line on standard error and status 2, unless this holds of a request. */
static void require(bool holds, const char *name, const char *form) {
    if (holds)
        return;
    fprintf(stderr, "veil: line %zu: %s must be %s\n", line_number, name, form);
    exit(2);
}

/* Leaves an operation, which has written nothing yet, with the name of a refusal unless this holds. */
static void refuse_unless(bool holds, const char *name) {
    if (holds)
        return;
    printf("{\"refusal\": \"%s\"", name);
    longjmp(refused, 1);
}

static struct block {
    struct block *next;
    max_align_t data[];
} *blocks;

/* Returns zeroed memory. */
static void *take(size_t count, size_t size) {
    struct block *block = calloc(1, sizeof *block + count * size);
    require(block != NULL, "a line", "short enough for memory");
    block->next = blocks;
    blocks = block;
    return block->data;
}

/* Frees the memory that was taken since a block was the last one, or all of it if that is NULL. */
static void give_back(const struct block *until) {
    for (struct block *block; (block = blocks) != until; free(block))
        blocks = block->next;
}

/* A JSON value; those inside it follow, and are `span` values with it. */
struct value {
    const char *name;             /* of the field that it is, or is inside */
    char kind;                    /* its first byte, but '0' for any integer */
    const char *text;             /* of a string */
    uint64_t *cell;               /* it, or the integers inside it, as 64 bits of two's complement */
    size_t integers, count, span; /* count is of items or fields */
};
static struct value *free_value;
static uint64_t *free_cell;

/* Returns whether a byte comes next, and passes it and spaces if so. */
static bool skip(char byte) {
    if (*at != byte)
        return false;
    at += 1 + strspn(at + 1, SPACES);
    return true;
}

/* Returns a string, which has no escapes. */
static const char *read_text(void) {
    const char *text = at + 1;
    require(*at == '"', "a name", "a string");
    char *end = at += 1 + strcspn(text, "\"\\\t\r\n");
    require(skip('"'), "a string", "closed and without escapes");
    *end = '\0';
    return text;
}

/* Returns a value of at most this depth. */
static const struct value *read_value(const char *name, int depth) {
    struct value *value = free_value++;
    *value = (struct value){.name = name, .kind = *at, .cell = free_cell};
    require(depth > 0, "arrays and objects", "at most 8 in one another");
    bool object = *at == '{';
    if (*at == '"') {
        value->text = read_text();
    } else if (skip('[') || skip('{')) {
        for (bool more = *at != ']' && *at != '}'; more; more = skip(',')) {
            name = object ? read_text() : name;
            require(!object || skip(':'), "a name", "followed by a value");
            read_value(name, depth - 1);
            value->count++;
        }
        require(skip(object ? '}' : ']'), "a line", "JSON");
    } else if (strncmp(at, "true", 4) == 0 || strncmp(at, "false", 5) == 0) {
        at += *at == 't' ? 4 : 5;
    } else {
        int64_t integer = strtoll(at, NULL, 10);
        at += *at == '-';
        size_t length = strspn(at, "0123456789");
        require(length > 0 && length <= NUMBER_LENGTH && (length == 1 || *at != '0'), "a value", "JSON");
        require(llabs(integer) < INTEGER_LIMIT, name, "between -2^53 and 2^53");
        at += length;
        value->kind = '0';
        *free_cell++ = (uint64_t)integer;
    }
    at += strspn(at, SPACES);
    value->integers = (size_t)(free_cell - value->cell);
    value->span = (size_t)(free_value - value);
    return value;
}

/* Returns a value of one of these kinds. */
static const struct value *of_kind(const struct value *value, const char *kinds) {
    require(strchr(kinds, value->kind) != NULL, value->name, "of the form that wire.md states");
    return value;
}

/* Returns an object of so many fields: as each is looked up, there is no other and none twice. */
static const struct value *object_of(const struct value *value, size_t count) {
    require(of_kind(value, "{")->count == count, value->name, "an object of exactly the stated fields");
    return value;
}

/* Returns the value of a field, of one of these kinds. */
static const struct value *field(const struct value *object, const char *name, const char *kinds) {
    const struct value *end = object + object->span, *value = object + 1;
    while (value < end && strcmp(value->name, name) != 0)
        value += value->span;
    require(value < end, name, "among the fields");
    return of_kind(value, kinds);
}

/* Returns the integer in a field. */
static int64_t integer_field(const struct value *object, const char *name) {
    return (int64_t)*field(object, name, "0")->cell;
}

/* Returns the integer in a field, from 0 to below a limit. */
static int64_t count_field(const struct value *object, const char *name, int64_t limit) {
    int64_t count = integer_field(object, name);
    require(count >= 0 && count < limit, name, "0 or more, and few enough for a line");
    return count;
}

/* Returns the string in a field. */
static const char *text_field(const struct value *object, const char *name) {
    return field(object, name, "\"")->text;
}

/* Returns the name of a tape's domain. */
static const char *domain_field(const struct value *object) {
    static const char *const DOMAINS[] = {
        "nmx.noise", "nmx.draw", "rmo.pad", "rmo.rank.basis", "rmo.rank.mask", "rmo.lwe.basis",
        "rmo.lwe.secret", "rmo.lwe.noise", "rmo.ratchet", "int.challenge", "mdl.sampling", "test"};
    const char *domain = text_field(object, "domain");
    size_t i = 0;
    while (i < COUNT(DOMAINS) && strcmp(DOMAINS[i], domain) != 0)
        i++;
    require(i < COUNT(DOMAINS), "domain", "the name of a tape's domain");
    return domain;
}

/* Returns the digits in a field: two for each byte of `count`, or of any number where that is 0. */
static const char *digits_field(const struct value *object, const char *name, size_t count) {
    const char *digits = text_field(object, name);
    size_t length = strspn(digits, DIGITS), stated = count > 0 ? 2 * count : length;
    require(digits[length] == '\0' && length % 2 == 0 && length == stated, name, "digits, as many as stated");
    return digits;
}

/* Returns the number whose digits start with its lowest byte, or 0 if it has more than 8 bytes. */
static uint64_t number_of(const char *digits, size_t bytes) {
    uint64_t number = 0;
    for (size_t i = bytes <= sizeof number ? 2 * bytes : 0; i > 0; i -= 2)
        for (size_t half = i - 2; half < i; half++)
            number = number << 4 | (uint64_t)(strchr(DIGITS, digits[half]) - DIGITS);
    return number;
}

/* Writes the digits of a number of so many bytes. */
static void write_digits(uint64_t number, size_t bytes) {
    for (; bytes > 0; bytes--, number >>= 8)
        printf("%02x", (unsigned)(number & 0xff));
}

/* Returns a modulus; what is none of 64 bits is given as 1, which is no prime either. */
static uint64_t modulus_field(const struct value *object) {
    const struct value *value = field(object, "modulus", "0\"");
    if (value->kind == '0')
        return integer_field(object, "modulus") > 0 ? *value->cell : 1;
    uint64_t modulus = number_of(digits_field(object, "modulus", 0), strlen(value->text) / 2);
    return modulus > 0 ? modulus : 1;
}

/* Reads num/den. What is beyond 64 bits is given as their largest integer, and is beyond every limit. */
static void alpha_field(const struct value *object, int64_t *numerator, int64_t *denominator) {
    const char *text = text_field(object, "alpha");
    char *end;
    *numerator = strtoll(text, &end, 10);
    require(*end == '/' && strspn(text, "-0123456789/") == strlen(text), "alpha", "num/den");
    *denominator = strtoll(end + 1, &end, 10);
    require(*end == '\0', "alpha", "num/den");
}

/* Integers, or elements of a field. An empty or ragged matrix has no columns. */
struct matrix {
    size_t rows, columns;
    uint64_t *cell;
};

/* Returns an array of integers as a row. */
static struct matrix row_of(const struct value *array) {
    require(of_kind(array, "[")->span == array->integers + 1, array->name, "an array of integers");
    uint64_t *cell = take(array->count, sizeof *cell);
    return (struct matrix){1, array->count, memcpy(cell, array->cell, array->count * sizeof *cell)};
}

/* Returns the rows in a field. */
static struct matrix rows_field(const struct value *object, const char *name) {
    const struct value *array = field(object, name, "["), *row = array + 1;
    struct matrix matrix = {array->count, array->count > 0 ? row->count : 0, NULL};
    for (; row < array + array->span; row += row->span) {
        require(of_kind(row, "[")->span == row->integers + 1, name, "an array of integers");
        matrix.columns = row->count == matrix.columns ? matrix.columns : 0;
    }
    matrix.cell = take(array->integers, sizeof *matrix.cell);
    memcpy(matrix.cell, array->cell, array->integers * sizeof *matrix.cell);
    return matrix;
}

/* Returns in how many bytes an element is written. */
static size_t element_bytes(uint64_t modulus) {
    return modulus > 0xff ? 1 + element_bytes(modulus >> 8) : 1;
}

/* Returns the elements in a field. */
static struct matrix elements_field(const struct value *object, const char *name, uint64_t modulus) {
    const struct value *value = object_of(field(object, name, "{"), 2);
    struct matrix shape = row_of(field(value, "shape", "["));
    const char *words = digits_field(value, "words", 0);
    require(shape.columns == 2 && (shape.cell[0] | shape.cell[1]) < LINE_LIMIT, "shape", "two lengths");
    size_t count = shape.cell[0] * shape.cell[1], bytes = element_bytes(modulus);
    require(2 * count * bytes == strlen(words), name, "of the stated shape");
    struct matrix matrix = {shape.cell[0], shape.cell[1], take(count, sizeof *matrix.cell)};
    for (size_t i = 0; i < count; i++)
        matrix.cell[i] = number_of(words + 2 * i * bytes, bytes);
    return matrix;
}

/* Answers with elements. */
static void answer_elements(struct matrix matrix, uint64_t modulus) {
    printf(OUTPUT "{\"shape\": [%zu, %zu], \"words\": \"", matrix.rows, matrix.columns);
    for (size_t i = 0; i < matrix.rows * matrix.columns; i++)
        write_digits(matrix.cell[i], element_bytes(modulus));
    printf("\"}");
}

/* Returns the next line's object, or NULL where the input ends. */
static const struct value *next_request(void) {
    line_number++;
    if (fgets(line, sizeof line, stdin) == NULL)
        return NULL;
    size_t length = strlen(line), values = 1;
    require(length > 0 && line[length - 1] == '\n', "a line", "at most 2^26 bytes, the last a line feed");
    for (at = line; *at != '\0'; at++)
        values += *at == '[' || *at == '{' || *at == ',';
    free_value = take(values, sizeof *free_value);
    free_cell = take(values, sizeof *free_cell);
    at = line + strspn(line, SPACES);
    const struct value *request = read_value("a line", DEPTH_LIMIT);
    require(*at == '\0', "a line", "one JSON object");
    return object_of(request, 3);
}

#endif
