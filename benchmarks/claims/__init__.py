"""What the two claims of the paper are worth, by experiments on semi-synthetic signals in real anatomy."""
