"""The side-by-side benchmark: Patchbay, its peers and the limit, in one run on one machine."""
