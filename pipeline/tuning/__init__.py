"""The search for hyperparameters: spaces, samplers, pruners, trials, budgets, and what is made of them."""
