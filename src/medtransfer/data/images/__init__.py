"""Image files of every format -> 8-bit pixels and masks, with the place in space where they lie."""
