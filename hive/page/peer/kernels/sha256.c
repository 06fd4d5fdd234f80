// SHA-256 (FIPS 180-4), for browsers give it to no page that came by plain http. The content comes
// in pieces: `sha256_begin`, any number of `sha256_add`, `sha256_end`.

#include "export.h"

#define BLOCK 64
#define PIECE 65536

static unsigned char piece[PIECE]; // where the caller puts content, and finds the digest
static unsigned char rest[BLOCK];  // what does not fill a block yet
static unsigned long long length;  // bytes so far
static unsigned state[8];

static const unsigned FIRST[8] = { // of the square roots of the first primes, 32 bits
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static const unsigned K[64] = { // of their cube roots
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static unsigned turned(unsigned x, int bits) { return x >> bits | x << (32 - bits); }

static unsigned big_endian(const unsigned char *at) {
  unsigned value;
  __builtin_memcpy(&value, at, 4);
  return __builtin_bswap32(value);
}

static void take_block(const unsigned char *block) {
  unsigned w[64];
  for (int i = 0; i < 16; i++) w[i] = big_endian(block + 4 * i);
  for (int i = 16; i < 64; i++) {
    unsigned early = w[i - 15], late = w[i - 2];
    w[i] = w[i - 16] + (turned(early, 7) ^ turned(early, 18) ^ early >> 3) + w[i - 7] +
           (turned(late, 17) ^ turned(late, 19) ^ late >> 10);
  }
  unsigned a = state[0], b = state[1], c = state[2], d = state[3];
  unsigned e = state[4], f = state[5], g = state[6], h = state[7];
#pragma unroll 8
  for (int i = 0; i < 64; i++) {
    unsigned one = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25));
    one += ((e & f) ^ (~e & g)) + K[i] + w[i];
    unsigned two = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
  }
  state[0] += a, state[1] += b, state[2] += c, state[3] += d;
  state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

EXPORT(sha256_piece)
unsigned char *sha256_piece(void) { return piece; }

EXPORT(sha256_begin)
void sha256_begin(void) {
  __builtin_memcpy(state, FIRST, sizeof state);
  length = 0;
}

// The first `count` bytes of the piece, at most 65,536.
EXPORT(sha256_add)
void sha256_add(int count) {
  const unsigned char *from = piece, *end = piece + count;
  int filled = length % BLOCK;
  length += count;
  if (filled) {
    int more = count < BLOCK - filled ? count : BLOCK - filled;
    __builtin_memcpy(rest + filled, from, more);
    from += more;
    if (filled + more == BLOCK) take_block(rest);
  }
  for (; end - from >= BLOCK; from += BLOCK) take_block(from);
  if (from < end) __builtin_memcpy(rest, from, end - from);
}

// The digest is in the first 32 bytes of the piece.
EXPORT(sha256_end)
void sha256_end(void) {
  int filled = length % BLOCK;
  rest[filled++] = 0x80;
  if (filled > BLOCK - 8) {
    __builtin_memset(rest + filled, 0, BLOCK - filled);
    take_block(rest);
    filled = 0;
  }
  __builtin_memset(rest + filled, 0, BLOCK - 8 - filled);
  unsigned long long bits = __builtin_bswap64(8 * length);
  __builtin_memcpy(rest + BLOCK - 8, &bits, 8);
  take_block(rest);
  for (int i = 0; i < 8; i++) {
    unsigned word = __builtin_bswap32(state[i]);
    __builtin_memcpy(piece + 4 * i, &word, 4);
  }
}
