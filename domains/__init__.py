"""The four fields of use, one thin module each: their files, their words, their conditions. Numpy only."""
