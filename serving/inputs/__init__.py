"""What a sample is, and the one way from raw input to its canonical array."""
