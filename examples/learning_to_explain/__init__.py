"""Which k words of a review carry an aspect's rating? Learning to explain by relaxed subsets."""
