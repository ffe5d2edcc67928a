"""Image data sets that need no download, and the random views that models are trained on."""
