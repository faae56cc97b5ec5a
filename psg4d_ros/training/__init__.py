"""Training: what a window should look like, how far the model is from it, and the steps that bring it closer."""
