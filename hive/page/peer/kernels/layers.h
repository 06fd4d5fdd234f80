// The layers of the network, forward and backward. In the comments on shapes M is the number of
// characters (of several texts, one behind the other), C the size of a vector.
#pragma once

typedef struct {
  float *weight, *bias; // (C,)
} Norm;

void normalize(float *out, const float *x, Norm norm, int M, int C);
void normalize_back(float *x_gradient, Norm gradient, const float *out_gradient, const float *x,
                    Norm norm, int M, int C);

void gelu(float *out, const float *x, int count);
void gelu_back(float *out, float *gradient, const float *x, int count);

void softmax(float *x, int count, float scale);
float cross_entropy(float *logits, const int *targets, float weight, int M, int V);
