"""What every stage shares: typed parameters, the data set folder, outputs that appear whole."""
