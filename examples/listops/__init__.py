"""Latent arborescences over the tokens of ListOps expressions."""
