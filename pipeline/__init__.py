"""Fairlead's stages: from data to a promoted model, one module a stage."""
