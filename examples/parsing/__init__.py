"""Which word depends on which? A biaffine dependency parser, trained through arborescences and projective trees."""
