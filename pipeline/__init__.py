"""Fairlead's stages: from data to a promoted model, one module a stage."""

import os

# Waiting OpenMP threads that spin make training 10 to 20 times slower beside any other busy process.
# Read when torch is loaded, so it is set before any stage can load it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
