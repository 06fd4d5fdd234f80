// The product of two matrices: nine tenths of the time of training goes by here.
//
// The result is made in tiles that fit into the processor's registers, 4 rows by 8 columns. For
// each tile, 4 rows of a and 8 columns of b are read from beginning to end, over and over. So they
// are copied first, into panels in which they lie just as they are read, and of a size that stays
// in the caches (Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008).

#include "matrix.h"
#include "memory.h"
#include "vector.h"

#define ROWS 4
#define COLUMNS 8
#define DEPTH 256 // of a panel: products that are summed before the tile goes back to memory
#define HEIGHT 96 // rows of a that are copied at once

static float *panels_of_a, *panels_of_b;

void reserve_panels(int columns) {
  panels_of_a = numbers((HEIGHT + ROWS) * DEPTH);
  panels_of_b = numbers((double)(columns + COLUMNS) * DEPTH);
}

static int least(int a, int b) { return a < b ? a : b; }

// Copies `m` as panels of `width` rows: all first elements of these rows, all second ones, ... What
// is missing of the last panel is zero.
static inline void copy_panels(float *restrict to, Matrix m, const int width) {
  for (int row = 0; row < m.rows; row += width) {
    const float *restrict from = m.at + row * m.down;
    int there = least(width, m.rows - row);
    if (there < width) {
      for (int k = 0; k < m.columns; k++, to += width)
        for (int r = 0; r < width; r++) to[r] = r < there ? from[r * m.down + k * m.right] : 0;
    } else if (m.down == 1) {
      for (int k = 0; k < m.columns; k++, to += width)
        for (int r = 0; r < width; r += 4) store(to + r, load(from + k * m.right + r));
    } else {
      for (int k = 0; k < m.columns; k++, to += width)
        for (int r = 0; r < width; r++) to[r] = from[r * m.down + k * m.right];
    }
  }
}

// One tile: out (+)= a b, of which `rows` and `columns` are wanted.
static inline void make_tile(float *out, int down, const float *restrict a, const float *restrict b,
                             int depth, int rows, int columns, int add) {
  Vector sums[ROWS][2] = {0};
  for (int k = 0; k < depth; k++, a += ROWS, b += COLUMNS) {
    Vector left = load(b), right = load(b + 4);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      sums[r][0] += a[r] * left;
      sums[r][1] += a[r] * right;
    }
  }
  if (rows == ROWS && columns == COLUMNS) {
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      for (int half = 0; half < 2; half++) {
        float *to = out + r * down + 4 * half;
        store(to, add ? load(to) + sums[r][half] : sums[r][half]);
      }
    return;
  }
  float tile[ROWS][COLUMNS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    store(tile[r], sums[r][0]);
    store(tile[r] + 4, sums[r][1]);
  }
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++)
      out[r * down + c] = tile[r][c] + (add ? out[r * down + c] : 0);
}

// `lower`: what lies above the diagonal may be left out.
static void product(Matrix out, Matrix a, Matrix b, int add, int lower) {
  Matrix columns = transposed(b);
  for (int k = 0; k < a.columns; k += DEPTH) {
    int depth = least(DEPTH, a.columns - k);
    copy_panels(panels_of_b, some_columns(columns, k, depth), COLUMNS);
    for (int top = 0; top < a.rows; top += HEIGHT) {
      int height = least(HEIGHT, a.rows - top);
      copy_panels(panels_of_a, some_columns(some_rows(a, top, height), k, depth), ROWS);
      for (int column = 0; column < out.columns; column += COLUMNS) {
        int first = lower && column > top ? (column - top) / ROWS * ROWS : 0;
        for (int row = first; row < height; row += ROWS)
          make_tile(out.at + (top + row) * out.down + column, out.down, panels_of_a + row * depth,
                    panels_of_b + column * depth, depth, least(ROWS, height - row),
                    least(COLUMNS, out.columns - column), add || k);
      }
    }
  }
}

void multiply(Matrix out, Matrix a, Matrix b) { product(out, a, b, 0, 0); }

void multiply_add(Matrix out, Matrix a, Matrix b) { product(out, a, b, 1, 0); }

void multiply_symmetric(Matrix out, Matrix a, Matrix b) {
  product(out, a, b, 0, 1);
  for (int row = 0; row < out.rows; row++)
    for (int column = row + 1; column < out.columns; column++)
      out.at[row * out.down + column] = out.at[column * out.down + row];
}
