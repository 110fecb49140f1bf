/**
 * The tape, noisy max and the masks of profile `pad` in JavaScript, written from the pages in spec/ alone.
 *
 * A program for `python -m veil_conformance --impl 'exec:node veil.mjs'`: it reads one JSON object a line and
 * answers each with one line (spec/wire.md, "The plug-in protocol"). It needs node 18 and nothing else.
 */

import { createHash } from "node:crypto";

const SPEC_VERSION = "0.4.0";
const SEED_BYTES = 32;
const WORD_BITS = 64n;
const WORD_BYTES = 8;
const STREAM_LIMIT = 2n ** 96n;
const RETRY_SHIFT = 64n;
const CALLER_STREAM_LIMIT = 2n ** 64n;
const INDEX_LIMIT = 2 ** 35;
const ELEMENT_LIMIT = 2 ** 32 - 1;
const SCORE_LIMIT = 2 ** 20;
const CANDIDATE_LIMIT = 2 ** 20;
const TOKEN_LIMIT = 2 ** 32 - 1;
const DOCUMENT_LIMIT = 2 ** 43;
const DOCUMENT_SHIFT = 21n;
const ALPHA_DENOMINATOR_LIMIT = 2n ** 16n;
const PRIMES = [4294967291n, 1099511627689n, 281474976710597n];
const LWE_MODULUS = 18446744073709551557n;
const ACTIVATION_LIMIT = 32767;
const WEIGHT_LIMIT = 32639;
const STEP_SPACE = 2 ** 32;

/** The answer in place of any result: a name of veil_spec.refusals. */
class Refused extends Error {}

/** A line that is not of the protocol. It ends the program. */
class Malformed extends Error {}

function refuseUnless(holds, reason) {
  if (!holds) throw new Refused(reason);
}

/** Returns whether 0 <= value < limit. */
const isBelow = (value, limit) => value >= 0 && value < limit;

// Tape (spec/tape.md)

const sha256 = (bytes) => createHash("sha256").update(bytes).digest();

/** Returns the 32 bytes of a domain's key. TAP-R1. */
function domainKey(seed, domain) {
  const tag = Buffer.from(`veil ${SPEC_VERSION} ${domain}`, "ascii");
  return sha256(Buffer.concat([Buffer.from([tag.length]), tag, seed]));
}

/** One quarter round of RFC 8439 on four places of a state of 16 words; a Uint32Array adds modulo 2^32. */
function quarterRound(state, a, b, c, d) {
  state[a] += state[b];
  state[d] = rotateLeft(state[d] ^ state[a], 16);
  state[c] += state[d];
  state[b] = rotateLeft(state[b] ^ state[c], 12);
  state[a] += state[b];
  state[d] = rotateLeft(state[d] ^ state[a], 8);
  state[c] += state[d];
  state[b] = rotateLeft(state[b] ^ state[c], 7);
}

const rotateLeft = (word, count) => (word << count) | (word >>> (32 - count));

/** Returns the little-endian words of 32 bits in bytes. */
const readWords = (bytes) => Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readUInt32LE(4 * i));

const SIGMA = readWords(Buffer.from("expand 32-byte k", "ascii"));

/** Returns a ChaCha20 block as 16 words of 32 bits (RFC 8439, section 2.3); the nonce is three such words. */
function chachaBlock(key, counter, nonce) {
  const start = Uint32Array.from([...SIGMA, ...readWords(key), counter, ...nonce]);
  const state = start.slice();
  for (let round = 0; round < 10; round += 1) {
    quarterRound(state, 0, 4, 8, 12);
    quarterRound(state, 1, 5, 9, 13);
    quarterRound(state, 2, 6, 10, 14);
    quarterRound(state, 3, 7, 11, 15);
    quarterRound(state, 0, 5, 10, 15);
    quarterRound(state, 1, 6, 11, 12);
    quarterRound(state, 2, 7, 8, 13);
    quarterRound(state, 3, 4, 9, 14);
  }
  return state.map((word, i) => word + start[i]);
}

/** The words under one seed of 32 bytes. TAP-R2, R5, R6. Refuses: SEED_LENGTH. */
class SeededTape {
  constructor(seed) {
    refuseUnless(seed.length === SEED_BYTES, "SEED_LENGTH");
    this.seed = seed;
    this.keys = new Map();
  }

  /** Returns the word, 0 to 2^64 - 1. Refuses: STREAM_OUT_OF_RANGE, COUNTER_OVERFLOW. */
  word(domain, stream, index) {
    refuseUnless(isBelow(stream, STREAM_LIMIT), "STREAM_OUT_OF_RANGE");
    refuseUnless(isBelow(index, INDEX_LIMIT), "COUNTER_OVERFLOW");
    if (!this.keys.has(domain)) this.keys.set(domain, domainKey(this.seed, domain));
    const nonce = [0n, 32n, 64n].map((shift) => Number((stream >> shift) & 0xffffffffn));
    const block = chachaBlock(this.keys.get(domain), Math.floor(index / 8), nonce);
    const place = 2 * (index % 8);
    return BigInt(block[place]) + (BigInt(block[place + 1]) << 32n);
  }
}

/** A finite map from addresses to words. TAP-R7. */
class ListedTape {
  /** `listed` has lists of a word, its domain, its stream and its index. */
  constructor(listed) {
    this.words = new Map(listed.map(([word, ...address]) => [address.join(), word]));
  }

  /** Returns the listed word. Refuses: TAPE_EXHAUSTED. */
  word(...address) {
    const word = this.words.get(address.join());
    refuseUnless(word !== undefined, "TAPE_EXHAUSTED");
    return word;
  }
}

/** Returns the number of the stream that goes on where word `index` of a stream did not do. */
const retryStream = (stream, index) => stream + (BigInt(index + 1) << RETRY_SHIFT);

/** Returns the field element at one address, 0 to modulus - 1. TAP-R3, R4. */
function fieldElement(tape, domain, stream, index, modulus) {
  const bits = modulus.toString(2).length;
  let candidate = BigInt.asUintN(bits, tape.word(domain, stream, index));
  for (let next = 0; candidate >= modulus; next += 1) {
    candidate = BigInt.asUintN(bits, tape.word(domain, retryStream(stream, index), next));
  }
  return candidate;
}

/** Returns `count` elements from `start` on. TAP-R3 to R5. Refuses: STREAM_OUT_OF_RANGE, COUNTER_OVERFLOW. */
function fieldElements(tape, domain, stream, start, count, modulus) {
  refuseUnless(isBelow(stream, CALLER_STREAM_LIMIT), "STREAM_OUT_OF_RANGE");
  refuseUnless(start >= 0 && start + count <= ELEMENT_LIMIT, "COUNTER_OVERFLOW");
  return Array.from({ length: count }, (_, i) => fieldElement(tape, domain, stream, start + i, modulus));
}

// Noisy max (spec/noisy_max.md)

/** Returns the noise with alpha = a / b, which is in lowest terms. NMX-R7. Refuses: ALPHA_OUT_OF_RANGE. */
function makeNoise([a, b], twoSided) {
  refuseUnless(a > 0n && a < b && b <= ALPHA_DENOMINATOR_LIMIT, "ALPHA_OUT_OF_RANGE");
  return { a, b, twoSided };
}

/** Returns the integers around low / divisor and high / divisor, as {low, high}. */
function enclose(low, high, divisor) {
  return { low: low / divisor, high: high / divisor + BigInt(high % divisor !== 0n) };
}

/** Returns an enclosure of the product of two enclosed numbers, all in units of 1 / one. */
const times = (x, y, one) => enclose(x.low * y.low, x.high * y.high, one);

/** Returns whether an enclosed number is below a limit, or null where the enclosure is too wide to tell. */
function isEnclosedBelow({ low, high }, limit) {
  const [lowIsBelow, highIsBelow] = [low, high].map((end) => end < limit);
  return lowIsBelow === highIsBelow ? lowIsBelow : null;
}

/**
 * Returns {count, power}: the largest j with x^j >= target, for target > 0 and 0 < x < 1, and an enclosure of
 * x^j; or null where the enclosures are too wide to tell. All numbers are in units of 1 / one.
 */
function countPowers(x, target, one) {
  const isNone = isEnclosedBelow(x, target);
  if (isNone) return { count: 0, power: { low: one, high: one } };
  const squares = isNone === null ? null : countPowers(times(x, x, one), target, one);
  if (squares === null) return null;
  const { count, power } = squares;
  const next = times(power, x, one);
  const isLast = isEnclosedBelow(next, target);
  if (isLast === null) return null;
  return isLast ? { count: 2 * count, power } : { count: 2 * count + 1, power: next };
}

/**
 * Returns the draw j if every U from u / 2^bits up to, but without, (u + 1) / 2^bits has this largest j with
 * U < alpha^j, else null. It is exact: where the enclosures cannot tell, they get another bit.
 */
function determinedDraw({ a, b }, u, bits) {
  for (let precision = bits; ; precision++) {
    const one = 1n << precision;
    const finer = precision - bits;
    const alpha = enclose(a * one, a * one, b);
    const found = countPowers(alpha, (u + 1n) << finer, one);
    if (found === null) continue;
    const isDetermined = isEnclosedBelow(times(found.power, alpha, one), (u << finer) + 1n);
    if (isDetermined !== null) return isDetermined ? found.count : null;
  }
}

/** Returns geometric draw `index` of a stream, at least 0. NMX-R1. */
function geometric(noise, tape, stream, index) {
  let u = tape.word("nmx.noise", stream, index);
  let draw = determinedDraw(noise, u, WORD_BITS);
  for (let next = 0; draw === null; next += 1) {
    u = (u << WORD_BITS) + tape.word("nmx.noise", retryStream(stream, index), next);
    draw = determinedDraw(noise, u, WORD_BITS * BigInt(next + 2));
  }
  return draw;
}

/** Returns the noise of one candidate, an integer. NMX-R2. Refuses: STREAM_OUT_OF_RANGE. */
function sample(noise, tape, token, document, candidate) {
  const known = isBelow(token, TOKEN_LIMIT) && isBelow(candidate, CANDIDATE_LIMIT);
  refuseUnless(known && isBelow(document, DOCUMENT_LIMIT), "STREAM_OUT_OF_RANGE");
  const stream = (BigInt(document) << DOCUMENT_SHIFT) + BigInt(2 * candidate);
  const draw = geometric(noise, tape, stream, token);
  return noise.twoSided ? draw - geometric(noise, tape, stream + 1n, token) : draw;
}

/** Returns the index of the winner. NMX-R3 to R6. Refuses: SCORES_EMPTY, SCORE_OUT_OF_RANGE. */
function select(scores, noise, tape, token, document) {
  refuseUnless(scores.length > 0, "SCORES_EMPTY");
  refuseUnless(!(CANDIDATE_LIMIT in scores), "SCORE_OUT_OF_RANGE");
  refuseUnless(scores.every((score) => Math.abs(score) <= SCORE_LIMIT), "SCORE_OUT_OF_RANGE");
  const noisy = scores.map((score, candidate) => score + sample(noise, tape, token, document, candidate));
  return noisy.reduce((best, value, index) => (value > noisy[best] ? index : best), 0);
}

// Masked outsourcing, profile `pad` (spec/remo.md)

/** Refuses (SHAPE_MISMATCH) rows that are not a matrix of at least one row and one column. */
function checkMatrix(rows) {
  const filled = rows.length > 0 && rows[0].length > 0;
  refuseUnless(filled && rows.every((row) => row.length === rows[0].length), "SHAPE_MISMATCH");
}

function checkSameShape(one, other) {
  checkMatrix(one);
  checkMatrix(other);
  refuseUnless(one.length === other.length && one[0].length === other[0].length, "SHAPE_MISMATCH");
}

function checkElements(rows, modulus) {
  refuseUnless(rows.flat().every((element) => isBelow(element, modulus)), "NOT_IN_FIELD");
}

const checkAll = (rows, limit, reason) =>
  refuseUnless(rows.flat().every((value) => Math.abs(value) <= limit), reason);

/** Returns the residue of an integer, 0 to modulus - 1. */
const residue = (value, modulus) => ((value % modulus) + modulus) % modulus;

/** Returns the sum of the products of two rows. */
const scalarProduct = (row, other) => row.reduce((sum, value, i) => sum + value * BigInt(other[i]), 0n);

/**
 * Returns the field of a linear group. RMO-R1, R2. Refuses: SHAPE_MISMATCH, WEIGHT_OUT_OF_RANGE, WOULD_WRAP.
 *
 * 2^15 n <= (p - 1) / 2 says that n is at most (p - 1) / 2^16, and so, p being odd, at most floor(p / 2^16).
 */
function chooseModulus(weights) {
  checkMatrix(weights);
  checkAll(weights, WEIGHT_LIMIT, "WEIGHT_OUT_OF_RANGE");
  const norms = weights.map((row) => row.reduce((sum, weight) => sum + Math.abs(weight), 0));
  const most = BigInt(norms.reduce((x, y) => Math.max(x, y)));
  const modulus = PRIMES.find((prime) => most <= prime >> 16n);
  refuseUnless(modulus !== undefined, "WOULD_WRAP");
  return modulus;
}

/**
 * Returns the pads of a group in a step, [rows, columns]. RMO-R6, R7. Refuses: STREAM_OUT_OF_RANGE.
 *
 * A group outside 0 to 2^32 - 1 has no stream below 2^64, and fieldElements refuses it.
 */
function pad(tape, group, step, rows, columns, modulus) {
  refuseUnless(isBelow(step, STEP_SPACE), "STREAM_OUT_OF_RANGE");
  const stream = (BigInt(group) << 32n) + BigInt(step);
  const elements = fieldElements(tape, "rmo.pad", stream, 0, rows * columns, modulus);
  return Array.from({ length: rows }, (_, row) => elements.slice(row * columns, (row + 1) * columns));
}

/** Takes the steps of one epoch, pairs [group, step]. RMO-R11. Refuses: PAD_REUSED, STREAM_OUT_OF_RANGE. */
function burn(addresses) {
  const last = new Map();
  for (const [group, step] of addresses) {
    refuseUnless(isBelow(group, STEP_SPACE) && isBelow(step, STEP_SPACE), "STREAM_OUT_OF_RANGE");
    refuseUnless(!last.has(group) || step > last.get(group), "PAD_REUSED");
    last.set(group, step);
  }
}

/** Returns the seed of the step after the one of a seed, 32 bytes. RMO-R22. */
const ratchet = (seed) => domainKey(seed, "rmo.ratchet");

/** Returns the masked rows. RMO-R3, R12. Refuses: see RMO-R12. */
function mask(activations, pads, modulus) {
  refuseUnless(PRIMES.includes(modulus), "FIELD_UNKNOWN");
  checkSameShape(activations, pads);
  checkElements(pads, modulus);
  checkAll(activations, ACTIVATION_LIMIT, "ACTIVATION_OUT_OF_RANGE");
  return pads.map((row, i) => row.map((r, j) => residue(r + BigInt(activations[i][j]), modulus)));
}

/** Returns rows times the transpose of the weights [outputs, inner]. RMO-R4, R12. Refuses: see RMO-R12. */
function multiply(masked, weights, modulus) {
  refuseUnless([...PRIMES, LWE_MODULUS].includes(modulus), "FIELD_UNKNOWN");
  checkMatrix(masked);
  checkMatrix(weights);
  refuseUnless(masked[0].length === weights[0].length, "SHAPE_MISMATCH");
  checkElements(masked, modulus);
  return masked.map((row) => weights.map((channel) => residue(scalarProduct(row, channel), modulus)));
}

/** Returns the integers nearest to 0, [rows, outputs]. RMO-R5, R12. Refuses: see RMO-R12. */
function unmask(product, correction, modulus) {
  refuseUnless(PRIMES.includes(modulus), "FIELD_UNKNOWN");
  checkSameShape(product, correction);
  checkElements(product, modulus);
  checkElements(correction, modulus);
  const centred = (x) => (x > modulus / 2n ? x - modulus : x);
  return product.map((row, i) => row.map((y, j) => Number(centred(residue(y - correction[i][j], modulus)))));
}

// Values on the wire (spec/wire.md, "Values")

function wellFormed(holds, what) {
  if (!holds) throw new Malformed(what);
}

/** Returns the values of an object with exactly these fields, in their order, each read by its reader. */
function readFields(value, readers) {
  const names = Object.keys(readers);
  const found = value instanceof Object && names.every((name) => Object.hasOwn(value, name));
  wellFormed(found && Object.keys(value).length === names.length, `the fields are not: ${names}`);
  return names.map((name) => readers[name](value[name], value));
}

function readInteger(value) {
  wellFormed(Number.isSafeInteger(value), "an integer below 2^53 is missing");
  return value;
}

function readBoolean(value) {
  wellFormed(typeof value === "boolean", "true or false is missing");
  return value;
}

function readText(value) {
  wellFormed(typeof value === "string", "a text is missing");
  return value;
}

function readList(value, readItem) {
  wellFormed(Array.isArray(value), "a list is missing");
  return value.map((item) => readItem(item));
}

const readRow = (value) => readList(value, readInteger);

const readRows = (value) => readList(value, readRow);

function readPair(value) {
  wellFormed(Array.isArray(value) && value.length === 2, "a pair is missing");
  return readRow(value);
}

const readPairs = (value) => readList(value, readPair);

function readBytes(value) {
  const bytes = Buffer.from(readText(value), "hex");
  wellFormed(bytes.toString("hex") === value, "bytes in hexadecimal are missing");
  return bytes;
}

/** Returns the unsigned integer of little-endian bytes. */
const fromLittleEndian = (bytes) => BigInt(`0x0${Buffer.from(bytes).reverse().toString("hex")}`);

const hexadecimal = (value) => value.toString(16);

/** Returns an integer below 256^length as the digits of its little-endian bytes. */
const writeDigits = (value, length) =>
  Buffer.from(hexadecimal(value).padStart(2 * length, "0"), "hex").reverse().toString("hex");

/** Returns the word or stream; a stream below 0 reads as one of 2^111 or more, and is refused like it. */
const readWide = (value) => fromLittleEndian(readBytes(value));

/** Returns the modulus, a number below 2^53 or bytes. */
const readModulus = (value) => (typeof value === "string" ? readWide(value) : BigInt(readInteger(value)));

/** Returns the numerator and the denominator of a rational "num/den". */
function readRational(value) {
  const [numerator, denominator] = readText(value).split("/").map(BigInt);
  wellFormed(`${numerator}/${denominator}` === value, "a rational is missing");
  return [numerator, denominator];
}

const NOISE_KINDS = ["geometric", "two-sided"];

function readNoise(value) {
  const [kind, alpha] = readFields(value, { kind: readText, alpha: readRational });
  wellFormed(NOISE_KINDS.includes(kind), "a kind of noise is missing");
  return makeNoise(alpha, kind === "two-sided");
}

const writeNoise = ({ twoSided, a, b }) => ({ kind: NOISE_KINDS[Number(twoSided)], alpha: `${a}/${b}` });

const ADDRESS = { domain: readText, stream: readWide, index: readInteger };

const readListed = (value) =>
  new ListedTape(readList(value, (item) => readFields(item, { word: readWide, ...ADDRESS })));

function readTape(value) {
  if ("seed" in value) return new SeededTape(...readFields(value, { seed: readBytes }));
  return readFields(value, { listed: readListed })[0];
}

/** Returns how many bytes an element of a field takes. */
const elementBytes = (modulus) => Math.ceil(hexadecimal(modulus).length / 2);

/** Returns rows of elements of the field that the same request names. */
function readElements(value, request) {
  const [[rows, columns], bytes] = readFields(value, { shape: readPair, words: readBytes });
  const width = elementBytes(readModulus(request.modulus));
  wellFormed(bytes.length === rows * columns * width, "words do not fill their shape");
  const element = (i) => fromLittleEndian(bytes.subarray(i * width, (i + 1) * width));
  return Array.from({ length: rows }, (_, row) =>
    Array.from({ length: columns }, (_, column) => element(row * columns + column)),
  );
}

function writeElements(rows, request) {
  const width = elementBytes(readModulus(request.modulus));
  const words = rows.flat().map((element) => writeDigits(element, width));
  return { shape: [rows.length, rows[0].length], words: words.join("") };
}

// The operations that are claimed (spec/wire.md, "Operations")

const same = (output) => output;
const nothing = () => null;
const writeSelection = (index) => ({ index });
const writeWord = (word) => writeDigits(word, WORD_BYTES);
const writeBytes = (bytes) => bytes.toString("hex");

const TAPE = { tape: readTape };
const PLACE = { token: readInteger, document: readInteger };
const FIELD = { modulus: readModulus };

/** Each operation: its fields in the order of arguments, its function, how the result is written. */
const OPERATIONS = {
  seeded_tape: [{ seed: readBytes }, (seed) => new SeededTape(seed), nothing],
  listed_tape: [{ words: readListed }, same, nothing],
  word: [{ ...TAPE, ...ADDRESS }, (tape, ...address) => tape.word(...address), writeWord],
  field_elements: [
    { ...TAPE, domain: readText, stream: readWide, start: readInteger, count: readInteger, ...FIELD },
    (...request) => [fieldElements(...request)],
    writeElements,
  ],
  noise: [{ alpha: readRational, two_sided: readBoolean }, makeNoise, writeNoise],
  sample: [{ noise: readNoise, ...TAPE, ...PLACE, candidate: readInteger }, sample, same],
  select: [{ scores: readRow, noise: readNoise, ...TAPE, ...PLACE }, select, writeSelection],
  choose_modulus: [{ weights: readRows }, chooseModulus, Number],
  pad: [
    { ...TAPE, group: readInteger, step: readInteger, rows: readInteger, columns: readInteger, ...FIELD },
    pad,
    writeElements,
  ],
  burn: [{ addresses: readPairs }, burn, nothing],
  ratchet: [{ seed: readBytes }, ratchet, writeBytes],
  mask: [{ activations: readRows, pads: readElements, ...FIELD }, mask, writeElements],
  multiply: [{ masked: readElements, weights: readRows, ...FIELD }, multiply, writeElements],
  unmask: [{ product: readElements, correction: readElements, ...FIELD }, unmask, same],
};

/** Returns what the program says of itself. */
const describe = () => ({
  name: "veil-js",
  version: "1",
  spec_version: SPEC_VERSION,
  operations: Object.keys(OPERATIONS),
});

/** Returns the output of a request. Refuses: as its operation does. Throws: Malformed. */
function perform(operation, input) {
  if (operation === "describe") return describe(...readFields(input, {}));
  wellFormed(Object.hasOwn(OPERATIONS, operation), `no such operation: ${operation}`);
  const [readers, run, write] = OPERATIONS[operation];
  return write(run(...readFields(input, readers)), input);
}

/** Returns the response to a line. Throws: Malformed, or what JSON.parse throws. */
function answer(line) {
  const request = { id: readInteger, operation: readText, input: same };
  const [id, operation, input] = readFields(JSON.parse(line), request);
  try {
    return { id, output: perform(operation, input) };
  } catch (error) {
    if (error instanceof Refused) return { id, refusal: error.message };
    throw error;
  }
}

/** Writes the response to a line; a line that is no request ends the program with one line and status 2. */
function serve(line) {
  try {
    process.stdout.write(`${JSON.stringify(answer(line))}\n`);
  } catch (error) {
    process.stderr.write(`veil.mjs: ${error.message.replaceAll("\n", " ")}: ${line.slice(0, 80)}\n`);
    process.exit(2);
  }
}

let pending = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (chunk) => {
  const lines = chunk.split("\n");
  lines[0] = pending + lines[0];
  pending = lines.pop();
  lines.forEach((line) => serve(line));
});
process.stdin.on("end", () => pending === "" || serve(pending));
