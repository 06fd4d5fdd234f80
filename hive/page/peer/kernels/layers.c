#include "layers.h"
#include "vector.h"

// -------------------------------------------------------------------------------------------------
// Layer norm: mean 0 and variance 1, then a weight and a bias for each number.
// -------------------------------------------------------------------------------------------------

typedef struct {
  float mean, scale; // scale: 1 / standard deviation
} Spread;

static Spread spread_of(const float *x, int C) {
  Vector sum = all(0), squares = all(0);
  for (int i = 0; i < C; i += 4) sum += load(x + i);
  float mean = sum_of(sum) / C;
  for (int i = 0; i < C; i += 4) {
    Vector off = load(x + i) - mean;
    squares += off * off;
  }
  return (Spread){mean, 1 / __builtin_sqrtf(sum_of(squares) / C + 1e-5f)};
}

static inline Vector normed(const float *x, Spread s) { return (load(x) - s.mean) * s.scale; }

void normalize(float *out, const float *x, Norm norm, int M, int C) {
  for (int row = 0; row < M; row++, x += C, out += C) {
    Spread s = spread_of(x, C);
    for (int i = 0; i < C; i += 4)
      store(out + i, normed(x + i, s) * load(norm.weight + i) + load(norm.bias + i));
  }
}

// Adds to the gradients of x (M, C) and of weight and bias. A change of x also changes mean and
// scale: that takes from the gradient its mean, and its part along the normed x.
void normalize_back(float *x_gradient, Norm gradient, const float *out_gradient, const float *x,
                    Norm norm, int M, int C) {
  for (int row = 0; row < M; row++, x += C, out_gradient += C, x_gradient += C) {
    Spread s = spread_of(x, C);
    Vector sum = all(0), along = all(0);
    for (int i = 0; i < C; i += 4) {
      Vector g = load(out_gradient + i);
      store(gradient.bias + i, load(gradient.bias + i) + g);
      store(gradient.weight + i, load(gradient.weight + i) + g * normed(x + i, s));
      g *= load(norm.weight + i);
      sum += g;
      along += g * normed(x + i, s);
    }
    float mean = sum_of(sum) / C, share = sum_of(along) / C;
    for (int i = 0; i < C; i += 4) {
      Vector g = load(out_gradient + i) * load(norm.weight + i);
      Vector change = s.scale * (g - mean - normed(x + i, s) * share);
      store(x_gradient + i, load(x_gradient + i) + change);
    }
  }
}

// -------------------------------------------------------------------------------------------------
// GELU: x times the share of a normal distribution that lies below x.
// -------------------------------------------------------------------------------------------------

typedef struct {
  Vector below, density; // of the normal distribution: at most x, and just x
} Normal;

// To 1.5e-7 (Abramowitz and Stegun, formula 7.1.26).
static inline Normal normal(Vector x) {
  Vector e = exponential(-0.5f * x * x);
  Vector t = 1 / (1 + 0.3275911f * 0.70710678118f * size_of(x));
  Vector p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  Vector tail = 0.5f * p * t * e; // beyond |x|
  return (Normal){choose(x < 0, tail, 1 - tail), 0.3989422804f * e};
}

void gelu(float *out, const float *x, int count) {
  for (int i = 0; i < count; i += 4) store(out + i, load(x + i) * normal(load(x + i)).below);
}

// `gradient` is that of the result, and becomes that of x. `out` is the result once more.
void gelu_back(float *out, float *gradient, const float *x, int count) {
  for (int i = 0; i < count; i += 4) {
    Vector at = load(x + i);
    Normal n = normal(at);
    store(out + i, at * n.below);
    store(gradient + i, load(gradient + i) * (n.below + at * n.density));
  }
}

// -------------------------------------------------------------------------------------------------
// Softmax, and how surprised it is.
// -------------------------------------------------------------------------------------------------

static float largest(const float *x, int count) {
  float most = x[0];
  for (int i = 1; i < count; i++) most = x[i] > most ? x[i] : most;
  return most;
}

// x = e^(scale x - most); returns the sum.
static float exponentials(float *x, int count, float scale, float most) {
  Vector sums = all(0);
  int i = 0;
  for (; i + 4 <= count; i += 4) {
    Vector e = exponential(load(x + i) * scale - most);
    store(x + i, e);
    sums += e;
  }
  float sum = sum_of(sums);
  for (; i < count; i++) sum += x[i] = exponential(all(x[i] * scale - most))[0];
  return sum;
}

void softmax(float *x, int count, float scale) {
  float sum = exponentials(x, count, scale, scale * largest(x, count)), share = 1 / sum;
  for (int i = 0; i < count; i++) x[i] *= share;
}

// Natural logarithm to 1e-7 of a positive number (Cephes, logf).
static float logarithm(float x) {
  union { float value; int bits; } u = {x};
  int exponent = ((u.bits >> 23) & 255) - 126;
  u.bits = (u.bits & 0x807fffff) | 0x3f000000; // from 0.5 to 1
  float m = u.value - 1;
  if (u.value < 0.70710678f) {
    exponent--;
    m = 2 * u.value - 1;
  }
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float square = m * m;
  return m + (p * m * square - 2.12194440e-4f * exponent - 0.5f * square) + 0.693359375f * exponent;
}

// The sum over M characters of -log(probability of the target), times weight. The logits (M, V)
// become their gradients.
float cross_entropy(float *logits, const int *targets, float weight, int M, int V) {
  double loss = 0;
  for (int row = 0; row < M; row++, logits += V) {
    float most = largest(logits, V), target = logits[targets[row]];
    float sum = exponentials(logits, V, 1, most), share = weight / sum;
    loss += logarithm(sum) + most - target;
    for (int i = 0; i < V; i++) logits[i] *= share;
    logits[targets[row]] -= weight;
  }
  return (float)(loss * weight);
}
