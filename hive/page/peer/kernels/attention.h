// Positions exchange information, in several heads; each position sees itself and those before it.
#pragma once

typedef struct {
  int texts, T, C, heads; // texts side by side, characters in each, size of a vector, heads
} Shape;

int shares_of(int T, int heads); // numbers that `attend` keeps of a text
void reserve_attention(int T);

void attend(float *out, float *shares, const float *qkv, Shape shape);
void attend_back(float *qkv_gradient, float *y_gradient, float *shares, const float *qkv,
                 Shape shape);
