#include "memory.h"

extern unsigned char __heap_base; // by the linker: behind the program's own data

static double top; // not a whole number of 32 bits: a network that is too large must be noticed

void start_over(void) { top = (double)(unsigned long)&__heap_base; }

double taken(void) { return top; }

// The memory may not be there yet: the caller of `lay_out` makes it as large as that says.
void *take(double bytes) {
  double begin = 16 * __builtin_ceil(top / 16);
  top = begin + bytes;
  return (void *)(begin < 4294967296. ? (unsigned long)begin : 0);
}

float *numbers(double count) { return take(4 * count); }

void clear(float *what, int count) { __builtin_memset(what, 0, 4 * (unsigned long)count); }
