// The optimizers of gltch_2_7m.py, part 6. Each moves the parameters from `at` on by their
// gradients.

#include "optimizer.h"

#include "export.h"
#include "matrix.h"
#include "memory.h"
#include "network.h"

static void swap(float **a, float **b) {
  float *first = *a;
  *a = *b;
  *b = first;
}

// -------------------------------------------------------------------------------------------------
// Muon: momentum, then roughly the nearest semi-orthogonal matrix
// -------------------------------------------------------------------------------------------------

#define STEPS 5
static const float CONSTANT = 3.4445f, LINEAR = -4.7750f, QUADRATIC = 2.0315f; // of a step

static float *x, *next_x;                   // (rows, columns)
static float *gram, *factor, *total, *spare; // (side, side): the shorter side of x

void reserve_optimizer(int C) {
  float **wide[] = {&x, &next_x}, **small[] = {&gram, &factor, &total, &spare};
  for (int i = 0; i < 2; i++) *wide[i] = numbers(4. * C * C);
  for (int i = 0; i < 4; i++) *small[i] = numbers((double)C * C);
}

// a = b c, all (side, side), symmetric, and polynomials of the same gram: so the product is
// symmetric.
static void multiply_small(float *a, float *b, float *c, int side) {
  multiply_symmetric(matrix(a, side, side), matrix(b, side, side), matrix(c, side, side));
}

// What a Newton-Schulz step multiplies x by
static void make_factor(int side) {
  multiply_small(spare, gram, gram, side);
  for (int i = 0; i < side * side; i++) factor[i] = LINEAR * gram[i] + QUADRATIC * spare[i];
  for (int i = 0; i < side; i++) factor[i * side + i] += CONSTANT;
}

// total = what several steps multiply x by. After a step the gram of x is factor gram factor, which
// is cheaper than to take it from x, if x is much longer than wide.
static void make_total(int side, int steps) {
  make_factor(side);
  __builtin_memcpy(total, factor, 4 * (unsigned long)side * side);
  for (int step = 1; step < steps; step++) {
    multiply_small(spare, factor, gram, side);
    multiply_small(gram, spare, factor, side);
    make_factor(side);
    multiply_small(spare, factor, total, side);
    swap(&spare, &total);
  }
}

static void orthogonalize(int rows, int columns) {
  int tall = rows > columns, side = tall ? columns : rows, long_side = tall ? rows : columns;
  int at_once = long_side >= 2 * side ? 3 : 1;
  for (int done = 0; done < STEPS; done += at_once) {
    Matrix now = matrix(x, rows, columns), then = matrix(next_x, rows, columns);
    Matrix left = tall ? transposed(now) : now; // gram = left left^T
    multiply_symmetric(matrix(gram, side, side), left, transposed(left));
    make_total(side, done + at_once > STEPS ? STEPS - done : at_once);
    if (tall)
      multiply(then, now, matrix(total, side, side));
    else
      multiply(then, matrix(total, side, side), now);
    swap(&x, &next_x);
  }
}

// A matrix (rows, columns). `keep` is the momentum's, `rate` the learning rate, and `decay` what a
// step at rate 1 takes from each parameter.
EXPORT(muon)
void muon(int at, int rows, int columns, float rate, float decay, float keep) {
  int count = rows * columns;
  float *p = parameters + at, *g = gradients + at, *m = momentum + at;
  double squared = 0;
  for (int i = 0; i < count; i++) {
    m[i] += (1 - keep) * (g[i] - m[i]);
    x[i] = g[i] + keep * (m[i] - g[i]); // Nesterov: as if the momentum were one step further
    squared += (double)x[i] * x[i];
  }
  float scale = 1 / ((float)__builtin_sqrt(squared) + 1e-7f); // now no singular value is above 1
  for (int i = 0; i < count; i++) x[i] *= scale;
  orthogonalize(rows, columns);
  float step = rate * (rows > columns ? __builtin_sqrtf((float)rows / columns) : 1);
  for (int i = 0; i < count; i++) p[i] = p[i] * (1 - rate * decay) - step * x[i];
}

// -------------------------------------------------------------------------------------------------
// AdamW, and plain gradient descent
// -------------------------------------------------------------------------------------------------

// `bias1` and `bias2` are what the means lack, for they began at zero: 1 - BETA^(steps made).
EXPORT(adamw)
void adamw(int at, int count, float rate, float decay, float epsilon, float bias1, float bias2) {
  const float BETA1 = 0.9f, BETA2 = 0.99f;
  float root = __builtin_sqrtf(bias2);
  for (int i = at; i < at + count; i++) {
    float g = gradients[i];
    momentum[i] += (1 - BETA1) * (g - momentum[i]);
    squares[i] = BETA2 * squares[i] + (1 - BETA2) * g * g;
    float size = __builtin_sqrtf(squares[i]) / root + epsilon;
    parameters[i] = parameters[i] * (1 - rate * decay) - rate / bias1 * momentum[i] / size;
  }
}

EXPORT(sgd)
void sgd(int at, int count, float rate) {
  for (int i = at; i < at + count; i++) parameters[i] -= rate * gradients[i];
}
