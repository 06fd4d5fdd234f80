// As `fast_dropout` in gltch_2_7m.py: one random byte for each number, so that the part is rounded
// to a 256th.

#include "dropout.h"

#include "export.h"
#include "vector.h"

typedef unsigned char Bytes __attribute__((vector_size(16), aligned(1), may_alias));
typedef unsigned Random __attribute__((vector_size(16)));

static Random state = {1, 2, 3, 4};

EXPORT(seed)
void seed(unsigned a, unsigned b, unsigned c, unsigned d) {
  state = (Random){a | 1, b | 1, c | 1, d | 1}; // at zero it would stay
}

// Four generators side by side (Marsaglia, Xorshift RNGs, 2003). `count` is a multiple of 16.
void draw_mask(unsigned char *kept, int count, int limit) {
  Random x = state;
  for (int i = 0; limit && i < count; i += 16) {
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    *(Bytes *)(kept + i) = (Bytes)((Bytes)x >= (unsigned char)limit);
  }
  state = x;
}

// A mask's next four bytes, each 255 or 0, as all bits or none.
static inline Whole bits(const unsigned char *kept) {
  typedef signed char Four __attribute__((vector_size(4), aligned(1), may_alias));
  return __builtin_convertvector(*(const Four *)kept, Whole);
}

static float scale(int limit) { return 256.f / (256 - limit); }

// out = x + what is kept of the change
void add_kept(float *out, const float *x, const float *change, const unsigned char *kept, int count,
              int limit) {
  for (int i = 0; i < count; i += 4) {
    Vector more = load(change + i);
    if (limit) more = (Vector)((Whole)(more * scale(limit)) & bits(kept + i));
    store(out + i, load(x + i) + more);
  }
}

// What is kept of the change; that is also how gradients come back.
const float *keep(float *out, const float *change, const unsigned char *kept, int count,
                  int limit) {
  if (!limit) return change;
  for (int i = 0; i < count; i += 4)
    store(out + i, (Vector)((Whole)(load(change + i) * scale(limit)) & bits(kept + i)));
  return out;
}
