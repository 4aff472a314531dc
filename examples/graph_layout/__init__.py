"""Which spanning tree is behind a force-directed layout? Neural relational inference with structured edges."""
