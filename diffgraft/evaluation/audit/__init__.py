"""Which synthetic images are copies of training images, and whether the search would have found copies at all."""
