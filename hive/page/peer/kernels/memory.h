// Where everything lies: one thing behind the other, from the end of the program on. Nothing is
// ever given back.
#pragma once

void start_over(void);
double taken(void); // bytes up to the end of what was handed out
void *take(double bytes);
float *numbers(double count);
void clear(float *what, int count);
