// The whole network of gltch_2_7m.py: characters in, loss and gradients out.
//
// Parameters and gradients are flat vectors in the order of PyTorch's model.parameters(), so that
// what the hive sends can be copied in as it is. In the comments on shapes M is the number of
// characters of a micro-batch, C the size of a vector, V the number of different characters.

#include "network.h"

#include "export.h"
#include "attention.h"
#include "dropout.h"
#include "layers.h"
#include "matrix.h"
#include "memory.h"
#include "optimizer.h"
#include "vector.h"

#define MOST_BLOCKS 256

// -------------------------------------------------------------------------------------------------
// What there is
// -------------------------------------------------------------------------------------------------

typedef struct {
  Norm norm1;
  float *qkv, *projection; // (3 C, C), (C, C)
  Norm norm2;
  float *up, *down; // (4 C, C), (C, 4 C)
} Block;

typedef struct {
  float *tokens, *positions; // (V, C), (T, C)
  Block blocks[MOST_BLOCKS];
  Norm norm;
  float *head; // (V, C)
} Weights;

// What a block computed on the way forward and needs on the way back.
typedef struct {
  float *x, *qkv, *shares, *gathered, *middle, *wide; // (M, C), but qkv 3 C and wide 4 C
  unsigned char *kept1, *kept2;                       // (M, C)
} Memory;

static int V, T, C, heads, depth; // depth: blocks
static Weights weights, gradient;
static Memory memory[MOST_BLOCKS];
static float *last, *logits; // (M, C), (M, V)
static float *normed, *change, *active, *flow, *branch, *wide_branch; // for a moment
static int *ids, *targets; // (M,)

float *parameters, *gradients, *momentum, *squares;

static float *next(float **from, int count) {
  float *here = *from;
  *from += count;
  return here;
}

static Norm next_norm(float **from) {
  float *weight = next(from, C);
  return (Norm){weight, next(from, C)};
}

static void find(Weights *w, float *flat) {
  w->tokens = next(&flat, V * C);
  w->positions = next(&flat, T * C);
  for (int n = 0; n < depth; n++) {
    Block *block = &w->blocks[n];
    block->norm1 = next_norm(&flat);
    block->qkv = next(&flat, 3 * C * C);
    block->projection = next(&flat, C * C);
    block->norm2 = next_norm(&flat);
    block->up = next(&flat, 4 * C * C);
    block->down = next(&flat, 4 * C * C);
  }
  w->norm = next_norm(&flat);
  w->head = next(&flat, V * C);
}

static int widest(int a, int b) { return a > b ? a : b; }

// Decides where everything lies, for micro-batches of at most `texts` texts. Returns how many bytes
// of memory that takes; the caller makes them, and they must be zero.
EXPORT(lay_out)
double lay_out(int vocabulary, int context, int width, int layers, int number_of_heads, int texts) {
  V = vocabulary, T = context, C = width, depth = layers, heads = number_of_heads;
  double M = (double)texts * T, block = 12. * C * C + 4 * C;
  double count = (2. * V + T + 2) * C + depth * block;
  start_over();
  parameters = numbers(count);
  gradients = numbers(count);
  momentum = numbers(count);
  squares = numbers(count);
  find(&weights, parameters);
  find(&gradient, gradients);
  for (int n = 0; n < depth; n++) {
    Memory *m = &memory[n];
    m->x = numbers(M * C);
    m->qkv = numbers(3 * M * C);
    m->shares = numbers((double)texts * shares_of(T, heads));
    m->gathered = numbers(M * C);
    m->middle = numbers(M * C);
    m->wide = numbers(4 * M * C);
    m->kept1 = take(M * C);
    m->kept2 = take(M * C);
  }
  last = numbers(M * C);
  logits = numbers(M * V);
  normed = numbers(M * C);
  change = numbers(M * C);
  active = numbers(4 * M * C);
  flow = numbers(M * C);
  branch = numbers(M * C);
  wide_branch = numbers(4 * M * C);
  ids = take(4 * M);
  targets = take(4 * M);
  reserve_panels(widest(widest(4 * C, V), T));
  reserve_attention(T);
  reserve_optimizer(C);
  return taken();
}

EXPORT(parameters_at)
float *parameters_at(void) { return parameters; }
EXPORT(gradients_at)
float *gradients_at(void) { return gradients; }
EXPORT(ids_at)
int *ids_at(void) { return ids; }
EXPORT(targets_at)
int *targets_at(void) { return targets; }

// -------------------------------------------------------------------------------------------------
// Forward
// -------------------------------------------------------------------------------------------------

static void embed(float *x, int M) {
  for (int row = 0; row < M; row++, x += C) {
    const float *token = weights.tokens + ids[row] * C, *position = weights.positions + row % T * C;
    for (int i = 0; i < C; i += 4) store(x + i, load(token + i) + load(position + i));
  }
}

// out (M, out_size) = x (M, in_size) times the transposed weights (out_size, in_size)
static void linear(float *out, float *x, float *w, int M, int out_size, int in_size) {
  Matrix weights_of = matrix(w, out_size, in_size);
  multiply(matrix(out, M, out_size), matrix(x, M, in_size), transposed(weights_of));
}

static void forward(float *out, Memory *m, Block *block, Shape shape, int limit) {
  int M = shape.texts * T;
  normalize(normed, m->x, block->norm1, M, C);
  linear(m->qkv, normed, block->qkv, M, 3 * C, C);
  attend(m->gathered, m->shares, m->qkv, shape);
  linear(change, m->gathered, block->projection, M, C, C);
  draw_mask(m->kept1, M * C, limit);
  add_kept(m->middle, m->x, change, m->kept1, M * C, limit);

  normalize(normed, m->middle, block->norm2, M, C);
  linear(m->wide, normed, block->up, M, 4 * C, C);
  gelu(active, m->wide, 4 * M * C);
  linear(change, active, block->down, M, C, 4 * C);
  draw_mask(m->kept2, M * C, limit);
  add_kept(out, m->middle, change, m->kept2, M * C, limit);
}

// -------------------------------------------------------------------------------------------------
// Backward: the same, from the end to the beginning. `flow` is the gradient of what flows from
// block to block, (M, C).
// -------------------------------------------------------------------------------------------------

// Of a `linear`: adds to the gradient of its weights, and makes that of x.
static void linear_back(float *x_gradient, float *w_gradient, const float *out_gradient,
                        const float *x, float *w, int M, int out_size, int in_size) {
  Matrix out = matrix((float *)out_gradient, M, out_size);
  multiply_add(matrix(w_gradient, out_size, in_size), transposed(out),
               matrix((float *)x, M, in_size));
  multiply(matrix(x_gradient, M, in_size), out, matrix(w, out_size, in_size));
}

static void backward(Block *g, Memory *m, Block *block, Shape shape, int limit) {
  int M = shape.texts * T;
  const float *change_gradient = keep(change, flow, m->kept2, M * C, limit);
  multiply(matrix(wide_branch, M, 4 * C), matrix((float *)change_gradient, M, C),
           matrix(block->down, C, 4 * C));
  gelu_back(active, wide_branch, m->wide, 4 * M * C);
  multiply_add(matrix(g->down, C, 4 * C), transposed(matrix((float *)change_gradient, M, C)),
               matrix(active, M, 4 * C));
  normalize(normed, m->middle, block->norm2, M, C);
  linear_back(branch, g->up, wide_branch, normed, block->up, M, 4 * C, C);
  normalize_back(flow, g->norm2, branch, m->middle, block->norm2, M, C);

  change_gradient = keep(change, flow, m->kept1, M * C, limit);
  linear_back(branch, g->projection, change_gradient, m->gathered, block->projection, M, C, C);
  attend_back(wide_branch, branch, m->shares, m->qkv, shape);
  normalize(normed, m->x, block->norm1, M, C);
  linear_back(branch, g->qkv, wide_branch, normed, block->qkv, M, 3 * C, C);
  normalize_back(flow, g->norm1, branch, m->x, block->norm1, M, C);
}

static void embed_back(int M) {
  for (int row = 0; row < M; row++) {
    float *token = gradient.tokens + ids[row] * C, *position = gradient.positions + row % T * C;
    for (int i = 0; i < C; i += 4) {
      Vector g = load(flow + row * C + i);
      store(token + i, load(token + i) + g);
      store(position + i, load(position + i) + g);
    }
  }
}

// -------------------------------------------------------------------------------------------------
// Both
// -------------------------------------------------------------------------------------------------

// Adds to the gradients those of the sum of the losses of all M = texts * T characters in `ids`,
// times weight. Returns that sum. `limit`: dropout in 256ths.
EXPORT(learn)
float learn(int texts, float weight, int limit) {
  Shape shape = {texts, T, C, heads};
  int M = texts * T;
  embed(memory[0].x, M);
  for (int n = 0; n < depth; n++)
    forward(n + 1 < depth ? memory[n + 1].x : last, &memory[n], &weights.blocks[n], shape, limit);
  normalize(normed, last, weights.norm, M, C);
  linear(logits, normed, weights.head, M, V, C);
  float loss = cross_entropy(logits, targets, weight, M, V);

  linear_back(branch, gradient.head, logits, normed, weights.head, M, V, C);
  clear(flow, M * C);
  normalize_back(flow, gradient.norm, branch, last, weights.norm, M, C);
  for (int n = depth - 1; n >= 0; n--)
    backward(&gradient.blocks[n], &memory[n], &weights.blocks[n], shape, limit);
  embed_back(M);
  return loss;
}

EXPORT(forget_gradients)
void forget_gradients(int at, int count) {
  clear(gradients + at, count);
}
