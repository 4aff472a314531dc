"""What is trained with soft argmaxes: tricks, exponential families, estimators, losses, schedules."""
