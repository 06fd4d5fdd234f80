// Matrices that lie in memory in any order, and their products.
#pragma once

typedef struct {
  float *at;
  int rows, columns;
  int down, right; // from an element to the one below, and to the one beside it
} Matrix;

static inline Matrix matrix(float *at, int rows, int columns) {
  return (Matrix){at, rows, columns, columns, 1};
}

// A part of wider rows.
static inline Matrix part(float *at, int rows, int columns, int down) {
  return (Matrix){at, rows, columns, down, 1};
}

static inline Matrix transposed(Matrix m) {
  return (Matrix){m.at, m.columns, m.rows, m.right, m.down};
}

static inline Matrix some_rows(Matrix m, int first, int count) {
  return (Matrix){m.at + first * m.down, count, m.columns, m.down, m.right};
}

static inline Matrix some_columns(Matrix m, int first, int count) {
  return (Matrix){m.at + first * m.right, m.rows, count, m.down, m.right};
}

void reserve_panels(int columns); // the most that a product has

// The rows of `out` lie in order (right == 1).
void multiply(Matrix out, Matrix a, Matrix b);     // out = a b
void multiply_add(Matrix out, Matrix a, Matrix b); // out = out + a b
void multiply_symmetric(Matrix out, Matrix a, Matrix b); // where a b is known to be symmetric
