"""One file a kernel of the library."""
