// One step of an optimizer, on a part of the flat vectors.
#pragma once

void reserve_optimizer(int C);
