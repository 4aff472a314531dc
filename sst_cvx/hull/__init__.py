"""The declared hull as numbers: what CVXPY canonicalises, once, for everything that follows."""
