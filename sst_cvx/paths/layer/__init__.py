"""The CvxpyLayer: any cone and any convex f; the reference of all other paths."""
