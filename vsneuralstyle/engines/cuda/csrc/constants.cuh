/* Generated from vsneuralstyle/engines/ops.py by scripts/generate.py: change it there. */

#pragma once

#define STRIDE 4
#define SETTLED 0.25f
#define AGGREGATION_RADIUS 2
