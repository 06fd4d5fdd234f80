// Zeroes a random part of what a branch adds, and scales the rest up.
#pragma once

// `limit` is the part in 256ths; at 0 all is kept, and no mask is looked at.
void draw_mask(unsigned char *kept, int count, int limit);
void add_kept(float *out, const float *x, const float *change, const unsigned char *kept, int count,
              int limit);
const float *keep(float *out, const float *change, const unsigned char *kept, int count, int limit);
