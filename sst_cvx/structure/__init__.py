"""What a set is: its declaration, argmax, vertices, masks, and whether points belong to it."""
