// Queries are taken in blocks: what a block may not see, because it lies behind all of it, is not
// computed at all.

#include "attention.h"

#include "layers.h"
#include "matrix.h"
#include "memory.h"
#include "vector.h"

#define BLOCK 64 // queries

static float *scratch; // (BLOCK, T): gradients of a block's scores

static int wide(int T) { return (T + 3) & ~3; } // a row of shares, in whole vectors

int shares_of(int T, int heads) { return heads * T * wide(T); }

void reserve_attention(int T) { scratch = numbers((double)BLOCK * wide(T)); }

// What belongs to one head of one text.
typedef struct {
  Matrix q, k, v; // (T, hs), within rows of 3 C
  Matrix y;       // (T, hs), within rows of C
  Matrix shares;  // (T, T)
} Head;

static Head head_of(float *qkv, float *y, float *shares, Shape s, int text, int head) {
  int T = s.T, hs = s.C / s.heads, down = 3 * s.C;
  float *q = qkv + text * T * down + head * hs, *k = q + s.C, *v = k + s.C;
  return (Head){.q = part(q, T, hs, down), .k = part(k, T, hs, down), .v = part(v, T, hs, down),
                .y = part(y + text * T * s.C + head * hs, T, hs, s.C),
                .shares = part(shares + (text * s.heads + head) * T * wide(T), T, T, wide(T))};
}

// In the block that begins with this one
static int queries(Shape s, int first) { return s.T - first < BLOCK ? s.T - first : BLOCK; }

static float root(Shape s) { return 1 / __builtin_sqrtf((float)(s.C / s.heads)); }

static void attend_block(Head h, int first, int count, float scale) {
  int seen = first + count;
  Matrix shares = some_rows(h.shares, first, count);
  shares.columns = seen;
  multiply(shares, some_rows(h.q, first, count), transposed(some_rows(h.k, 0, seen)));
  for (int row = 0; row < count; row++) {
    float *share = shares.at + row * shares.down;
    softmax(share, first + row + 1, scale);
    for (int later = first + row + 1; later < wide(seen); later++) share[later] = 0;
  }
  multiply(some_rows(h.y, first, count), shares, some_rows(h.v, 0, seen));
}

// out (M, C) and shares from qkv (M, 3 C).
void attend(float *out, float *shares, const float *qkv, Shape s) {
  for (int text = 0; text < s.texts; text++)
    for (int head = 0; head < s.heads; head++)
      for (int first = 0; first < s.T; first += BLOCK)
        attend_block(head_of((float *)qkv, out, shares, s, text, head), first, queries(s, first),
                     root(s));
}

// The gradient of scores from that of shares: a softmax shares out what is one, so only differences
// from the mean count. `count` is a number of whole vectors.
static void softmax_back(float *gradient, const float *shares, int count, float scale) {
  Vector sum = all(0);
  for (int i = 0; i < count; i += 4) sum += load(gradient + i) * load(shares + i);
  float mean = sum_of(sum);
  for (int i = 0; i < count; i += 4)
    store(gradient + i, scale * load(shares + i) * (load(gradient + i) - mean));
}

static void attend_block_back(Head gradient, Head h, int first, int count, float scale) {
  int seen = first + count;
  Matrix shares = some_rows(h.shares, first, count), y = some_rows(gradient.y, first, count);
  Matrix scores = part(scratch, count, seen, wide(seen));
  Matrix k = some_rows(h.k, 0, seen), v = some_rows(h.v, 0, seen);
  shares.columns = seen;
  multiply_add(some_rows(gradient.v, 0, seen), transposed(shares), y);
  multiply(scores, y, transposed(v));
  for (int row = 0; row < count; row++) {
    for (int i = seen; i < scores.down; i++) scores.at[row * scores.down + i] = 0;
    softmax_back(scores.at + row * scores.down, shares.at + row * shares.down, scores.down, scale);
  }
  multiply(some_rows(gradient.q, first, count), scores, k);
  multiply_add(some_rows(gradient.k, 0, seen), transposed(scores), some_rows(h.q, first, count));
}

// qkv_gradient (M, 3 C) from y_gradient (M, C), that of what `attend` made.
void attend_back(float *qkv_gradient, float *y_gradient, float *shares, const float *qkv, Shape s) {
  clear(qkv_gradient, 3 * s.texts * s.T * s.C);
  for (int text = 0; text < s.texts; text++)
    for (int head = 0; head < s.heads; head++)
      for (int first = 0; first < s.T; first += BLOCK)
        attend_block_back(head_of(qkv_gradient, y_gradient, shares, s, text, head),
                          head_of((float *)qkv, y_gradient, shares, s, text, head), first,
                          queries(s, first), root(s));
}
