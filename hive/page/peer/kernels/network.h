// The flat vectors: parameters, their gradients, and two that the optimizers keep.
#pragma once

extern float *parameters, *gradients, *momentum, *squares; // (P,)
