"""Raw files -> `data/prepared`: which tasks there are, how their files are read, checked, split and decoded."""
