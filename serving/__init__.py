"""The part of Fairlead that answers requests: it needs no Lightning, no MLflow and no DVC."""
