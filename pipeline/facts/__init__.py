"""What is measured of a data set, beyond its copies: columns, shifts, leaks, phrases, labels."""
