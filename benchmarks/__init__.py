"""Speed against a named floor, both sides in one run; medians and ratios, never a test's assertion."""
