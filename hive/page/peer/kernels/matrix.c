// The product of two matrices: nine tenths of the time of training goes by here.
//
// The result is made in tiles that fit into the processor's registers, 6 rows by 8 columns. For
// each tile, 6 rows of a and 8 columns of b are read from beginning to end, over and over. So they
// are copied first, into panels in which they lie just as they are read, and of a size that stays
// in the caches (Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008).

#include "matrix.h"
#include "memory.h"
#include "vector.h"

// Browsers have 15 registers for a tile's sums, what they are made of, and products on their way.
#ifdef FUSED // no products on their way
#define ROWS 6
#define WIDE 2 // vectors in a row of a tile
#else
#define ROWS 3
#define WIDE 3
#endif
#define PADDED ((ROWS + 3) & ~3) // rows in a panel of a: whole vectors are quicker to copy
#define COLUMNS (4 * WIDE)
#define DEPTH 256 // of a panel: products that are summed before the tile goes back to memory
#define HEIGHT 96 // rows of a that are copied at once

static float *panels_of_a, *panels_of_b;

void reserve_panels(int columns) {
  panels_of_a = numbers((HEIGHT / ROWS + 1) * PADDED * DEPTH);
  panels_of_b = numbers((double)(columns + COLUMNS) * DEPTH);
}

static int least(int a, int b) { return a < b ? a : b; }

#define shuffle __builtin_shufflevector // numbers of a's parts are 0 to 3, of b's 4 to 7

// Four rows of four become columns.
static inline void turn(float *restrict to, int down, const float *restrict from, int from_down) {
  Vector a = load(from), b = load(from + from_down);
  Vector c = load(from + 2 * from_down), d = load(from + 3 * from_down);
  Vector ab = shuffle(a, b, 0, 4, 1, 5), cd = shuffle(c, d, 0, 4, 1, 5);
  store(to, shuffle(ab, cd, 0, 1, 4, 5));
  store(to + down, shuffle(ab, cd, 2, 3, 6, 7));
  ab = shuffle(a, b, 2, 6, 3, 7), cd = shuffle(c, d, 2, 6, 3, 7);
  store(to + 2 * down, shuffle(ab, cd, 0, 1, 4, 5));
  store(to + 3 * down, shuffle(ab, cd, 2, 3, 6, 7));
}

// Copies `m` as panels of `width` rows, one every `every` rows: all first elements of these rows,
// all second ones, ... What lies behind the last row is zero.
static inline void copy_panels(float *restrict to, Matrix m, const int width, const int every) {
  for (int row = 0; row < m.rows; row += every) {
    const float *restrict from = m.at + row * m.down;
    int there = least(width, m.rows - row), k = 0;
    if (there == width && m.down == 1) {
      for (; k < m.columns; k++, to += width)
        for (int r = 0; r < width; r += 4) store(to + r, load(from + k * m.right + r));
    } else if (there == width && m.right == 1) {
      for (; k + 4 <= m.columns; k += 4, to += 4 * width)
        for (int r = 0; r < width; r += 4) turn(to + r, width, from + r * m.down + k, m.down);
    }
    for (; k < m.columns; k++, to += width)
      for (int r = 0; r < width; r++) to[r] = r < there ? from[r * m.down + k * m.right] : 0;
  }
}

// One tile: out (+)= a b, of which `rows` and `columns` are wanted.
static inline void make_tile(float *out, int down, const float *restrict a, const float *restrict b,
                             int depth, int rows, int columns, int add) {
  Vector sums[ROWS][WIDE] = {0};
  const float *end = a + PADDED * depth;
#pragma clang loop unroll(disable) // for the registers' sake
  for (; a != end; a += PADDED, b += COLUMNS)
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int c = 0; c < WIDE; c++)
        sums[r][c] = sum_with_product(sums[r][c], all(a[r]), load(b + 4 * c));
  if (rows == ROWS && columns == COLUMNS) {
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int c = 0; c < WIDE; c++) {
        float *to = out + r * down + 4 * c;
        store(to, add ? load(to) + sums[r][c] : sums[r][c]);
      }
    return;
  }
  float tile[ROWS][COLUMNS];
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int c = 0; c < WIDE; c++) store(tile[r] + 4 * c, sums[r][c]);
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++)
      out[r * down + c] = tile[r][c] + (add ? out[r * down + c] : 0);
}

// `lower`: what lies above the diagonal may be left out.
static void product(Matrix out, Matrix a, Matrix b, int add, int lower) {
  Matrix columns = transposed(b);
  for (int k = 0; k < a.columns; k += DEPTH) {
    int depth = least(DEPTH, a.columns - k);
    copy_panels(panels_of_b, some_columns(columns, k, depth), COLUMNS, COLUMNS);
    for (int top = 0; top < a.rows; top += HEIGHT) {
      int height = least(HEIGHT, a.rows - top);
      copy_panels(panels_of_a, some_columns(some_rows(a, top, height), k, depth), PADDED, ROWS);
      for (int column = 0; column < out.columns; column += COLUMNS) {
        int first = lower && column > top ? (column - top) / ROWS * ROWS : 0;
        for (int row = first; row < height; row += ROWS)
          make_tile(out.at + (top + row) * out.down + column, out.down,
                    panels_of_a + row / ROWS * PADDED * depth, panels_of_b + column * depth, depth,
                    least(ROWS, height - row), least(COLUMNS, out.columns - column), add || k);
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
