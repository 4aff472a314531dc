"""Speed and accuracy of every path beside plain cvxpylayers and peers: ``python -m benchmarks``."""
